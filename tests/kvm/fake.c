/* SPDX-License-Identifier: MIT */
#include "fake.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
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
static int cpu_fd = -1;
static struct kvm_dirty_gfn *ring;

#define RING_OFFSET (KVM_DIRTY_LOG_PAGE_OFFSET * 4096l)
#define RING_COUNT (FAKE_RING_BYTES / sizeof(*ring))

void fake_reset(void)
{
	if (cpu_fd >= 0) {
		munmap(ring, FAKE_RING_BYTES);
		close(cpu_fd);
		cpu_fd = -1;
	}
	memset(&fake, 0, sizeof(fake));
	fake.addr_bits = 46;
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

/* The log goes with it. */
static int move(struct fake_slot *slot, unsigned number, unsigned space, const struct region2 *r)
{
	if (!fake.addr_bits || (r->addr + r->size) >> fake.addr_bits)
		return EINVAL;
	if (overlaps(fake.slots[space], number, r->addr, r->size))
		return EEXIST;
	slot->addr = r->addr;
	slot->flags = r->flags;
	fake.moves++;
	return 0;
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
		/* only flags, and not that of rights, or the address */
		if (slot->size != r->size || slot->host != r->host ||
		    ((slot->flags ^ r->flags) & KVM_MEM_READONLY) || (slot->flags & 4))
			return refuse(EINVAL);
		if (slot->addr != r->addr)
			return move(slot, number, space, r);
		if (!(r->flags & KVM_MEM_LOG_DIRTY_PAGES))
			memset(slot->log, 0, sizeof(slot->log));
		slot->flags = r->flags;
		fake.flag_changes++;
		return 0;
	}
	if (overlaps(fake.slots[space], number, r->addr, r->size))
		return EEXIST;
	*slot = (struct fake_slot){.flags = r->flags,
				   .addr = r->addr,
				   .size = r->size,
				   .host = r->host,
				   .guest_memfd_offset = r->guest_memfd_offset,
				   .guest_memfd = (int)r->guest_memfd};
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
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
		return fake.manual;
	case KVM_CAP_DIRTY_LOG_RING:
		return fake.ring_max;
	default:
		return 0;
	}
}

/* ------------------------------------------------------------------------------- dirty pages */

static int enable(const struct kvm_enable_cap *cap)
{
	if (cap->cap == KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) {
		fake.manual_on = (int)cap->args[0];
		return fake.manual ? 0 : EINVAL;
	}
	if (cap->cap != KVM_CAP_DIRTY_LOG_RING || fake.ring_bytes ||
	    cap->args[0] != FAKE_RING_BYTES)
		return EINVAL;
	fake.ring_bytes = cap->args[0];
	return 0;
}

static struct fake_slot *logged_slot(unsigned number)
{
	struct fake_slot *slot;

	if (number >= FAKE_SLOTS)
		return NULL;
	slot = &fake.slots[0][number];
	return slot->size && slot->flags & KVM_MEM_LOG_DIRTY_PAGES ? slot : NULL;
}

static int get_log(const struct kvm_dirty_log *log)
{
	struct fake_slot *slot = logged_slot(log->slot);

	if (fake.ring_bytes)
		return ENXIO;
	if (!slot)
		return log->slot == UINT32_MAX ? EINVAL : refuse(ENOENT);
	memcpy(log->dirty_bitmap, slot->log, (slot->size / 4096 + 63) / 64 * 8);
	if (!fake.manual_on)
		memset(slot->log, 0, sizeof(slot->log));
	fake.fetches++;
	return 0;
}

static int clear_log(const struct kvm_clear_dirty_log *clear)
{
	struct fake_slot *slot = logged_slot(clear->slot);
	const uint64_t *bits = clear->dirty_bitmap;
	uint64_t pages = slot ? slot->size / 4096 : 0, i;

	if (!slot || clear->first_page % 64 || clear->first_page >= pages ||
	    clear->num_pages > pages - clear->first_page ||
	    (clear->num_pages % 64 && clear->first_page + clear->num_pages != pages))
		return refuse(EINVAL);
	for (i = 0; i < (clear->num_pages + 63) / 64; i++)
		slot->log[clear->first_page / 64 + i] &= ~bits[i];
	fake.clears++;
	return 0;
}

int fake_cpu(void)
{
	cpu_fd = memfd_create("ring", MFD_CLOEXEC);
	if (cpu_fd < 0 || ftruncate(cpu_fd, RING_OFFSET + FAKE_RING_BYTES))
		return -1;
	ring = mmap(NULL, FAKE_RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, cpu_fd, RING_OFFSET);
	return ring == MAP_FAILED ? -1 : cpu_fd;
}

static int reset_ring(void)
{
	struct fake_slot *slot;
	int count = 0;

	if (!fake.ring_bytes)
		return -EINVAL;
	for (; ring && fake.ring_tail < fake.ring_head; fake.ring_tail++, count++) {
		struct kvm_dirty_gfn *entry = &ring[fake.ring_tail % RING_COUNT];

		if (!(entry->flags & KVM_DIRTY_GFN_F_RESET))
			break;
		slot = logged_slot(entry->slot);
		if (slot && entry->offset / 64 < FAKE_LOG_WORDS)
			slot->queued[entry->offset / 64] &= ~(1ull << (entry->offset % 64));
		entry->flags = 0;
	}
	fake.resets++;
	return count;
}

static bool push(struct fake_slot *slot, uint64_t page)
{
	struct kvm_dirty_gfn *entry = &ring[fake.ring_head % RING_COUNT];

	if (slot->queued[page / 64] >> (page % 64) & 1)
		return true;
	if (fake.ring_head - fake.ring_tail == RING_COUNT - FAKE_RING_KEPT)
		return false;
	entry->slot = (unsigned)(slot - fake.slots[0]);
	entry->offset = page;
	__atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
	fake.ring_head++;
	slot->queued[page / 64] |= 1ull << (page % 64);
	return true;
}

int fake_write(uint64_t addr, uint64_t *host)
{
	struct fake_slot *slot;
	int rc = 0;

	pthread_mutex_lock(&lock);
	slot = (struct fake_slot *)fake_at(addr);
	if (slot && !(slot->flags & KVM_MEM_READONLY)) {
		uint64_t page = (addr - slot->addr) / 4096;
		bool logs = slot->flags & KVM_MEM_LOG_DIRTY_PAGES && page / 64 < FAKE_LOG_WORDS;

		rc = 1;
		*host = slot->host + page * 4096;
		if (logs && fake.ring_bytes)
			rc = push(slot, page) ? 1 : -1;
		else if (logs)
			slot->log[page / 64] |= 1ull << (page % 64);
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

/* The names are the linker's. NOLINTBEGIN(bugprone-reserved-identifier) */
int __wrap_ioctl(int fd, unsigned long request, ...);
int __real_ioctl(int fd, unsigned long request, ...);
/* NOLINTEND(bugprone-reserved-identifier) */

static int answer(unsigned long request, void *arg)
{
	struct region2 region = {0};
	int count;

	switch (request) {
	case KVM_SET_USER_MEMORY_REGION: {
		const struct kvm_userspace_memory_region *plain = arg;

		region.slot = plain->slot;
		region.flags = plain->flags;
		region.addr = plain->guest_phys_addr;
		region.size = plain->memory_size;
		region.host = plain->userspace_addr;
		return -set_region(&region);
	}
	case FAKE_REGION2:
		memcpy(&region, arg, sizeof(region));
		return -set_region(&region);
	case KVM_ENABLE_CAP:
		return -enable(arg);
	case KVM_GET_DIRTY_LOG:
		return -get_log(arg);
	case KVM_CLEAR_DIRTY_LOG:
		return -clear_log(arg);
	case KVM_RESET_DIRTY_RINGS:
		count = reset_ring();
		return count;
	default:
		return -ENOTTY;
	}
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	void *arg;
	va_list args;
	int rc;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (fd != FAKE_FD)
		return __real_ioctl(fd, request, arg);
	if (request == KVM_CHECK_EXTENSION)
		return check((unsigned long)(uintptr_t)arg);
	if (request == FAKE_CREATE)
		return open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (fake.meanwhile)
		fake.meanwhile();
	pthread_mutex_lock(&lock);
	rc = answer(request, arg);
	pthread_mutex_unlock(&lock);
	if (fake.meanwhile)
		fake.meanwhile();
	errno = rc < 0 ? -rc : 0;
	return rc < 0 ? -1 : rc;
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
