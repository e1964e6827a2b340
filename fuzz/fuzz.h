/* SPDX-License-Identifier: MIT */
/*
 * What the fuzzers share: reading an input piece by piece, checks that end the process, and a count
 * of what an input must leave as it found it.
 *
 * A fuzzer is LLVMFuzzerTestOneInput() in fuzz_<name>.c. It is linked with libFuzzer by
 * scripts/run-fuzz, and with replay.c in every build, which runs the inputs of corpus/<name>/ once.
 * An input decides everything: no clock, no random numbers, nothing kept from the one before.
 *
 * Threads: one runs inputs. Whatever an input starts has ended when it returns.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* A promise that was not kept: said, and the process ends, so that the input is kept. */
#define FUZZ_CHECK(condition)                                                                      \
	do {                                                                                       \
		if (!(condition))                                                                  \
			fuzz_fail(__FILE__, __LINE__, #condition, "%s", "");                       \
	} while (0)
#define FUZZ_CHECK_SAY(condition, ...)                                                             \
	do {                                                                                       \
		if (!(condition))                                                                  \
			fuzz_fail(__FILE__, __LINE__, #condition, __VA_ARGS__);                    \
	} while (0)

__attribute__((noreturn, format(printf, 4, 5))) void
fuzz_fail(const char *file, int line, const char *condition, const char *format, ...);

/* What an input does, step by step, for people: replay -v. */
extern bool fuzz_verbose;
#define FUZZ_SAY(...) (fuzz_verbose ? (void)fprintf(stderr, __VA_ARGS__) : (void)0)

/* ---------------------------------------------------------------------------- the input */

struct fuzz_input {
	const uint8_t *at;
	size_t left;
};

/* At the input's end all of these give zeroes. */
static inline void fuzz_take(struct fuzz_input *in, void *to, size_t size)
{
	size_t part = size < in->left ? size : in->left;

	/* in this order: gcc 12 makes a byte of zero and then a copy of none to a copy of one */
	memcpy(to, in->at, part);
	memset((char *)to + part, 0, size - part);
	in->at += part;
	in->left -= part;
}

static inline uint8_t fuzz_u8(struct fuzz_input *in)
{
	uint8_t value;

	fuzz_take(in, &value, sizeof(value));
	return value;
}

static inline uint16_t fuzz_u16(struct fuzz_input *in)
{
	uint16_t value;

	fuzz_take(in, &value, sizeof(value));
	return value;
}

static inline uint32_t fuzz_u32(struct fuzz_input *in)
{
	uint32_t value;

	fuzz_take(in, &value, sizeof(value));
	return value;
}

static inline uint64_t fuzz_u64(struct fuzz_input *in)
{
	uint64_t value;

	fuzz_take(in, &value, sizeof(value));
	return value;
}

/* ---------------------------------------------------------------------- what must not grow */

/* Open descriptors of this process, and its mappings of memfds. */
struct fuzz_ledger {
	unsigned fds;
	unsigned maps;
};

struct fuzz_ledger fuzz_ledger_now(void);
void fuzz_ledger_check(const struct fuzz_ledger *before);

#endif
