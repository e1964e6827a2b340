/* SPDX-License-Identifier: MIT */
/*
 * A running program that uses the library, as its status socket tells: fetched, checked, and turned
 * into structures. For the verbs map, top and dump.
 *
 * What comes from the socket is another process's and may be anything: its length, its types, every
 * number and every reference in it are checked here, and nowhere else. Text in it is made fit for a
 * terminal.
 */
#ifndef LIVE_H
#define LIVE_H

#include <argp.h>
#include <guestram.h>
#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

/* Of the document; a newer one is refused. */
#define LIVE_VERSION 1
/* Bytes of a document. */
#define LIVE_MAX ((size_t)256 << 20)

struct live_range {
	uint64_t addr, length, visible, offset, host;
	unsigned access;
	size_t block; /* index */
};

struct live_space {
	const char *name;
	uint64_t generation;
	struct live_range *ranges; /* by address, apart */
	size_t count;
};

struct live_block {
	const char *name, *backing;
	const json_t *flags; /* array of strings */
	uint64_t host, length, max_length, page_size, ram_offset, mapped, pins, lost_pages;
	uint64_t granule, plugged; /* bytes; 0: it has no granules */
	int fd;			   /* or -1 */
	uint64_t fd_offset, inode;
	const char *path;  /* or NULL */
	uint64_t resident; /* UINT64_MAX: not known */
};

struct live_pending {
	const char *name;
	uint64_t bytes, pins, waited_us;
};

struct live_ram {
	uint64_t number;
	struct gr_ram_stats stats;
	struct live_space *spaces;
	size_t space_count;
	struct live_block *blocks;
	size_t block_count;
	struct live_pending *pending;
	size_t pending_count;
};

struct live {
	json_t *document; /* owns the texts, which are made fit for a terminal */
	char *text;	  /* as it came; from live_fetch() only */
	size_t text_length;
	pid_t pid; /* as the kernel says, where there was a socket */
	const char *program, *library;
	struct live_ram *rams;
	size_t count;
};

/* Turn a document into structures. 0, or -EPROTO with the reason in @why; then @live is empty. */
int live_decode(const char *text, size_t length, struct live *live, char *why, size_t size);
void live_free(struct live *live);

/* For argp parsers: the one program that the verb is about, and its end: there must be one. */
void live_target(const struct argp_state *state, const char **target, const char *arg);
void live_target_end(const struct argp_state *state, const char *target);

/*
 * Fetch and decode from @target: a socket, or a file NAME.pid that holds a process identifier,
 * whose socket is NAME or NAME.status. CLI_OK, or CLI_FAILED with the reason told.
 */
int live_fetch(const char *target, struct live *live);

/* Does @block's list of flags name this one? */
bool live_block_has(const struct live_block *block, const char *flag);

#endif
