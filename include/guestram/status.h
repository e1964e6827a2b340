/* SPDX-License-Identifier: MIT */
/*
 * Looking at a running program: a socket that gives whoever may ask one JSON document about all
 * open RAMs of the process, their spaces, blocks and pending reclaim. `guestram map`, `top` and
 * `dump` read it; docs/looking.md describes it.
 *
 * Caveats first:
 *  - One socket for a process, as there is one registry of open RAMs.
 *  - It tells host addresses of this process. Only its own user and root are answered.
 *  - It is read-only: nothing that a client sends is read.
 */
#ifndef GUESTRAM_STATUS_H
#define GUESTRAM_STATUS_H

#include <guestram.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * gr_status_serve() - answer on a Unix socket, from a thread of its own
 * @path: of the socket, made with mode 0600. A socket that nobody listens on is replaced; a live
 *        one, or another kind of file, never is.
 *
 * Each connection is given one document and the end of the stream. Clients are bounded in number
 * and in time, and hold up neither each other for long nor the program: the document is copied
 * under short locks, and written from memory. Users other than the process's own and root are hung
 * up on.
 *
 * A program whose process identifier stands in the file PATH.pid is found by that name too.
 *
 * Context: any thread. Return: 0, -EBUSY it serves already, -EADDRINUSE a live socket is there,
 * -EEXIST another kind of file is, -EINVAL, -ENAMETOOLONG, -ENOMEM, -EAGAIN (no thread to be had),
 * or the error of a system call on the path. Since 0.1.
 */
GR_API int gr_status_serve(const char *path);

/**
 * gr_status_stop() - hang up, end the thread, and remove the socket if it is still ours
 *
 * Context: any thread but inside a read section or callback (-EDEADLK). Return: 0 (also when
 * nothing was served), -EDEADLK, -ENOTSUP in a forked child. Since 0.1.
 */
GR_API int gr_status_stop(void);

/**
 * gr_status_fn - a program's own member of the document
 *
 * Return: JSON text from malloc(), which is freed after use; NULL: nothing now. Text that is not
 * JSON is shown as null.
 */
typedef char *(*gr_status_fn)(void *context);

/**
 * gr_status_add() - let a program's own figures stand in the document
 * @name: 1 to 63 bytes, the member's name under "members"; copied
 * @fn:   called for each document, with no lock held
 *
 * Context: any thread, before or while the socket is served. Return: 0, -EINVAL, -EEXIST the name
 * is taken, -ENOMEM. Since 0.1.
 */
GR_API int gr_status_add(const char *name, gr_status_fn fn, void *context);

/**
 * gr_status_remove() - take a member out again; when it returns, its function does not run any more
 *
 * Context: any thread but inside a callback (-EDEADLK); waits for a call that is running. Return:
 * 0, -ENOENT, -EDEADLK. Since 0.1.
 */
GR_API int gr_status_remove(const char *name);

/**
 * gr_status_text() - the document itself, for programs with a channel of their own
 * @text: result, ends with a newline; the caller frees it with free()
 *
 * Context: any thread, also in callbacks; may wait for a writer, never for readers. Return: 0,
 * -ENOMEM. Since 0.1.
 */
GR_API int gr_status_text(char **text);

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_STATUS_H */
