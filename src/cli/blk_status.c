/* SPDX-License-Identifier: MIT */
/* See blk_status.h. */
#include "blk_status.h"
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int blk_status_listen(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct stat st;
	mode_t mask;
	int fd, rc;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (!lstat(path, &st)) {
		/* a socket that nobody answers on is left over from a server that died */
		rc = -EADDRINUSE;
		if (!S_ISSOCK(st.st_mode) || !connect(fd, (struct sockaddr *)&addr, sizeof(addr)) ||
		    errno == EAGAIN)
			goto close_fd;
		unlink(path);
	}
	mask = umask(0177);
	rc = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ? -errno : 0;
	umask(mask);
	if (rc)
		goto close_fd;
	if (listen(fd, 16)) {
		rc = -errno;
		unlink(path);
		goto close_fd;
	}
	return fd;

close_fd:
	close(fd);
	return rc;
}

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

static json_t *ram(struct gr_vhost *server)
{
	json_t *object = json_object();
	struct gr_ram_stats stats;

	gr_ram_get_stats(gr_vhost_ram(server), &stats);
	put(object, "blocks", stats.blocks);
	put(object, "ranges", stats.ranges);
	put(object, "generation", stats.generation);
	put(object, "bytes", stats.bytes);
	put(object, "blocks_pending", stats.blocks_pending);
	put(object, "bytes_pending", stats.bytes_pending);
	put(object, "blocks_reclaimed", stats.blocks_reclaimed);
	put(object, "bytes_reclaimed", stats.bytes_reclaimed);
	put(object, "grace_periods", stats.grace_periods);
	put(object, "pins", stats.pins);
	return object;
}

static char *render(const struct blk *blk, struct gr_vhost *server)
{
	json_t *object = json_object();
	struct gr_vhost_stats stats;
	bool uring = false;
	char *text;

	for (unsigned i = 0; i < blk->worker_max; i++)
		uring = uring || (blk->workers[i] && blk->workers[i]->uring);
	gr_vhost_get_stats(server, &stats);
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
	json_object_set_new(object, "ram", ram(server));
	put(object, "last_reclaim_us", stats.last_reclaim_us);
	text = json_dumps(object, JSON_COMPACT);
	json_decref(object);
	return text;
}

void blk_status_answer(int listener, const struct blk *blk, struct gr_vhost *server)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct iovec iov[2];
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
	char newline[] = "\n", *text;

	if (fd < 0)
		return;
	text = render(blk, server);
	if (text) {
		iov[0] = (struct iovec){text, strlen(text)};
		iov[1] = (struct iovec){newline, 1};
		/* far smaller than a socket's buffer; who has hung up already gets nothing */
		(void)!sendmsg(fd, &msg, MSG_NOSIGNAL);
	}
	free(text);
	close(fd);
}
