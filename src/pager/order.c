/* SPDX-License-Identifier: MIT */
/* See order.h. What is loaded may be anybody's: it is checked here, and clipped by who uses it. */
#include "pager/order.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/file.h"
#include "os/transfer.h"
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HEAD "guestram working set 1\n"
#define SIZE_MAX_FILE (UINT64_C(64) << 20)
#define NAME_MAX_BYTES 255
/* "block " and each byte as %xx, or two numbers */
#define LINE_MAX_BYTES (8 + 3 * NAME_MAX_BYTES)

int gr__order_add(struct gr__order *order, int block, uint64_t offset, uint64_t length)
{
	struct gr__run_of *last = order->count ? &order->runs[order->count - 1] : NULL;

	/* a run that ends at 2^64 is followed by none */
	if (last && offset && last->block == block && last->offset + last->length == offset) {
		last->length += length;
		return 0;
	}
	if (!order->runs || order->count == order->room) {
		size_t room = order->room ? 2 * order->room : 256;
		struct gr__run_of *runs = gr__alloc_array(room, sizeof(*runs));

		if (!runs)
			return gr__fail(-ENOMEM, "working set: no memory for %zu runs", room);
		if (order->runs)
			memcpy(runs, order->runs, order->count * sizeof(*runs));
		gr__free(order->runs);
		order->runs = runs;
		order->room = room;
	}
	order->runs[order->count++] = (struct gr__run_of){block, offset, length};
	return 0;
}

void gr__order_fini(struct gr__order *order)
{
	gr__free(order->runs);
	memset(order, 0, sizeof(*order));
}

/* ------------------------------------------------------------------------------------ loading */

/* A hexadecimal number, and the byte after it. false: there is none, or it is too long. */
static bool take_number(const char **at, char after, uint64_t *number)
{
	static const char digits[] = "0123456789abcdef";
	const char *digit;
	int count = 0;

	*number = 0;
	for (; **at && (digit = strchr(digits, **at)) != NULL; (*at)++) {
		if (++count > 16)
			return false;
		*number = *number << 4 | (uint64_t)(digit - digits);
	}
	if (!count || **at != after)
		return false;
	(*at)++;
	return true;
}

/* The rest of a line, with %xx for bytes that would not do. false: it is none. */
static bool take_name(const char **at, char *name)
{
	size_t length = 0;
	uint64_t byte;

	while (**at && **at != '\n') {
		byte = (unsigned char)*(*at)++;
		if (byte == '%') {
			char two[4] = {**at, **at ? (*at)[1] : 0, '\n', 0};
			const char *digits = two;

			if (!take_number(&digits, '\n', &byte) || digits != two + 3 || !byte)
				return false;
			*at += 2;
		}
		if (length == NAME_MAX_BYTES)
			return false;
		name[length++] = (char)byte;
	}
	name[length] = 0;
	if (**at != '\n' || !length)
		return false;
	(*at)++;
	return true;
}

static bool take_line(struct gr__order *order, const char **at, const struct gr_page_source *source,
		      int *block, int *rc)
{
	struct gr_page_source_info info;
	char name[NAME_MAX_BYTES + 1];
	uint64_t offset, length, last;

	if (!strncmp(*at, "block\n", 6)) {
		*at += 6;
		*block = source->ops->find(source->context, NULL, &info);
		return true;
	}
	if (!strncmp(*at, "block ", 6)) {
		*at += 6;
		if (!take_name(at, name))
			return false;
		*block = source->ops->find(source->context, name, &info);
		return true;
	}
	if (!take_number(at, ' ', &offset) || !take_number(at, '\n', &length) ||
	    !gr__is_aligned(offset | length, GR_PAGE_SIZE) ||
	    !gr__range_last(offset, length, &last))
		return false;
	if (*block >= 0)
		*rc = gr__order_add(order, *block, offset, length);
	return !*rc;
}

static int parse(struct gr__order *order, const char *path, const char *text, uint64_t size,
		 const struct gr_page_source *source)
{
	struct gr_page_source_info info;
	const char *at = text + strlen(HEAD);
	int block = source->ops->find(source->context, NULL, &info), rc = 0;

	if (strncmp(text, HEAD, strlen(HEAD)) != 0)
		return gr__fail(-EBADMSG, "%s: no working set", path);
	while (*at) {
		const char *line = at;

		if (!take_line(order, &at, source, &block, &rc))
			return rc < 0 ? rc
				      : gr__fail(-EBADMSG, "%s: damaged at byte %zu", path,
						 (size_t)(line - text));
	}
	if ((uint64_t)(at - text) != size)
		return gr__fail(-EBADMSG, "%s: damaged at byte %zu", path, (size_t)(at - text));
	return 0;
}

int gr__order_load(struct gr__order *order, const char *path, const struct gr_page_source *source)
{
	struct gr__file_info info;
	char *text = NULL;
	int64_t got = 0;
	int fd = gr__file_open(path, O_RDONLY, 0), rc;

	if (fd < 0)
		return gr__fail(fd, "%s: %s", path, strerrordesc_np(-fd));
	rc = gr__file_get_info(fd, &info);
	if (!rc && (!info.regular || info.size > SIZE_MAX_FILE))
		rc = -EBADMSG;
	if (!rc) {
		text = gr__alloc(info.size + 1);
		rc = text ? 0 : -ENOMEM;
	}
	if (!rc) {
		got = gr__file_read(fd, text, info.size, 0);
		rc = got < 0 ? (int)got : 0;
	}
	if (rc < 0 || !text)
		rc = gr__fail(rc, "%s: %s", path,
			      rc == -EBADMSG ? "no working set" : strerrordesc_np(-rc));
	else
		rc = parse(order, path, text, (uint64_t)got, source);
	if (rc < 0)
		gr__order_fini(order);
	gr__free(text);
	gr__fd_close(fd);
	return rc;
}

int gr_working_set_read(const char *path, const struct gr_page_source *source,
			gr_working_set_fn run, void *context)
{
	struct gr__order order = {0};
	size_t i;
	int rc;

	if (!path || !source || !source->ops || !run)
		return gr__fail(-EINVAL, "working set: no path, source or function");
	rc = gr__order_load(&order, path, source);
	for (i = 0; i < order.count && !rc; i++)
		rc = run(context, order.runs[i].block, order.runs[i].offset, order.runs[i].length);
	gr__order_fini(&order);
	return rc;
}

/* ------------------------------------------------------------------------------------- saving */

struct writer {
	int fd, rc;
	uint64_t at;
	size_t used;
	char text[8192];
};

static void flush(struct writer *writer)
{
	if (!writer->rc)
		writer->rc = gr__file_write(writer->fd, writer->text, writer->used, writer->at);
	writer->at += writer->used;
	writer->used = 0;
}

static void put_block(struct writer *writer, const char *name)
{
	char *to = writer->text + writer->used;

	to = stpcpy(to, "block");
	if (name)
		*to++ = ' ';
	for (; name && *name; name++) {
		unsigned char byte = (unsigned char)*name;

		if (byte <= ' ' || byte == '%' || byte >= 0x7f)
			to += snprintf(to, sizeof("%xx"), "%%%02x", byte);
		else
			*to++ = (char)byte;
	}
	*to++ = '\n';
	writer->used = (size_t)(to - writer->text);
}

static int write_all(const struct gr__order *order, int fd, gr__order_name_fn name, void *context)
{
	struct writer *writer = gr__alloc(sizeof(*writer));
	int block = -1, rc;
	size_t i;

	if (!writer)
		return -ENOMEM;
	writer->fd = fd;
	writer->used = strlen(HEAD);
	memcpy(writer->text, HEAD, writer->used);
	for (i = 0; i < order->count; i++) {
		const struct gr__run_of *run = &order->runs[i];

		if (writer->used + 2 * LINE_MAX_BYTES > sizeof(writer->text))
			flush(writer);
		if (run->block != block)
			put_block(writer, name(context, run->block));
		block = run->block;
		writer->used += (size_t)snprintf(writer->text + writer->used,
						 sizeof(writer->text) - writer->used, "%llx %llx\n",
						 (unsigned long long)run->offset,
						 (unsigned long long)run->length);
	}
	flush(writer);
	rc = writer->rc;
	gr__free(writer);
	return rc;
}

int gr__order_save(const struct gr__order *order, const char *path, gr__order_name_fn name,
		   void *context)
{
	size_t size = strlen(path) + 5;
	char *beside = gr__alloc_raw(size);
	int fd, rc;

	if (!beside)
		return gr__fail(-ENOMEM, "%s: no memory", path);
	snprintf(beside, size, "%s.new", path);
	fd = gr__file_open(beside, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	rc = fd < 0 ? fd : write_all(order, fd, name, context);
	if (!rc)
		rc = gr__file_sync(fd);
	if (!rc)
		rc = gr__file_rename(beside, path);
	if (rc < 0) {
		if (fd >= 0)
			gr__file_unlink(beside, fd);
		rc = gr__fail(rc, "working set %s: %s", path, strerrordesc_np(-rc));
	}
	gr__fd_close(fd);
	gr__free(beside);
	return rc;
}
