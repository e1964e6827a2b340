/* SPDX-License-Identifier: MIT */
/*
 * malloc and its like as the library sees them (--wrap): what is freed is poisoned and kept until
 * the run is over, so that whoever reads it reads nonsense (or is stopped, under ASan), whoever
 * writes to it leaves a trace, and what is freed twice or not at all is found.
 *
 * Threads: those that have the turn.
 */
#ifndef MEMORY_H
#define MEMORY_H

#ifdef __SANITIZE_ADDRESS__
#define WITH_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN
#endif
#endif

/* Around one run of a script. */
void memory_begin(void);
void memory_end(void);

#endif
