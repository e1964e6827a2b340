/* SPDX-License-Identifier: MIT */
/*
 * A virtual machine of one processor on /dev/kvm, and a few guests of some instructions each, which
 * speak by `out`: a value to port 1, the end to port 2.
 *
 * Threads: machine_run() on one thread; pause and resume on others, as struct gr_kvm_opts has them.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include <guestram/kvm.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define PORT_VALUE 1
#define PORT_END 2

struct machine {
	int kvm_fd, vm_fd, cpu_fd;
	struct kvm_run *run;
	size_t run_size;
	/* pausing: who runs guest code has `inside` set; guarded by `lock` */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t thread;
	bool inside, stopped;
	long kicks;
};

/* false: this machine has no usable /dev/kvm, and that is said on standard output. */
bool machine_is_there(void);
void machine_open(struct machine *machine);
/* The same in two steps. */
void machine_open_without_cpu(struct machine *machine);
void machine_add_cpu(struct machine *machine);
void machine_close(struct machine *machine);

/* Start at @entry, in real mode or 32-bit protected mode with flat segments; ebx, ecx, esi, edi. */
struct start {
	uint64_t entry;
	bool real_mode;
	uint64_t ebx, ecx, esi, edi;
};

void machine_start(struct machine *machine, const struct start *start);

/* Run until something needs the host: its KVM_EXIT_…. Pauses are waited out inside. */
int machine_run(struct machine *machine);

/* For struct gr_kvm_opts. */
void machine_pause(void *machine);
void machine_resume(void *machine);

/* Guest code as bytes. */
struct guest {
	const uint8_t *first, *end;
};

extern const struct guest guest_touch;	  /* reads, writes and calls in the block at ebx */
extern const struct guest guest_real;	  /* the same in real mode, with the block at 0x20000 */
extern const struct guest guest_checksum; /* sums ecx words at ebx until told to stop, see there */
extern const struct guest guest_store;	  /* writes esi at ebx, reads it back */
extern const struct guest guest_scatter;  /* writes to pages at random until told to, see there */

#endif
