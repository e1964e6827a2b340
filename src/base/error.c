/* SPDX-License-Identifier: MIT */
#include "base/error.h"
#include <guestram.h>
#include <stdarg.h>
#include <stdio.h>

/* One for each thread; written by gr__say() of that thread only. */
static _Thread_local char sentence[512];
static _Thread_local unsigned said;

void gr__say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(sentence, sizeof(sentence), format, args);
	va_end(args);
	said++;
}

unsigned gr__said(void)
{
	return said;
}

const char *gr_last_error(void)
{
	return sentence;
}

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

const char *gr_version(void)
{
	return TEXT(GR_VERSION_MAJOR) "." TEXT(GR_VERSION_MINOR) "." TEXT(GR_VERSION_PATCH);
}
