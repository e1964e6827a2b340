/* SPDX-License-Identifier: MIT */
/*
 * See qemu_memory.h. A file is found by its name; a memfd, which has none, among QEMU's descriptors
 * by its length. Where two have the same, QEMU says at which address of its own the memory stands
 * (gpa2hva), and the kernel which file is mapped there.
 */
#include "qemu_memory.h"
#include "cli.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char memfd_name[] = "/memfd:memory-backend-memfd";

/* Member @name of object @path. */
static int get_text(struct qmp *qmp, const char *path, const char *name, char *text, size_t size)
{
	json_t *answer, *holder;
	int rc = qmp_run(qmp, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", name),
			 -1, &answer);

	if (rc)
		return rc;
	holder = json_pack("{s:o}", name, answer);
	rc = qmp_text(holder, name, text, size);
	json_decref(holder);
	return rc;
}

/* The kind of back-end @id, as in "child<memory-backend-file>". */
static int get_kind(struct qmp *qmp, const char *id, char *kind, size_t size)
{
	json_t *answer, *item;
	bool found = false;
	size_t n;
	int rc = qmp_run(qmp, "qom-list", json_pack("{s:s}", "path", "/objects"), -1, &answer);

	if (rc)
		return rc;
	json_array_foreach(answer, n, item)
	{
		const char *name = json_string_value(json_object_get(item, "name"));

		if (!found && name && !strcmp(name, id)) {
			found = true;
			rc = qmp_text(item, "type", kind, size);
		}
	}
	json_decref(answer);
	return found ? rc : cli_fail(0, "%s: QEMU does not list it among its objects", id);
}

/* -------------------------------------------------------------------------------- where it stands
 */

/* The guest-physical address of a back-end, as a text for QEMU's monitor. */
static int guest_address(struct qmp *qmp, const char *object, char *text, size_t size)
{
	char machine[300];
	json_t *answer, *item;
	bool found = false;
	size_t n;
	int rc = get_text(qmp, "/machine", "memory-backend", machine, sizeof(machine));

	if (rc)
		return rc;
	if (!strcmp(machine, object)) {
		snprintf(text, size, "0x0");
		return CLI_OK;
	}
	rc = qmp_run(qmp, "query-memory-devices", NULL, -1, &answer);
	if (rc)
		return rc;
	json_array_foreach(answer, n, item)
	{
		const json_t *data = json_object_get(item, "data");
		const char *its = json_string_value(json_object_get(data, "memdev"));
		const json_t *addr = json_object_get(data, "addr");

		if (found || !its || strcmp(its, object) != 0)
			continue;
		found = true;
		addr = addr ? addr : json_object_get(data, "memaddr");
		snprintf(text, size, "0x%" PRIx64, (uint64_t)json_integer_value(addr));
	}
	json_decref(answer);
	return found ? CLI_OK
		     : cli_fail(0, "%s: its guest has it nowhere, and another memfd is as long",
				object);
}

/* The inode of what process @pid has mapped at @host. */
static int mapped_inode(pid_t pid, uint64_t host, uint64_t *inode)
{
	char path[64], *line = NULL;
	size_t room = 0;
	bool found = false;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "re");
	if (!maps)
		return cli_fail(errno, "%s", path);
	while (!found && getline(&line, &room, maps) > 0) {
		uint64_t first, end;

		found = sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*s %*s %" SCNu64, &first, &end,
			       inode) == 3 &&
			host >= first && host < end;
	}
	free(line);
	fclose(maps);
	return found ? CLI_OK : cli_fail(0, "%s: nothing at %#" PRIx64, path, host);
}

static int inode_of(struct qmp *qmp, const char *id, uint64_t *inode)
{
	char object[300], address[32], command[64];
	const char *said, *host;
	json_t *answer;
	uint64_t value;
	int rc;

	snprintf(object, sizeof(object), "/objects/%s", id);
	rc = guest_address(qmp, object, address, sizeof(address));
	if (rc)
		return rc;
	snprintf(command, sizeof(command), "gpa2hva %s", address);
	rc = qmp_run(qmp, "human-monitor-command", json_pack("{s:s}", "command-line", command), -1,
		     &answer);
	if (rc)
		return rc;
	said = json_string_value(answer);
	host = said ? strstr(said, " is 0x") : NULL;
	value = host ? strtoull(host + 4, NULL, 16) : 0;
	json_decref(answer);
	if (!value)
		return cli_fail(0, "%s: QEMU does not tell where it is mapped", id);
	return mapped_inode(qmp->pid, value, inode);
}

/* ------------------------------------------------------------------------------------- its file */

struct memfds {
	unsigned count; /* that fit */
	char path[64];	/* of the last of them */
};

/* Those of @pid that have @size bytes and, if it is not 0, this inode. */
static int look_for_memfds(pid_t pid, uint64_t size, uint64_t inode, struct memfds *found)
{
	char path[64], link[PATH_MAX];
	uint64_t last = 0;
	struct dirent *entry;
	struct stat st;
	DIR *folder;

	found->count = 0;
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	folder = opendir(path);
	if (!folder)
		return cli_fail(errno, "%s", path);
	while ((entry = readdir(folder))) {
		ssize_t length = readlinkat(dirfd(folder), entry->d_name, link, sizeof(link) - 1);

		if (length < 0 || fstatat(dirfd(folder), entry->d_name, &st, 0) < 0)
			continue;
		link[length] = '\0';
		if (strncmp(link, memfd_name, sizeof(memfd_name) - 1) != 0 ||
		    (uint64_t)st.st_size != size || (inode && st.st_ino != inode) ||
		    (found->count && st.st_ino == last))
			continue;
		last = st.st_ino;
		found->count++;
		snprintf(found->path, sizeof(found->path), "/proc/%d/fd/%d", (int)pid,
			 atoi(entry->d_name));
	}
	closedir(folder);
	return CLI_OK;
}

static int open_memfd(struct qmp *qmp, struct qemu_block *block)
{
	struct memfds found;
	uint64_t inode;
	int rc = look_for_memfds(qmp->pid, block->size, 0, &found);

	if (!rc && found.count > 1) {
		rc = inode_of(qmp, block->id, &inode);
		if (!rc)
			rc = look_for_memfds(qmp->pid, block->size, inode, &found);
	}
	if (rc)
		return rc;
	if (found.count != 1)
		return cli_fail(0, "%s: process %d has no memfd of %" PRIu64 " bytes", block->id,
				(int)qmp->pid, block->size);
	block->fd = open(found.path, O_RDONLY | O_CLOEXEC);
	return block->fd < 0 ? cli_fail(errno, "%s: %s", block->id, found.path) : CLI_OK;
}

static int open_file(struct qmp *qmp, struct qemu_block *block)
{
	char object[300], name[PATH_MAX], path[PATH_MAX + 64];
	struct stat st;
	int rc;

	snprintf(object, sizeof(object), "/objects/%s", block->id);
	rc = get_text(qmp, object, "mem-path", name, sizeof(name));
	if (rc)
		return rc;
	/* as that process sees it */
	snprintf(path, sizeof(path), "/proc/%d/%s/%s", (int)qmp->pid,
		 name[0] == '/' ? "root" : "cwd", name);
	block->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (block->fd < 0 || fstat(block->fd, &st) < 0)
		return cli_fail(errno, "%s: %s", block->id, name);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < block->size)
		return cli_fail(0, "%s: %s is %s", block->id, name,
				S_ISREG(st.st_mode) ? "shorter than the memory"
						    : "no file (mem-path has to name one)");
	return CLI_OK;
}

static int open_block(struct qmp *qmp, const json_t *told, struct qemu_block *block)
{
	char kind[64];
	int rc;

	rc = qmp_text(told, "id", block->id, sizeof(block->id));
	if (rc)
		return rc;
	block->size = (uint64_t)json_integer_value(json_object_get(told, "size"));
	if (!json_is_true(json_object_get(told, "share")))
		return cli_fail(0, "%s: this memory is not shared (share=on)", block->id);
	rc = get_kind(qmp, block->id, kind, sizeof(kind));
	if (rc)
		return rc;
	if (!strcmp(kind, "child<memory-backend-memfd>"))
		return open_memfd(qmp, block);
	if (!strcmp(kind, "child<memory-backend-file>"))
		return open_file(qmp, block);
	return cli_fail(0, "%s: neither memory-backend-file nor memory-backend-memfd", block->id);
}

/* Memory that is in no back-end would make QEMU write it into its device state. */
static int check_machine(struct qmp *qmp)
{
	char name[300];
	int rc = get_text(qmp, "/machine", "memory-backend", name, sizeof(name));

	if (!rc && !name[0])
		rc = cli_fail(0,
			      "the machine's memory is in no back-end (-machine memory-backend=ID "
			      "-object memory-backend-memfd,id=ID,size=...,share=on)");
	return rc;
}

int qemu_memory_find(struct qmp *qmp, struct qemu_memory *memory)
{
	json_t *answer = NULL;
	size_t n;
	int rc;

	memset(memory, 0, sizeof(*memory));
	rc = check_machine(qmp);
	if (!rc)
		rc = qmp_run(qmp, "query-memdev", NULL, -1, &answer);
	if (rc)
		return rc;
	memory->blocks = calloc(json_array_size(answer) + 1, sizeof(*memory->blocks));
	if (!memory->blocks)
		rc = cli_fail(ENOMEM, "QEMU's memory");
	for (n = 0; !rc && n < json_array_size(answer); n++) {
		memory->blocks[n].fd = -1;
		memory->count = n + 1;
		rc = open_block(qmp, json_array_get(answer, n), &memory->blocks[n]);
	}
	json_decref(answer);
	if (!rc && !memory->count)
		rc = cli_fail(0, "QEMU has no memory back-end");
	if (rc)
		qemu_memory_close(memory);
	return rc;
}

void qemu_memory_close(struct qemu_memory *memory)
{
	size_t n;

	for (n = 0; n < memory->count; n++) {
		if (memory->blocks[n].fd >= 0)
			close(memory->blocks[n].fd);
	}
	free(memory->blocks);
	memset(memory, 0, sizeof(*memory));
}
