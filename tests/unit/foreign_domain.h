/* SPDX-License-Identifier: MIT */
/*
 * Somebody else's memory, for tests of foreign windows: pages of a memfd, of which a table is kept
 * of what is mapped where, so that a mapping that is ended twice, or never, is found. Any thread.
 */
#ifndef FOREIGN_DOMAIN_H
#define FOREIGN_DOMAIN_H

#include "testing.h"

#define DOMAIN_MAPPINGS 1024

struct domain {
	pthread_mutex_t lock;
	int fd;
	uint64_t fd_shift; /* wr: lock: offset 0 of the block stands here in the memfd */
	uint64_t length;
	struct {
		void *host;
		uint64_t offset, length;
	} mappings[DOMAIN_MAPPINGS]; /* wr: lock */
	unsigned mapped, most, maps; /* wr: lock: now, ever at once, ever */
	unsigned discards, released; /* wr: lock */
	int wrong;		     /* wr: lock: what was called against the contract */
	int fail;		     /* atomic: what map returns, 0: maps */
	void *lie;		     /* atomic: what map gives instead of an address */
	void (*while_mapping)(void); /* const while mapped; or NULL */
};

extern const struct gr_foreign_ops domain_ops;

/* @length bytes, each page beginning with domain_stamp(); and as many with other stamps behind. */
void domain_open(struct domain *domain, uint64_t length);
/* Asserts that nothing is mapped and nothing was wrong. */
void domain_close(struct domain *domain);
uint64_t domain_stamp(uint64_t offset, bool moved);
/* The pages behind take the place of the first ones, for mappings that come later. */
void domain_move(struct domain *domain);
unsigned domain_mapped(struct domain *domain);

struct gr_block_opts domain_opts(struct domain *domain, uint64_t window_size, uint64_t max_windows);

#endif
