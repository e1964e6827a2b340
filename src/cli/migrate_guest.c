/* SPDX-License-Identifier: MIT */
/* See migrate_guest.h. */
#include "migrate_guest.h"
#include <guestram/mark.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGE UINT64_C(4096)
#define WORDS 8	   /* that are written in a page, spread over it */
#define LINE_MS 50 /* of the guest's own time between two lines */

/* Three pages of four are visited; the others stay zero. */
static uint64_t visited(const struct guest *guest)
{
	return guest->pages / 4 * 3;
}

static uint64_t page_of_visit(uint64_t visit)
{
	return visit / 3 * 4 + visit % 3;
}

/* What word @i of a page holds after its @version-th visit; nothing before the first. */
static uint64_t word_of(uint64_t page, uint64_t version, unsigned i)
{
	uint64_t x = (page << 24 ^ version << 3 ^ i) * 0x9e3779b97f4a7c15;

	return version ? x ^ x >> 29 : 0;
}

static uint64_t *word_at(const struct guest *guest, uint64_t page, unsigned i)
{
	return (uint64_t *)(guest->host + page * PAGE) + i * (PAGE / 8 / WORDS) + page % 32;
}

/* Each page is visited once in a turn, by steps that no turn's length is a multiple of. */
static uint64_t visit_of(const struct guest *guest, uint64_t step, uint64_t *version)
{
	uint64_t all = visited(guest);

	*version = step / all;
	return step % all * 7919 % all;
}

static bool is_right(const struct guest *guest, uint64_t page, uint64_t version)
{
	unsigned i;

	for (i = 0; i < WORDS; i++)
		if (__atomic_load_n(word_at(guest, page, i), __ATOMIC_RELAXED) !=
		    word_of(page, version, i))
			return false;
	return true;
}

static void take_step(struct guest *guest)
{
	struct guest_registers *r = &guest->registers;
	uint64_t version, page = page_of_visit(visit_of(guest, r->step, &version));
	unsigned i;

	if (!is_right(guest, page, version)) {
		r->first = r->wrong++ ? r->first : page + 1;
		fprintf(stderr, "guest: page %llu is not as it was left, in visit %llu\n",
			(unsigned long long)page, (unsigned long long)version);
	}
	for (i = 0; i < WORDS; i++)
		__atomic_store_n(word_at(guest, page, i), word_of(page, version + 1, i),
				 __ATOMIC_RELAXED);
	gr_mark_host(guest->host + page * PAGE, PAGE);
	r->step++;
	if (r->step % (guest->pages_per_second * LINE_MS / 1000 + 1) == 0) {
		printf("guest: line %llu, step %llu, %llu pages wrong\n",
		       (unsigned long long)++r->lines, (unsigned long long)r->step,
		       (unsigned long long)r->wrong);
		fflush(stdout);
	}
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int get(const int *value)
{
	return __atomic_load_n(value, __ATOMIC_SEQ_CST);
}

static void set(int *value, int to)
{
	__atomic_store_n(value, to, __ATOMIC_SEQ_CST);
}

static void *run(void *arg)
{
	struct guest *guest = arg;
	double owed = 0, last = now(), at;
	unsigned due;

	while (!get(&guest->over)) {
		/* announce, then look again: guest_stop() does it the other way round */
		set(&guest->parked, 0);
		if (!get(&guest->running)) {
			set(&guest->parked, 1);
			usleep(100);
			last = now();
			continue;
		}
		at = now();
		owed += (at - last) * (double)guest->pages_per_second / 100 *
			(100 - __atomic_load_n(&guest->less, __ATOMIC_RELAXED));
		last = at;
		due = owed > 64 ? 64 : (unsigned)owed;
		owed = owed > 64 ? 0 : owed - due;
		for (; due; due--)
			take_step(guest);
		set(&guest->parked, 1);
		usleep(500);
	}
	return NULL;
}

int guest_start(struct guest *guest)
{
	int error;

	guest->parked = 1;
	error = pthread_create(&guest->thread, NULL, run, guest);
	guest->started = !error;
	return -error;
}

void guest_run(struct guest *guest)
{
	set(&guest->running, 1);
}

void guest_stop(struct guest *guest)
{
	set(&guest->running, 0);
	while (!get(&guest->parked))
		usleep(50);
}

void guest_end(struct guest *guest)
{
	if (!guest->started)
		return;
	guest_stop(guest);
	set(&guest->over, 1);
	pthread_join(guest->thread, NULL);
	guest->started = false;
}

uint64_t guest_check(const struct guest *guest, uint64_t *sum)
{
	static const char zero[PAGE];
	uint64_t all = visited(guest), wrong = 0, page, i, version;

	/* the turn that is under way, then those of it that are still to be visited */
	for (i = 0; i < all; i++) {
		page = page_of_visit(visit_of(guest, guest->registers.step + i, &version));
		wrong += !is_right(guest, page, version);
	}
	for (page = 3; page < guest->pages; page += 4)
		wrong += memcmp(guest->host + page * PAGE, zero, PAGE) != 0;
	*sum = 0;
	for (i = 0; i < guest->pages * (PAGE / 8); i++)
		*sum = (*sum << 1 | *sum >> 63) ^ ((const uint64_t *)guest->host)[i];
	return wrong;
}
