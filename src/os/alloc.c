/* SPDX-License-Identifier: MIT */
#include "os/alloc.h"
#include "os/hooks.h"
#include <stdlib.h>
#include <string.h>

void *gr__alloc(size_t size)
{
	return GR_FAULT("alloc") ? NULL : calloc(1, size);
}

void *gr__alloc_array(size_t count, size_t size)
{
	return GR_FAULT("alloc") ? NULL : calloc(count, size);
}

void *gr__alloc_aligned(size_t align, size_t size)
{
	void *memory = NULL;

	if (GR_FAULT("alloc") || posix_memalign(&memory, align, size))
		return NULL;
	return memset(memory, 0, size);
}

void *gr__alloc_raw(size_t size)
{
	return GR_FAULT("alloc") ? NULL : malloc(size);
}

char *gr__strdup(const char *text)
{
	return GR_FAULT("alloc") ? NULL : strdup(text);
}

void gr__free(void *memory)
{
	free(memory);
}
