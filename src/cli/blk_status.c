/* SPDX-License-Identifier: MIT */
/* See blk_status.h. */
#include "blk_status.h"
#include <jansson.h>

static void put(json_t *object, const char *key, uint64_t value)
{
	json_object_set_new(object, key, json_integer((json_int_t)value));
}

static json_t *requests(const struct blk *blk)
{
	static const struct {
		const char *key;
		enum blk_count count;
	} kinds[] = {
		{"read", BLK_READ},
		{"write", BLK_WRITE},
		{"flush", BLK_FLUSH},
		{"discard", BLK_DISCARD},
		{"write_zeroes", BLK_WRITE_ZEROES},
		{"get_id", BLK_GET_ID},
		{"unsupported", BLK_UNSUPPORTED},
		{"errors", BLK_ERRORS},
	};
	json_t *object = json_object();

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		put(object, kinds[i].key, blk_counted(blk, kinds[i].count));
	return object;
}

char *blk_status_text(void *context)
{
	const struct blk_status *status = context;
	const struct blk *blk = status->blk;
	json_t *object = json_object();
	struct gr_vhost_stats stats;
	bool uring = false;
	char *text;

	for (unsigned i = 0; i < blk->worker_max; i++)
		uring = uring || (blk->workers[i] && blk->workers[i]->uring);
	gr_vhost_get_stats(status->server, &stats);
	json_object_set_new(object, "connected", json_boolean(stats.connected));
	json_object_set_new(object, "io", json_string(uring ? "uring" : "plain"));
	put(object, "connections", stats.connections);
	put(object, "messages", stats.messages);
	put(object, "refused", stats.refused);
	json_object_set_new(object, "requests", requests(blk));
	put(object, "bytes_read", blk_counted(blk, BLK_BYTES_READ));
	put(object, "bytes_written", blk_counted(blk, BLK_BYTES_WRITTEN));
	put(object, "in_flight", stats.in_flight);
	put(object, "bad_requests", stats.bad_requests);
	put(object, "broken_queues", stats.broken_queues);
	put(object, "kicks", stats.kicks);
	put(object, "calls", stats.calls);
	put(object, "table_changes", stats.table_changes);
	put(object, "last_reclaim_us", stats.last_reclaim_us);
	text = json_dumps(object, JSON_COMPACT);
	json_decref(object);
	return text;
}
