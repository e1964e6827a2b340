/* SPDX-License-Identifier: MIT */
/* See tree.h. */
#include "mount/tree.h"
#include "base/range.h"
#include "os/alloc.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_LENGTH = 255, ROOT_NUMBER = 1, STATES_NUMBER = 2, FIRST_NUMBER = 16 };

static const char states_folder[] = "state", clone_prefix[] = "clone-";

/* Letters that no file's name has, or that would make it another thing here. */
static bool must_hide(const char *name, size_t at, bool in_root)
{
	unsigned char letter = (unsigned char)name[at];

	if (letter == '/' || letter == '%' || letter < ' ' || letter == 0x7f)
		return true;
	if (at)
		return false;
	return letter == '.' ||
	       (in_root && (!strcmp(name, states_folder) ||
			    !strncmp(name, clone_prefix, sizeof(clone_prefix) - 1)));
}

/* The name of a file for @name; NULL when there is no memory, or it becomes too long. */
static char *file_name(const char *name, bool in_root)
{
	char shown[NAME_LENGTH + 1];
	size_t at, length = 0;

	for (at = 0; name[at]; at++) {
		if (length + 3 >= sizeof(shown))
			return NULL;
		if (must_hide(name, at, in_root))
			length += (size_t)snprintf(shown + length, 4, "%%%02X",
						   (unsigned)(unsigned char)name[at]);
		else
			shown[length++] = name[at];
	}
	shown[length] = '\0';
	return length ? gr__strdup(shown) : NULL;
}

static int add_block(struct gr__mount_tree *tree, const struct gr__mount_opts *opts, unsigned n)
{
	struct gr__mount_block *block = &tree->blocks[n];
	struct gr_page_source_info info = {0};
	int rc = opts->source->ops->find(opts->source->context, opts->blocks[n], &info);

	if (rc < 0)
		return rc;
	if (!info.length || info.length > INT64_MAX - GR_PAGE_SIZE ||
	    !gr__is_aligned(info.length, GR_PAGE_SIZE) ||
	    (info.chunk && (!gr__is_pow2(info.chunk) || info.chunk > UINT32_MAX)))
		return -EINVAL;
	block->block = rc;
	block->length = info.length;
	block->chunk = info.chunk > GR_PAGE_SIZE ? info.chunk : 0;
	block->name = file_name(opts->blocks[n], true);
	return block->name ? 0 : -ENOMEM;
}

static int add_overlays(struct gr__mount_tree *tree, const struct gr__mount_opts *opts)
{
	unsigned n, count;
	int rc = 0;

	if (__builtin_mul_overflow(tree->clones, tree->block_count, &count))
		return -EINVAL;
	tree->overlays = gr__alloc_array(count + (size_t)1, sizeof(struct gr__mount_overlay *));
	if (!tree->overlays)
		return -ENOMEM;
	for (n = 0; !rc && n < count; n++)
		rc = gr__mount_overlay_new(opts->overlay, tree->base,
					   &tree->blocks[n % tree->block_count],
					   &tree->overlays[n]);
	return rc;
}

int gr__mount_tree_init(struct gr__mount_tree *tree, const struct gr__mount_opts *opts)
{
	uint64_t chunk = 0;
	unsigned n;
	int rc;

	memset(tree, 0, sizeof(*tree));
	tree->blocks = gr__alloc_array(opts->block_count, sizeof(*tree->blocks));
	tree->state_names = gr__alloc_array(opts->state_count + (size_t)1, sizeof(char *));
	if (!tree->blocks || !tree->state_names)
		return -ENOMEM;
	tree->block_count = opts->block_count;
	tree->states = opts->states;
	tree->state_count = opts->state_count;
	for (n = 0; n < opts->block_count; n++) {
		rc = add_block(tree, opts, n);
		if (rc < 0)
			return rc;
		if (tree->blocks[n].chunk > chunk)
			chunk = tree->blocks[n].chunk;
	}
	for (n = 0; n < opts->state_count; n++) {
		tree->state_names[n] = file_name(opts->states[n].name, false);
		if (!tree->state_names[n])
			return -ENOMEM;
	}
	rc = gr__mount_base_new(opts->source, chunk, opts->cache, &tree->base);
	if (rc < 0)
		return rc;
	tree->clones = opts->clones;
	return add_overlays(tree, opts);
}

void gr__mount_tree_fini(struct gr__mount_tree *tree)
{
	unsigned n;

	for (n = 0; tree->overlays && n < tree->clones * tree->block_count; n++)
		gr__mount_overlay_free(tree->overlays[n]);
	gr__free(tree->overlays);
	gr__mount_base_free(tree->base);
	for (n = 0; tree->blocks && n < tree->block_count; n++)
		gr__free((char *)tree->blocks[n].name);
	for (n = 0; tree->state_names && n < tree->state_count; n++)
		gr__free(tree->state_names[n]);
	gr__free(tree->state_names);
	gr__free(tree->blocks);
}

/* ---------------------------------------------------------------------------------------- numbers
 */

uint64_t gr__mount_number_of(const struct gr__mount_tree *tree, struct gr__mount_node node)
{
	uint64_t first = FIRST_NUMBER;

	switch (node.kind) {
	case GR__MOUNT_ROOT:
		return ROOT_NUMBER;
	case GR__MOUNT_STATES:
		return STATES_NUMBER;
	case GR__MOUNT_BASE_FILE:
		return first + node.item;
	case GR__MOUNT_STATE:
		return first + tree->block_count + node.item;
	case GR__MOUNT_CLONE:
		return first + tree->block_count + tree->state_count + node.clone;
	case GR__MOUNT_CLONE_FILE:
		return first + tree->block_count + tree->state_count + tree->clones +
		       (uint64_t)node.clone * tree->block_count + node.item;
	default:
		return 0;
	}
}

struct gr__mount_node gr__mount_node_of(const struct gr__mount_tree *tree, uint64_t number)
{
	struct gr__mount_node none = {GR__MOUNT_NONE, 0, 0};
	unsigned n;

	if (number == ROOT_NUMBER)
		return (struct gr__mount_node){GR__MOUNT_ROOT, 0, 0};
	if (number == STATES_NUMBER && tree->state_count)
		return (struct gr__mount_node){GR__MOUNT_STATES, 0, 0};
	if (number < FIRST_NUMBER || number - FIRST_NUMBER > UINT32_MAX)
		return none;
	n = (unsigned)(number - FIRST_NUMBER);
	if (n < tree->block_count)
		return (struct gr__mount_node){GR__MOUNT_BASE_FILE, 0, n};
	n -= tree->block_count;
	if (n < tree->state_count)
		return (struct gr__mount_node){GR__MOUNT_STATE, 0, n};
	n -= tree->state_count;
	if (n < tree->clones)
		return (struct gr__mount_node){GR__MOUNT_CLONE, n, 0};
	n -= tree->clones;
	if (n / tree->block_count < tree->clones)
		return (struct gr__mount_node){GR__MOUNT_CLONE_FILE, n / tree->block_count,
					       n % tree->block_count};
	return none;
}

/* ------------------------------------------------------------------------------------------ names
 */

bool gr__mount_child(const struct gr__mount_tree *tree, struct gr__mount_node folder, uint64_t n,
		     struct gr__mount_node *node, char *name)
{
	uint64_t files = folder.kind == GR__MOUNT_STATES ? tree->state_count : tree->block_count;

	if (n < files) {
		bool state = folder.kind == GR__MOUNT_STATES;

		*node = (struct gr__mount_node){state ? GR__MOUNT_STATE
						: folder.kind == GR__MOUNT_CLONE
							? GR__MOUNT_CLONE_FILE
							: GR__MOUNT_BASE_FILE,
						folder.clone, (unsigned)n};
		strcpy(name, state ? tree->state_names[n] : tree->blocks[n].name);
		return true;
	}
	n -= files;
	if (folder.kind != GR__MOUNT_ROOT)
		return false;
	if (!n && tree->state_count) {
		*node = (struct gr__mount_node){GR__MOUNT_STATES, 0, 0};
		strcpy(name, states_folder);
		return true;
	}
	n -= tree->state_count ? 1 : 0;
	if (n >= tree->clones)
		return false;
	*node = (struct gr__mount_node){GR__MOUNT_CLONE, (unsigned)n, 0};
	snprintf(name, NAME_LENGTH + 1, "%s%u", clone_prefix, (unsigned)n + 1);
	return true;
}

bool gr__mount_find(const struct gr__mount_tree *tree, struct gr__mount_node folder,
		    const char *name, struct gr__mount_node *node)
{
	char shown[NAME_LENGTH + 1];
	uint64_t n;

	/* thousands of clones: no walk for one of them */
	if (folder.kind == GR__MOUNT_ROOT &&
	    !strncmp(name, clone_prefix, sizeof(clone_prefix) - 1)) {
		unsigned long number = strtoul(name + sizeof(clone_prefix) - 1, NULL, 10);

		n = tree->block_count + (tree->state_count ? 1 : 0) + number - 1;
		return number && gr__mount_child(tree, folder, n, node, shown) &&
		       !strcmp(name, shown);
	}
	for (n = 0; gr__mount_child(tree, folder, n, node, shown); n++) {
		if (!strcmp(name, shown))
			return true;
	}
	return false;
}
