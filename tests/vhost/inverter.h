/* SPDX-License-Identifier: MIT */
/*
 * A device in this process, behind a server on a thread of its own, and a front-end that is
 * connected to it: what the tests of <guestram/vhost.h> share.
 *
 * Threads: assertions belong to the test's own thread; workers and the server's only touch what the
 * device's lock guards.
 */
#ifndef TEST_INVERTER_H
#define TEST_INVERTER_H

#include "frontend.h"
#include <guestram/vhost.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>

#include <cmocka.h>

#define RAM (UINT64_C(4) << 20)
#define HELD 64

/*
 * A device that answers each request with its readable bytes, inverted. Requests are kept until
 * another thread gives them back, newest first.
 */
struct device {
	pthread_mutex_t lock;
	struct gr_vhost_request *held[HELD]; /* lock */
	unsigned count;			     /* lock */
	bool hold;			     /* lock: do not answer in handle */
	unsigned errors;		     /* lock */
	bool twice;			     /* lock: complete each in handle, and once more */
	bool closes;			     /* lock: close the server in handle */
	int close_rc;			     /* lock */
	unsigned workers, resets;
	uint8_t config[8];
};

extern char server_dir[64], server_path[96];
extern struct gr_vhost *server;
extern struct device device;
extern struct fe fe;
extern struct sigaction sigbus; /* the library's */
extern const struct gr_vhost_ops inverter_ops;

/* A folder and a device alone; and with a server of four queues on two threads, connected to. */
int make_dir(void **state);
int remove_dir(void **state);
int start_server(void **state);
int stop_server(void **state);
struct gr_vhost_opts opts_of(unsigned queues, unsigned threads);

/* The device's own, for devices that are made by hand. */
void handle(void *context, void *worker_context, struct gr_vhost_request *const *requests,
	    unsigned count);
void get_config(void *context, void *config);

/* Requests that come from now on wait for give_back(): newest first, on the calling thread. */
void hold_requests(void);
void give_back(void);
unsigned held(void);
void wait_held(unsigned count);
/* Requests that came with an error. */
unsigned errors(void);

/* Request @i: 16 bytes of value i in two pieces at FE_DATA + 128 * i, its answer 64 bytes on. */
int submit(struct fe_queue *q, unsigned i);
void assert_inverted(unsigned i);

#endif
