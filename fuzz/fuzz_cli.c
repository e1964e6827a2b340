/* SPDX-License-Identifier: MIT */
/*
 * The program's command line: main() itself, with arguments from the input. What a verb would do
 * once its line is accepted is replaced by a look at what the parser made of it (the functions
 * below, which fuzz/meson.build puts in the place of the real ones), so nothing is served,
 * measured or tortured.
 *
 * Kept: the exit code is 0, 1 or 2; what was refused is said in one line that begins with
 * "guestram: ", on stderr alone; help and version are on stdout alone; numbers that reach a verb
 * are in their limits.
 *
 * Input: arguments, each ended by a zero byte; a byte from 0x80 on is a whole word of the table.
 *
 * Threads: one. argp keeps its memory when a parser ends the process, so what was allocated since
 * main() began is freed when it ends by exit().
 */
#include "blk.h"
#include "cli.h"
#include "cmd_snapshot.h"
#include "fuzz.h"
#include "live.h"
#include "migrate_machine.h"
#ifdef CLI_FUSE
#include "mounting.h"
#include "qmp.h"
#endif
#include "torture.h"
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <unistd.h>
/* after the above, which it needs */
#include <bench.h>

enum { ARGS_MAX = 24, TEXT = 65536, ALLOCATIONS = 256 };

int cli_main(int argc, char **argv);
__attribute__((noreturn)) void fuzz_exit(int code);
void fuzz_state_help(const struct argp_state *state, FILE *stream, unsigned flags);
int fuzz_blk_open(struct blk *blk, const char *path, const char **what);
int fuzz_world_open(const struct torture_options *options, struct world **world);
int fuzz_bench_init(struct bench *bench, const char *name, bool quick);
int fuzz_live_fetch(const char *target, struct live *live);
int fuzz_machine_open(struct machine *machine);
int fuzz_signalfd(int fd, const sigset_t *mask, int flags);
int fuzz_snapshot_run(struct snapshot_args *args);
#ifdef CLI_FUSE
int fuzz_mounting_serve(const struct mounting *mounting);
int fuzz_mounting_start(const struct mounting *mounting, bool with_us, pid_t *pid);
int fuzz_qmp_open(const char *path, int timeout_ms, pid_t child, struct qmp *qmp);
char *fuzz_mkdtemp(char *template);
#endif

static jmp_buf out;
static int exit_code;
static bool accepted; /* a verb was called with options that were found good */

/* --------------------------------------------------------------------------- what is replaced */

void fuzz_exit(int code)
{
	exit_code = code;
	longjmp(out, 1);
}

/* argp's own ends the process for some flags. */
void fuzz_state_help(const struct argp_state *state, FILE *stream, unsigned flags)
{
	argp_state_help(state, stream, flags & ~(unsigned)(ARGP_HELP_EXIT_ERR | ARGP_HELP_EXIT_OK));
	if (flags & ARGP_HELP_EXIT_ERR)
		fuzz_exit(argp_err_exit_status);
	if (flags & ARGP_HELP_EXIT_OK)
		fuzz_exit(0);
}

int fuzz_blk_open(struct blk *blk, const char *path, const char **what)
{
	FUZZ_CHECK((path || blk->sectors) && blk->queues >= 1 && blk->queues <= 256);
	FUZZ_CHECK(blk->block_size >= BLK_SECTOR && blk->block_size <= BLK_BLOCK_MAX &&
		   !(blk->block_size & (blk->block_size - 1)));
	FUZZ_CHECK(blk->worker_max >= 1 && blk->worker_max <= blk->queues);
	FUZZ_CHECK(strnlen(blk->id, sizeof(blk->id)) <= BLK_ID_BYTES);
	FUZZ_CHECK(blk->io == BLK_IO_AUTO || blk->io == BLK_IO_URING || blk->io == BLK_IO_PLAIN);
	accepted = true;
	*what = "is not opened here";
	return -ENOENT;
}

int fuzz_world_open(const struct torture_options *options, struct world **world)
{
	(void)world;
	FUZZ_CHECK(options->seconds >= 1 && options->seconds <= 1000000);
	FUZZ_CHECK(options->readers >= 1 && options->readers <= TORTURE_THREADS);
	FUZZ_CHECK(options->writers >= 1 && options->writers <= TORTURE_THREADS);
	FUZZ_CHECK(!options->baseline || !strcmp(options->baseline, "shared-mru"));
	accepted = true;
	return -ENOMEM;
}

int fuzz_live_fetch(const char *target, struct live *live)
{
	(void)live;
	FUZZ_CHECK(target);
	accepted = true;
	return cli_fail(0, "not fetched here");
}

int fuzz_machine_open(struct machine *machine)
{
	const struct migrate_options *options = &machine->options;

	FUZZ_CHECK(!strcmp(options->verb, "send") || !strcmp(options->verb, "receive"));
	FUZZ_CHECK(!strncmp(options->address, "unix:", 5) || !strncmp(options->address, "tcp:", 4));
	FUZZ_CHECK(options->channels >= 1 && options->channels <= GR_MIGRATE_CHANNELS_MAX);
	FUZZ_CHECK(options->zstd <= 19 && options->memory >= 1 && options->writes >= 1);
	accepted = true;
	return cli_fail(0, "not moved here");
}

/* What `pager` does first: before there is another process. */
int fuzz_signalfd(int fd, const sigset_t *mask, int flags)
{
	(void)mask;
	(void)flags;
	FUZZ_CHECK(fd == -1);
	accepted = true;
	errno = ENOSYS;
	return -1;
}

#ifdef CLI_FUSE

int fuzz_mounting_serve(const struct mounting *mounting)
{
	FUZZ_CHECK(mounting->stored && mounting->directory);
	FUZZ_CHECK(mounting->threads >= 1 && mounting->threads <= 256);
	FUZZ_CHECK(mounting->clones <= 65536 && mounting->cache <= UINT64_C(1) << 40);
	FUZZ_CHECK(!mounting->overlay || mounting->clones);
	FUZZ_CHECK(!mounting->parent || !mounting->image);
	accepted = true;
	return cli_fail(0, "not mounted here");
}

int fuzz_mounting_start(const struct mounting *mounting, bool with_us, pid_t *pid)
{
	(void)with_us;
	(void)pid;
	return fuzz_mounting_serve(mounting);
}

int fuzz_qmp_open(const char *path, int timeout_ms, pid_t child, struct qmp *qmp)
{
	(void)timeout_ms;
	(void)child;
	(void)qmp;
	FUZZ_CHECK(path);
	accepted = true;
	return cli_fail(0, "not connected here");
}

/* Where the verb `qemu clone` begins. */
char *fuzz_mkdtemp(char *template)
{
	(void)template;
	accepted = true;
	errno = ENOENT;
	return NULL;
}

#endif

/* Each action of the verb `snapshot`. */
int fuzz_snapshot_run(struct snapshot_args *args)
{
	FUZZ_CHECK(args->what && args->args[0]);
	accepted = true;
	return cli_fail(0, "not done here");
}

int fuzz_bench_init(struct bench *bench, const char *name, bool quick)
{
	(void)quick;
	memset(bench, 0, sizeof(*bench));
	FUZZ_CHECK(!strcmp(name, "lookup") || !strcmp(name, "update") || !strcmp(name, "access") ||
		   !strcmp(name, "reclaim") || !strcmp(name, "change") || !strcmp(name, "dirty") ||
		   !strcmp(name, "window") || !strcmp(name, "blk") || !strcmp(name, "migrate") ||
		   !strcmp(name, "pager") || !strcmp(name, "snapshot"));
	accepted = true;
	return -ENOMEM;
}

/* ----------------------------------------------------------------------------- what is printed */

struct text {
	char bytes[TEXT];
	size_t length;
	FILE *stream;
};

static struct text printed, complained;

static ssize_t keep(void *context, const char *bytes, size_t size)
{
	struct text *text = context;
	size_t room = sizeof(text->bytes) - 1 - text->length, part = size < room ? size : room;

	memcpy(text->bytes + text->length, bytes, part);
	text->length += part;
	return (ssize_t)size;
}

static void open_text(struct text *text)
{
	text->stream = fopencookie(text, "w", (cookie_io_functions_t){.write = keep});
	FUZZ_CHECK(text->stream);
	setvbuf(text->stream, NULL, _IONBF, 0);
}

/* ---------------------------------------------------------------------------------- memory */

#ifdef FUZZ_HEAP_HOOKS
int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void *, size_t),
					      void (*free_hook)(const volatile void *));

static bool counting;
static const volatile void *allocations[ALLOCATIONS];
static unsigned allocation_count;

static void note_malloc(const volatile void *memory, size_t size)
{
	(void)size;
	if (counting && allocation_count < ALLOCATIONS)
		allocations[allocation_count++] = memory;
}

static void note_free(const volatile void *memory)
{
	for (unsigned i = 0; counting && i < allocation_count; i++)
		if (allocations[i] == memory)
			allocations[i] = NULL;
}

static void begin_heap(void)
{
	static bool installed;

	if (!installed)
		installed = __sanitizer_install_malloc_and_free_hooks(note_malloc, note_free);
	FUZZ_CHECK(installed);
	allocation_count = 0;
	counting = true;
}

static void end_heap(bool by_exit)
{
	counting = false;
	while (by_exit && allocation_count)
		free((void *)allocations[--allocation_count]);
}
#else
static void begin_heap(void)
{
}

static void end_heap(bool by_exit)
{
	(void)by_exit; /* a few inputs, then the process ends */
}
#endif

/* -------------------------------------------------------------------------------- an input */

static const char *const words[] = {
	"serve",
	"blk",
	"torture",
	"bench",
	"lookup",
	"update",
	"access",
	"reclaim",
	"--help",
	"--version",
	"-V",
	"-?",
	"--json",
	"--quick",
	"--seconds",
	"--seconds=",
	"--readers",
	"--writers=",
	"--seed",
	"--baseline",
	"shared-mru",
	"--socket",
	"--file",
	"--read-only",
	"--queues",
	"--threads",
	"--status-socket",
	"--io",
	"uring",
	"plain",
	"--serial",
	"--",
	"0",
	"1",
	"256",
	"257",
	"18446744073709551615",
	"18446744073709551616",
	"-1",
	"+1",
	" 1",
	"1e3",
	"0x10",
	"1000001",
	"/tmp/x",
	"12345678901234567890",
	"123456789012345678901",
	"--s",
	"--re",
	"-",
	"%s%n%s",
	"=",
	"--usage",
	"map",
	"top",
	"dump",
	"--svg",
	"--interval",
	"--count",
	"--out",
	"--machine",
	"--no-vaddr",
	"--status",
	"--null",
	"--poll",
	"--direct",
	"--block-size",
	"--blockdev",
	"--export",
	"--object",
	"file,node-name=f,filename=x",
	"driver=null-co,node-name=f,size=1G",
	"raw,node-name=g,file=f,read-only=on",
	"vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=s",
	"type=vhost-user-blk,id=e,node-name=g,addr.type=unix,addr.path=s,writable=on,iothread=t",
	"iothread,id=t,poll-max-ns=0",
	"iothread,id=,,,poll-max-ns=1k,",
	"file,node-name=f,filename=x,cache.direct=on,aio=io_uring,discard=unmap",
	"migrate",
	"send",
	"receive",
	"unix:s",
	"tcp:h:1",
	"--channels",
	"--zstd",
	"--postcopy",
	"--rate",
	"mount",
	"qemu",
	"save",
	"clone",
	"--clones",
	"--overlay",
	"--cache",
	"--image",
	"--parent",
	"--background",
	"--qmp",
	"--quit",
	"--stay",
	"--private",
	"--name",
};

/* Arguments into @args; returns how many. */
static int make_args(const uint8_t *data, size_t size, char *text, size_t room, char **args)
{
	size_t at = 0;
	int count = 0;

	args[count++] = strcpy(text, "guestram");
	at = strlen(text) + 1;
	args[count] = text + at;
	for (size_t i = 0; i < size && count < ARGS_MAX && at + 128 < room; i++) {
		const char *word = NULL;

		if (data[i] >= 0x80)
			word = words[(data[i] - 0x80u) % COUNT_OF(words)];
		if (word)
			at += (size_t)sprintf(text + at, "%s", word);
		else if (data[i])
			text[at++] = (char)data[i];
		/* a word ends an argument unless it asks for more */
		if (!data[i] || (word && word[strlen(word) - 1] != '=')) {
			text[at++] = 0;
			count++;
			args[count] = text + at;
		}
	}
	text[at] = 0;
	if (args[count] != text + at && count < ARGS_MAX)
		count++;
	args[count] = NULL;
	return count;
}

/* True when it ended by exit(). */
static bool call_main(int argc, char **argv)
{
	if (setjmp(out))
		return true;
	exit_code = cli_main(argc, argv);
	return false;
}

static void judge(void)
{
	printed.bytes[printed.length] = complained.bytes[complained.length] = 0;
	FUZZ_SAY("exit code %d\n%s%s", exit_code, printed.bytes, complained.bytes);
	FUZZ_CHECK_SAY(exit_code >= 0 && exit_code <= 2, "%d", exit_code);
	if (exit_code == CLI_OK) { /* help or version: no verb runs here */
		FUZZ_CHECK(!accepted && printed.length && !complained.length);
		return;
	}
	FUZZ_CHECK(!printed.length && accepted == (exit_code == CLI_FAILED));
	FUZZ_CHECK_SAY(!strncmp(complained.bytes, "guestram: ", 10), "%s", complained.bytes);
	FUZZ_CHECK(complained.bytes[complained.length - 1] == '\n');
	if (exit_code == CLI_USAGE)
		FUZZ_CHECK_SAY(strstr(complained.bytes, "\nTry 'guestram"), "%s", complained.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char text[8192];
	static char *args[ARGS_MAX + 2];
	FILE *const real_stdout = stdout, *const real_stderr = stderr;
	struct fuzz_ledger before = fuzz_ledger_now();
	int count = make_args(data, size, text, sizeof(text), args);

	if (!printed.stream) {
		open_text(&printed);
		open_text(&complained);
		before = fuzz_ledger_now();
	}
	for (int i = 0; i < count; i++)
		FUZZ_SAY("argument '%s'\n", args[i]);
	printed.length = complained.length = 0;
	accepted = false;
	stdout = printed.stream;
	stderr = complained.stream;
	begin_heap();
	end_heap(call_main(count, args));
	stdout = real_stdout;
	stderr = real_stderr;
	judge();
	fuzz_ledger_check(&before);
	return 0;
}
