/* SPDX-License-Identifier: MIT */
/*
 * A program that offers its status at argv[1], for the tests of `guestram map`, `top` and `dump`.
 * It obeys words on standard input, one a line, and answers each with a line on standard output.
 */
#include <errno.h>
#include <guestram/status.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static struct gr_ram *ram;
static struct gr_space *guest, *device;
static struct gr_block *low, *high;
static struct gr_pin pin;

static struct gr_block *make(const char *name, enum gr_backing backing, uint64_t length,
			     uint64_t max_length)
{
	const struct gr_block_opts opts = {
		.name = name,
		.backing = backing,
		.length = length,
		.max_length = max_length,
		.flags = GR_DELETE_UNMAP,
		.fd = -1,
	};
	struct gr_block *block;

	if (gr_block_new(ram, &opts, &block) < 0) {
		fprintf(stderr, "%s\n", gr_last_error());
		exit(1);
	}
	return block;
}

static char *member(void *context)
{
	(void)context;
	return strdup("{\"answer\": 42}");
}

/* 0 or -errno. */
static int set_up(void)
{
	int rc = gr_ram_open(NULL, &ram);

	if (!rc)
		rc = gr_space_open(ram, "guest", &guest);
	if (!rc)
		rc = gr_space_open(ram, "device \"<&>\" \033[31m", &device);
	if (rc)
		return rc;
	low = make("low", GR_BACKING_ANON, 4 * MIB, 0);
	high = make("high", GR_BACKING_MEMFD, 64 * MIB, 128 * MIB);
	rc = gr_space_map(guest, 0, low, 0, 640 * 1024, GR_READ | GR_WRITE);
	if (!rc)
		rc = gr_space_map(guest, MIB, low, MIB, 3 * MIB, GR_READ | GR_WRITE);
	if (!rc)
		rc = gr_space_map(guest, 4 * GIB, high, 0, 128 * MIB, GR_READ | GR_WRITE);
	if (!rc)
		rc = gr_space_map(guest, UINT64_MAX - 16 * PAGE + 1, low, 0, 16 * PAGE, GR_READ);
	if (!rc)
		rc = gr_space_map(device, PAGE, high, PAGE, 5 * PAGE, GR_READ);
	if (!rc)
		rc = gr_store(guest, 0x2000, "a private page", 15);
	if (!rc)
		rc = gr_store(guest, 4 * GIB + 0x3000, "a shared page", 14);
	return rc ? rc : gr_status_add("holder", member, NULL);
}

static int obey(const char *word)
{
	struct gr_block *block;
	struct gr_pin kept;

	if (!strcmp(word, "pin"))
		return gr_pin(guest, 0x2000, 8, GR_READ, &pin);
	if (!strcmp(word, "unpin")) {
		gr_unpin(&pin);
		return 0;
	}
	if (!strcmp(word, "change"))
		return gr_space_map(guest, 100 * GIB, low, 0, PAGE, GR_READ);
	if (!strcmp(word, "pending")) {
		block = make("gone", GR_BACKING_ANON, 2 * MIB, 0);
		gr_block_pin(block, 0, 1, GR_READ, &kept); /* for good */
		return gr_block_delete(block);
	}
	return -EINVAL;
}

int main(int argc, char **argv)
{
	char word[64];
	int rc = argc == 2 ? set_up() : -EINVAL;

	if (!rc)
		rc = gr_status_serve(argv[1]);
	if (rc) {
		fprintf(stderr, "holder: %d: %s\n", rc, gr_last_error());
		return 1;
	}
	puts("ready");
	fflush(stdout);
	while (fgets(word, sizeof(word), stdin)) {
		word[strcspn(word, "\n")] = 0;
		printf("%s %d\n", word, obey(word));
		fflush(stdout);
	}
	return gr_status_stop() ? 1 : 0;
}
