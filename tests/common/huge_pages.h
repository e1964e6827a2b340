/* SPDX-License-Identifier: MIT */
/* The machine's pool of huge pages, for tests that need some and give them back. */
#ifndef HUGE_PAGES_H
#define HUGE_PAGES_H

#include <stdbool.h>
#include <stdint.h>

/* Makes huge pages: at least @count free ones of @page_size. false: told why. */
bool get_huge_pages(uint64_t page_size, unsigned count);
/* As many as there were before. */
void put_huge_pages(void);
long free_huge_pages(uint64_t page_size);

#endif
