/* SPDX-License-Identifier: MIT */
/*
 * The status socket and its document from inside the program that offers them: what stands in it,
 * who gets it, what of the file system it leaves alone, and that nobody who asks can hold the
 * program up.
 */
#include "../fault/tally.h"
#include "os/hooks.h"
#include "testing.h"
#include <fcntl.h>
#include <guestram/plug.h>
#include <guestram/status.h>
#include <jansson.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

static char folder[64], path[80];

/* Threads of the library may be looking. */
static void set_hook_fault(int (*hook)(const char *call))
{
	__atomic_store_n(&gr__hook_fault, hook, __ATOMIC_RELEASE);
}

static void set_hook_point(void (*hook)(const char *point))
{
	__atomic_store_n(&gr__hook_point, hook, __ATOMIC_RELEASE);
}

static int set_up(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/guestram-status-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/socket", folder);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	set_hook_fault(NULL);
	set_hook_point(NULL);
	gr_status_stop();
	unlink(path);
	return rmdir(folder); /* an error when anything was left */
}

/* A connection, or -errno. */
static int dial(const char *to)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = 0;

	strcpy(addr.sun_path, to);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		rc = -errno;
		close(fd);
	}
	return rc < 0 ? rc : fd;
}

/* All that comes within @timeout_ms of silence; the caller frees it. */
static char *hear(int fd, size_t *length, int timeout_ms)
{
	size_t room = 1 << 16;
	char *text = malloc(room);
	ssize_t bytes = 1;

	*length = 0;
	while (bytes > 0) {
		struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

		if (*length + 1 == room)
			text = realloc(text, room *= 2);
		assert_non_null(text);
		if (poll(&poll_fd, 1, timeout_ms) <= 0)
			break;
		bytes = read(fd, text + *length, room - 1 - *length);
		*length += bytes > 0 ? (size_t)bytes : 0;
	}
	text[*length] = 0;
	return text;
}

static json_t *ask(void)
{
	int fd = dial(path);
	size_t length;
	json_t *document;
	char *text;

	assert_true(fd >= 0);
	text = hear(fd, &length, LONG_MS);
	close(fd);
	document = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	if (!document)
		print_error("not JSON: %.200s\n", text);
	assert_non_null(document);
	free(text);
	return document;
}

static json_t *ask_text(void)
{
	json_t *document;
	char *text;

	assert_ok(gr_status_text(&text));
	document = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(document);
	free(text);
	return document;
}

static json_t *member(json_t *object, const char *list, size_t index)
{
	json_t *found = json_array_get(json_object_get(object, list), index);

	if (!found)
		print_error("no %s[%zu]\n", list, index);
	assert_non_null(found);
	return found;
}

static uint64_t number(json_t *object, const char *key)
{
	json_t *value = json_object_get(object, key);

	if (!json_is_integer(value))
		print_error("no number %s\n", key);
	assert_true(json_is_integer(value));
	return (uint64_t)json_integer_value(value);
}

static const char *text_of(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	if (!text)
		print_error("no text %s\n", key);
	assert_non_null(text);
	return text;
}

static uint64_t address(json_t *object, const char *key)
{
	const char *text = text_of(object, key);

	assert_int_equal(strncmp(text, "0x", 2), 0);
	return strtoull(text, NULL, 16);
}

/* ------------------------------------------------------------------------------ the document */

static void check_blocks(json_t *ram, struct gr_block *anon, struct gr_block *memfd)
{
	json_t *block = member(ram, "blocks", 0), *file;
	struct gr_block_info info = info_of(anon);
	struct stat st;

	assert_string_equal(text_of(block, "name"), "low");
	assert_string_equal(text_of(block, "backing"), "anon");
	assert_true(address(block, "host") == (uintptr_t)info.host);
	assert_int_equal(number(block, "length"), 4 * PAGE);
	assert_int_equal(number(block, "max_length"), 16 * PAGE);
	assert_int_equal(number(block, "page_size"), PAGE);
	assert_int_equal(number(block, "ram_offset"), info.ram_offset);
	assert_int_equal(number(block, "mapped"), 2);
	assert_int_equal(number(block, "pins"), 1);
	assert_int_equal(number(block, "lost_pages"), 0);
	assert_int_equal(number(block, "granule"), 0);
	assert_int_equal(number(block, "plugged"), 0);
	assert_int_equal(number(block, "resident"), 2 * PAGE);
	assert_true(json_is_null(json_object_get(block, "file")));

	block = member(ram, "blocks", 1);
	info = info_of(memfd);
	file = json_object_get(block, "file");
	assert_string_equal(text_of(block, "backing"), "memfd");
	assert_string_equal(json_string_value(member(block, "flags", 0)), "shared");
	assert_int_equal(fstat(info.fd, &st), 0);
	assert_int_equal(number(file, "inode"), st.st_ino);
	assert_int_equal(number(file, "fd"), info.fd);
	assert_int_equal(number(file, "offset"), info.fd_offset);
	assert_non_null(strstr(text_of(file, "path"), "memfd:"));
	assert_int_equal(number(block, "resident"), 3 * PAGE);
}

static void check_space(json_t *ram, struct gr_block *anon)
{
	json_t *space = member(ram, "spaces", 0), *range = member(space, "ranges", 0);

	assert_string_equal(text_of(space, "name"), "gpa");
	assert_int_equal(json_array_size(json_object_get(space, "ranges")), 3);
	assert_true(address(range, "addr") == 0x1000);
	assert_int_equal(number(range, "length"), PAGE);
	assert_int_equal(number(range, "visible"), PAGE);
	assert_int_equal(number(range, "offset"), 2 * PAGE);
	assert_string_equal(text_of(range, "block"), "low");
	assert_string_equal(text_of(range, "access"), "r");
	assert_true(address(range, "host") == (uintptr_t)info_of(anon).host + 2 * PAGE);
	range = member(space, "ranges", 1);
	assert_int_equal(number(range, "length"), 16 * PAGE);
	assert_int_equal(number(range, "visible"), 4 * PAGE);
	range = member(space, "ranges", 2);
	assert_true(address(range, "addr") == UINT64_MAX - 16 * PAGE + 1);
	assert_string_equal(text_of(range, "access"), "rw");
	space = member(ram, "spaces", 1);
	assert_string_equal(text_of(space, "name"), "empty");
	assert_int_equal(json_array_size(json_object_get(space, "ranges")), 0);
}

static void test_what_stands_in_the_document(void **state)
{
	struct gr_block *anon, *memfd, *gone;
	struct gr_space *gpa, *empty;
	struct gr_pin pin, gone_pin;
	json_t *document, *ram, *stats, *pending;
	struct gr_ram *rams[2];

	(void)state;
	assert_ok(gr_ram_open(NULL, &rams[0]));
	assert_ok(gr_ram_open(NULL, &rams[1]));
	assert_ok(gr_space_open(rams[0], "gpa", &gpa));
	assert_ok(gr_space_open(rams[0], "empty", &empty));
	anon = new_anon(rams[0], "low", 4 * PAGE, 16 * PAGE);
	memfd = new_memfd(rams[0], "high", 16 * PAGE);
	gone = new_anon(rams[0], "gone", 8 * PAGE, 8 * PAGE);
	assert_ok(gr_space_map(gpa, 0x1000, anon, 2 * PAGE, PAGE, GR_READ));
	assert_ok(gr_space_map(gpa, GIB, anon, 0, 16 * PAGE, RW));
	assert_ok(gr_space_map(gpa, UINT64_MAX - 16 * PAGE + 1, memfd, 0, 16 * PAGE, RW));
	assert_ok(gr_fill(gpa, GIB, 1, 2 * PAGE));
	assert_ok(gr_fill(gpa, UINT64_MAX - 16 * PAGE + 1, 1, 3 * PAGE));
	assert_ok(gr_pin(gpa, GIB, 8, GR_READ, &pin));
	assert_ok(gr_block_pin(gone, 0, 8, GR_READ, &gone_pin));
	assert_ok(gr_block_delete(gone));
	sleep_us(20000);

	assert_ok(gr_status_serve(path));
	document = ask();
	assert_int_equal(number(document, "guestram"), 1);
	assert_int_equal(number(document, "pid"), getpid());
	assert_string_equal(text_of(document, "library"), gr_version());
	assert_string_equal(text_of(document, "program"), program_invocation_short_name);
	assert_int_equal(json_array_size(json_object_get(document, "rams")), 2);
	ram = member(document, "rams", 0);
	stats = json_object_get(ram, "stats");
	assert_int_equal(number(stats, "blocks"), 2);
	assert_int_equal(number(stats, "pins"), 2);
	assert_int_equal(number(stats, "bytes_pending"), 8 * PAGE);
	assert_int_equal(number(stats, "generation"), stats_of(rams[0]).generation);
	check_space(ram, anon);
	check_blocks(ram, anon, memfd);
	pending = member(ram, "pending", 0);
	assert_string_equal(text_of(pending, "name"), "gone");
	assert_int_equal(number(pending, "bytes"), 8 * PAGE);
	assert_int_equal(number(pending, "pins"), 1);
	assert_in_range(number(pending, "waited_us"), 20000, LONG_MS * 1000);
	json_decref(document);

	gr_unpin(&pin);
	gr_unpin(&gone_pin);
	assert_ok(gr_ram_drain(rams[0], LONG_MS));
	assert_ok(gr_ram_close(rams[0]));
	document = ask();
	assert_int_equal(json_array_size(json_object_get(document, "rams")), 1);
	assert_true(number(member(document, "rams", 0), "number") > 0);
	json_decref(document);
	assert_ok(gr_ram_close(rams[1]));
}

static void test_granules_are_shown_while_they_are_open(void **state)
{
	const struct gr_plug_opts opts = {.granule = 4 * PAGE};
	struct gr_block *block;
	struct gr_plug *plug;
	json_t *document;
	struct gr_ram *ram;

	(void)state;
	assert_ok(gr_ram_open(NULL, &ram));
	block = new_anon(ram, "dimm", 32 * PAGE, 0);
	assert_ok(gr_plug_open(block, &opts, &plug));
	assert_ok(gr_plug_add(plug, 8 * PAGE, 12 * PAGE));
	document = ask_text();
	assert_int_equal(number(member(member(document, "rams", 0), "blocks", 0), "granule"),
			 4 * PAGE);
	assert_int_equal(number(member(member(document, "rams", 0), "blocks", 0), "plugged"),
			 12 * PAGE);
	json_decref(document);
	assert_ok(gr_plug_remove_all(plug));
	assert_ok(gr_plug_close(plug));
	document = ask_text();
	assert_int_equal(number(member(member(document, "rams", 0), "blocks", 0), "granule"), 0);
	json_decref(document);
	assert_ok(gr_ram_close(ram));
}

static void test_a_name_that_is_no_text_is_shown_all_the_same(void **state)
{
	struct gr_space *space;
	struct gr_ram *ram;
	json_t *document;

	(void)state;
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "a\xff\"\x01z", &space));
	document = ask_text();
	assert_string_equal(text_of(member(member(document, "rams", 0), "spaces", 0), "name"),
			    "a?\"\x01z");
	json_decref(document);
	assert_ok(gr_ram_close(ram));
}

/* -------------------------------------------------------------------------------- the socket */

static void test_mode_is_owner_only_whatever_the_umask(void **state)
{
	static const mode_t masks[] = {0, 022, 077, 0277};
	struct stat st;
	mode_t before;
	size_t i;

	(void)state;
	for (i = 0; i < COUNT_OF(masks); i++) {
		before = umask(masks[i]);
		assert_ok(gr_status_serve(path));
		assert_int_equal(umask(before), masks[i]); /* left as it was */
		assert_int_equal(lstat(path, &st), 0);
		assert_int_equal(st.st_mode & 07777, 0600 & ~masks[i]);
		assert_ok(gr_status_stop());
		assert_int_equal(lstat(path, &st), -1);
	}
}

/* Between the name and listen(), somebody looks at the mode. */
static mode_t seen_mode;

static int look_at_mode(const char *call)
{
	struct stat st;

	if (!strcmp(call, "listen") && !lstat(path, &st))
		seen_mode = st.st_mode & 07777;
	return 0;
}

static void test_mode_is_right_before_anybody_can_connect(void **state)
{
	mode_t before = umask(0);

	(void)state;
	seen_mode = 0;
	set_hook_fault(look_at_mode);
	assert_ok(gr_status_serve(path));
	umask(before);
	assert_int_equal(seen_mode, 0600);
}

static void test_a_dead_socket_is_replaced(void **state)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	strcpy(addr.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	assert_int_equal(dial(path), -ECONNREFUSED);
	assert_ok(gr_status_serve(path));
	json_decref(ask());
}

static void test_a_live_socket_and_other_files_stay(void **state)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct stat before, after;

	(void)state;
	strcpy(addr.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(lstat(path, &before), 0);
	assert_error(gr_status_serve(path), -EADDRINUSE, "another process listens");
	/* one of another type is live, too */
	assert_int_equal(lstat(path, &after), 0);
	assert_int_equal(before.st_ino, after.st_ino);
	close(fd);
	unlink(path);

	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0644);
	assert_int_equal(write(fd, "mine", 4), 4);
	assert_error(gr_status_serve(path), -EEXIST, "no socket");
	assert_int_equal(fstat(fd, &after), 0);
	assert_int_equal(after.st_nlink, 1);
	assert_int_equal(after.st_size, 4);
	close(fd);
	unlink(path);

	assert_int_equal(symlink("elsewhere", path), 0);
	assert_error(gr_status_serve(path), -EEXIST, "no socket");
	assert_int_equal(lstat(path, &after), 0);
	assert_true(S_ISLNK(after.st_mode));
}

static void test_a_datagram_socket_is_live(void **state)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct stat st;

	(void)state;
	strcpy(addr.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_error(gr_status_serve(path), -EADDRINUSE, "listens");
	assert_int_equal(lstat(path, &st), 0);
	close(fd);
}

static void test_stop_leaves_what_is_not_ours(void **state)
{
	struct stat st;
	int fd;

	(void)state;
	assert_ok(gr_status_serve(path));
	unlink(path);
	fd = open(path, O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_ok(gr_status_stop());
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISREG(st.st_mode));
}

static void test_wrong_calls(void **state)
{
	char longer[200];

	(void)state;
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	assert_error(gr_status_serve(NULL), -EINVAL, "no path");
	assert_error(gr_status_serve(""), -EINVAL, "no path");
	assert_error(gr_status_serve(longer), -ENAMETOOLONG, "over 107");
	assert_error(gr_status_serve("/nonexistent/x"), -ENOENT, "bind");
	assert_error(gr_status_text(NULL), -EINVAL, "no place");
	assert_ok(gr_status_stop());
	assert_ok(gr_status_serve(path));
	assert_error(gr_status_serve(path), -EBUSY, "already");
	assert_ok(gr_status_stop());
	assert_ok(gr_status_stop());
	gr_read_begin();
	assert_error(gr_status_stop(), -EDEADLK, "read section");
	gr_read_end();
}

/* Another user, if the test may become one. */
static void test_other_users_get_nothing(void **state)
{
	int status;
	pid_t child;

	(void)state;
	if (geteuid()) {
		print_message("skip: to be another user needs root\n");
		skip();
	}
	assert_ok(gr_status_serve(path));
	assert_int_equal(chmod(folder, 0755), 0);
	child = fork();
	if (!child) {
		if (setgid(65534) || setuid(65534))
			_exit(1);
		_exit(dial(path) == -EACCES ? 0 : 2);
	}
	waitpid(child, &status, 0);
	assert_int_equal(status, 0);
	/* the mode is one wall, the question who asks another */
	assert_int_equal(chmod(path, 0666), 0);
	child = fork();
	if (!child) {
		char byte;
		int fd;

		if (setgid(65534) || setuid(65534))
			_exit(1);
		fd = dial(path);
		_exit(fd < 0 ? 2 : read(fd, &byte, 1) > 0 ? 3 : 0);
	}
	waitpid(child, &status, 0);
	assert_int_equal(status, 0);
	json_decref(ask());
}

/* ------------------------------------------------------------------------------- slow clients */

/* A document larger than what a socket holds. */
static struct gr_ram *big_ram(struct gr_space **space)
{
	struct gr_block *block;
	struct gr_txn *txn;
	struct gr_ram *ram;
	uint64_t i;

	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "big", space));
	block = new_anon(ram, "b", PAGE, PAGE);
	assert_ok(gr_txn_begin(*space, &txn));
	for (i = 0; i < 6000; i++)
		assert_ok(gr_txn_map(txn, 2 * i * PAGE, block, 0, PAGE, RW));
	assert_ok(gr_txn_commit(txn));
	return ram;
}

static void test_clients_that_do_not_read_hold_nobody_up(void **state)
{
	struct gr_space *space;
	struct gr_ram *ram = big_ram(&space);
	int slow[10], fds = open_fds();
	int64_t start, alone;
	json_t *document;
	size_t i, length;

	(void)state;
	assert_ok(gr_status_serve(path));
	start = now_ms();
	json_decref(ask());
	alone = now_ms() - start; /* it takes a while under a sanitizer */
	for (i = 0; i < 3; i++) {
		slow[i] = dial(path);
		assert_true(slow[i] >= 0);
	}
	sleep_us(200000);
	/* one place is left */
	start = now_ms();
	document = ask();
	assert_in_range(now_ms() - start, 0, 1500 + 4 * alone);
	json_decref(document);
	/* the program goes on */
	start = now_ms();
	assert_ok(gr_space_unmap(space, 0, PAGE));
	assert_in_range(now_ms() - start, 0, 1000);
	/* all places taken, and a queue: whoever reads is answered when the time of the slow is up
	 */
	for (; i < 6; i++) {
		slow[i] = dial(path);
		assert_true(slow[i] >= 0);
	}
	start = now_ms();
	document = ask();
	assert_in_range(now_ms() - start, 0, 20000 + 8 * alone);
	json_decref(document);
	for (i = 0; i < 6; i++) {
		free(hear(slow[i], &length, LONG_MS)); /* a part, and the end */
		close(slow[i]);
	}
	start = now_ms();
	assert_ok(gr_status_stop());
	assert_in_range(now_ms() - start, 0, 1000 + 2 * alone);
	assert_int_equal(open_fds(), fds);
	assert_ok(gr_ram_close(ram));
}

static void test_what_clients_send_and_their_leaving_changes_nothing(void **state)
{
	struct gr_space *space;
	struct gr_ram *ram = big_ram(&space);
	char junk[5000];
	int i, fd;

	(void)state;
	memset(junk, 'j', sizeof(junk));
	assert_ok(gr_status_serve(path));
	for (i = 0; i < 50; i++) {
		fd = dial(path);
		assert_true(fd >= 0);
		(void)!send(fd, junk, sizeof(junk), MSG_NOSIGNAL | MSG_DONTWAIT);
		if (i % 3 == 0)
			sleep_us(2000);
		if (i % 2)
			shutdown(fd, SHUT_RD);
		close(fd);
	}
	json_decref(ask());
	assert_ok(gr_ram_close(ram));
}

/* ------------------------------------------------------------------------------------ members */

struct told {
	struct gate entered, leave;
	const char *text;
	int calls, refused;
};

static char *tell(void *context)
{
	struct told *told = context;

	__atomic_add_fetch(&told->calls, 1, __ATOMIC_SEQ_CST);
	return told->text ? strdup(told->text) : NULL;
}

static void test_members(void **state)
{
	struct told good = {.text = "{\"n\":7}"}, none = {0}, broken = {.text = "{\"n\":"};
	json_t *document, *members;

	(void)state;
	assert_ok(gr_status_add("good", tell, &good));
	assert_ok(gr_status_add("none", tell, &none));
	assert_ok(gr_status_add("broken", tell, &broken));
	assert_error(gr_status_add("good", tell, &good), -EEXIST, "good");
	assert_error(gr_status_add("", tell, &good), -EINVAL, "1 to 63");
	assert_error(gr_status_add("\xff", tell, &good), -EINVAL, "UTF-8");
	assert_error(gr_status_add("x", NULL, &good), -EINVAL, "function");
	document = ask_text();
	members = json_object_get(document, "members");
	assert_int_equal(number(json_object_get(members, "good"), "n"), 7);
	assert_null(json_object_get(members, "none"));
	assert_true(json_is_null(json_object_get(members, "broken")));
	json_decref(document);
	assert_ok(gr_status_remove("good"));
	assert_error(gr_status_remove("good"), -ENOENT, "good");
	assert_ok(gr_status_remove("none"));
	assert_ok(gr_status_remove("broken"));
	json_decref(ask_text());
	assert_int_equal(good.calls, 1);
}

static char *tell_slowly(void *context)
{
	struct told *told = context;

	told->refused = gr_status_stop() == -EDEADLK && gr_status_remove("slow") == -EDEADLK;
	gate_open(&told->entered);
	gate_wait(&told->leave);
	__atomic_add_fetch(&told->calls, 1, __ATOMIC_SEQ_CST);
	return strdup("1");
}

static void *remove_slow(void *context)
{
	struct told *told = context;
	int rc = gr_status_remove("slow");

	/* the call is over when this one returns */
	set(&told->refused, get(&told->refused) && !rc && told->calls == 1);
	return NULL;
}

static void test_removing_a_member_waits_for_its_call(void **state)
{
	static struct told slow;
	pthread_t remover;
	int fd;

	(void)state;
	slow = (struct told){0};
	gate_init(&slow.entered);
	gate_init(&slow.leave);
	assert_ok(gr_status_serve(path));
	assert_ok(gr_status_add("slow", tell_slowly, &slow));
	fd = dial(path);
	assert_true(gate_wait(&slow.entered));
	remover = thread_start(remove_slow, &slow);
	sleep_us(20000);
	gate_open(&slow.leave);
	thread_join(remover);
	assert_true(get(&slow.refused));
	close(fd);
}

/* --------------------------------------------------------------------- RAMs that come and go */

struct churn {
	int stop, opened, wrong;
};

static void *open_and_close(void *context)
{
	struct churn *churn = context;

	while (!get(&churn->stop)) {
		struct gr_space *space;
		struct gr_block *block;
		struct gr_ram *ram;
		struct gr_block_opts opts = {.name = "x",
					     .length = 4 * PAGE,
					     .fd = -1,
					     .flags = GR_DELETE_UNMAP,
					     .backing = GR_BACKING_MEMFD};
		unsigned i;

		if (gr_ram_open(NULL, &ram) || gr_space_open(ram, "s", &space)) {
			set(&churn->wrong, 1);
			return NULL;
		}
		for (i = 0; i < 4; i++)
			if (gr_block_new(ram, &opts, &block) ||
			    gr_space_map(space, i * GIB, block, 0, 4 * PAGE, RW) ||
			    gr_block_delete(block))
				set(&churn->wrong, 1);
		if (gr_ram_close(ram))
			set(&churn->wrong, 1);
		__atomic_add_fetch(&churn->opened, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void test_rams_come_and_go_while_they_are_looked_at(void **state)
{
	struct churn churn = {0};
	pthread_t threads[2];
	int64_t end = now_ms() + 1500;
	int looks = 0;
	size_t i;

	(void)state;
	assert_ok(gr_status_serve(path));
	for (i = 0; i < 2; i++)
		threads[i] = thread_start(open_and_close, &churn);
	while (now_ms() < end) {
		json_decref(looks++ % 2 ? ask() : ask_text());
	}
	set(&churn.stop, 1);
	for (i = 0; i < 2; i++)
		thread_join(threads[i]);
	assert_int_equal(churn.wrong, 0);
	assert_in_range(churn.opened, 3, INT32_MAX);
	assert_in_range(looks, 3, INT32_MAX);
}

static struct gate look_entered, look_leave;
static int closed;

static void stop_look(const char *point)
{
	if (strcmp(point, "registry.look") != 0)
		return;
	gate_open(&look_entered);
	gate_wait(&look_leave);
}

static void *close_ram(void *ram)
{
	set(&closed, gr_ram_close(ram) ? -1 : 1);
	return NULL;
}

static void *look_once(void *result)
{
	char *text = NULL;

	set(result, gr_status_text(&text) ? -1 : 1);
	free(text);
	return NULL;
}

static void test_close_waits_for_who_looks(void **state)
{
	pthread_t looker, closer;
	struct gr_ram *ram;
	int looked = 0;

	(void)state;
	assert_ok(gr_ram_open(NULL, &ram));
	gate_init(&look_entered);
	gate_init(&look_leave);
	closed = 0;
	set_hook_point(stop_look);
	looker = thread_start(look_once, &looked);
	assert_true(gate_wait(&look_entered));
	closer = thread_start(close_ram, ram);
	sleep_us(100000);
	assert_int_equal(get(&closed), 0);
	gate_open(&look_leave);
	thread_join(closer);
	thread_join(looker);
	assert_int_equal(get(&closed), 1);
	assert_int_equal(get(&looked), 1);
}

static void test_a_forked_child_has_no_part_in_it(void **state)
{
	struct gr_ram *ram;
	int status;
	pid_t child;

	(void)state;
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_status_serve(path));
	child = fork();
	if (!child) {
		json_t *document = ask_text();
		struct gr_ram *own = NULL;
		int wrong = json_array_size(json_object_get(document, "rams")) != 0;

		json_decref(document);
		wrong |= gr_status_stop() != -ENOTSUP || own;
#ifndef __SANITIZE_THREAD__ /* which lets no forked child start a thread */
		wrong |= gr_ram_open(NULL, &own) != 0;
		document = ask_text();
		wrong |= json_array_size(json_object_get(document, "rams")) != 1;
		json_decref(document);
		wrong |= gr_ram_close(own) != 0;
#endif
		_exit(wrong);
	}
	waitpid(child, &status, 0);
	assert_int_equal(status, 0);
	json_decref(ask());
	assert_ok(gr_ram_close(ram));
}

/* --------------------------------------------------------------------------------------- faults */

static int position, seen;
static const char *failed_call;

static int fail_one(const char *call)
{
	__atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
	if (__atomic_sub_fetch(&position, 1, __ATOMIC_SEQ_CST) != 0)
		return 0;
	failed_call = call;
	return ENOMEM;
}

static void test_every_call_of_serve_fails_once(void **state)
{
	int fds = open_fds(), at, failures = 0, rc;
	struct stat st;

	(void)state;
	for (at = 1;; at++) {
		set(&position, at);
		failed_call = NULL;
		set_hook_fault(fail_one);
		rc = gr_status_serve(path);
		set_hook_fault(NULL);
		if (rc < 0) {
			failures++;
			if (!failed_call || !gr_last_error()[0] || !lstat(path, &st) ||
			    open_fds() != fds)
				fail_msg("call %d, %s: %d, %s", at, failed_call, rc,
					 gr_last_error());
			rc = gr_status_serve(path);
		}
		assert_int_equal(rc, 0);
		json_decref(ask());
		assert_ok(gr_status_stop());
		assert_int_equal(open_fds(), fds);
		if (!failed_call)
			break;
		tally_fault("gr_status_serve", failed_call);
	}
	assert_in_range(failures, 8, 100);
}

static void test_every_call_of_a_document_fails_once(void **state)
{
	struct gr_block *anon, *memfd, *gone;
	struct gr_space *space;
	struct told told = {.text = "1"};
	int fds, at, failures = 0, rc;
	struct gr_pin pin;
	struct gr_ram *ram;
	char *text;

	(void)state;
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "s", &space));
	anon = new_anon(ram, "a", 4 * PAGE, 4 * PAGE);
	memfd = new_memfd(ram, "m", 4 * PAGE);
	gone = new_anon(ram, "g", 4 * PAGE, 4 * PAGE);
	assert_ok(gr_block_pin(gone, 0, 1, GR_READ, &pin));
	assert_ok(gr_block_delete(gone));
	assert_ok(gr_space_map(space, 0, anon, 0, 4 * PAGE, RW));
	assert_ok(gr_space_map(space, GIB, memfd, 0, 4 * PAGE, RW));
	assert_ok(gr_status_add("told", tell, &told));
	fds = open_fds();
	for (at = 1;; at++) {
		set(&position, at);
		failed_call = NULL;
		text = NULL;
		set_hook_fault(fail_one);
		rc = gr_status_text(&text);
		set_hook_fault(NULL);
		if (rc < 0) {
			failures++;
			if (!failed_call || text || rc != -ENOMEM)
				fail_msg("call %d, %s: %d", at, failed_call, rc);
		}
		free(text);
		assert_int_equal(open_fds(), fds);
		if (!failed_call)
			break;
		tally_fault("gr_status_text", failed_call);
	}
	assert_in_range(failures, 80, 400);
	assert_ok(gr_status_remove("told"));
	json_decref(ask_text());
	gr_unpin(&pin);
	assert_ok(gr_ram_close(ram));
}

static void test_a_client_that_cannot_be_served_is_hung_up_on(void **state)
{
	size_t length;
	char *text;
	int fd;

	(void)state;
	assert_ok(gr_status_serve(path));
	/* accept, the question who it is, then the document */
	for (int at = 1; at <= 3; at++) {
		set(&position, at);
		set_hook_fault(fail_one);
		fd = dial(path);
		text = hear(fd, &length, 1000);
		set_hook_fault(NULL);
		/* after accept() had failed it is accepted a moment later */
		assert_true(at == 1 ? length > 0 : length == 0);
		tally_fault("gr_status_serve", at == 1 ? "accept" : at == 2 ? "peer" : "json");
		free(text);
		close(fd);
	}
	json_decref(ask());
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(what_stands_in_the_document),
		TEST(granules_are_shown_while_they_are_open),
		TEST(a_name_that_is_no_text_is_shown_all_the_same),
		TEST(mode_is_owner_only_whatever_the_umask),
		TEST(mode_is_right_before_anybody_can_connect),
		TEST(a_dead_socket_is_replaced),
		TEST(a_live_socket_and_other_files_stay),
		TEST(a_datagram_socket_is_live),
		TEST(stop_leaves_what_is_not_ours),
		TEST(wrong_calls),
		TEST(other_users_get_nothing),
		TEST(clients_that_do_not_read_hold_nobody_up),
		TEST(what_clients_send_and_their_leaving_changes_nothing),
		TEST(members),
		TEST(removing_a_member_waits_for_its_call),
		TEST(rams_come_and_go_while_they_are_looked_at),
		TEST(close_waits_for_who_looks),
		TEST(a_forked_child_has_no_part_in_it),
		TEST(every_call_of_serve_fails_once),
		TEST(every_call_of_a_document_fails_once),
		TEST(a_client_that_cannot_be_served_is_hung_up_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
