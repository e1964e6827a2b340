/* SPDX-License-Identifier: MIT */
/*
 * A machine that is emulated by the Unicorn engine and whose RAM is ours: the guest's instructions
 * run in our blocks, by their host pointers, and a listener keeps the engine's memory map in step
 * with the space. The guest writes to a device in a hole; a block is replaced whenever it asks for
 * the next; a hook on writes marks the pages that it dirtied. docs/machines.md goes through it.
 *
 * Threads: one. The engine may be changed only while it is not emulating, so main() emulates in
 * slices and changes the space in between; a monitor with more threads would stop it first.
 */
#include <errno.h>
#include <guestram.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unicorn/unicorn.h>

#define PAGE 0x1000ull
#define CODE 0x1000
#define RAM_SIZE (16 * PAGE)
#define DEVICE 0x100000 /* in the hole: in: the next page to write, or 0; out: an answer */
#define CARD 0x200000	/* memory cards: code, data, and pages that the guest writes */
#define CARD_PAGES 64ull
#define CARD_SIZE (CARD_PAGES * PAGE)
#define CARDS 20
#define SLICE 1000 /* instructions until the monitor has a look, at most */

/* The guest asks for a page, calls the card's own code, writes to the page, and tells the device.
 */
static const unsigned char guest[] = {
	0x8b, 0x1d, 0x00, 0x00, 0x10, 0x00, /* 0: mov DEVICE, %ebx */
	0x85, 0xdb,			    /*    test %ebx, %ebx */
	0x74, 0xf6,			    /*    jz 0b */
	0xb8, 0x00, 0x00, 0x20, 0x00,	    /*    mov $CARD, %eax */
	0xff, 0xd0,			    /*    call *%eax */
	0xc1, 0xe3, 0x0c,		    /*    shl $12, %ebx */
	0x89, 0x83, 0x08, 0x00, 0x20, 0x00, /*    mov %eax, CARD + 8(%ebx) */
	0xa3, 0x00, 0x00, 0x10, 0x00,	    /*    mov %eax, DEVICE */
	0xeb, 0xdf,			    /*    jmp 0b */
};

struct machine {
	uc_engine *uc;
	struct gr_space *space;
	unsigned ranges, changes; /* of the engine's map */
	unsigned card;		  /* number of the one that is plugged */
	unsigned answers, wrong;  /* what the guest told the device */
	bool wants_next;	  /* it has all it wanted of this card */
	uint64_t dirty;		  /* a bit for each page of the card, */
	uint64_t told;		  /* and for each that the device named */
};

/* ------------------------------------------------------------- the engine follows the space */

static int range_added(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct machine *m = context;
	uint32_t rights = UC_PROT_READ | UC_PROT_EXEC;

	if (space != m->space || !range->visible)
		return 0;
	if (range->access & GR_WRITE)
		rights |= UC_PROT_WRITE;
	if (uc_mem_map_ptr(m->uc, range->addr, range->visible, rights, range->host))
		return -ENOSPC; /* the whole change is refused, and nothing happened */
	m->ranges++;
	m->changes++;
	return 0;
}

static void range_removed(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct machine *m = context;

	if (space != m->space || !range->visible)
		return;
	/* when this returns, the memory may go: what was translated from it must be forgotten */
	uc_ctl_remove_cache(m->uc, range->addr, range->addr + range->visible);
	uc_mem_unmap(m->uc, range->addr, range->visible);
	m->ranges--;
	m->changes++;
}

static const struct gr_listener_ops follow = {.range_added = range_added,
					      .range_removed = range_removed};

/* ------------------------------------------------------------------ the device, and the watch */

/* The guest tells what the card's code returned: the card's number. */
static void device_write(uc_engine *uc, uint64_t offset, unsigned size, uint64_t value, void *arg)
{
	struct machine *m = arg;

	(void)uc, (void)offset, (void)size;
	m->answers++;
	m->wrong += value != m->card;
	if (m->answers % 10 == 0)
		m->wants_next = true;
}

/* Which page shall it write to? 0: wait, the card is about to go. */
static uint64_t device_read(uc_engine *uc, uint64_t offset, unsigned size, void *arg)
{
	struct machine *m = arg;
	uint64_t page = 1 + (m->answers * 7 + m->card) % (CARD_PAGES - 1);

	(void)uc, (void)offset, (void)size;
	if (m->wants_next)
		return 0;
	m->told |= 1ull << page;
	return page;
}

/* Before each store of the guest to a card. */
static void watch_write(uc_engine *uc, uc_mem_type type, uint64_t addr, int size, int64_t value,
			void *arg)
{
	struct machine *m = arg;
	uint64_t last = addr + (uint64_t)size - 1;

	(void)uc, (void)type, (void)value;
	m->dirty |= 1ull << (addr - CARD) / PAGE | 1ull << (last - CARD) / PAGE;
}

/* -------------------------------------------------------------------------------- the monitor */

/* A card whose code returns @number: mov $number, %eax; ret. Its other pages are zero. */
static int make_card(struct gr_ram *ram, uint32_t number, struct gr_block **block)
{
	unsigned char code[] = {0xb8, 0, 0, 0, 0, 0xc3};
	char name[16];
	struct gr_block_opts opts = {.name = name, .length = CARD_SIZE};
	struct gr_block_info info;
	int rc;

	snprintf(name, sizeof(name), "card%u", number);
	rc = gr_block_new(ram, &opts, block);
	if (rc < 0)
		return rc;
	memcpy(code + 1, &number, sizeof(number));
	gr_block_get_info(*block, &info);
	memcpy(info.host, code, sizeof(code));
	return 0;
}

/* Out with the old card, in with the new: one change, told to the engine as unmap and map. */
static int replace_card(struct machine *m, struct gr_block *old, struct gr_block *card)
{
	struct gr_txn *txn;
	int rc = gr_txn_begin(m->space, &txn);

	if (rc < 0)
		return rc;
	rc = gr_txn_unmap(txn, CARD, CARD_SIZE);
	if (!rc)
		rc = gr_txn_map(txn, CARD, card, 0, CARD_SIZE, GR_READ | GR_WRITE);
	if (rc < 0) {
		gr_txn_abort(txn);
		return rc;
	}
	rc = gr_txn_commit(txn);
	return rc || !old ? rc : gr_block_delete(old);
}

/* Do the pages that were written hold the number, and are they those that the watch saw? */
static bool is_as_watched(const struct machine *m)
{
	uint64_t page, written = 0;
	uint32_t word;

	for (page = 1; page < CARD_PAGES; page++)
		if (!gr_load_u32(m->space, CARD + page * PAGE + 8, &word))
			written |= (uint64_t)(word == m->card) << page;
	return written && written == m->dirty && written == m->told;
}

static uc_err run_slice(struct machine *m)
{
	uint32_t pc = 0;
	uc_err error = uc_reg_read(m->uc, UC_X86_REG_EIP, &pc);

	return error ? error : uc_emu_start(m->uc, pc, 0, 0, SLICE);
}

static int fail(const char *what)
{
	fprintf(stderr, "unicorn-machine: %s\n", what);
	return 1;
}

int main(void)
{
	const struct gr_block_opts ram_opts = {.name = "ram", .length = RAM_SIZE};
	struct machine m = {0};
	struct gr_listener *listener;
	struct gr_block *block, *card, *next;
	struct gr_ram_stats stats;
	struct gr_ram *ram;
	unsigned watched = 0, pages = 0;
	uint32_t pc = CODE, sp = RAM_SIZE - 16;
	uc_hook hook;

	if (gr_ram_open(NULL, &ram) || gr_space_open(ram, "guest-physical", &m.space) ||
	    gr_block_new(ram, &ram_opts, &block) ||
	    gr_space_map(m.space, 0, block, 0, RAM_SIZE, GR_READ | GR_WRITE) ||
	    gr_store(m.space, CODE, guest, sizeof(guest)) || make_card(ram, ++m.card, &card))
		return fail(gr_last_error());
	if (uc_open(UC_ARCH_X86, UC_MODE_32, &m.uc) ||
	    uc_mmio_map(m.uc, DEVICE, PAGE, device_read, &m, device_write, &m) ||
	    uc_hook_add(m.uc, &hook, UC_HOOK_MEM_WRITE, (void *)watch_write, &m, (uint64_t)CARD,
			CARD + CARD_SIZE - 1) ||
	    uc_reg_write(m.uc, UC_X86_REG_EIP, &pc) || uc_reg_write(m.uc, UC_X86_REG_ESP, &sp))
		return fail("the engine did not start");
	/* what is mapped already is told now, what comes later when it comes */
	if (gr_listener_open(ram, &follow, &m, 0, &listener) || replace_card(&m, NULL, card))
		return fail(gr_last_error());

	while (m.card < CARDS) {
		uc_err error = run_slice(&m);

		if (error)
			return fail(uc_strerror(error));
		if (!m.wants_next)
			continue;
		watched += is_as_watched(&m);
		pages += (unsigned)__builtin_popcountll(m.dirty);
		m.wants_next = false;
		m.dirty = m.told = 0;
		if (make_card(ram, m.card + 1, &next) || replace_card(&m, card, next))
			return fail(gr_last_error());
		m.card++;
		card = next;
	}
	if (gr_listener_close(listener) || gr_ram_drain(ram, 5000))
		return fail(gr_last_error());
	uc_close(m.uc);
	gr_ram_get_stats(ram, &stats);
	printf("%u answers of %u cards, %u wrong; %u dirty pages, as watched for %u cards; engine: "
	       "%u "
	       "changes, %u ranges left; %llu reclaimed\n",
	       m.answers, m.card - 1, m.wrong, pages, watched, m.changes, m.ranges,
	       (unsigned long long)stats.blocks_reclaimed);
	return m.wrong || m.answers != (CARDS - 1) * 10 || watched != CARDS - 1 || m.ranges ||
	       stats.blocks_reclaimed != CARDS - 1 || gr_ram_close(ram);
}
