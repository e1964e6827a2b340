/* SPDX-License-Identifier: MIT */
/* Memory for our own structures; every request can be made to fail in the test build. */
#ifndef GR__ALLOC_H
#define GR__ALLOC_H

#include <stddef.h>

/* Zero-filled, or NULL. */
__attribute__((malloc)) void *gr__alloc(size_t size);
/* @count items of @size bytes, zero-filled; NULL also when the product wraps. */
__attribute__((malloc)) void *gr__alloc_array(size_t count, size_t size);
/* Zero-filled, at a multiple of @align (a power of two). */
__attribute__((malloc)) void *gr__alloc_aligned(size_t align, size_t size);
/* Not zero-filled: for arrays that are written whole. */
__attribute__((malloc)) void *gr__alloc_raw(size_t size);
/* A copy of @text, or NULL. */
__attribute__((malloc)) char *gr__strdup(const char *text);
/* NULL does nothing. */
void gr__free(void *memory);

#endif
