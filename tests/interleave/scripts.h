/* SPDX-License-Identifier: MIT */
/* The scripts, as main.c lists them. */
#ifndef SCRIPTS_H
#define SCRIPTS_H

#include "explore.h"

extern const struct script script_lookup_delete, script_word_delete, script_name_delete,
	script_cursor_reuse, script_cursor_granule;
extern const struct script script_shared_mru, script_repaired_mru;
extern const struct script script_pin_delete, script_unpin_reclaim, script_unpin_two,
	script_offset_reuse;
extern const struct script script_txn_txn, script_txn_told, script_txn_delete, script_unmap_hole,
	script_settle;
extern const struct script script_resize_lookup, script_resize_pin, script_resize_delete,
	script_resize_close, script_resize_discard;
extern const struct script script_listener_open, script_listener_close, script_listener_refusal,
	script_listener_new, script_map_delete, script_find_map, script_refused_block,
	script_space_close;
extern const struct script script_drain_delete, script_throttle, script_embedder, script_close,
	script_close_change, script_close_look, script_thread_exit;
extern const struct script script_plug_lookup, script_plug_pin, script_plug_listener;
extern const struct script script_window_evict, script_window_three, script_window_invalidate,
	script_window_pin, script_window_delete;

/* script_plug.c: pages of a block are about to be discarded … */
void plug_discards(uint64_t offset);
/* … by what script_resize.c wraps, and what it knows of its last run is over. */
void resize_forget(void);

#endif
