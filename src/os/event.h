/* SPDX-License-Identifier: MIT */
/*
 * An eventfd that says "there is something to do": readable from gr__event_set() to
 * gr__event_clear(). Level, not count: setting it twice is setting it once.
 *
 * Threads: all but open and close may run on any number of threads at once.
 */
#ifndef GR__EVENT_H
#define GR__EVENT_H

/* A non-blocking, close-on-exec descriptor, not set; or -errno. Fault name: "eventfd". */
int gr__event_open(void);

/* Cannot fail for a descriptor of gr__event_open(); needs no memory. */
void gr__event_set(int fd);
void gr__event_clear(int fd);

/* Wait until it is set. The one function here that waits. */
void gr__event_wait(int fd);

/* Close any descriptor; negative ones are left alone. */
void gr__fd_close(int fd);

#endif
