/* SPDX-License-Identifier: MIT */
#include "fake.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

/* as the kernel's headers from 6.8 on */
struct region2 {
	uint32_t slot, flags;
	uint64_t addr, size, host, guest_memfd_offset;
	uint32_t guest_memfd, pad1;
	uint64_t pad2[14];
};

#define FAKE_REGION2 0x40a0ae49ul
#define FAKE_CREATE 0xc040aed4ul

struct fake fake;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void fake_reset(void)
{
	memset(&fake, 0, sizeof(fake));
	fake.slots_max = FAKE_SLOTS;
	fake.address_spaces = 1;
	fake.read_only = 1;
}

const struct fake_slot *fake_at(uint64_t addr)
{
	int i;

	for (i = 0; i < FAKE_SLOTS; i++)
		if (addr - fake.slots[0][i].addr < fake.slots[0][i].size)
			return &fake.slots[0][i];
	return NULL;
}

static bool is_told_to_fail(int *count)
{
	if (*count > 0)
		return !--*count;
	return *count < 0;
}

static bool overlaps(const struct fake_slot *row, unsigned number, uint64_t addr, uint64_t size)
{
	unsigned i;

	for (i = 0; i < FAKE_SLOTS; i++)
		if (i != number && row[i].size && addr < row[i].addr + row[i].size &&
		    row[i].addr < addr + size)
			return true;
	return false;
}

static int refuse(int error)
{
	fake.wrong++;
	return error;
}

static int set_region(const struct region2 *r)
{
	unsigned number = r->slot & 0xffff, space = r->slot >> 16;
	struct fake_slot *slot;

	if ((int)number >= fake.slots_max || (int)space >= fake.address_spaces ||
	    (r->addr | r->size | r->host) % 4096)
		return refuse(EINVAL);
	slot = &fake.slots[space][number];
	if (!r->size) {
		if (!slot->size)
			return refuse(EINVAL);
		if (is_told_to_fail(&fake.fail_deletes))
			return fake.fail_with;
		slot->size = 0;
		fake.in_use--;
		fake.deletes++;
		return 0;
	}
	if (is_told_to_fail(&fake.fail_sets))
		return fake.fail_with;
	if (slot->size) {
		/* only flags, and not that of rights */
		if (slot->size != r->size || slot->host != r->host || slot->addr != r->addr ||
		    ((slot->flags ^ r->flags) & KVM_MEM_READONLY) || (slot->flags & 4))
			return refuse(EINVAL);
		slot->flags = r->flags;
		fake.flag_changes++;
		return 0;
	}
	if (overlaps(fake.slots[space], number, r->addr, r->size))
		return EEXIST;
	*slot = (struct fake_slot){
		r->flags, r->addr, r->size, r->host, r->guest_memfd_offset, (int)r->guest_memfd};
	fake.in_use++;
	fake.sets++;
	return 0;
}

static int check(unsigned long capability)
{
	switch (capability) {
	case KVM_CAP_NR_MEMSLOTS:
		return fake.slots_max;
	case KVM_CAP_MULTI_ADDRESS_SPACE:
		return fake.address_spaces;
	case KVM_CAP_READONLY_MEM:
		return fake.read_only;
	case 231: /* KVM_CAP_USER_MEMORY2 */
	case 234: /* KVM_CAP_GUEST_MEMFD */
		return fake.guest_memfd;
	default:
		return 0;
	}
}

/* The names are the linker's. NOLINTBEGIN(bugprone-reserved-identifier) */
int __wrap_ioctl(int fd, unsigned long request, ...);
int __real_ioctl(int fd, unsigned long request, ...);
/* NOLINTEND(bugprone-reserved-identifier) */

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	struct region2 region = {0};
	void *arg;
	va_list args;
	int error;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (fd != FAKE_FD)
		return __real_ioctl(fd, request, arg);
	if (request == KVM_CHECK_EXTENSION)
		return check((unsigned long)(uintptr_t)arg);
	if (request == FAKE_CREATE)
		return open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (request == KVM_SET_USER_MEMORY_REGION) {
		const struct kvm_userspace_memory_region *plain = arg;

		region.slot = plain->slot;
		region.flags = plain->flags;
		region.addr = plain->guest_phys_addr;
		region.size = plain->memory_size;
		region.host = plain->userspace_addr;
	} else if (request == FAKE_REGION2) {
		memcpy(&region, arg, sizeof(region));
	} else {
		errno = ENOTTY;
		return -1;
	}
	pthread_mutex_lock(&lock);
	error = set_region(&region);
	pthread_mutex_unlock(&lock);
	errno = error;
	return error ? -1 : 0;
}

/* ------------------------------------------------------------------ do slots equal ranges? */

struct comparison {
	int ranges, wrong;
};

static int compare(void *context, const struct gr_range *range)
{
	struct comparison *comparison = context;
	const struct fake_slot *slot = fake_at(range->addr);

	if (!range->visible)
		return 0;
	comparison->ranges++;
	if (!slot || slot->addr != range->addr || slot->size != range->visible ||
	    slot->host != (uintptr_t)range->host ||
	    !(slot->flags & KVM_MEM_READONLY) != !!(range->access & GR_WRITE))
		comparison->wrong++;
	return 0;
}

bool slots_equal_ranges(struct gr_kvm *kvm, struct gr_space *space)
{
	struct comparison comparison = {0};
	struct gr_kvm_stats stats;
	struct gr_kvm_slot slots[FAKE_SLOTS];
	int count = gr_kvm_get_slots(kvm, slots, FAKE_SLOTS), i;

	gr_kvm_get_stats(kvm, &stats);
	gr_read_begin();
	gr_space_each_range(space, compare, &comparison);
	gr_read_end();
	for (i = 0; i < count; i++) {
		const struct fake_slot *slot =
			&fake.slots[slots[i].number >> 16][slots[i].number & 0xffff];

		if (slot->addr != slots[i].addr || slot->size != slots[i].length ||
		    slot->flags != slots[i].flags)
			return false;
	}
	return !comparison.wrong && comparison.ranges == fake.in_use && count == fake.in_use &&
	       (int)stats.slots == fake.in_use && !stats.pending && !stats.stuck && !stats.missing;
}
