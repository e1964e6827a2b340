/* SPDX-License-Identifier: MIT */
/*
 * What all benchmarks share: time, medians, threads on processors of their own, rows and goals.
 *
 * A benchmark measures its contenders in turn, one short piece each, and does that several times:
 * what disturbs the machine hits all of them alike. Ratios and differences are taken within one
 * repetition; what is reported is the median over the repetitions.
 *
 * Threads: all of this belongs to the main thread, but for the function that bench_threads() runs.
 */
#ifndef BENCH_H
#define BENCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum {
	BENCH_REPETITIONS_MAX = 64,
	BENCH_THREADS_MAX = 2,
	BENCH_TRACE = 65536, /* recorded addresses, a power of two */
};

struct bench {
	const char *name;
	bool quick;	 /* short pieces, few repetitions: for tests, not for figures */
	int repetitions; /* 31, or 3 when quick */
	int processors;	 /* that threads can be bound to: 1 or 2 */
	int processor[BENCH_THREADS_MAX];
	json_t *rows;
	json_t *goals;
	bool not_met; /* some goal */
	int error;    /* a row or goal was lost for want of memory */
};

/* 0 or -errno, after having said why. Each fills rows and goals. */
int bench_lookup(struct bench *bench);
int bench_update(struct bench *bench);
int bench_access(struct bench *bench);
int bench_reclaim(struct bench *bench);
int bench_change(struct bench *bench);
int bench_dirty(struct bench *bench);
int bench_window(struct bench *bench);
int bench_blk(struct bench *bench); /* in a build with vhost */
int bench_migrate(struct bench *bench);
int bench_pager(struct bench *bench);
int bench_snapshot(struct bench *bench);

int bench_init(struct bench *bench, const char *name, bool quick);
void bench_fini(struct bench *bench);
/* Prints all, as text or as one JSON object. 0 or -errno. */
int bench_print(struct bench *bench, bool json);

/* Take a row (a flat object of strings and numbers); the reference becomes the bench's. */
void bench_row(struct bench *bench, json_t *row);

/* A figure to reach: met when @value is at most / at least @goal. */
enum bench_relation { AT_MOST, AT_LEAST };
void bench_goal(struct bench *bench, const char *name, double value, enum bench_relation relation,
		double goal);
/* One that could not be judged, and why; it counts as neither met nor failed, and is shown. */
void bench_goal_missing(struct bench *bench, const char *name, enum bench_relation relation,
			double goal, const char *why);

static inline double bench_now(void) /* ns */
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* @values stay as they are; @count <= BENCH_REPETITIONS_MAX. */
double bench_median(const double *values, int count);
/* Median of a[i] / b[i], and of a[i] - b[i]. */
double bench_ratio(const double *a, const double *b, int count);
double bench_difference(const double *a, const double *b, int count);
/* Sorts @values in place; @share in [0, 1]. */
double bench_percentile(double *values, int count, double share);

/*
 * Runs fn(context, thread, iterations) on @threads threads at once, each bound to a processor and
 * registered with liburcu, each after a short turn to warm up. What the kernel interrupts for
 * another process is measured again, a few times at most. Returns the time of the slowest in ns for
 * each iteration, or a negative errno (no thread to be had).
 */
typedef void (*bench_fn)(void *context, int thread, uint64_t iterations);
double bench_threads(const struct bench *bench, int threads, bench_fn fn, void *context,
		     uint64_t iterations);

/* Bind this thread to the @thread-th processor; refused: the figures are noisier. */
void bench_bind(const struct bench *bench, int thread);

/* So many iterations (a multiple of 64) take about as long as a piece should. */
uint64_t bench_calibrate(const struct bench *bench, int threads, bench_fn fn, void *context);

/* Of this process; -errno when /proc cannot be read. */
long bench_rss_kib(void);
long bench_fds(void);
long bench_maps(void);

/*
 * Addresses as a guest with @ranges ranges of @length bytes each @stride apart might use them: 8
 * bytes each, aligned, uniform, or (@local) with 95 of 100 in the range of the one before.
 */
void bench_trace(uint64_t *trace, uint64_t ranges, uint64_t stride, uint64_t length, bool local);

/* The vm-memory peer: a process that waits on a pipe while others are measured. */
struct bench_peer {
	int pid; /* 0: none */
	int to;
	void *from;	   /* FILE */
	char missing[128]; /* why there is none */
};
/* Never fails: without the peer, @peer tells what is missing. */
void bench_peer_open(struct bench_peer *peer, uint64_t ranges, uint64_t stride, uint64_t length,
		     const uint64_t *trace);
void bench_peer_close(struct bench_peer *peer);
/* ns as the peer measured it; negative when it died, which ends it. */
__attribute__((format(printf, 2, 3))) double bench_peer_ask(struct bench_peer *peer,
							    const char *format, ...);

#endif
