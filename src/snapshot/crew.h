/* SPDX-License-Identifier: MIT */
/*
 * The same function on several threads, the caller's among them, and the first failure of any.
 */
#ifndef GR__SNAPSHOT_CREW_H
#define GR__SNAPSHOT_CREW_H

#define GR__CREW_MAX 64

struct gr__crew {
	unsigned threads; /* const */
	int failed;	  /* atomic: the first error; the others see it and leave */
	char why[512];	  /* its sentence; wr: who set @failed, read when all are gone */
	int (*work)(void *context, unsigned thread);
	void *context;
};

/* @threads: 0: as many as processors, at most 16. 0 or -EINVAL, said. */
int gr__crew_init(struct gr__crew *crew, unsigned threads);

/* Runs @work on all; 0 or the first failure, said. No thread to be had: fewer do it. */
int gr__crew_run(struct gr__crew *crew, int (*work)(void *context, unsigned thread), void *context);

/* Has one failed? For the others, between two pieces of work. */
int gr__crew_failed(const struct gr__crew *crew);

#endif
