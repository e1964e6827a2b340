/* SPDX-License-Identifier: MIT */
/* See servers.h. */
#include "servers.h"
#include "../pager/pattern.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#define UNIT (64 * KIB)

static char folder[64];

const char *servers_folder(void)
{
	if (!folder[0]) {
		snprintf(folder, sizeof(folder), "/tmp/guestram-store-XXXXXX");
		assert_non_null(mkdtemp(folder));
	}
	return folder;
}

static void run(char *const *argv)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		execvp(argv[0], argv);
		_exit(127);
	}
	waitpid(pid, &status, 0);
}

void servers_end(void)
{
	char rm[] = "rm", all[] = "-rf", *argv[] = {rm, all, folder, NULL};

	if (folder[0])
		run(argv);
}

bool have_program(const char *name)
{
	char path[512], *all = strdup(getenv("PATH") ? getenv("PATH") : ""), *rest = all, *part;
	bool found = false;

	while (!found && (part = strsep(&rest, ":"))) {
		snprintf(path, sizeof(path), "%s/%s", part, name);
		found = !access(path, X_OK);
	}
	free(all);
	if (!found)
		print_message("skipped: no %s here\n", name);
	return found;
}

static bool listens(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool yes;

	memcpy(address.sun_path, path, strlen(path) + 1);
	yes = !connect(fd, (struct sockaddr *)&address, sizeof(address));
	close(fd);
	return yes;
}

void server_again(struct server *server)
{
	unlink(server->socket);
	server->pid = fork();
	assert_true(server->pid >= 0);
	if (!server->pid) {
		int null = open("/dev/null", O_RDWR);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		alarm(0);
		execvp(server->argv[0], server->argv);
		_exit(127);
	}
	assert_true(wait_until(listens(server->socket)));
}

void server_start(struct server *server, const char *const *words)
{
	static unsigned number;
	unsigned i;

	memset(server, 0, sizeof(*server));
	snprintf(server->socket, sizeof(server->socket), "%s/%u", servers_folder(), number++);
	for (i = 0; words[i]; i++) {
		const char *hole = strstr(words[i], "%s");
		const size_t size = sizeof(server->words[i]);

		assert_true(i < COUNT_OF(server->words));
		server->argv[i] = server->words[i];
		if (hole)
			snprintf(server->argv[i], size, "%.*s%s%s", (int)(hole - words[i]),
				 words[i], server->socket, hole + 2);
		else
			snprintf(server->argv[i], size, "%s", words[i]);
	}
	server_again(server);
}

void server_stop(struct server *server)
{
	int status;

	assert_int_equal(kill(server->pid, SIGSTOP), 0);
	assert_int_equal(waitpid(server->pid, &status, WUNTRACED), server->pid);
	assert_true(WIFSTOPPED(status));
}

void server_kill(struct server *server)
{
	int status;

	kill(server->pid, SIGKILL);
	assert_int_equal(waitpid(server->pid, &status, 0), server->pid);
	server->pid = 0;
}

bool image_is_zero(uint64_t offset, unsigned zero_every)
{
	return zero_every && offset / UNIT % zero_every == 0;
}

void make_image(const char *path, unsigned block, uint64_t length, unsigned zero_every)
{
	char *unit = malloc(UNIT);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)length), 0);
	for (uint64_t at = 0; at < length; at += UNIT) {
		uint64_t part = length - at < UNIT ? length - at : UNIT;

		if (image_is_zero(at, zero_every))
			continue;
		pattern_fill(block, at, unit, UNIT);
		assert_int_equal(pwrite(fd, unit, part, (off_t)at), part);
	}
	close(fd);
	free(unit);
}

bool image_is_right(unsigned block, unsigned zero_every, uint64_t offset, const char *bytes,
		    uint64_t length)
{
	for (uint64_t at = 0; at < length; at += PAGE)
		if (image_is_zero(offset + at, zero_every)
			    ? !zeroes_are(bytes + at, PAGE)
			    : !pattern_is(block, offset + at, bytes + at, PAGE))
			return false;
	return true;
}
