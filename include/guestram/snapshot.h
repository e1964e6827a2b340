/* SPDX-License-Identifier: MIT */
/*
 * A machine's memory in a file: saved while it runs, restored at once, mapped, or page by page.
 *
 * Caveats first:
 *  - Saving a guest that runs needs its writes marked or watched (<guestram/dirty.h>). So does a
 *    child, which holds only what changed.
 *  - No block may come, go or shrink while one is saved: that fails then. Blocks may grow.
 *  - Checksums are against damage, not against an attacker. A hostile file can give the guest any
 *    content, and can do nothing else.
 *  - gr_snapshot_map_block() and pages that a pager takes from the file as they are, are not
 *    checked: gr_snapshot_verify() first, where the store is not trusted.
 *
 * Two layouts: *mapped* has each page at a fixed place of a sparse file, *packed* is compressed. A
 * *child* has what changed since its *parent*, which it names; both are opened together. A file
 * that is saved appears whole or not at all. docs/snapshot.md, docs/snapshot-format.md.
 */
#ifndef GUESTRAM_SNAPSHOT_H
#define GUESTRAM_SNAPSHOT_H

#include <guestram.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GR_SNAPSHOT_ID 16

struct gr_snapshot;
struct gr_snapshot_chain;
struct gr_snapshot_state;
struct gr_page_source;

/**
 * enum gr_snapshot_layout - how pages stand in the file
 * @GR_SNAPSHOT_MAPPED: as they are, at fixed places; zero and absent ones are holes
 * @GR_SNAPSHOT_PACKED: 256 KiB at a time with zstd, equal ones once
 */
enum gr_snapshot_layout {
	GR_SNAPSHOT_MAPPED = 1,
	GR_SNAPSHOT_PACKED = 2,
};

/**
 * struct gr_snapshot_stats - what a save, load, verify or convert came to; also while it runs
 * @bytes:        of memory that it is about: of a child, what changed
 * @bytes_done:   of them
 * @bytes_data:   with content; @bytes_zero: known to be zero (not counting what was never touched)
 * @bytes_stored: bytes of content as written to or read from the file; packed, less than
 * @bytes_data
 * @bytes_shared: of @bytes_data, stored once and named again
 * @file_bytes:   length of the file, holes too
 * @rounds:       passes over memory while the guest ran
 * @pause_ns:     from stop() to resume(); 0 without
 * @bytes_paused: taken between them
 */
struct gr_snapshot_stats {
	uint64_t bytes;
	uint64_t bytes_done;
	uint64_t bytes_data;
	uint64_t bytes_zero;
	uint64_t bytes_stored;
	uint64_t bytes_shared;
	uint64_t file_bytes;
	uint64_t rounds;
	uint64_t pause_ns;
	uint64_t bytes_paused;
	uint64_t reserved[8];
};

/* -------------------------------------------------------------------------------------- saving */

/* gr_snapshot_opts.flags */
#define GR_SNAPSHOT_FULL (1u << 0) /* with @chain: a new beginning, no child */

/**
 * struct gr_snapshot_ops - what the embedder does; any may be NULL
 * @stop, @resume: NULL: nobody writes while the call runs. Else the guest runs, and between them
 * it does not: nothing writes memory. Each @stop is followed by one @resume
 * @state:    after @stop: give pieces of other state with gr_snapshot_put_state(); < 0 ends it
 * @progress: now and then, from one thread at a time; not 0 cancels
 *
 * Called with no lock held, in callbacks' context.
 */
struct gr_snapshot_ops {
	void (*stop)(void *context);
	void (*resume)(void *context);
	int (*state)(void *context, struct gr_snapshot_state *state);
	int (*progress)(void *context, const struct gr_snapshot_stats *stats);
	void *reserved[4]; /* NULL */
};

/**
 * struct gr_snapshot_opts - how to save, load, verify, convert; all zero is a good default
 * @layout:    of the file to write; 0: mapped
 * @level:     zstd's, 1 to 19; 0: 1
 * @threads:   1 to 64; 0: as many as there are processors, at most 16
 * @flags:     GR_SNAPSHOT_…
 * @chain:     save: write a child of its last snapshot, if it has one; both calls: it goes on from
 *             here
 * @parent:    save without @chain, convert: write a child of this one, with the pages that differ
 * @max_pause_bytes: save of a running guest: stop it when no more than this is left; 0: 8 MiB
 * @max_rounds: or after so many rounds; 0: 10
 * @max_held_bytes: what the guest wrote meanwhile is held in memory while it is no more than this,
 *             else it goes to the file again; 0: 256 MiB, or an eighth of what is saved if that is
 * more
 * @ops, @context: may be NULL
 */
struct gr_snapshot_opts {
	enum gr_snapshot_layout layout;
	int level;
	unsigned threads;
	unsigned flags;
	struct gr_snapshot_chain *chain;
	struct gr_snapshot *parent;
	uint64_t max_pause_bytes;
	unsigned max_rounds;
	uint64_t max_held_bytes;
	const struct gr_snapshot_ops *ops;
	void *context;
	uint64_t reserved[8]; /* zero */
};

/**
 * gr_snapshot_save() - write a RAM's blocks, spaces and state to a file
 * @path:  whatever has that name keeps it until the new file is whole and on the disk
 * @opts:  may be NULL
 * @stats: filled on success; may be NULL
 *
 * Pages that have no memory are not read and get none. Unplugged granules are zero.
 *
 * Context: any thread; takes long; not inside a read section or callback.
 * Return: 0, -EINVAL, -EBUSY (the set of blocks changed, or one shrank), -ENOTSUP (a block is seen
 * through windows, or cannot be watched), -EEXIST (@path is the parent), -ECANCELED, -EDEADLK,
 * -ENOMEM, -ENOSPC, -EFBIG, -EIO, what ops->state gave, or the error of a system call on the file;
 * nothing is changed then, and what was dirty for @chain is dirty again. Since 0.1.
 */
GR_API int gr_snapshot_save(struct gr_ram *ram, const char *path,
			    const struct gr_snapshot_opts *opts, struct gr_snapshot_stats *stats);

/**
 * gr_snapshot_put_state() - inside ops->state: keep a piece of other state
 * @name: 1 to 255 bytes, once
 *
 * Return: 0, -EINVAL, -EEXIST, -ERANGE (more than 256 MiB in all), -ENOMEM. Since 0.1.
 */
GR_API int gr_snapshot_put_state(struct gr_snapshot_state *state, const char *name,
				 const void *bytes, uint64_t length);

/**
 * gr_snapshot_chain_open() - begin to note what changes, for children to come
 * @chain: result; ended by gr_snapshot_chain_close()
 *
 * The first snapshot saved with it has everything, each later one is a child of the one before.
 *
 * Context and errors as gr_dirty_open(), of which it opens a client. Since 0.1.
 */
GR_API int gr_snapshot_chain_open(struct gr_ram *ram, struct gr_snapshot_chain **chain);

/** gr_snapshot_chain_close() - end it. Context and errors as gr_dirty_close(). Since 0.1. */
GR_API int gr_snapshot_chain_close(struct gr_snapshot_chain *chain);

/* ------------------------------------------------------------------------------------- reading */

/**
 * gr_snapshot_open() - a snapshot, with its parents
 * @path:   its file; each parent is looked for in its child's directory, under the name it had
 * @parent: path of the parent instead; NULL: as above
 *
 * Everything but the pages is read and checked.
 *
 * Context: any thread. Return: 0, -EBADMSG (damaged, or no snapshot: gr_last_error() says where),
 * -ENOTSUP (another version), -ENOENT, -ESTALE (the parent is another snapshot than its child's),
 * -ELOOP (more than 64), -ENOMEM, or the error of a system call on a file. Since 0.1.
 */
GR_API int gr_snapshot_open(const char *path, const char *parent, struct gr_snapshot **snapshot);

/** gr_snapshot_close() - end it, when nobody uses it; NULL does nothing. Since 0.1. */
GR_API void gr_snapshot_close(struct gr_snapshot *snapshot);

/**
 * struct gr_snapshot_info - what is known of a file
 * @path:         as it was opened; @parent_name: "" for none. Strings live as long as the snapshot
 * @id, @parent:  random numbers; @parent all zero: none
 * @digest:       of the whole file
 * @created_ns:   since 1970
 * @file_bytes:   length of the file; @file_allocated: what it takes
 * @blocks, @spaces, @states: how many
 * @chunks:       of 256 KiB that something is told of
 * @bytes_data, @bytes_zero: pages that have content, pages that are told to be zero
 * @bytes_stored: what its content takes in the file, equal chunks once
 * @depth:        how many parents stand behind it
 */
struct gr_snapshot_info {
	const char *path;
	const char *parent_name;
	uint8_t id[GR_SNAPSHOT_ID];
	uint8_t parent[GR_SNAPSHOT_ID];
	uint8_t digest[GR_SNAPSHOT_ID];
	enum gr_snapshot_layout layout;
	unsigned blocks;
	unsigned spaces;
	unsigned states;
	unsigned depth;
	uint64_t created_ns;
	uint64_t file_bytes;
	uint64_t file_allocated;
	uint64_t chunks;
	uint64_t bytes_data;
	uint64_t bytes_zero;
	uint64_t bytes_stored;
	uint64_t reserved[8];
};

/**
 * gr_snapshot_get_info() - of the snapshot (@level 0), of its parent (1), of that one's (2) …
 *
 * Return: 0, -ENOENT: so many parents it has not, -ENOMEM. Since 0.1.
 */
GR_API int gr_snapshot_get_info(const struct gr_snapshot *snapshot, unsigned level,
				struct gr_snapshot_info *info);

/**
 * struct gr_snapshot_block - a block in a snapshot
 * @flags:   GR_READ_ONLY or 0
 * @granule: bytes, 0: it has none; @plugged: bytes of those that are plugged
 */
struct gr_snapshot_block {
	const char *name;
	uint64_t length;
	uint64_t max_length;
	uint64_t page_size;
	uint64_t granule;
	uint64_t plugged;
	unsigned flags;
	uint64_t reserved[4];
};

/** gr_snapshot_get_block() - 0 or -ENOENT. Since 0.1. */
GR_API int gr_snapshot_get_block(const struct gr_snapshot *snapshot, unsigned block,
				 struct gr_snapshot_block *info);

/** gr_snapshot_find_block() - its number, or -ENOENT. Since 0.1. */
GR_API int gr_snapshot_find_block(const struct gr_snapshot *snapshot, const char *name);

/** struct gr_snapshot_range - a range of a space; @block is its number. */
struct gr_snapshot_range {
	uint64_t addr;
	uint64_t length;
	uint64_t offset;
	unsigned block;
	unsigned access;
};

/** gr_snapshot_get_space() - a space's name and how many ranges it has; 0 or -ENOENT. Since 0.1. */
GR_API int gr_snapshot_get_space(const struct gr_snapshot *snapshot, unsigned space,
				 const char **name, unsigned *ranges);

/** gr_snapshot_get_range() - one of them; 0 or -ENOENT. Since 0.1. */
GR_API int gr_snapshot_get_range(const struct gr_snapshot *snapshot, unsigned space, unsigned range,
				 struct gr_snapshot_range *info);

/** gr_snapshot_get_state() - a piece of state by number; 0 or -ENOENT. Since 0.1. */
GR_API int gr_snapshot_get_state(const struct gr_snapshot *snapshot, unsigned state,
				 const char **name, const void **bytes, uint64_t *length);

/**
 * gr_snapshot_look() - what is at @offset of a block
 * @length: result: for how many bytes from there on that holds, up to the block's end
 * @level:  result, may be NULL: which file tells it (0: this one, 1: its parent …), or -1: none,
 *          so it is zero
 *
 * Context: any thread; no wait. Return: 1 content, 0 zero, -ENOENT, -ERANGE. Since 0.1.
 */
GR_API int gr_snapshot_look(const struct gr_snapshot *snapshot, unsigned block, uint64_t offset,
			    uint64_t *length, int *level);

/**
 * struct gr_snapshot_place - where the bytes of a page are stored
 * @level:  in which file: 0: this one, 1: its parent …
 * @chunk:  offset in the block of what is stored together: 256 KiB, or what the block has of them
 * @offset: in the file, of the stored bytes. Two chunks with the same @level and @offset are equal
 *          and stored once
 * @stored: how many bytes that is; less than the pages have when they are packed
 */
struct gr_snapshot_place {
	unsigned level;
	uint64_t chunk;
	uint64_t offset;
	uint64_t stored;
	uint64_t reserved[4];
};

/**
 * gr_snapshot_locate() - where the bytes of a page with content are stored
 * @length: result: for how many bytes from there on that holds, up to the chunk's end
 *
 * Context: any thread; no wait. Return: 0, -ENOENT (no such block, or it is zero there), -ERANGE.
 * Since 0.1.
 */
GR_API int gr_snapshot_locate(const struct gr_snapshot *snapshot, unsigned block, uint64_t offset,
			      uint64_t *length, struct gr_snapshot_place *place);

/**
 * gr_snapshot_read() - bytes of a block, checked
 * @offset, @length: multiples of 4 KiB, within its length
 *
 * Context: any thread; waits for the disk. Return: 0, -EINVAL, -ENOENT, -ERANGE, -EBADMSG
 * (damaged), -ENOMEM, -EIO … Since 0.1.
 */
GR_API int gr_snapshot_read(struct gr_snapshot *snapshot, unsigned block, uint64_t offset,
			    void *buf, uint64_t length);

/**
 * gr_snapshot_load() - give a RAM's blocks the content of a snapshot
 *
 * The RAM has the same blocks, by name, max_length, page_size, granule, and read-only or not; what
 * does not fit is refused with both values, before any change. Then used lengths and plugged
 * granules become those of the snapshot, and the bytes. Of read-only blocks the bytes are compared
 * instead. Memory that is zero and has no pages gets none. Spaces are not touched.
 *
 * Context: any thread; takes long; not inside a read section or callback. The memory is nobody's
 * else meanwhile.
 * Return: 0; -EINVAL, -ENOENT, -EEXIST (a block is here alone), -EBUSY: nothing was changed; or
 * -EBADMSG, -EIO, -ENOMEM …, what a listener refused with: the memory is then of no use. Since 0.1.
 */
GR_API int gr_snapshot_load(struct gr_snapshot *snapshot, struct gr_ram *ram,
			    const struct gr_snapshot_opts *opts, struct gr_snapshot_stats *stats);

/**
 * gr_snapshot_map_block() - make a block whose memory is the file, copied as it is written
 * @name:  of the block, here and in the snapshot
 * @opts:  for flags, align, user; NULL for none. The rest is the snapshot's
 * @block: result, as from gr_block_new()
 *
 * For snapshots without a parent, mapped, and blocks of ordinary pages. Costs nothing but what is
 * touched. The file must not be changed while the block lives.
 *
 * Context and errors as gr_block_new(); -ENOTSUP for others. Since 0.1.
 */
GR_API int gr_snapshot_map_block(const struct gr_snapshot *snapshot, struct gr_ram *ram,
				 const char *name, const struct gr_block_opts *opts,
				 struct gr_block **block);

/**
 * gr_snapshot_source() - a snapshot as a source of pages, for lazy restores (<guestram/pager.h>)
 * @snapshot: outlives the source
 * @source:   result; gr_page_source_close() does nothing to it
 *
 * Pages come through all parents. What is read is compared with its hash, 256 KiB at a time; pages
 * of mapped files that are taken from the page cache as they are, are not.
 *
 * Context: any thread. Return: 0, -EINVAL. Since 0.1.
 */
GR_API int gr_snapshot_source(struct gr_snapshot *snapshot, struct gr_page_source *source);

/**
 * gr_snapshot_verify() - read and compare every byte of the file, and of its parents
 *
 * Context: any thread; takes long. Return: 0, -EBADMSG (gr_last_error() says where), -ECANCELED,
 * -ENOMEM, -EIO … Since 0.1.
 */
GR_API int gr_snapshot_verify(struct gr_snapshot *snapshot, const struct gr_snapshot_opts *opts,
			      struct gr_snapshot_stats *stats);

/**
 * gr_snapshot_convert() - write it again: in another layout, without parents (flattened), or as a
 * child of opts->parent (re-based)
 *
 * State and spaces are kept; the new file has an id of its own.
 *
 * Context and errors as gr_snapshot_save() and gr_snapshot_read(). Since 0.1.
 */
GR_API int gr_snapshot_convert(struct gr_snapshot *snapshot, const char *path,
			       const struct gr_snapshot_opts *opts,
			       struct gr_snapshot_stats *stats);

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_SNAPSHOT_H */
