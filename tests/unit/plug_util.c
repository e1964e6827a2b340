/* SPDX-License-Identifier: MIT */
#include "plug_util.h"

static void set_run(struct watcher *watcher, uint64_t offset, uint64_t length, bool on)
{
	uint64_t i;

	for (i = offset / GRANULE; i < (offset + length) / GRANULE; i++) {
		watcher->wrong += watcher->plugged[i] == on;
		watcher->plugged[i] = on;
	}
}

static int refusal(int *once, int always)
{
	int rc = *once;

	*once = 0;
	return rc ? rc : always;
}

static int plugging(void *context, struct gr_block *block, uint64_t offset, uint64_t length)
{
	struct watcher *watcher = context;
	int rc;

	if (block != watcher->block)
		return 0;
	watcher->plugging++;
	watcher->told++;
	if (watcher->hook)
		watcher->hook(watcher);
	rc = refusal(&watcher->refuse_plugging, 0);
	if (!rc)
		set_run(watcher, offset, length, true);
	return rc;
}

static int unplugging(void *context, struct gr_block *block, uint64_t offset, uint64_t length)
{
	struct watcher *watcher = context;
	int rc;

	if (block != watcher->block)
		return 0;
	watcher->unplugging++;
	watcher->told++;
	if (watcher->hook)
		watcher->hook(watcher);
	rc = refusal(&watcher->refuse_unplugging, watcher->always_refuse);
	if (!rc)
		set_run(watcher, offset, length, false);
	return rc;
}

static void resized(void *context, struct gr_block *block, uint64_t old_length)
{
	struct watcher *watcher = context;

	if (block != watcher->block)
		return;
	watcher->resized++;
	watcher->order = ++watcher->told;
	watcher->old_length = old_length;
	watcher->length = info_of(block).length;
}

static void committed(void *context, struct gr_space *space, uint64_t generation)
{
	struct watcher *watcher = context;

	watcher->committed++;
	watcher->told++;
}

static const struct gr_listener_ops ops = {
	.committed = committed,
	.granules_plugging = plugging,
	.granules_unplugging = unplugging,
	.block_resized = resized,
};

void watcher_open(struct watcher *watcher, struct gr_ram *ram, struct gr_block *block, int priority)
{
	watcher->block = block;
	assert_ok(gr_listener_open(ram, &ops, watcher, priority, &watcher->listener));
}

void watcher_close(struct watcher *watcher)
{
	unsigned i;

	assert_ok(gr_listener_close(watcher->listener));
	for (i = 0; i < GRANULES_MAX; i++)
		assert_false(watcher->plugged[i]);
	assert_int_equal(watcher->wrong, 0);
}

bool watcher_agrees(const struct watcher *watcher, struct gr_plug *plug)
{
	uint64_t count = info_of(gr_plug_block(plug)).max_length / GRANULE, i;

	for (i = 0; i < count; i++)
		if (watcher->plugged[i] != (gr_plug_is(plug, i * GRANULE, GRANULE) == GR_PLUG_ALL))
			return false;
	return !watcher->wrong;
}
