/* SPDX-License-Identifier: MIT */
/* The sentence behind gr_last_error(): one buffer for each thread, no locks. */
#ifndef GR__ERROR_H
#define GR__ERROR_H

/* Remember a sentence for this thread's last failure. */
__attribute__((format(printf, 1, 2))) void gr__say(const char *format, ...);

/* How many sentences this thread has said: has somebody said why since? */
unsigned gr__said(void);

/*
 * Say it and be @rc, so that a failing step reads `return gr__fail(-ERANGE, "map %#llx: …", …)`.
 * A macro, so that compilers and analysers see which error it is.
 */
#define gr__fail(rc, ...) (gr__say(__VA_ARGS__), (rc))

#endif
