/* SPDX-License-Identifier: MIT */
/*
 * Where pages come from, as options: `--image FILE`, `--snapshot FILE` or `--nbd URI`, and what
 * goes with each. A verb takes source_argp as a child of its own parser, with a struct source_arg
 * as its input.
 *
 * Threads: opening may be on another one than parsing; nothing is shared.
 */
#ifndef SOURCE_ARG_H
#define SOURCE_ARG_H

#include <argp.h>
#include <guestram/pager.h>

#define SOURCE_BLOCKS 64

struct source_arg {
	/* as given; one of the first three */
	const char *image, *snapshot, *nbd;
	const char *parent, *cache_directory;
	uint64_t cache; /* bytes; 0: none */
	const char *blocks[SOURCE_BLOCKS];
	int block_count;

	/* from source_arg_open() on */
	struct gr_page_source source;
	const char *block; /* of it, which offsets are in; NULL: its first */
	struct gr_snapshot *opened;
};

extern const struct argp source_argp;

/* FILE or URI, for people. */
const char *source_arg_name(const struct source_arg *arg);

/*
 * Opens it: an exit code, failures told as "guestram: VERB: …". @log is told when a store goes away
 * and comes back. Starts threads, for some; waits for a store.
 */
int source_arg_open(struct source_arg *arg, const char *verb, gr_log_fn log, void *log_context);
void source_arg_close(struct source_arg *arg);

/* Of blocks of @below one after the other, in that order, as one. See source_row.c. 0 or -errno. */
int source_row_open(const struct gr_page_source *below, const char *const *names, int count,
		    struct gr_page_source *source);

#endif
