/* SPDX-License-Identifier: MIT */
/* Spaces and transactions as callers see them: arguments are checked here, changes made in
 * change.c. */
#include "space/space.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "space/change.h"
#include <errno.h>
#include <string.h>
#include <urcu/compiler.h>

static void free_space_garbage(struct gr__garbage *garbage)
{
	struct gr__space *space = caa_container_of(garbage, struct gr__space, garbage);

	gr__free(space->name);
	gr__free(space);
}

int gr_space_open(struct gr_ram *ram, const char *name, struct gr_space **result)
{
	size_t length = name ? strnlen(name, 256) : 0;
	struct gr__space *space;
	struct gr__view *view;
	int rc = gr__ram_check(ram, "space");

	if (rc < 0)
		return rc;
	if (!length || length > 255)
		return gr__fail(-EINVAL, "space: a name has 1 to 255 bytes");
	space = gr__alloc(sizeof(*space));
	if (!space)
		return gr__fail(-ENOMEM, "space %s: no memory", name);
	space->garbage = (struct gr__garbage){.free = free_space_garbage, .bytes = sizeof(*space)};
	space->ram = ram;
	CDS_INIT_LIST_HEAD(&space->claims);
	CDS_INIT_LIST_HEAD(&space->windows);
	space->name = gr__strdup(name);
	if (!space->name) {
		rc = gr__fail(-ENOMEM, "space %s: no memory", name);
		goto free_space;
	}
	view = gr__view_new(0, &(struct gr_view){0});
	if (!view) {
		rc = gr__fail(-ENOMEM, "space %s: no memory", name);
		goto free_name;
	}
	space->read.view = &view->read;
	pthread_mutex_lock(&ram->lock);
	rc = gr__ram_check_open(ram);
	if (!rc) {
		view->read.generation = ++ram->generation;
		cds_list_add_tail(&space->node, &ram->spaces);
		ram->space_count++;
	}
	pthread_mutex_unlock(&ram->lock);
	if (rc < 0)
		goto free_view;
	*result = &space->read;
	return 0;

free_view:
	gr__view_free(view);
free_name:
	gr__free(space->name);
free_space:
	gr__free(space);
	return rc;
}

int gr_space_close(struct gr_space *public)
{
	struct gr__op all = {.kind = GR__OP_UNMAP, .first = 0, .last = UINT64_MAX};
	struct gr__change change = {.ops = &all, .op_count = 1, .close = true};
	int rc;

	if (!public)
		return 0;
	change.space = gr__space_of(public);
	change.ram = change.space->ram;
	rc = gr__ram_check(change.ram, "space close");
	return rc < 0 ? rc : gr__change_run(&change);
}

const char *gr_space_name(const struct gr_space *space)
{
	return gr__space_of((struct gr_space *)space)->name;
}

/* ------------------------------------------------------------------------------ arguments */

static int check_range(const struct gr__space *space, const char *verb, uint64_t addr,
		       uint64_t length, uint64_t *last)
{
	if (!length)
		return gr__fail(-EINVAL, "space %s: %s of 0 bytes at %#llx", space->name, verb,
				(unsigned long long)addr);
	if (!gr__range_last(addr, length, last))
		return gr__fail(-ERANGE, "space %s: %s of %#llx bytes at %#llx passes 2^64",
				space->name, verb, (unsigned long long)length,
				(unsigned long long)addr);
	if (!gr__is_aligned(addr | length, GR_PAGE_SIZE))
		return gr__fail(-EINVAL,
				"space %s: %s of %#llx bytes at %#llx: not multiples of %#x",
				space->name, verb, (unsigned long long)length,
				(unsigned long long)addr, GR_PAGE_SIZE);
	return 0;
}

static int make_map_op(const struct gr__space *space, uint64_t addr, struct gr_block *block,
		       uint64_t offset, uint64_t length, unsigned access, struct gr__op *op)
{
	uint64_t last = 0;
	int rc = check_range(space, "map", addr, length, &last);

	if (rc < 0)
		return rc;
	if (block->ram != space->ram)
		return gr__fail(-EINVAL, "space %s: block %s belongs to another RAM", space->name,
				block->name);
	if (!gr__is_aligned(offset, GR_PAGE_SIZE))
		return gr__fail(-EINVAL,
				"space %s: offset %#llx in block %s is not a multiple of %#x",
				space->name, (unsigned long long)offset, block->name, GR_PAGE_SIZE);
	if (!gr__range_within(offset, length, block->mem.max_length))
		return gr__fail(
			-EINVAL,
			"space %s: %#llx bytes at offset %#llx leave block %s of %#llx bytes",
			space->name, (unsigned long long)length, (unsigned long long)offset,
			block->name, (unsigned long long)block->mem.max_length);
	if (!access || access & ~(GR_READ | GR_WRITE))
		return gr__fail(-EINVAL, "space %s: access %#x is not made of GR_READ and GR_WRITE",
				space->name, access);
	if (access & GR_WRITE && block->mem.flags & GR_READ_ONLY)
		return gr__fail(-EACCES, "space %s: block %s is read-only", space->name,
				block->name);
	*op = (struct gr__op){
		.kind = GR__OP_MAP,
		.first = addr,
		.last = last,
		.block = block,
		.offset = offset,
		.access = access,
	};
	return 0;
}

static int make_unmap_op(const struct gr__space *space, uint64_t addr, uint64_t length,
			 bool hole_is_error, struct gr__op *op)
{
	uint64_t last = 0;
	int rc = check_range(space, "unmap", addr, length, &last);

	if (rc < 0)
		return rc;
	*op = (struct gr__op){
		.kind = GR__OP_UNMAP,
		.hole_is_error = hole_is_error,
		.first = addr,
		.last = last,
	};
	return 0;
}

static int run_ops(struct gr__space *space, const struct gr__op *ops, size_t count)
{
	struct gr__change change = {
		.ram = space->ram,
		.space = space,
		.ops = ops,
		.op_count = count,
	};
	int rc = gr__ram_check(space->ram, "map");

	return rc < 0 ? rc : gr__change_run(&change);
}

int gr_space_map(struct gr_space *space, uint64_t addr, struct gr_block *block, uint64_t offset,
		 uint64_t length, unsigned access)
{
	struct gr__op op;
	int rc = make_map_op(gr__space_of(space), addr, block, offset, length, access, &op);

	return rc < 0 ? rc : run_ops(gr__space_of(space), &op, 1);
}

int gr_space_unmap(struct gr_space *space, uint64_t addr, uint64_t length)
{
	struct gr__op op;
	int rc = make_unmap_op(gr__space_of(space), addr, length, true, &op);

	return rc < 0 ? rc : run_ops(gr__space_of(space), &op, 1);
}

/* --------------------------------------------------------------------------- transactions */

struct gr_txn {
	struct gr__space *space; /* const */
	struct gr__op *ops;	 /* one thread at a time */
	size_t count, room;
};

int gr_txn_begin(struct gr_space *public, struct gr_txn **result)
{
	struct gr__space *space = gr__space_of(public);
	struct gr_txn *txn;
	int rc = gr__ram_check(space->ram, "transaction");

	if (rc < 0)
		return rc;
	txn = gr__alloc(sizeof(*txn));
	if (!txn)
		return gr__fail(-ENOMEM, "space %s: no memory for a transaction", space->name);
	txn->space = space;
	pthread_mutex_lock(&space->ram->lock);
	if (space->closing || space->ram->closing)
		rc = gr__fail(-EBUSY, "space %s: it is being closed", space->name);
	else
		space->txns++;
	pthread_mutex_unlock(&space->ram->lock);
	if (rc < 0) {
		gr__free(txn);
		return rc;
	}
	*result = txn;
	return 0;
}

/* The transaction's blocks stay live until it is over. */
static int keep_block(struct gr_block *block)
{
	int rc = 0;

	pthread_mutex_lock(&block->ram->lock);
	if (block->busy || !block->live)
		rc = gr__fail(-EBUSY, "block %s: it is being made, resized or deleted",
			      block->name);
	else
		block->users++;
	pthread_mutex_unlock(&block->ram->lock);
	return rc;
}

static void let_block_go(struct gr_block *block)
{
	pthread_mutex_lock(&block->ram->lock);
	block->users--;
	pthread_mutex_unlock(&block->ram->lock);
}

static int add_op(struct gr_txn *txn, const struct gr__op *op)
{
	if (txn->count == txn->room) {
		size_t room = txn->room ? 2 * txn->room : 8;
		struct gr__op *ops = gr__alloc_array(room, sizeof(*ops));

		if (!ops)
			return gr__fail(-ENOMEM, "space %s: no memory for a transaction",
					txn->space->name);
		if (txn->count)
			memcpy(ops, txn->ops, txn->count * sizeof(*ops));
		gr__free(txn->ops);
		txn->ops = ops;
		txn->room = room;
	}
	txn->ops[txn->count++] = *op;
	return 0;
}

int gr_txn_map(struct gr_txn *txn, uint64_t addr, struct gr_block *block, uint64_t offset,
	       uint64_t length, unsigned access)
{
	struct gr__op op;
	int rc = gr__ram_check(txn->space->ram, "transaction");

	if (!rc)
		rc = make_map_op(txn->space, addr, block, offset, length, access, &op);
	if (!rc)
		rc = keep_block(block);
	if (rc < 0)
		return rc;
	rc = add_op(txn, &op);
	if (rc < 0)
		let_block_go(block);
	return rc;
}

int gr_txn_unmap(struct gr_txn *txn, uint64_t addr, uint64_t length)
{
	struct gr__op op;
	int rc = make_unmap_op(txn->space, addr, length, false, &op);

	return rc < 0 ? rc : add_op(txn, &op);
}

static void end_txn(struct gr_txn *txn)
{
	struct gr_ram *ram = txn->space->ram;
	size_t i;

	/* in a forked child the lock may be held by a thread that is not there */
	if (!gr__ram_check(ram, "transaction")) {
		pthread_mutex_lock(&ram->lock);
		txn->space->txns--;
		for (i = 0; i < txn->count; i++)
			if (txn->ops[i].kind == GR__OP_MAP)
				txn->ops[i].block->users--;
		pthread_mutex_unlock(&ram->lock);
	}
	gr__free(txn->ops);
	gr__free(txn);
}

int gr_txn_commit(struct gr_txn *txn)
{
	int rc = txn->count ? run_ops(txn->space, txn->ops, txn->count) : 0;

	end_txn(txn);
	return rc;
}

void gr_txn_abort(struct gr_txn *txn)
{
	if (txn)
		end_txn(txn);
}
