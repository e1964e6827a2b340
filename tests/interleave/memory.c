/* SPDX-License-Identifier: MIT */
/* See memory.h. */
#include "memory.h"
#include "explore.h"
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)0)
#endif

/* As a word of an index it is a hit, as a pointer it is none that a processor takes. */
#define POISON 0xd8
/* Behind each, so that what is read past the end of what was freed is poison too. */
#define TAIL 256
#define LIVE UINT64_C(0x6c69766521212121)
#define FREED UINT64_C(0x6672656564212121)

/* The names are the linker's. NOLINTBEGIN(bugprone-reserved-identifier) */
void *__real_malloc(size_t size);
int __real_posix_memalign(void **memory, size_t align, size_t size);
void __real_free(void *memory);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
int __wrap_posix_memalign(void **memory, size_t align, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *memory);
/* NOLINTEND(bugprone-reserved-identifier) */

/* In front of what the caller gets. */
struct head {
	struct head *next; /* of those freed in this run */
	void *start;	   /* as the real malloc gave it */
	size_t size;
	uint64_t state;
};
_Static_assert(sizeof(struct head) % 16 == 0, "malloc's alignment is kept");

static struct head *freed;
static long live; /* things not freed yet */
static long live_at_begin;

static void *dress(void *start, size_t offset, size_t size)
{
	struct head *head;

	if (!start)
		return NULL;
	head = (struct head *)((char *)start + offset) - 1;
	*head = (struct head){.start = start, .size = size, .state = LIVE};
	memset((char *)(head + 1) + size, POISON, TAIL);
	ASAN_POISON_MEMORY_REGION((char *)(head + 1) + size, TAIL);
	live++;
	return head + 1;
}

void *__wrap_malloc(size_t size)
{
	return dress(__real_malloc(sizeof(struct head) + size + TAIL), sizeof(struct head), size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	void *memory;

	if (size && count > SIZE_MAX / 2 / size)
		return NULL;
	memory = __wrap_malloc(count * size);
	return memory ? memset(memory, 0, count * size) : NULL;
}

int __wrap_posix_memalign(void **memory, size_t align, size_t size)
{
	size_t offset = align > sizeof(struct head) ? align : sizeof(struct head);
	int rc = __real_posix_memalign(memory, align, offset + size + TAIL);

	if (!rc)
		*memory = dress(*memory, offset, size);
	return rc;
}

char *__wrap_strdup(const char *text)
{
	size_t size = strlen(text) + 1;
	char *copy = __wrap_malloc(size);

	return copy ? memcpy(copy, text, size) : NULL;
}

void __wrap_free(void *memory)
{
	struct head *head;

	if (!memory)
		return;
	head = (struct head *)memory - 1;
	check(head->state == LIVE, "something is freed %s",
	      head->state == FREED ? "twice" : "that was never allocated");
	head->state = FREED;
	memset(memory, POISON, head->size);
	ASAN_POISON_MEMORY_REGION(memory, head->size);
	head->next = freed;
	freed = head;
	live--;
}

void memory_begin(void)
{
	live_at_begin = live;
}

void memory_end(void)
{
	struct head *head;
	size_t i;

	while ((head = freed)) {
		const unsigned char *bytes = (unsigned char *)(head + 1);

		freed = head->next;
		ASAN_UNPOISON_MEMORY_REGION(bytes, head->size + TAIL);
		for (i = 0; i < head->size + TAIL; i++)
			check(bytes[i] == POISON, "byte %zu of %zu was written %s", i, head->size,
			      i < head->size ? "after its free" : "past its end");
		__real_free(head->start);
	}
	check(live == live_at_begin, "%ld things were never freed", live - live_at_begin);
}
