/* SPDX-License-Identifier: MIT */
/* See live.h. Nothing is believed: a document comes from another process. */
#include "live.h"
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the first thing that was wrong is told. */
struct decoder {
	char *why;
	size_t size;
	bool wrong;
};

static __attribute__((format(printf, 2, 3))) void complain(struct decoder *decoder,
							   const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (!decoder->wrong)
		vsnprintf(decoder->why, decoder->size, format, args);
	va_end(args);
	decoder->wrong = true;
}

/* ------------------------------------------------------------------------------------- values */

/* Control characters, C1 ones too, would drive the terminal. In place: the document is ours. */
static const char *tame(const json_t *string)
{
	unsigned char *byte = (unsigned char *)json_string_value(string);
	const char *text = (const char *)byte;

	for (; byte && *byte; byte++) {
		if (*byte < 0x20 || *byte == 0x7f)
			*byte = '?';
		else if (*byte == 0xc2 && byte[1] < 0xa0)
			*byte = byte[1] = '?';
	}
	return text;
}

static const char *get_text(struct decoder *decoder, const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	if (!json_is_string(value)) {
		complain(decoder, "\"%s\" is no text", key);
		return "";
	}
	return tame(value);
}

static uint64_t get_number(struct decoder *decoder, const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	if (!json_is_integer(value) || json_integer_value(value) < 0) {
		complain(decoder, "\"%s\" is no count", key);
		return 0;
	}
	return (uint64_t)json_integer_value(value);
}

/* "0x…" of up to 16 digits. */
static uint64_t get_address(struct decoder *decoder, const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	size_t digits;

	if (text && !strncmp(text, "0x", 2)) {
		digits = strspn(text + 2, "0123456789abcdef");
		if (digits && digits <= 16 && !text[2 + digits])
			return strtoull(text + 2, NULL, 16);
	}
	complain(decoder, "\"%s\" is no address", key);
	return 0;
}

/* The array's items, each an object, and room for them; NULL when there are none. */
static void *get_array(struct decoder *decoder, const json_t *object, const char *key, size_t size,
		       const json_t **array, size_t *count)
{
	void *items;
	size_t i;

	*array = json_object_get(object, key);
	*count = 0;
	if (!json_is_array(*array)) {
		complain(decoder, "\"%s\" is no list", key);
		return NULL;
	}
	for (i = 0; i < json_array_size(*array); i++) {
		if (!json_is_object(json_array_get(*array, i))) {
			complain(decoder, "\"%s\" is no list of objects", key);
			return NULL;
		}
	}
	if (!json_array_size(*array))
		return NULL;
	items = calloc(json_array_size(*array), size);
	if (!items) {
		complain(decoder, "no memory");
		return NULL;
	}
	*count = json_array_size(*array);
	return items;
}

/* -------------------------------------------------------------------------------------- parts */

static void decode_stats(struct decoder *decoder, const json_t *ram, struct gr_ram_stats *stats)
{
	const json_t *object = json_object_get(ram, "stats");
	const struct {
		const char *key;
		uint64_t *value;
	} figures[] = {
		{"blocks", &stats->blocks},
		{"spaces", &stats->spaces},
		{"ranges", &stats->ranges},
		{"generation", &stats->generation},
		{"bytes", &stats->bytes},
		{"bytes_reserved", &stats->bytes_reserved},
		{"index_bytes", &stats->index_bytes},
		{"range_bytes", &stats->range_bytes},
		{"blocks_pending", &stats->blocks_pending},
		{"bytes_pending", &stats->bytes_pending},
		{"blocks_reclaimed", &stats->blocks_reclaimed},
		{"bytes_reclaimed", &stats->bytes_reclaimed},
		{"grace_periods", &stats->grace_periods},
		{"pins", &stats->pins},
	};
	size_t i;

	for (i = 0; i < sizeof(figures) / sizeof(figures[0]); i++)
		*figures[i].value = get_number(decoder, object, figures[i].key);
}

static void decode_file(struct decoder *decoder, const json_t *object, struct live_block *block)
{
	const json_t *file = json_object_get(object, "file");
	uint64_t fd;

	block->fd = -1;
	if (json_is_null(file))
		return;
	fd = get_number(decoder, file, "fd");
	if (fd > INT_MAX)
		complain(decoder, "\"fd\" is no descriptor");
	else
		block->fd = (int)fd;
	block->fd_offset = get_number(decoder, file, "offset");
	block->inode = get_number(decoder, file, "inode");
	if (!json_is_null(json_object_get(file, "path")))
		block->path = get_text(decoder, file, "path");
}

static void decode_block(struct decoder *decoder, const json_t *object, struct live_block *block)
{
	const json_t *flag;
	size_t i;

	block->name = get_text(decoder, object, "name");
	block->backing = get_text(decoder, object, "backing");
	block->flags = json_object_get(object, "flags");
	if (!json_is_array(block->flags))
		complain(decoder, "\"flags\" is no list");
	json_array_foreach((json_t *)block->flags, i, flag)
	{
		if (!json_is_string(flag))
			complain(decoder, "a flag is no text");
		else
			tame(flag);
	}
	block->host = get_address(decoder, object, "host");
	block->length = get_number(decoder, object, "length");
	block->max_length = get_number(decoder, object, "max_length");
	block->page_size = get_number(decoder, object, "page_size");
	block->ram_offset = get_number(decoder, object, "ram_offset");
	block->mapped = get_number(decoder, object, "mapped");
	block->pins = get_number(decoder, object, "pins");
	block->lost_pages = get_number(decoder, object, "lost_pages");
	block->granule = get_number(decoder, object, "granule");
	block->plugged = get_number(decoder, object, "plugged");
	block->resident = UINT64_MAX;
	if (!json_is_null(json_object_get(object, "resident")))
		block->resident = get_number(decoder, object, "resident");
	decode_file(decoder, object, block);
	if (!block->length || block->length > block->max_length ||
	    block->max_length - 1 > UINT64_MAX - block->host ||
	    block->fd_offset > INT64_MAX - block->max_length)
		complain(decoder, "block \"%.64s\" has lengths that cannot be", block->name);
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(const struct live_block *const *)a)->name,
		      (*(const struct live_block *const *)b)->name);
}

/* Blocks sorted by name, in @sorted; names are unique. */
static struct live_block **sort_blocks(struct decoder *decoder, const struct live_ram *ram)
{
	struct live_block **sorted = calloc(ram->block_count + 1, sizeof(struct live_block *));
	size_t i;

	if (!sorted) {
		complain(decoder, "no memory");
		return NULL;
	}
	for (i = 0; i < ram->block_count; i++)
		sorted[i] = &ram->blocks[i];
	qsort(sorted, ram->block_count, sizeof(struct live_block *), by_name);
	return sorted;
}

static void decode_range(struct decoder *decoder, const json_t *object, struct live_range *range,
			 const struct live_ram *ram, struct live_block **sorted)
{
	const char *access = get_text(decoder, object, "access");
	const struct live_block key = {.name = get_text(decoder, object, "block")};
	const struct live_block *const key_at = &key, *block;
	struct live_block **found;

	range->addr = get_address(decoder, object, "addr");
	range->length = get_number(decoder, object, "length");
	range->visible = get_number(decoder, object, "visible");
	range->offset = get_number(decoder, object, "offset");
	range->host = get_address(decoder, object, "host");
	range->access = (strchr(access, 'r') ? GR_READ : 0) | (strchr(access, 'w') ? GR_WRITE : 0);
	found = bsearch(&key_at, sorted, ram->block_count, sizeof(struct live_block *), by_name);
	if (!found) {
		complain(decoder, "a range names block \"%.64s\", which there is not", key.name);
		return;
	}
	block = *found;
	range->block = (size_t)(block - ram->blocks);
	if (!range->length || range->length - 1 > UINT64_MAX - range->addr ||
	    range->visible > range->length || range->offset > block->max_length ||
	    range->length > block->max_length - range->offset ||
	    ((range->addr | range->length | range->visible) & (GR_PAGE_SIZE - 1)))
		complain(decoder, "the range at %#llx has lengths that cannot be",
			 (unsigned long long)range->addr);
}

static void decode_space(struct decoder *decoder, const json_t *object, struct live_space *space,
			 const struct live_ram *ram, struct live_block **sorted)
{
	const json_t *array;
	size_t i;

	space->name = get_text(decoder, object, "name");
	space->generation = get_number(decoder, object, "generation");
	space->ranges =
		get_array(decoder, object, "ranges", sizeof(*space->ranges), &array, &space->count);
	for (i = 0; i < space->count && !decoder->wrong; i++) {
		struct live_range *range = &space->ranges[i];

		decode_range(decoder, json_array_get(array, i), range, ram, sorted);
		if (i && !decoder->wrong && range->addr <= range[-1].addr + (range[-1].length - 1))
			complain(decoder, "ranges of space \"%.64s\" are out of order",
				 space->name);
	}
}

static void decode_ram(struct decoder *decoder, const json_t *object, struct live_ram *ram)
{
	struct live_block **sorted;
	const json_t *array;
	size_t i;

	ram->number = get_number(decoder, object, "number");
	decode_stats(decoder, object, &ram->stats);
	ram->blocks = get_array(decoder, object, "blocks", sizeof(*ram->blocks), &array,
				&ram->block_count);
	for (i = 0; ram->blocks && i < ram->block_count && !decoder->wrong; i++)
		decode_block(decoder, json_array_get(array, i), &ram->blocks[i]);
	if (decoder->wrong)
		return;
	sorted = sort_blocks(decoder, ram);
	ram->spaces = get_array(decoder, object, "spaces", sizeof(*ram->spaces), &array,
				&ram->space_count);
	for (i = 0; i < ram->space_count && !decoder->wrong; i++)
		decode_space(decoder, json_array_get(array, i), &ram->spaces[i], ram, sorted);
	free(sorted);
	ram->pending = get_array(decoder, object, "pending", sizeof(*ram->pending), &array,
				 &ram->pending_count);
	for (i = 0; i < ram->pending_count && !decoder->wrong; i++) {
		const json_t *item = json_array_get(array, i);

		ram->pending[i] = (struct live_pending){
			.name = get_text(decoder, item, "name"),
			.bytes = get_number(decoder, item, "bytes"),
			.pins = get_number(decoder, item, "pins"),
			.waited_us = get_number(decoder, item, "waited_us"),
		};
	}
}

static void decode(struct decoder *decoder, struct live *live)
{
	const json_t *array, *version;
	uint64_t pid;
	size_t i;

	version = json_object_get(live->document, "guestram");
	if (!json_is_integer(version)) {
		complain(decoder, "it is no document of guestram");
		return;
	}
	if (json_integer_value(version) != LIVE_VERSION) {
		complain(decoder, "its document is of version %lld; this program knows version %d",
			 (long long)json_integer_value(version), LIVE_VERSION);
		return;
	}
	live->library = get_text(decoder, live->document, "library");
	live->program = get_text(decoder, live->document, "program");
	pid = get_number(decoder, live->document, "pid");
	if (!pid || pid > INT_MAX)
		complain(decoder, "\"pid\" is no process");
	live->pid = (pid_t)pid;
	live->rams = get_array(decoder, live->document, "rams", sizeof(*live->rams), &array,
			       &live->count);
	for (i = 0; live->rams && i < live->count && !decoder->wrong; i++)
		decode_ram(decoder, json_array_get(array, i), &live->rams[i]);
}

int live_decode(const char *text, size_t length, struct live *live, char *why, size_t size)
{
	struct decoder decoder = {why, size, false};
	json_error_t error;

	*live = (struct live){0};
	live->document = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
	if (!live->document) {
		/* jansson quotes what it did not like */
		complain(&decoder, "no JSON at line %d", error.line);
		return -EPROTO;
	}
	decode(&decoder, live);
	if (!decoder.wrong)
		return 0;
	live_free(live);
	return -EPROTO;
}

void live_free(struct live *live)
{
	size_t i, k;

	for (i = 0; i < live->count; i++) {
		for (k = 0; k < live->rams[i].space_count; k++)
			free(live->rams[i].spaces[k].ranges);
		free(live->rams[i].spaces);
		free(live->rams[i].blocks);
		free(live->rams[i].pending);
	}
	free(live->rams);
	free(live->text);
	json_decref(live->document);
	*live = (struct live){0};
}

bool live_block_has(const struct live_block *block, const char *flag)
{
	const json_t *value;
	size_t i;

	json_array_foreach((json_t *)block->flags, i, value)
	{
		if (!strcmp(json_string_value(value), flag))
			return true;
	}
	return false;
}
