/* SPDX-License-Identifier: MIT */
/* See handshake.h. */
#include "pager/handshake.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include <errno.h>
#include <guestram.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Larger ones are no pages of any processor. */
#define PAGE_MAX (UINT64_C(1) << 34)

void gr__handshake_init(struct gr__handshake *handshake)
{
	memset(handshake, 0, sizeof(*handshake));
	handshake->fd = -1;
}

void gr__handshake_fini(struct gr__handshake *handshake)
{
	gr__free(handshake->text);
	gr__fd_close(handshake->fd);
	gr__handshake_init(handshake);
}

/* ------------------------------------------------------------------------------------ bytes */

/* Where the array ends: brackets outside of strings. Whether it is JSON is for the parser. */
static int scan(struct gr__handshake *handshake)
{
	for (; handshake->scanned < handshake->size && !handshake->whole; handshake->scanned++) {
		char c = handshake->text[handshake->scanned];

		if (handshake->in_string) {
			if (!handshake->escaped && c == '"')
				handshake->in_string = false;
			handshake->escaped = !handshake->escaped && c == '\\';
		} else if (!handshake->depth && c != '[') {
			if (!strchr(" \t\r\n", c) || !c)
				return gr__fail(-EBADMSG, "handshake: it is no JSON array");
		} else if (c == '"') {
			handshake->in_string = true;
		} else if (c == '[' || c == '{') {
			handshake->depth++;
		} else if (c == ']' || c == '}') {
			handshake->whole = !--handshake->depth;
		}
	}
	if (handshake->whole)
		handshake->size = handshake->scanned;
	return 0;
}

int gr__handshake_add(struct gr__handshake *handshake, const char *bytes, size_t size)
{
	if (handshake->whole)
		return 0;
	if (size > GR__HANDSHAKE_BYTES - handshake->size)
		return gr__fail(-EMSGSIZE, "handshake: more than %u bytes", GR__HANDSHAKE_BYTES);
	if (!handshake->text || handshake->room - handshake->size < size) {
		size_t room = handshake->room ? 2 * handshake->room : 8192;
		char *text;

		while (room < handshake->size + size)
			room *= 2;
		text = gr__alloc_raw(room);
		if (!text)
			return gr__fail(-ENOMEM, "handshake: no memory for %zu bytes", room);
		if (handshake->text)
			memcpy(text, handshake->text, handshake->size);
		gr__free(handshake->text);
		handshake->text = text;
		handshake->room = room;
	}
	memcpy(handshake->text + handshake->size, bytes, size);
	handshake->size += size;
	return scan(handshake);
}

/* ---------------------------------------------------------------------------------- meaning */

/* 1: it is there, 0: not, or -EINVAL, said. */
static int take_number(const json_t *object, unsigned i, const char *key, uint64_t *number)
{
	const json_t *value = json_object_get(object, key);

	if (!value || json_is_null(value))
		return 0;
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return gr__fail(-EINVAL, "handshake: region %u: %s is no number from 0 on", i, key);
	*number = (uint64_t)json_integer_value(value);
	return 1;
}

static int take_region(const json_t *object, unsigned i, uint64_t length, uint64_t after,
		       struct gr__region *region)
{
	uint64_t last;
	int rc, size;

	if (!json_is_object(object))
		return gr__fail(-EINVAL, "handshake: region %u is no object", i);
	*region = (struct gr__region){.offset = after, .page_size = GR_PAGE_SIZE};
	rc = take_number(object, i, "base_host_virt_addr", &region->addr);
	size = rc < 0 ? rc : take_number(object, i, "size", &region->length);
	if (size < 0)
		return size;
	if (!rc || !size)
		return gr__fail(-EINVAL, "handshake: region %u has no %s", i,
				rc ? "size" : "base_host_virt_addr");
	rc = take_number(object, i, "offset", &region->offset);
	/* both are in bytes, whatever the older one is called */
	size = rc < 0 ? rc : take_number(object, i, "page_size", &region->page_size);
	if (!size)
		size = take_number(object, i, "page_size_kib", &region->page_size);
	if (size < 0)
		return size;
	if (!gr__is_pow2(region->page_size) || region->page_size < GR_PAGE_SIZE ||
	    region->page_size > PAGE_MAX)
		return gr__fail(-EINVAL, "handshake: region %u: pages of %llu bytes", i,
				(unsigned long long)region->page_size);
	if (!gr__is_aligned(region->addr | region->length, region->page_size) ||
	    !gr__is_aligned(region->offset, GR_PAGE_SIZE))
		return gr__fail(
			-EINVAL,
			"handshake: region %u: %#llx bytes at %#llx, offset %#llx: not in "
			"whole pages of %llu",
			i, (unsigned long long)region->length, (unsigned long long)region->addr,
			(unsigned long long)region->offset, (unsigned long long)region->page_size);
	if (!gr__range_last(region->addr, region->length, &last))
		return gr__fail(-ERANGE, "handshake: region %u: %#llx bytes at %#llx wrap, or none",
				i, (unsigned long long)region->length,
				(unsigned long long)region->addr);
	if (!gr__range_within(region->offset, region->length, length))
		return gr__fail(-ERANGE,
				"handshake: region %u: %#llx bytes from %#llx on, of the source's "
				"%#llx",
				i, (unsigned long long)region->length,
				(unsigned long long)region->offset, (unsigned long long)length);
	return 0;
}

static int by_address(const void *a, const void *b)
{
	const struct gr__region *one = a, *other = b;

	return one->addr < other->addr ? -1 : one->addr > other->addr;
}

static int take_regions(const json_t *array, uint64_t length, struct gr__region *regions,
			unsigned count)
{
	uint64_t after = 0;
	unsigned i;
	int rc;

	for (i = 0; i < count; i++) {
		rc = take_region(json_array_get(array, i), i, length, after, &regions[i]);
		if (rc < 0)
			return rc;
		after = regions[i].offset + regions[i].length;
	}
	qsort(regions, count, sizeof(*regions), by_address);
	for (i = 1; i < count; i++)
		if (regions[i].addr - regions[i - 1].addr < regions[i - 1].length)
			return gr__fail(-EEXIST, "handshake: regions at %#llx and %#llx overlap",
					(unsigned long long)regions[i - 1].addr,
					(unsigned long long)regions[i].addr);
	return 0;
}

int gr__handshake_parse(const struct gr__handshake *handshake, uint64_t length,
			struct gr__region **result, unsigned *result_count)
{
	struct gr__region *regions;
	json_error_t error;
	json_t *array;
	size_t count;
	int rc;

	array = json_loadb(handshake->text, handshake->size, 0, &error);
	if (!array)
		return gr__fail(-EBADMSG, "handshake: byte %d: %s", error.position, error.text);
	count = json_array_size(array);
	if (!json_is_array(array) || !count || count > GR__HANDSHAKE_REGIONS) {
		rc = gr__fail(-EINVAL, "handshake: %zu regions, not 1 to %d", count,
			      GR__HANDSHAKE_REGIONS);
		goto put_array;
	}
	regions = gr__alloc_array(count, sizeof(*regions));
	if (!regions) {
		rc = gr__fail(-ENOMEM, "handshake: no memory for %zu regions", count);
		goto put_array;
	}
	rc = take_regions(array, length, regions, (unsigned)count);
	if (rc < 0) {
		gr__free(regions);
		goto put_array;
	}
	*result = regions;
	*result_count = (unsigned)count;
put_array:
	json_decref(array);
	return rc;
}
