/* SPDX-License-Identifier: MIT */
/* An ELF core of what a source knows; core.c. */
#ifndef GR__CORE_H
#define GR__CORE_H

#include <guestram/dump.h>

/* gr_dump_from(), with lines for a note of ours. 0 or -errno, said. */
int gr__core_write(const struct gr_dump_source *source, int fd, const struct gr_dump_opts *opts,
		   const char *about, uint64_t generation);

#endif
