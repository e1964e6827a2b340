/* SPDX-License-Identifier: MIT */
/*
 * A virtual machine on /dev/kvm, whole: a processor, a serial port that prints, RAM below and above
 * a hole, and a DIMM that is plugged and unplugged while the guest runs. What the guest adds up in
 * each DIMM is compared with what was put there. docs/machines.md goes through it.
 *
 * Threads: run_cpu() is the processor; main() is the monitor, which plugs. They share `bell`.
 */
#include <errno.h>
#include <fcntl.h>
#include <guestram.h>
#include <guestram/kvm.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define KIB 1024ull
#define MIB (1024 * KIB)
#define LOW (640 * KIB)	     /* RAM ends here, */
#define HIGH MIB	     /* and goes on here */
#define RAM_SIZE (2 * MIB)   /* both parts of it */
#define DIMM (16 * MIB)	     /* where DIMMs are plugged */
#define DIMM_SIZE (64 * KIB) /* each; small, since some machines emulate 32-bit guests */
#define ROUNDS 20
#define CODE 0x1000
#define SERIAL 0x3f8
#define BELL 0x510 /* in: where a DIMM is, 0: none now, 1: the end; out: the sum of its words */

/* The guest. 32 bits, no paging, stack and message in the RAM above the hole. */
__asm__(".pushsection .rodata\n"
	".code32\n"
	"guest_first:\n"
	"	mov $0x3f8, %edx; mov $0x100000, %esi\n" /* say the text that stands at HIGH */
	"1:	lodsb; test %al, %al; jz 2f\n"
	"	out %al, (%dx); jmp 1b\n"
	"2:	mov $0x510, %edx\n"
	"3:	in (%dx), %eax; cmp $1, %eax\n" /* is there a DIMM? */
	"	jb 3b; je 5f\n"
	"	mov %eax, %esi; mov $0x4000, %ecx; xor %eax, %eax\n"
	"4:	add (%esi), %eax; add $4, %esi; dec %ecx; jnz 4b\n" /* add it up */
	"	out %eax, (%dx); jmp 3b\n"
	"5:	hlt\n"
	"guest_end:\n"
	".code64\n"
	".popsection\n");
extern const char guest_first[], guest_end[];

/* Between the processor and the monitor: where a DIMM is (see BELL), and the guest's answer. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t rung;
	uint32_t dimm, sum;
	int answered, ended;
} bell = {.lock = PTHREAD_MUTEX_INITIALIZER, .rung = PTHREAD_COND_INITIALIZER};

struct cpu {
	int fd;
	struct kvm_run *run;
};

/* One access to a port. */
static void do_port(struct kvm_run *run)
{
	char *data = (char *)run + run->io.data_offset;

	pthread_mutex_lock(&bell.lock);
	if (run->io.port == SERIAL) {
		putchar(*data);
	} else if (run->io.direction == KVM_EXIT_IO_IN) {
		memcpy(data, &bell.dimm, sizeof(bell.dimm));
	} else {
		memcpy(&bell.sum, data, sizeof(bell.sum));
		bell.dimm = 0; /* once only */
		bell.answered = 1;
		pthread_cond_signal(&bell.rung);
	}
	pthread_mutex_unlock(&bell.lock);
}

static void *run_cpu(void *arg)
{
	const struct cpu *cpu = arg;

	while (!ioctl(cpu->fd, KVM_RUN, 0) || errno == EINTR) {
		if (cpu->run->exit_reason == KVM_EXIT_IO) {
			do_port(cpu->run);
		} else if (cpu->run->exit_reason != KVM_EXIT_INTR) {
			if (cpu->run->exit_reason != KVM_EXIT_HLT)
				fprintf(stderr, "kvm-tiny: exit %u\n", cpu->run->exit_reason);
			break; /* an access outside of RAM, too: there is nothing in the hole */
		}
	}
	pthread_mutex_lock(&bell.lock);
	bell.ended = cpu->run->exit_reason;
	pthread_cond_signal(&bell.rung);
	pthread_mutex_unlock(&bell.lock);
	return NULL;
}

/* Tell the guest @dimm, and wait for its answer or its end. */
static void ask_guest(uint32_t dimm, uint32_t *sum)
{
	pthread_mutex_lock(&bell.lock);
	bell.dimm = dimm;
	bell.answered = 0;
	while (!bell.answered && !bell.ended)
		pthread_cond_wait(&bell.rung, &bell.lock);
	*sum = bell.sum;
	pthread_mutex_unlock(&bell.lock);
}

/* A processor that is about to run CODE in 32-bit protected mode. */
static int make_cpu(int kvm_fd, int vm_fd, struct cpu *cpu)
{
	/* base 0, to 4 GiB; code at first, then data; present, 32 bits, in pages */
	struct kvm_segment flat = {0, 0xffffffff, 8, 11, 1, 0, 1, 1, 0, 1, 0, 0, 0};
	struct kvm_regs regs = {.rip = CODE, .rflags = 2};
	struct kvm_sregs sregs;
	int size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	cpu->fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	if (size < 0 || cpu->fd < 0 || ioctl(cpu->fd, KVM_GET_SREGS, &sregs))
		return -1;
	cpu->run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
	if (cpu->run == MAP_FAILED)
		return -1;
	sregs.cs = flat;
	flat.type = 3;
	flat.selector = 16;
	sregs.ds = sregs.es = sregs.ss = flat;
	sregs.cr0 |= 1;
	return ioctl(cpu->fd, KVM_SET_SREGS, &sregs) || ioctl(cpu->fd, KVM_SET_REGS, &regs);
}

/* One block on both sides of the hole, with the guest in it. */
static int make_ram(struct gr_ram *ram, struct gr_space *space)
{
	static const char hello[] = "hello from the guest\n";
	const struct gr_block_opts opts = {.name = "ram", .length = RAM_SIZE};
	struct gr_block *block;

	return gr_block_new(ram, &opts, &block) ||
	       gr_space_map(space, 0, block, 0, LOW, GR_READ | GR_WRITE) ||
	       gr_space_map(space, HIGH, block, LOW, RAM_SIZE - LOW, GR_READ | GR_WRITE) ||
	       gr_store(space, CODE, guest_first, (uint64_t)(guest_end - guest_first)) ||
	       gr_store(space, HIGH, hello, sizeof(hello));
}

/* A new DIMM, added up by the guest and taken away again. 0 when the sum was right. */
static int plug_and_unplug(struct gr_ram *ram, struct gr_space *space, uint32_t round)
{
	const struct gr_block_opts opts = {.name = "dimm", .length = DIMM_SIZE};
	uint32_t sum = 0, want = 0, i;
	struct gr_block_info info;
	struct gr_block *dimm;

	if (gr_block_new(ram, &opts, &dimm))
		return -1;
	gr_block_get_info(dimm, &info);
	for (i = 0; i < DIMM_SIZE / 4; i++)
		want += ((uint32_t *)info.host)[i] = i * 2654435761u + round;
	/* the processor runs on meanwhile; when this returns, the guest has the memory */
	if (gr_space_map(space, DIMM, dimm, 0, DIMM_SIZE, GR_READ | GR_WRITE))
		return -1;
	ask_guest(DIMM, &sum);
	if (sum != want)
		fprintf(stderr, "kvm-tiny: round %u: sum %#x, not %#x\n", round, sum, want);
	/* … and when this returns, it has not; the memory goes when nobody uses it any more */
	if (gr_space_unmap(space, DIMM, DIMM_SIZE) || gr_block_delete(dimm))
		return -1;
	return sum != want;
}

static int fail(const char *why)
{
	fprintf(stderr, "kvm-tiny: %s\n", why);
	return 1;
}

int main(void)
{
	int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), right = 0, i;
	int vm_fd = kvm_fd < 0 ? -1 : ioctl(kvm_fd, KVM_CREATE_VM, 0);
	struct gr_ram_stats stats;
	struct gr_space *space;
	struct gr_ram *ram;
	struct gr_kvm *kvm;
	pthread_t thread;
	struct cpu cpu;
	uint32_t sum;

	if (vm_fd < 0) {
		printf("skipped: no usable /dev/kvm (%s)\n", strerror(errno));
		return 77;
	}
	/* from gr_kvm_open() on, what is mapped in the space is the machine's memory */
	if (gr_ram_open(NULL, &ram) || gr_space_open(ram, "guest-physical", &space) ||
	    make_ram(ram, space) || gr_kvm_open(space, vm_fd, NULL, &kvm))
		return fail(gr_last_error());
	if (make_cpu(kvm_fd, vm_fd, &cpu) || pthread_create(&thread, NULL, run_cpu, &cpu))
		return fail("no processor");
	for (i = 0; i < ROUNDS && plug_and_unplug(ram, space, (uint32_t)i) == 0; i++)
		right++;
	ask_guest(1, &sum); /* halt */
	pthread_join(thread, NULL);
	if (gr_kvm_close(kvm) || gr_ram_drain(ram, 5000))
		return fail(gr_last_error());
	gr_ram_get_stats(ram, &stats);
	printf("%d DIMMs plugged, added up and unplugged; %d sums right; %llu blocks reclaimed\n",
	       i, right, (unsigned long long)stats.blocks_reclaimed);
	close(cpu.fd);
	close(vm_fd);
	return right != ROUNDS || stats.blocks_reclaimed != ROUNDS || bell.ended != KVM_EXIT_HLT ||
	       gr_ram_close(ram);
}
