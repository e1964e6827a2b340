/* SPDX-License-Identifier: MIT */
/* See shared.h. */
#include "vhost/shared.h"
#include "base/error.h"
#include "base/range.h"
#include "os/file.h"
#include "os/memory.h"
#include <errno.h>
#include <sys/mman.h>

int gr__shared_map(int fd, uint64_t offset, uint64_t size, bool survive, struct gr__shared *result)
{
	struct gr__shared shared = {.size = size};
	struct gr__file_info info;
	uint64_t last, page_size, first;
	int rc;

	if (!gr__range_last(offset, size, &last))
		return gr__fail(-ERANGE, "%#llx bytes at offset %#llx: empty, or they wrap",
				(unsigned long long)size, (unsigned long long)offset);
	rc = gr__file_get_info(fd, &info);
	if (rc < 0)
		return gr__fail(rc, "a descriptor that tells nothing of its file");
	if (!info.regular || !gr__range_within(offset, size, info.size))
		return gr__fail(-EINVAL, "%#llx bytes at offset %#llx are not in %s of %#llx",
				(unsigned long long)size, (unsigned long long)offset,
				info.regular ? "a file" : "what is no file",
				(unsigned long long)info.size);
	if (!info.readable || !info.writable)
		return gr__fail(-EACCES, "a descriptor for reading alone");
	page_size = info.huge_page_size ? info.huge_page_size : gr__os_page_size();
	first = gr__align_down(offset, page_size);
	/* the file has them, so these sums do not wrap */
	if (!gr__align_up(size + (offset - first), page_size, &shared.map_length))
		return gr__fail(-ERANGE, "%#llx bytes are too many", (unsigned long long)size);
	rc = gr__os_map(shared.map_length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, first,
			&shared.map);
	if (rc < 0)
		return gr__fail(rc, "%#llx bytes cannot be mapped", (unsigned long long)size);
	if (survive) {
		rc = gr__sigbus_guard_add(shared.map, shared.map_length, page_size,
					  PROT_READ | PROT_WRITE, &shared.guard);
		if (rc < 0) {
			gr__os_unmap(shared.map, shared.map_length);
			return gr__fail(rc, "no memory for a guard");
		}
	}
	shared.bytes = (uint8_t *)shared.map + (offset - first);
	*result = shared;
	return 0;
}

void gr__shared_unmap(struct gr__shared *shared)
{
	if (!shared->bytes)
		return;
	gr__sigbus_guard_remove(shared->guard); /* first: others get these addresses next */
	gr__os_unmap(shared->map, shared->map_length);
	*shared = (struct gr__shared){0};
}
