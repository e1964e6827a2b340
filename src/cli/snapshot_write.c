/* SPDX-License-Identifier: MIT */
/* Actions of `guestram snapshot` that write files. See cmd_snapshot.h. */
#include "cli.h"
#include "cmd_snapshot.h"
#include "grid.h"
#include "out.h"
#include "out_file.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE (1u << 20)

struct gr_snapshot *snapshot_open(const struct snapshot_args *args, const char *path)
{
	struct gr_snapshot *snapshot = NULL;
	int rc = gr_snapshot_open(path, NULL, &snapshot);

	if (rc < 0)
		cli_fail_gr(rc, "%s", args->what);
	return snapshot;
}

static int told(int rc)
{
	errno = 0;
	rc = rc ? rc : out_flush();
	return rc < 0 ? cli_fail(rc, "standard output") : CLI_OK;
}

static int tell_written(const struct snapshot_args *args, const char *path,
			const struct gr_snapshot_stats *stats)
{
	char memory[24], data[24], stored[24], shared[24];
	double ratio =
		stats->bytes_stored ? (double)stats->bytes_data / (double)stats->bytes_stored : 1.0;
	json_t *object;
	int rc;

	out_progress_end();
	if (!args->json) {
		printf("%s: %s of memory, %s of content", path, human_size(memory, stats->bytes),
		       human_size(data, stats->bytes_data));
		printf(", %s stored (%.2f to 1), %s named again\n",
		       human_size(stored, stats->bytes_stored), ratio,
		       human_size(shared, stats->bytes_shared));
		return told(0);
	}
	object = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "file", path, "bytes",
			   (json_int_t)stats->bytes, "data", (json_int_t)stats->bytes_data, "zero",
			   (json_int_t)stats->bytes_zero, "stored", (json_int_t)stats->bytes_stored,
			   "shared", (json_int_t)stats->bytes_shared, "length",
			   (json_int_t)stats->file_bytes);
	rc = object ? out_json(object) : -ENOMEM;
	json_decref(object);
	return told(rc);
}

/* ---------------------------------------------------------------------------------------- save */

static int add_images(const struct snapshot_args *args, struct gr_ram *ram)
{
	struct gr_block *block;
	struct stat st;
	int i, rc;

	for (i = 0; i < args->block_count; i++) {
		struct gr_block_opts opts = {
			.name = args->blocks[i].name,
			.backing = GR_BACKING_FILE,
			.path = args->blocks[i].path,
		};

		if (stat(opts.path, &st) < 0)
			return cli_fail(errno, "%s: %s", args->what, opts.path);
		if (!st.st_size || st.st_size % GR_PAGE_SIZE)
			return cli_fail(0, "%s: %s: %lld bytes are no whole pages of %u",
					args->what, opts.path, (long long)st.st_size, GR_PAGE_SIZE);
		opts.length = (uint64_t)st.st_size;
		rc = gr_block_new(ram, &opts, &block);
		if (rc < 0)
			return cli_fail_gr(rc, "%s: %s", args->what, opts.path);
	}
	return CLI_OK;
}

int snapshot_save(struct snapshot_args *args)
{
	struct gr_snapshot_stats stats;
	struct gr_ram *ram = NULL;
	int rc, exit_code;

	if (!args->block_count)
		cli_usage(NULL, "which images? --block NAME=FILE");
	if (args->parent) {
		args->opts.parent = snapshot_open(args, args->parent);
		if (!args->opts.parent)
			return CLI_FAILED;
	}
	rc = gr_ram_open(NULL, &ram);
	exit_code = rc < 0 ? cli_fail_gr(rc, "%s", args->what) : add_images(args, ram);
	if (!exit_code) {
		rc = gr_snapshot_save(ram, args->args[0], &args->opts, &stats);
		exit_code = rc < 0 ? cli_fail_gr(rc, "%s", args->what)
				   : tell_written(args, args->args[0], &stats);
	}
	gr_snapshot_close(args->opts.parent);
	if (ram)
		gr_ram_close(ram);
	return exit_code;
}

/* ------------------------------------------------------------------------------------- convert */

static int convert(struct snapshot_args *args, const char *parent)
{
	struct gr_snapshot *snapshot = snapshot_open(args, args->args[0]);
	struct gr_snapshot_stats stats;
	int rc, exit_code = CLI_FAILED;

	if (!snapshot)
		return CLI_FAILED;
	if (parent) {
		args->opts.parent = snapshot_open(args, parent);
		if (!args->opts.parent)
			goto close_snapshot;
	}
	rc = gr_snapshot_convert(snapshot, args->args[1], &args->opts, &stats);
	exit_code = rc < 0 ? cli_fail_gr(rc, "%s", args->what)
			   : tell_written(args, args->args[1], &stats);
	gr_snapshot_close(args->opts.parent);
close_snapshot:
	gr_snapshot_close(snapshot);
	return exit_code;
}

int snapshot_flatten(struct snapshot_args *args)
{
	return convert(args, args->parent);
}

int snapshot_pack(struct snapshot_args *args)
{
	struct gr_snapshot *snapshot = snapshot_open(args, args->args[0]);
	struct gr_snapshot_info info;
	char *parent = NULL;
	int rc, exit_code;

	if (!snapshot)
		return CLI_FAILED;
	rc = gr_snapshot_get_info(snapshot, 1, &info);
	if (!rc)
		parent = strdup(info.path);
	gr_snapshot_close(snapshot);
	if (!rc && !parent)
		return cli_fail(ENOMEM, "%s", args->what);
	args->opts.layout = GR_SNAPSHOT_PACKED;
	exit_code = convert(args, args->parent ? args->parent : parent);
	free(parent);
	return exit_code;
}

/* --------------------------------------------------------------------------------------- bytes */

static int put(int fd, const char *bytes, uint64_t length, uint64_t at, bool seekable)
{
	while (length) {
		ssize_t done =
			seekable ? pwrite(fd, bytes, length, (off_t)at) : write(fd, bytes, length);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		bytes += done;
		at += (uint64_t)done;
		length -= (uint64_t)done;
	}
	return 0;
}

/* Holes where it is zero, if the file can have them. */
static int write_block(struct gr_snapshot *snapshot, unsigned block, uint64_t length, int fd,
		       char *buf)
{
	struct stat st;
	bool sparse = !fstat(fd, &st) && S_ISREG(st.st_mode);
	uint64_t at, run = 0, part;
	int rc = 0, kind = 0;

	for (at = 0; at < length && !rc; at += part, run -= part) {
		if (!run)
			kind = gr_snapshot_look(snapshot, block, at, &run, NULL);
		if (kind < 0)
			return kind;
		part = run < PIECE || (!kind && sparse) ? run : PIECE;
		if (!kind && sparse)
			continue;
		rc = gr_snapshot_read(snapshot, block, at, buf, part);
		if (!rc)
			rc = put(fd, buf, part, at, sparse);
		out_progress("%5.1f%%", 100.0 * (double)at / (double)length);
	}
	if (!rc && sparse && ftruncate(fd, (off_t)length) < 0)
		rc = -errno;
	return rc;
}

static int extract(const struct snapshot_args *args, struct gr_snapshot *snapshot, unsigned block,
		   const char *path)
{
	struct gr_snapshot_block info;
	char *buf = malloc(PIECE);
	struct out_file file;
	int rc, exit_code;

	if (!buf)
		return cli_fail(ENOMEM, "%s", args->what);
	exit_code = out_file_open(&file, path, 0600);
	if (exit_code) {
		free(buf);
		return exit_code;
	}
	rc = gr_snapshot_get_block(snapshot, block, &info);
	if (!rc)
		rc = write_block(snapshot, block, info.length, file.fd, buf);
	out_progress_end();
	free(buf);
	if (!rc)
		return out_file_commit(&file);
	out_file_abandon(&file);
	return rc == -EBADMSG ? cli_fail_gr(rc, "%s: %s", args->what, path)
			      : cli_fail(rc, "%s: %s", args->what, path);
}

int snapshot_extract(struct snapshot_args *args)
{
	struct gr_snapshot *snapshot = snapshot_open(args, args->args[0]);
	int block, exit_code;

	if (!snapshot)
		return CLI_FAILED;
	block = gr_snapshot_find_block(snapshot, args->args[1]);
	exit_code = block < 0 ? cli_fail_gr(block, "%s", args->what)
			      : extract(args, snapshot, (unsigned)block, args->args[2]);
	gr_snapshot_close(snapshot);
	return exit_code;
}

int snapshot_load(struct snapshot_args *args)
{
	struct gr_snapshot *snapshot = snapshot_open(args, args->args[0]);
	struct gr_snapshot_block info;
	int exit_code = CLI_OK;
	unsigned i;

	if (!snapshot)
		return CLI_FAILED;
	if (mkdir(args->args[1], 0700) < 0 && errno != EEXIST)
		exit_code = cli_fail(errno, "%s: %s", args->what, args->args[1]);
	for (i = 0; !exit_code && !gr_snapshot_get_block(snapshot, i, &info); i++) {
		char path[4096];

		/* the name is the file's, which may be anybody's */
		if (strchr(info.name, '/') || info.name[0] == '.') {
			exit_code = cli_fail(0, "%s: block %s has no name for a file: extract it",
					     args->what, info.name);
			break;
		}
		snprintf(path, sizeof(path), "%s/%s", args->args[1], info.name);
		exit_code = extract(args, snapshot, i, path);
	}
	gr_snapshot_close(snapshot);
	return exit_code;
}
