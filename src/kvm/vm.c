/* SPDX-License-Identifier: MIT */
/*
 * The calls on a machine's descriptor. What younger kernels know is declared here, so that the
 * library built with older headers can use it.
 *
 * Threads: no state; any number at once.
 */
#include "kvm/kvm.h"
#include "os/event.h"
#include "os/file.h"
#include "os/hooks.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* struct kvm_userspace_memory_region2 and struct kvm_create_guest_memfd of Linux 6.8 */
struct wire_region2 {
	uint32_t slot, flags;
	uint64_t guest_phys_addr, memory_size, userspace_addr;
	uint64_t guest_memfd_offset;
	uint32_t guest_memfd, pad1;
	uint64_t pad2[14];
};

struct wire_guest_memfd {
	uint64_t size, flags;
	uint64_t reserved[6];
};

_Static_assert(sizeof(struct wire_region2) == 160, "as the kernel has it");
_Static_assert(sizeof(struct wire_guest_memfd) == 64, "as the kernel has it");

#define SET_REGION2 _IOW(KVMIO, 0x49, struct wire_region2)
#define CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct wire_guest_memfd)
#define WITH_GUEST_MEMFD (1u << 2) /* KVM_MEM_GUEST_MEMFD */

static int call(int fd, unsigned long request, void *arg)
{
	int rc;

	do
		rc = ioctl(fd, request, arg);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : rc;
}

int gr__kvm_check(int vm_fd, unsigned capability)
{
	int error = GR_FAULT("kvm.check");
	int rc;

	if (error)
		return -error;
	rc = ioctl(vm_fd, KVM_CHECK_EXTENSION, (unsigned long)capability);
	return rc < 0 ? -errno : rc;
}

int gr__kvm_set_region(int vm_fd, const struct gr__kvm_region *region)
{
	struct kvm_userspace_memory_region plain = {
		.slot = region->number,
		.flags = region->flags,
		.guest_phys_addr = region->addr,
		.memory_size = region->size,
		.userspace_addr = (uintptr_t)region->host,
	};
	struct wire_region2 more = {
		.slot = region->number,
		.flags = region->flags,
		.guest_phys_addr = region->addr,
		.memory_size = region->size,
		.userspace_addr = (uintptr_t)region->host,
		.guest_memfd_offset = region->guest_memfd_offset,
		.guest_memfd = (uint32_t)region->guest_memfd,
	};
	int error = 0;

	if (region->size)
		error = GR_FAULT("kvm.set");
	else
		error = GR_FAULT("kvm.delete");
	if (error)
		return -error;
	if (region->flags & WITH_GUEST_MEMFD)
		return call(vm_fd, SET_REGION2, &more);
	return call(vm_fd, KVM_SET_USER_MEMORY_REGION, &plain);
}

int gr__kvm_guest_memfd(int vm_fd, uint64_t size, uint64_t flags)
{
	struct wire_guest_memfd create = {.size = size, .flags = flags};
	int error = GR_FAULT("kvm.guest_memfd");

	return error ? -error : call(vm_fd, CREATE_GUEST_MEMFD, &create);
}

/* ------------------------------------------------------------------------------- dirty pages */

int gr__kvm_enable(int vm_fd, unsigned capability, uint64_t argument)
{
	struct kvm_enable_cap enable = {.cap = capability, .args = {argument}};
	int error = GR_FAULT("kvm.enable");

	return error ? -error : call(vm_fd, KVM_ENABLE_CAP, &enable);
}

int gr__kvm_get_log(int vm_fd, unsigned number, uint64_t *words)
{
	struct kvm_dirty_log log = {.slot = number, .dirty_bitmap = words};
	int error = GR_FAULT("kvm.get_log");

	return error ? -error : call(vm_fd, KVM_GET_DIRTY_LOG, &log);
}

int gr__kvm_clear_log(int vm_fd, unsigned number, uint64_t first, uint64_t count, uint64_t *words)
{
	struct kvm_clear_dirty_log clear = {
		.slot = number,
		.first_page = first,
		.num_pages = (uint32_t)count, /* a slot has below 2^31 */
		.dirty_bitmap = words,
	};
	int error = GR_FAULT("kvm.clear_log");

	return error ? -error : call(vm_fd, KVM_CLEAR_DIRTY_LOG, &clear);
}

int gr__kvm_reset_rings(int vm_fd)
{
	int error = GR_FAULT("kvm.reset_rings");

	return error ? -error : call(vm_fd, KVM_RESET_DIRTY_RINGS, NULL);
}

bool gr__kvm_tells_late(void)
{
	int fd = gr__file_open("/sys/module/kvm_intel/parameters/pml", O_RDONLY, 0);
	char answer = 'Y';

	if (fd < 0)
		return fd != -ENOENT; /* another kind of processor */
	if (read(fd, &answer, 1) != 1)
		answer = 'Y';
	gr__fd_close(fd);
	return answer != 'N';
}
