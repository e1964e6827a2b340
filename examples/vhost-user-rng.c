/* SPDX-License-Identifier: MIT */
/*
 * A device of one's own over vhost-user: entropy for a guest (virtio 1.x, 5.4).
 *
 *   example-vhost-user-rng SOCKET       serves until SIGTERM or SIGINT, then says how much it gave
 *
 * QEMU uses it by
 *   -object memory-backend-memfd,id=m0,size=1G,share=on -machine q35,memory-backend=m0
 *   -chardev socket,id=r0,path=SOCKET -device vhost-user-rng-pci,chardev=r0
 *
 * Without SOCKET it shows that a server opens and closes.
 *
 * Threads: main runs the server; one worker fills the buffers, and owns the count until it has
 * ended.
 */
#include <errno.h>
#include <guestram/vhost.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

struct rng {
	struct gr_vhost *server;
	uint64_t given; /* bytes */
};

/* Fill all that the driver offers: it gets what it can use, and we may always give less. */
static uint64_t fill(struct gr_vhost_request *request)
{
	uint64_t given = 0;

	while (request->in_length) {
		unsigned char bytes[256]; /* getrandom() gives so much whole, whatever comes */
		size_t want =
			request->in_length < sizeof(bytes) ? request->in_length : sizeof(bytes);
		ssize_t got = getrandom(bytes, want, 0);

		if (got <= 0 || gr_vhost_push(request, bytes, (size_t)got) < 0)
			break;
		given += (uint64_t)got;
	}
	return given;
}

static void handle(void *context, void *worker, struct gr_vhost_request *const *requests,
		   unsigned count)
{
	struct rng *rng = context;

	(void)worker;
	for (unsigned i = 0; i < count; i++) {
		uint64_t given = requests[i]->error ? 0 : fill(requests[i]);

		rng->given += given;
		gr_vhost_complete(requests[i], given);
	}
}

static const struct gr_vhost_ops ops = {.handle = handle};

static void log_line(void *context, enum gr_log_level level, const char *message)
{
	(void)context;
	(void)level;
	fprintf(stderr, "rng: %s\n", message);
}

static struct rng rng;

static void stop(int number)
{
	(void)number;
	gr_vhost_stop(rng.server); /* which may be called here */
}

static int serve(const char *path)
{
	struct sigaction action = {.sa_handler = stop};
	struct gr_vhost_opts opts = {
		.socket_path = path,
		.ops = &ops,
		.context = &rng,
		.flags = GR_VHOST_SIGBUS,
		.log = log_line,
	};
	int rc = gr_vhost_open(&opts, &rng.server);

	if (rc < 0) {
		fprintf(stderr, "rng: %s: %s\n", path, gr_last_error());
		return rc;
	}
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	printf("rng: serving at %s\n", path);
	fflush(stdout);
	rc = gr_vhost_run(rng.server);
	gr_vhost_close(rng.server);
	printf("rng: gave %llu bytes\n", (unsigned long long)rng.given);
	return rc;
}

static int try_it(void)
{
	char dir[] = "/tmp/guestram-rng-XXXXXX", path[64];
	struct gr_vhost_opts opts = {.socket_path = path, .ops = &ops, .context = &rng};
	int rc;

	if (!mkdtemp(dir))
		return -errno;
	snprintf(path, sizeof(path), "%s/rng.sock", dir);
	rc = gr_vhost_open(&opts, &rng.server);
	if (!rc)
		rc = access(path, F_OK) ? -errno : gr_vhost_close(rng.server);
	if (!rc && !access(path, F_OK))
		rc = -EBUSY; /* the socket should be gone */
	return rmdir(dir) && !rc ? -errno : rc;
}

int main(int argc, char **argv)
{
	int rc = argc > 1 ? serve(argv[1]) : try_it();

	if (rc < 0)
		fprintf(stderr, "rng: %s\n", strerror(-rc));
	return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
