/* SPDX-License-Identifier: MIT */
/*
 * What `guestram serve blk` was asked for, in its own words (cmd_serve.c) or in those of
 * qemu-storage-daemon (blk_words.c).
 */
#ifndef BLK_ARGS_H
#define BLK_ARGS_H

#include "blk.h"
#include <argp.h>

/* What --blockdev, --export and --object of qemu-storage-daemon said. */
struct blk_node {
	const char *name, *filename, *below;
	unsigned driver, aio, discard; /* places in the lists of blk_words.c */
	bool read_only, direct, zeroes;
	uint64_t size;
};

struct blk_export {
	unsigned addr;
	const char *id, *node, *path, *thread;
	bool writable;
	uint64_t queues, block_size;
};

struct blk_thread {
	const char *id;
	uint64_t poll_ns;
};

struct blk_words {
	struct blk_node nodes[8];
	struct blk_thread threads[8];
	struct blk_export export;
	unsigned node_count, thread_count;
	bool exported;
};

/* Texts are those of argv. */
struct blk_args {
	const char *socket, *file, *status, *id;
	uint64_t null_size; /* 0: a file */
	bool zeroes;	    /* a null disk reads as zeroes */
	bool read_only;
	bool direct;	     /* past the page cache */
	bool keep_discarded; /* discards are answered, and not done */
	unsigned block_size;
	unsigned queues, threads, poll_us;
	enum blk_io io;
	struct blk_words words;
};

/*
 * Take one of --blockdev, --export and --object, whose @text is cut up. Mistakes, and what is not
 * known or not done here, exit with CLI_USAGE.
 */
void blk_words_take(const struct argp_state *state, struct blk_words *words, const char *option,
		    char *text);
/* Was any given? */
bool blk_words_given(const struct blk_words *words);
/* All were: what they say together, into the rest of @args. */
void blk_words_apply(const struct argp_state *state, const struct blk_words *words,
		     struct blk_args *args);

#endif
