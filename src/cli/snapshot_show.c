/* SPDX-License-Identifier: MIT */
/* Actions of `guestram snapshot` that show what is in one. See cmd_snapshot.h. */
#include "cli.h"
#include "cmd_snapshot.h"
#include "grid.h"
#include "out.h"
#include "page_map.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE (1u << 20)

/* Prints and releases it. */
static int show(const struct snapshot_args *args, json_t *object, const char *rows)
{
	int rc = -ENOMEM;

	if (object && args->json)
		rc = out_json(object);
	else if (object) {
		out_table(json_object_get(object, rows), 0);
		rc = 0;
	}
	json_decref(object);
	errno = 0;
	if (!rc)
		rc = out_flush();
	return rc < 0 ? cli_fail(rc, "%s: standard output", args->what) : CLI_OK;
}

static void hex(char text[2 * GR_SNAPSHOT_ID + 1], const uint8_t *id)
{
	int i;

	for (i = 0; i < GR_SNAPSHOT_ID; i++)
		snprintf(text + 2 * i, 3, "%02x", id[i]);
}

static int add_files(const struct gr_snapshot *snapshot, json_t *files)
{
	struct gr_snapshot_info info;
	char id[2 * GR_SNAPSHOT_ID + 1], digest[2 * GR_SNAPSHOT_ID + 1];
	unsigned depth = 0, level;
	int rc = 0;

	for (level = 0; level <= depth && !rc; level++) {
		rc = gr_snapshot_get_info(snapshot, level, &info);
		if (rc < 0)
			break;
		if (!level)
			depth = info.depth;
		hex(id, info.id);
		hex(digest, info.digest);
		rc = json_array_append_new(
			files,
			json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "file",
				  info.path, "layout",
				  info.layout == GR_SNAPSHOT_PACKED ? "packed" : "mapped", "id", id,
				  "digest", digest, "length", (json_int_t)info.file_bytes,
				  "allocated", (json_int_t)info.file_allocated, "chunks",
				  (json_int_t)info.chunks, "data", (json_int_t)info.bytes_data,
				  "zero", (json_int_t)info.bytes_zero, "stored",
				  (json_int_t)info.bytes_stored));
	}
	return rc;
}

static int add_blocks(const struct gr_snapshot *snapshot, json_t *blocks)
{
	struct gr_snapshot_block info;
	unsigned i;
	int rc = 0;

	for (i = 0; !rc && !gr_snapshot_get_block(snapshot, i, &info); i++)
		rc = json_array_append_new(blocks,
					   json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:b}", "block",
						     info.name, "length", (json_int_t)info.length,
						     "max", (json_int_t)info.max_length,
						     "page_size", (json_int_t)info.page_size,
						     "granule", (json_int_t)info.granule, "plugged",
						     (json_int_t)info.plugged, "read_only",
						     (info.flags & GR_READ_ONLY) != 0));
	return rc;
}

static int add_spaces(const struct gr_snapshot *snapshot, json_t *spaces)
{
	struct gr_snapshot_range range;
	struct gr_snapshot_block block;
	const char *name;
	unsigned i, k, count;
	int rc = 0;

	for (i = 0; !rc && !gr_snapshot_get_space(snapshot, i, &name, &count); i++)
		for (k = 0; k < count && !rc; k++) {
			char access[3] = {0};

			gr_snapshot_get_range(snapshot, i, k, &range);
			gr_snapshot_get_block(snapshot, range.block, &block);
			strcat(access, range.access & GR_READ ? "r" : "");
			strcat(access, range.access & GR_WRITE ? "w" : "");
			rc = json_array_append_new(
				spaces,
				json_pack("{s:s, s:I, s:I, s:s, s:I, s:s}", "space", name, "addr",
					  (json_int_t)range.addr, "length",
					  (json_int_t)range.length, "block", block.name, "offset",
					  (json_int_t)range.offset, "access", access));
		}
	return rc;
}

static int add_states(const struct gr_snapshot *snapshot, json_t *states)
{
	const void *bytes;
	const char *name;
	uint64_t length;
	unsigned i;
	int rc = 0;

	for (i = 0; !rc && !gr_snapshot_get_state(snapshot, i, &name, &bytes, &length); i++)
		rc = json_array_append_new(states, json_pack("{s:s, s:I}", "state", name, "length",
							     (json_int_t)length));
	return rc;
}

int snapshot_info(struct snapshot_args *args)
{
	static const char *const parts[] = {"files", "blocks", "spaces", "states"};
	static int (*const add[])(const struct gr_snapshot *snapshot,
				  json_t *rows) = {add_files, add_blocks, add_spaces, add_states};
	struct gr_snapshot *snapshot = snapshot_open(args, args->args[0]);
	json_t *object = json_object(), *rows;
	unsigned i;
	int rc = object ? 0 : -ENOMEM;

	if (!snapshot) {
		json_decref(object);
		return CLI_FAILED;
	}
	if (args->svg) {
		rc = snapshot_draw(args, snapshot);
		gr_snapshot_close(snapshot);
		json_decref(object);
		return rc;
	}
	for (i = 0; i < 4 && !rc; i++) {
		rows = json_array();
		rc = json_object_set_new(object, parts[i], rows) ? -ENOMEM : add[i](snapshot, rows);
	}
	gr_snapshot_close(snapshot);
	if (rc) {
		json_decref(object);
		return cli_fail(rc == -1 ? ENOMEM : rc, "%s", args->what);
	}
	for (i = 0; i < 3 && !args->json; i++) {
		out_table(json_object_get(object, parts[i]), 0);
		putchar('\n');
	}
	return show(args, object, parts[3]);
}

int snapshot_verify(struct snapshot_args *args)
{
	struct gr_snapshot *snapshot = snapshot_open(args, args->args[0]);
	struct gr_snapshot_stats stats;
	char data[24], stored[24];
	int rc;

	if (!snapshot)
		return CLI_FAILED;
	rc = gr_snapshot_verify(snapshot, &args->opts, &stats);
	gr_snapshot_close(snapshot);
	out_progress_end();
	if (rc < 0)
		return cli_fail_gr(rc, "%s", args->what);
	if (args->json)
		return show(args,
			    json_pack("{s:s, s:b, s:I, s:I}", "file", args->args[0], "whole", 1,
				      "data", (json_int_t)stats.bytes_data, "stored",
				      (json_int_t)stats.bytes_stored),
			    NULL);
	printf("%s: whole: %s of content, %s stored\n", args->args[0],
	       human_size(data, stats.bytes_data), human_size(stored, stats.bytes_stored));
	errno = 0;
	rc = out_flush();
	return rc < 0 ? cli_fail(rc, "standard output") : CLI_OK;
}

/* ------------------------------------------------------------------------------------- pages */

static int list_block(const struct gr_snapshot *snapshot, unsigned block,
		      const struct gr_snapshot_block *info, json_t *rows)
{
	uint64_t at, length;
	int kind, level, rc = 0;

	for (at = 0; at < info->length && !rc; at += length) {
		kind = gr_snapshot_look(snapshot, block, at, &length, &level);
		if (kind < 0)
			return kind;
		if (level < 0)
			continue; /* nobody tells of it */
		rc = json_array_append_new(
			rows, json_pack("{s:s, s:I, s:I, s:s, s:i}", "block", info->name, "offset",
					(json_int_t)at, "length", (json_int_t)length, "what",
					kind ? "content" : "zero", "parent", level));
	}
	return rc ? -ENOMEM : 0;
}

int snapshot_list(struct snapshot_args *args)
{
	struct gr_snapshot *snapshot = snapshot_open(args, args->args[0]);
	json_t *rows = json_array();
	struct gr_snapshot_block info;
	unsigned i;
	int rc = rows ? 0 : -ENOMEM;

	if (!snapshot) {
		json_decref(rows);
		return CLI_FAILED;
	}
	for (i = 0; !rc && !gr_snapshot_get_block(snapshot, i, &info); i++)
		rc = list_block(snapshot, i, &info, rows);
	gr_snapshot_close(snapshot);
	if (rc) {
		json_decref(rows);
		return cli_fail(rc, "%s", args->what);
	}
	return show(args, json_pack("{s:o}", "runs", rows), "runs");
}

/* What a comparison finds, as rows and as a picture. */
struct found {
	json_t *rows;
	struct page_map map; /* without blocks: none is drawn */
	unsigned drawn;	     /* of the first's blocks, so many before this one */
};

enum { BOTH_ZERO, SAME, DIFFERS };

static const struct page_map_kind diff_kinds[] = {
	[BOTH_ZERO] = {"zero in both", 0xdfe6ee},
	[SAME] = {"the same", 0x9cc79a},
	[DIFFERS] = {"differ", 0xe07b28},
};

static void note(struct found *found, uint64_t at, uint64_t length, unsigned kind)
{
	if (found->map.blocks)
		page_map_add(&found->map, found->drawn, at, length, kind);
}

/* Runs of pages of one block that differ, as rows. < 0 or how many pages. */
static int64_t diff_block(struct gr_snapshot *const both[2], const unsigned blocks[2],
			  const char *name, uint64_t length, char *const bufs[2],
			  struct found *found)
{
	json_t *rows = found->rows;
	uint64_t at, part, run[2] = {0}, page, begin = 0, pages = 0;
	int kind[2] = {0}, rc, i;
	bool open = false;

	for (at = 0; at < length; at += part) {
		for (i = 0; i < 2; i++)
			kind[i] = gr_snapshot_look(both[i], blocks[i], at, &run[i], NULL);
		part = run[0] < run[1] ? run[0] : run[1];
		if (kind[0] | kind[1])
			part = part < PIECE ? part : PIECE;
		for (i = 0; i < 2 && (kind[0] | kind[1]); i++) {
			rc = gr_snapshot_read(both[i], blocks[i], at, bufs[i], part);
			if (rc < 0)
				return rc;
		}
		for (page = 0; page < part; page += GR_PAGE_SIZE) {
			bool differs = (kind[0] | kind[1]) &&
				       memcmp(bufs[0] + page, bufs[1] + page, GR_PAGE_SIZE) != 0;

			if (differs && !open)
				begin = at + page;
			if (!differs && open &&
			    json_array_append_new(rows,
						  json_pack("{s:s, s:I, s:I}", "block", name,
							    "offset", (json_int_t)begin, "length",
							    (json_int_t)(at + page - begin))))
				return -ENOMEM;
			open = differs;
			pages += differs;
			if (!(kind[0] | kind[1])) {
				note(found, at, part, BOTH_ZERO);
				break; /* all of it is */
			}
			note(found, at + page, GR_PAGE_SIZE, differs ? DIFFERS : SAME);
		}
	}
	if (open && json_array_append_new(rows, json_pack("{s:s, s:I, s:I}", "block", name,
							  "offset", (json_int_t)begin, "length",
							  (json_int_t)(length - begin))))
		return -ENOMEM;
	return (int64_t)pages;
}

static int64_t diff_all(struct gr_snapshot *const both[2], char *const bufs[2], struct found *found,
			bool *shapes)
{
	struct gr_snapshot_block info, other;
	int64_t sum = 0, pages;
	unsigned i;

	for (i = 0; !gr_snapshot_get_block(both[0], i, &info); i++) {
		int there = gr_snapshot_find_block(both[1], info.name);
		unsigned blocks[2] = {i, (unsigned)there};

		if (there < 0 || gr_snapshot_get_block(both[1], blocks[1], &other) ||
		    other.length != info.length) {
			fprintf(stderr, "guestram: block %s: %s\n", info.name,
				there < 0 ? "only in the first" : "of another length");
			*shapes = true;
			continue;
		}
		if (found->map.blocks && page_map_block(&found->map, info.name, info.length) < 0)
			return -ENOMEM;
		pages = diff_block(both, blocks, info.name, info.length, bufs, found);
		if (pages < 0)
			return pages;
		found->drawn++;
		sum += pages;
	}
	for (i = 0; !gr_snapshot_get_block(both[1], i, &info); i++)
		if (gr_snapshot_find_block(both[0], info.name) < 0) {
			fprintf(stderr, "guestram: block %s: only in the second\n", info.name);
			*shapes = true;
		}
	return sum;
}

static int draw_diff(const struct snapshot_args *args, struct found *found)
{
	char title[512];
	int rc;

	snprintf(title, sizeof(title), "%.200s and %.200s", args->args[0], args->args[1]);
	found->map.title = title;
	found->map.kinds = diff_kinds;
	found->map.kind_count = sizeof(diff_kinds) / sizeof(diff_kinds[0]);
	rc = page_map_write(&found->map, args->svg);
	found->map.title = NULL;
	return rc;
}

int snapshot_diff(struct snapshot_args *args)
{
	struct gr_snapshot *both[2] = {snapshot_open(args, args->args[0]), NULL};
	char *bufs[2] = {malloc(PIECE), malloc(PIECE)};
	struct found found = {.rows = json_array()};
	struct gr_snapshot_info info;
	int64_t pages = -ENOMEM;
	bool shapes = false;
	int exit_code = CLI_FAILED;

	if (both[0])
		both[1] = snapshot_open(args, args->args[1]);
	if (!both[1])
		goto close_both;
	if (bufs[0] && bufs[1] && found.rows &&
	    (!args->svg || (!gr_snapshot_get_info(both[0], 0, &info) &&
			    !page_map_begin(&found.map, info.blocks))))
		pages = diff_all(both, bufs, &found, &shapes);
	if (pages < 0) {
		cli_fail_gr((int)pages, "%s", args->what);
		goto close_both;
	}
	exit_code = args->svg ? draw_diff(args, &found)
			      : show(args,
				     json_pack("{s:O, s:I}", "runs", found.rows, "pages",
					       (json_int_t)pages),
				     "runs");
	if (!exit_code && (pages || shapes))
		exit_code = CLI_FAILED;
close_both:
	page_map_end(&found.map);
	json_decref(found.rows);
	free(bufs[0]);
	free(bufs[1]);
	gr_snapshot_close(both[0]);
	gr_snapshot_close(both[1]);
	return exit_code;
}
