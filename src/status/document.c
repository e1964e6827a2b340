/* SPDX-License-Identifier: MIT */
/*
 * The document: every open RAM, as docs/looking.md describes it.
 *
 * Addresses are strings in hex, since they go up to 2^64 and JSON's numbers do not in every reader;
 * lengths, offsets and counts are numbers.
 */
#include "base/error.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include "ram/registry.h"
#include "status/snapshot.h"
#include "status/status.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int gr__json_put(json_t *object, const char *key, json_t *value)
{
	if (GR_FAULT("json")) {
		json_decref(value);
		return -ENOMEM;
	}
	return json_object_set_new(object, key, value) < 0 ? -ENOMEM : 0;
}

static int put_new(json_t *array, json_t *value)
{
	if (GR_FAULT("json")) {
		json_decref(value);
		return -ENOMEM;
	}
	return json_array_append_new(array, value) < 0 ? -ENOMEM : 0;
}

static int put_number(json_t *object, const char *key, uint64_t value)
{
	return gr__json_put(object, key, json_integer((json_int_t)value));
}

static int put_address(json_t *object, const char *key, uint64_t value)
{
	char text[32];

	snprintf(text, sizeof(text), "%#llx", (unsigned long long)value);
	return gr__json_put(object, key, json_string(value ? text : "0x0"));
}

/* Names and paths are bytes; what is not UTF-8 becomes '?'. */
static int put_text(json_t *object, const char *key, const char *text)
{
	json_t *value = json_string(text);
	char *copy, *byte;
	int rc;

	if (value)
		return gr__json_put(object, key, value);
	copy = gr__strdup(text);
	if (!copy)
		return -ENOMEM;
	for (byte = copy; *byte; byte++)
		if (*byte & 0x80)
			*byte = '?';
	rc = gr__json_put(object, key, json_string(copy));
	gr__free(copy);
	return rc;
}

/* Put an empty array there, and give it. */
static int put_array(json_t *object, const char *key, json_t **array)
{
	*array = json_array();
	return gr__json_put(object, key, *array);
}

static int append_object(json_t *array, json_t **object)
{
	*object = json_object();
	return put_new(array, *object);
}

/* --------------------------------------------------------------------------------------- parts */

static int put_stats(json_t *ram, const struct gr_ram_stats *stats)
{
	const struct {
		const char *key;
		uint64_t value;
	} figures[] = {
		{"blocks", stats->blocks},
		{"spaces", stats->spaces},
		{"ranges", stats->ranges},
		{"generation", stats->generation},
		{"bytes", stats->bytes},
		{"bytes_reserved", stats->bytes_reserved},
		{"index_bytes", stats->index_bytes},
		{"range_bytes", stats->range_bytes},
		{"blocks_pending", stats->blocks_pending},
		{"bytes_pending", stats->bytes_pending},
		{"blocks_reclaimed", stats->blocks_reclaimed},
		{"bytes_reclaimed", stats->bytes_reclaimed},
		{"grace_periods", stats->grace_periods},
		{"pins", stats->pins},
	};
	json_t *object = json_object();
	int rc = gr__json_put(ram, "stats", object);
	size_t i;

	for (i = 0; i < sizeof(figures) / sizeof(figures[0]) && !rc; i++)
		rc = put_number(object, figures[i].key, figures[i].value);
	return rc;
}

static int put_range(json_t *array, const struct gr__seen_range *range,
		     const struct gr__snapshot *snapshot)
{
	static const char *const access[] = {"-", "r", "w", "rw"};
	json_t *object;
	int rc = append_object(array, &object);

	if (!rc)
		rc = put_address(object, "addr", range->addr);
	if (!rc)
		rc = put_number(object, "length", range->length);
	if (!rc)
		rc = put_number(object, "visible", range->visible);
	if (!rc)
		rc = put_text(object, "block", snapshot->blocks[range->block].name);
	if (!rc)
		rc = put_number(object, "offset", range->offset);
	if (!rc)
		rc = gr__json_put(object, "access", json_string(access[range->access & 3]));
	if (!rc)
		rc = put_address(object, "host", (uintptr_t)range->host);
	return rc;
}

static int put_space(json_t *array, const struct gr__seen_space *space,
		     const struct gr__snapshot *snapshot)
{
	json_t *object, *ranges = NULL;
	int rc = append_object(array, &object);
	size_t i;

	if (!rc)
		rc = put_text(object, "name", space->name);
	if (!rc)
		rc = put_number(object, "generation", space->generation);
	if (!rc)
		rc = put_array(object, "ranges", &ranges);
	for (i = 0; i < space->count && !rc; i++)
		rc = put_range(ranges, &space->ranges[i], snapshot);
	return rc;
}

static const char *backing_name(enum gr_backing backing)
{
	static const char *const names[] = {
		[GR_BACKING_ANON] = "anon",
		[GR_BACKING_MEMFD] = "memfd",
		[GR_BACKING_FILE] = "file",
		[GR_BACKING_CALLER] = "caller",
	};

	if ((size_t)backing >= sizeof(names) / sizeof(names[0]) || !names[backing])
		return "other";
	return names[backing];
}

static int put_flags(json_t *block, unsigned flags)
{
	static const struct {
		const char *name;
		unsigned flag;
	} names[] = {
		{"shared", GR_SHARED},
		{"read_only", GR_READ_ONLY},
		{"create", GR_CREATE},
		{"temporary", GR_TEMPORARY},
		{"no_guard", GR_NO_GUARD},
		{"prealloc", GR_PREALLOC},
		{"reserve", GR_RESERVE},
		{"thp", GR_THP},
		{"no_thp", GR_NO_THP},
		{"mergeable", GR_MERGEABLE},
		{"locked", GR_LOCKED},
		{"no_dump", GR_NO_DUMP},
		{"no_fork", GR_NO_FORK},
		{"delete_unmap", GR_DELETE_UNMAP},
		{"no_wait", GR_NO_WAIT},
		{"unsealed", GR_UNSEALED},
		{"survive_truncation", GR_SURVIVE_TRUNCATION},
	};
	json_t *array;
	int rc = put_array(block, "flags", &array);
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]) && !rc; i++)
		if (flags & names[i].flag)
			rc = put_new(array, json_string(names[i].name));
	return rc;
}

static int put_file(json_t *block, const struct gr__seen_block *seen)
{
	json_t *file;
	int rc;

	if (seen->info.fd < 0)
		return gr__json_put(block, "file", json_null());
	file = json_object();
	rc = gr__json_put(block, "file", file);
	if (!rc)
		rc = put_number(file, "fd", (uint64_t)seen->info.fd);
	if (!rc)
		rc = put_number(file, "offset", seen->info.fd_offset);
	if (!rc)
		rc = put_number(file, "inode", seen->inode);
	if (!rc)
		rc = seen->path ? put_text(file, "path", seen->path)
				: gr__json_put(file, "path", json_null());
	return rc;
}

static int put_block(json_t *array, const struct gr__seen_block *seen)
{
	const struct gr_block_info *info = &seen->info;
	const struct {
		const char *key;
		uint64_t value;
	} figures[] = {
		{"length", info->length},	  {"max_length", info->max_length},
		{"page_size", info->page_size},	  {"ram_offset", info->ram_offset},
		{"mapped", info->mapped},	  {"pins", info->pins},
		{"lost_pages", info->lost_pages}, {"granule", seen->granule},
		{"plugged", seen->plugged},
	};
	json_t *object;
	int rc = append_object(array, &object);
	size_t i;

	if (!rc)
		rc = put_text(object, "name", seen->name);
	if (!rc)
		rc = gr__json_put(object, "backing", json_string(backing_name(info->backing)));
	if (!rc)
		rc = put_flags(object, info->flags);
	if (!rc)
		rc = put_address(object, "host", (uintptr_t)info->host);
	for (i = 0; i < sizeof(figures) / sizeof(figures[0]) && !rc; i++)
		rc = put_number(object, figures[i].key, figures[i].value);
	if (!rc)
		rc = put_file(object, seen);
	if (!rc)
		rc = gr__json_put(object, "resident",
				  seen->resident == UINT64_MAX
					  ? json_null()
					  : json_integer((json_int_t)seen->resident));
	return rc;
}

static int put_pending(json_t *array, const struct gr__seen_pending *seen)
{
	json_t *object;
	int rc = append_object(array, &object);

	if (!rc)
		rc = put_text(object, "name", seen->name);
	if (!rc)
		rc = put_number(object, "bytes", seen->bytes);
	if (!rc)
		rc = put_number(object, "pins", seen->pins);
	if (!rc)
		rc = put_number(object, "waited_us", seen->waited_ns / 1000);
	return rc;
}

static int put_ram(json_t *rams, const struct gr__snapshot *snapshot)
{
	json_t *ram, *spaces = NULL, *blocks = NULL, *pending = NULL;
	int rc = append_object(rams, &ram);
	size_t i;

	if (!rc)
		rc = put_number(ram, "number", snapshot->number);
	if (!rc)
		rc = put_stats(ram, &snapshot->stats);
	if (!rc)
		rc = put_array(ram, "spaces", &spaces);
	for (i = 0; i < snapshot->space_count && !rc; i++)
		rc = put_space(spaces, &snapshot->spaces[i], snapshot);
	if (!rc)
		rc = put_array(ram, "blocks", &blocks);
	for (i = 0; i < snapshot->block_count && !rc; i++)
		rc = put_block(blocks, &snapshot->blocks[i]);
	if (!rc)
		rc = put_array(ram, "pending", &pending);
	for (i = 0; i < snapshot->pending_count && !rc; i++)
		rc = put_pending(pending, &snapshot->pending[i]);
	return rc;
}

/* ------------------------------------------------------------------------------------ document */

static int add_ram(void *context, struct gr_ram *ram)
{
	struct gr__snapshot snapshot;
	int rc;

	if (gr__ram_check(ram, "status") < 0)
		return 0;
	rc = gr__snapshot_take(&snapshot, ram);
	if (!rc)
		rc = put_ram(context, &snapshot);
	gr__snapshot_fini(&snapshot);
	return rc;
}

static int fill(json_t *document)
{
	json_t *rams, *members = NULL;
	int rc = put_number(document, "guestram", GR__STATUS_VERSION);

	if (!rc)
		rc = put_text(document, "library", gr_version());
	if (!rc)
		rc = put_number(document, "pid", (uint64_t)getpid());
	if (!rc)
		rc = put_text(document, "program", program_invocation_short_name);
	if (!rc)
		rc = put_array(document, "rams", &rams);
	if (!rc)
		rc = gr__registry_each(add_ram, rams);
	if (!rc) {
		members = json_object();
		rc = gr__json_put(document, "members", members);
	}
	if (!rc)
		rc = gr__status_members(members);
	return rc;
}

int gr_status_text(char **result)
{
	json_t *document;
	char *text = NULL;
	size_t length;
	int rc;

	if (!result)
		return gr__fail(-EINVAL, "status: no place for the result");
	document = json_object();
	rc = document ? fill(document) : -ENOMEM;
	if (!rc) {
		length = json_dumpb(document, NULL, 0, JSON_COMPACT);
		text = GR_FAULT("json") ? NULL : malloc(length + 2);
		if (!text || !length) {
			rc = -ENOMEM;
		} else {
			json_dumpb(document, text, length, JSON_COMPACT);
			text[length] = '\n';
			text[length + 1] = 0;
		}
	}
	json_decref(document);
	if (rc < 0) {
		free(text);
		return gr__fail(rc, "status: no memory for the document");
	}
	*result = text;
	return 0;
}
