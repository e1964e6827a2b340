/* SPDX-License-Identifier: MIT */
/* See pattern.h. */
#include "pattern.h"
#include <fcntl.h>

#define ZERO_UNIT (64 * KIB)

static uint64_t word_of(unsigned block, uint64_t at)
{
	return (at + 8) * UINT64_C(0x9e3779b97f4a7c15) ^ ((uint64_t)block + 1) << 56;
}

void pattern_fill(unsigned block, uint64_t offset, void *page, uint64_t length)
{
	char *to = page;

	for (uint64_t i = 0; i < length / 8; i++) {
		uint64_t word = word_of(block, offset + 8 * i);

		memcpy(to + 8 * i, &word, 8);
	}
}

/* Of bytes that stand anywhere. */
static uint64_t word_at(const void *page, uint64_t i)
{
	uint64_t word;

	memcpy(&word, (const char *)page + 8 * i, 8);
	return word;
}

static uint64_t first_wrong(unsigned block, uint64_t offset, const void *page, uint64_t length)
{
	uint64_t i;

	for (i = 0; i < length / 8; i++)
		if (word_at(page, i) != word_of(block, offset + 8 * i))
			break;
	return i;
}

bool pattern_is(unsigned block, uint64_t offset, const void *page, uint64_t length)
{
	return first_wrong(block, offset, page, length) == length / 8;
}

bool zeroes_are(const void *page, uint64_t length)
{
	uint64_t i;

	for (i = 0; i < length / 8; i++)
		if (word_at(page, i))
			return false;
	return true;
}

void pattern_describe(unsigned block, uint64_t offset, const void *page, char *text, size_t size)
{
	uint64_t i = first_wrong(block, offset, page, PAGE);

	snprintf(text, size, "block %u page %#llx word %llu: %#llx%s", block,
		 (unsigned long long)offset, (unsigned long long)i,
		 (unsigned long long)((const uint64_t *)page)[i < PAGE / 8 ? i : 0],
		 zeroes_are(page, PAGE) ? " (all zero)" : "");
}

bool pattern_is_zero(const struct pattern_source *source, uint64_t offset)
{
	return source->zero_every && offset / ZERO_UNIT % source->zero_every == 0;
}

bool page_is_right(const struct pattern_source *source, unsigned block, uint64_t offset,
		   const char *host)
{
	return pattern_is_zero(source, offset) ? zeroes_are(host + offset, PAGE)
					       : pattern_is(block, offset, host + offset, PAGE);
}

static int find(void *context, const char *name, struct gr_page_source_info *info)
{
	const struct pattern_source *source = context;
	int block = name ? -1 : 0;

	if (name && name[0] == 'b' && name[1])
		block = atoi(name + 1);
	if (block < 0 || (unsigned)block >= source->blocks)
		return -ENOENT;
	memset(info, 0, sizeof(*info));
	info->length = source->length;
	info->chunk = source->chunk;
	return block;
}

static int look(void *context, int block, uint64_t offset, uint64_t *length)
{
	const struct pattern_source *source = context;
	uint64_t left = ZERO_UNIT - offset % ZERO_UNIT;

	(void)block;
	if (source->zero_every && *length > left)
		*length = left;
	return pattern_is_zero(source, offset) ? GR_PAGES_ZERO : GR_PAGES_DATA;
}

static int read_pages(void *context, int block, uint64_t offset, void *buf, uint64_t length)
{
	struct pattern_source *source = context;
	unsigned delay = __atomic_load_n(&source->delay_us, __ATOMIC_RELAXED);
	int error = get(&source->failing);
	struct gate *hold;
	uint64_t at;

	__atomic_add_fetch(&source->reads, 1, __ATOMIC_SEQ_CST);
	hold = __atomic_load_n(&source->hold, __ATOMIC_ACQUIRE);
	if (hold) {
		__atomic_add_fetch(&source->holding, 1, __ATOMIC_SEQ_CST);
		gate_wait(hold);
	}
	if (delay)
		sleep_us(delay);
	if (offset % PAGE || length % PAGE || offset + length > source->length)
		return -EINVAL;
	if (error) {
		memset(buf, 0xee, length); /* what was half read */
		return -error;
	}
	for (at = 0; at < length; at += PAGE) {
		if (pattern_is_zero(source, offset + at))
			memset((char *)buf + at, 0, PAGE);
		else
			pattern_fill((unsigned)block, offset + at, (char *)buf + at, PAGE);
	}
	__atomic_add_fetch(&source->read_bytes, length, __ATOMIC_RELAXED);
	return 0;
}

static int place(void *context, int block, uint64_t offset, uint64_t *length, int *fd,
		 uint64_t *fd_offset)
{
	const struct pattern_source *source = context;

	(void)length;
	if (!source->image || block)
		return -ENOTSUP;
	*fd = source->image_fd;
	*fd_offset = offset;
	return 0;
}

static void close_source(void *context)
{
	struct pattern_source *source = context;

	if (source->image)
		close(source->image_fd);
	source->image = NULL;
}

static const struct gr_page_source_ops ops = {
	.find = find,
	.look = look,
	.read = read_pages,
	.place = place,
	.close = close_source,
};

void pattern_source_init(struct pattern_source *source, unsigned blocks, uint64_t length)
{
	memset(source, 0, sizeof(*source));
	source->source = (struct gr_page_source){&ops, source};
	source->blocks = blocks;
	source->length = length;
}

bool pattern_source_to_file(struct pattern_source *source, const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	unsigned char page[4096];
	bool fine = fd >= 0 && !ftruncate(fd, (off_t)source->length);
	uint64_t at;

	for (at = 0; fine && at < source->length; at += PAGE) {
		if (pattern_is_zero(source, at))
			continue;
		pattern_fill(0, at, page, PAGE);
		fine = pwrite(fd, page, PAGE, (off_t)at) == (ssize_t)PAGE;
	}
	source->image = path;
	source->image_fd = fd;
	return fine;
}
