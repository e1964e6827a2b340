/* SPDX-License-Identifier: MIT */
/* What an input must leave as it found it. See fuzz.h. */
#include "fuzz.h"
#include <dirent.h>

static unsigned count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned count = 0;

	FUZZ_CHECK(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count; /* with ".", ".." and the directory's own: the same each time */
}

static unsigned count_maps(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned count = 0;
	char line[512];

	FUZZ_CHECK(maps);
	while (fgets(line, sizeof(line), maps))
		count += strstr(line, "/memfd:") != NULL;
	fclose(maps);
	return count;
}

struct fuzz_ledger fuzz_ledger_now(void)
{
	return (struct fuzz_ledger){count_fds(), count_maps()};
}

void fuzz_ledger_check(const struct fuzz_ledger *before)
{
	struct fuzz_ledger now = fuzz_ledger_now();

	FUZZ_CHECK_SAY(now.fds == before->fds, "%u descriptors, there were %u", now.fds,
		       before->fds);
	FUZZ_CHECK_SAY(now.maps == before->maps, "%u mappings of memfds, there were %u", now.maps,
		       before->maps);
}
