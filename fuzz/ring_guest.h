/* SPDX-License-Identifier: MIT */
/*
 * The guest of fuzz_vhost_ring: its memory, what of it the device may write, and what is known of
 * the requests that it was given.
 *
 *   file:  [ region 0 | region 1 | region 2 ]       one memfd, mapped by us as a whole
 *   gpa:     1 MiB ──── touching     at the end of 2^64
 *
 * The server maps each region by itself; inaccessible pages are put around its mappings, so that a
 * byte past a region is a fault. A shadow of the file says what the guest wrote; whatever else has
 * changed after a round must be where the device was allowed to write.
 *
 * Threads: the fuzzer's; handlers and flips run on the worker. One of the two runs at a time: the
 * fuzzer's goes on when guest_wait_asleep() says that the worker sleeps.
 */
#ifndef FUZZ_RING_GUEST_H
#define FUZZ_RING_GUEST_H

#include "vhost_front.h"

#define REGIONS 3
#define REGION UINT64_C(0x8000)
#define MEMORY (REGIONS * REGION)
#define GPA UINT64_C(0x100000)
#define UADDR UINT64_C(0x7f0000000000)
#define PAGE UINT64_C(4096)
#define RING_MAX 256u
#define TABLES (REGION - 0x2000) /* in region 0: 8 indirect tables of 32 entries */
#define TABLES_SIZE 0x1000

enum { PIECES_MAX = 8192, FLIPS_MAX = 16, HELD_MAX = 256 };

struct piece {
	uint64_t offset, length; /* in the file */
};

struct given {
	uint64_t room;	/* most bytes that it may have written */
	uint16_t id;	/* split: the head */
	uint16_t count; /* packed: descriptors */
};

struct flip {
	unsigned at; /* before the n-th read of the ring from now on */
	uint64_t offset;
	uint8_t bytes[8];
	unsigned size;
};

struct guest {
	struct gr__worker *worker; /* const */
	bool asleep;		   /* atomic; of the worker */
	int file;
	uint8_t *memory;
	uint8_t shadow[MEMORY];
	unsigned num;
	uint64_t desc, avail, used; /* offsets in the file */
	bool event_idx, indirect, packed;
	bool absent;	    /* region 1 is not mapped */
	bool unsure;	    /* it comes or goes just now */
	uint16_t avail_idx; /* as the guest counts; of a packed ring below num, and its round */
	bool avail_wrap;

	/* of requests since the queue was started */
	uint16_t seen_used, take_at; /* packed: with their rounds; where the device takes next */
	bool seen_wrap;
	struct given given[RING_MAX]; /* to the device, and not back yet */
	unsigned outstanding;
	bool self_damage; /* the guest offered its ring as a buffer: what it says is void */

	bool tables_damaged;		 /* a device was given them to write to */
	struct piece pieces[PIECES_MAX]; /* that the device may have written since the last check */
	unsigned piece_count;
	bool pieces_lost;

	unsigned reads, flips_done;
	struct flip flips[FLIPS_MAX];
	unsigned flip_count;
};

extern struct guest guest;

/* Memory and guards; once for each server. */
void guest_watch(struct gr_vhost *server);

void guest_open(struct gr_vhost *server);
void guest_close(void);
/* Where region @i is, for the guest. */
uint64_t guest_gpa(unsigned region);
uint64_t guest_uaddr(uint64_t offset);
struct wire_region guest_region(unsigned region);

/* The guest's stores. */
void guest_write(uint64_t offset, const void *bytes, uint64_t size);
void guest_write_u16(uint64_t offset, uint16_t value);
void guest_flip(const struct flip *flip);

/* On the worker: a request was given to the device. Checks it, and notes what it may write. */
void guest_note_request(const struct gr_vhost_request *request);
/* Waits until the worker sleeps and nothing is there that would wake it. */
void guest_wait_asleep(void);

/* A chain as it should be understood; false: it is malformed. */
struct parsed {
	bool error;
	uint16_t id, count; /* packed */
	bool odd_table;	    /* an indirect table outside TABLES */
	unsigned out_count, in_count;
	struct piece pieces[GR_VHOST_SEGMENTS_MAX]; /* out, then in */
};
bool guest_parse(unsigned head, struct parsed *parsed);

/* After a round. */
void guest_check(void);
/* The ring moves: until the device is told it may write to where it was. */
void guest_leave_ring(void);
/* A queue was (re)started: split with the used ring as it is in memory, packed at @base. */
void guest_restart(uint32_t base);
/* Packed: the next descriptor that the guest makes available. */
void guest_add(const struct wire_desc *desc);
/* As a split ring's, in a packed ring's layout. */
struct wire_packed_desc guest_packed(const struct wire_desc *desc);

#endif
