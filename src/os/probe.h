/* SPDX-License-Identifier: MIT */
/*
 * Points that tracers watch in a running program (USDT, <sys/sdt.h>): one no-op instruction each,
 * and a note in the library that names it and says where its arguments are. Names and arguments are
 * in docs/looking.md. Without that header (meson option `probes`) they are nothing.
 *
 * None stands on the path of readers.
 */
#ifndef GR__PROBE_H
#define GR__PROBE_H

#ifdef GR_PROBES
#include <sys/sdt.h>
#define GR_PROBE1(name, a) DTRACE_PROBE1(guestram, name, a)
#define GR_PROBE3(name, a, b, c) DTRACE_PROBE3(guestram, name, a, b, c)
#define GR_PROBE4(name, a, b, c, d) DTRACE_PROBE4(guestram, name, a, b, c, d)
#define GR_PROBE6(name, a, b, c, d, e, f) DTRACE_PROBE6(guestram, name, a, b, c, d, e, f)
#else
#define GR_PROBE1(name, a) ((void)0)
#define GR_PROBE3(name, a, b, c) ((void)0)
#define GR_PROBE4(name, a, b, c, d) ((void)0)
#define GR_PROBE6(name, a, b, c, d, e, f) ((void)0)
#endif

#endif
