/* SPDX-License-Identifier: MIT */
#include "fuzz.h"
#include <stdarg.h>

bool fuzz_verbose;

void fuzz_fail(const char *file, int line, const char *condition, const char *format, ...)
{
	char more[256];
	va_list args;

	va_start(args, format);
	/* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): it was started a line before */
	vsnprintf(more, sizeof(more), format, args);
	va_end(args);
	fprintf(stderr, "%s:%d: not so: %s: %s\n", file, line, condition, more);
	abort();
}
