/* SPDX-License-Identifier: MIT */
#include "machine.h"
#include "testing.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>

bool machine_is_there(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = -1;
	int error = errno;

	if (fd >= 0) {
		vm = ioctl(fd, KVM_CREATE_VM, 0);
		error = errno;
	}
	if (vm < 0)
		printf("skipped: no usable /dev/kvm here (%s)\n", strerror(error));
	if (vm >= 0)
		close(vm);
	if (fd >= 0)
		close(fd);
	return vm >= 0;
}

static void no_work(int number)
{
}

void machine_open_without_cpu(struct machine *machine)
{
	const struct sigaction action = {.sa_handler = no_work}; /* interrupts KVM_RUN */

	memset(machine, 0, sizeof(*machine));
	pthread_mutex_init(&machine->lock, NULL);
	pthread_cond_init(&machine->changed, NULL);
	sigaction(SIGUSR1, &action, NULL);
	machine->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	machine->vm_fd = ioctl(machine->kvm_fd, KVM_CREATE_VM, 0);
	assert_true(machine->vm_fd >= 0);
	assert_int_equal(ioctl(machine->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000ul), 0);
}

void machine_add_cpu(struct machine *machine)
{
	machine->cpu_fd = ioctl(machine->vm_fd, KVM_CREATE_VCPU, 0);
	assert_true(machine->cpu_fd >= 0);
	machine->run_size = (size_t)ioctl(machine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	machine->run = mmap(NULL, machine->run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			    machine->cpu_fd, 0);
	assert_true(machine->run != MAP_FAILED);
}

void machine_open(struct machine *machine)
{
	machine_open_without_cpu(machine);
	machine_add_cpu(machine);
}

void machine_close(struct machine *machine)
{
	munmap(machine->run, machine->run_size);
	close(machine->cpu_fd);
	close(machine->vm_fd);
	close(machine->kvm_fd);
}

void machine_start(struct machine *machine, const struct start *start)
{
	struct kvm_regs regs = {.rip = start->entry,
				.rflags = 2,
				.rbx = start->ebx,
				.rcx = start->ecx,
				.rsi = start->esi,
				.rdi = start->edi,
				.rsp = 0x8000};
	struct kvm_sregs sregs;

	assert_int_equal(ioctl(machine->cpu_fd, KVM_GET_SREGS, &sregs), 0);
	sregs.cs.base = sregs.ds.base = sregs.es.base = sregs.ss.base = 0;
	sregs.cs.selector = sregs.ds.selector = sregs.es.selector = sregs.ss.selector = 0;
	if (!start->real_mode) {
		struct kvm_segment code = {.limit = 0xffffffff,
					   .selector = 8,
					   .type = 11,
					   .present = 1,
					   .db = 1,
					   .s = 1,
					   .g = 1};
		struct kvm_segment data = code;

		data.type = 3;
		data.selector = 16;
		sregs.cs = code;
		sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = data;
		sregs.cr0 |= 1;
	}
	assert_int_equal(ioctl(machine->cpu_fd, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(ioctl(machine->cpu_fd, KVM_SET_REGS, &regs), 0);
}

/* ---------------------------------------------------------------------------------- pausing */

int machine_run(struct machine *machine)
{
	int rc;

	for (;;) {
		pthread_mutex_lock(&machine->lock);
		machine->thread = pthread_self();
		while (machine->stopped)
			pthread_cond_wait(&machine->changed, &machine->lock);
		machine->inside = true;
		pthread_mutex_unlock(&machine->lock);

		/* a kick before this line is not lost: immediate_exit says so to the kernel */
		rc = ioctl(machine->cpu_fd, KVM_RUN, 0) < 0 ? -errno : 0;

		pthread_mutex_lock(&machine->lock);
		machine->inside = false;
		pthread_cond_broadcast(&machine->changed);
		pthread_mutex_unlock(&machine->lock);
		if (rc != -EINTR && rc != -EAGAIN)
			return rc < 0 ? rc : (int)machine->run->exit_reason;
	}
}

void machine_pause(void *context)
{
	struct machine *machine = context;

	pthread_mutex_lock(&machine->lock);
	machine->stopped = true;
	__atomic_store_n(&machine->run->immediate_exit, 1, __ATOMIC_RELEASE);
	if (machine->inside) {
		machine->kicks++;
		pthread_kill(machine->thread, SIGUSR1);
	}
	while (machine->inside)
		pthread_cond_wait(&machine->changed, &machine->lock);
	pthread_mutex_unlock(&machine->lock);
}

void machine_resume(void *context)
{
	struct machine *machine = context;

	pthread_mutex_lock(&machine->lock);
	__atomic_store_n(&machine->run->immediate_exit, 0, __ATOMIC_RELEASE);
	machine->stopped = false;
	pthread_cond_broadcast(&machine->changed);
	pthread_mutex_unlock(&machine->lock);
}

/* ----------------------------------------------------------------------------------- guests */

#define GUEST(name, bits, text)                                                                    \
	__asm__(".pushsection .rodata\n.code" #bits "\n" #name "_first:\n" text #name              \
		"_end:\n.code64\n.popsection\n");                                                  \
	extern const uint8_t name##_first[], name##_end[];                                         \
	const struct guest name = {name##_first, name##_end}

/* What it writes to ebx: mov $0x2a, %eax; ret. Then it calls that. */
GUEST(guest_touch, 32,
      "movl $0x00002ab8, (%ebx)\n"
      "movl $0x0000c300, 4(%ebx)\n"
      "movl (%ebx), %eax\n"
      "out %eax, $1\n"
      "call *%ebx\n"
      "out %eax, $1\n"
      "movl %eax, 0x100(%ebx)\n"
      "out %eax, $2\n");

/* mov $0x2a, %ax; retf */
GUEST(guest_real, 16,
      "mov $0x2000, %ax\n"
      "mov %ax, %ds\n"
      "movl $0xcb002ab8, (0)\n"
      "movl (0), %eax\n"
      "out %eax, $1\n"
      "lcall $0x2000, $0\n"
      "movzwl %ax, %eax\n"
      "out %eax, $1\n"
      "movl %eax, (0x100)\n"
      "out %eax, $2\n");

/*
 * Sums ecx words from ebx on, again and again. Each sum that is not esi is told on port 1. edi is
 * where rounds are counted; the word after it ends all when it is not zero.
 */
GUEST(guest_checksum, 32,
      "1: xorl %eax, %eax\n"
      "movl %ecx, %edx\n"
      "2: addl -4(%ebx, %edx, 4), %eax\n"
      "decl %edx\n"
      "jnz 2b\n"
      "cmpl %esi, %eax\n"
      "je 3f\n"
      "out %eax, $1\n"
      "3: incl (%edi)\n"
      "cmpl $0, 4(%edi)\n"
      "je 1b\n"
      "out %eax, $2\n");

GUEST(guest_store, 32,
      "movl %esi, (%ebx)\n"
      "movl (%ebx), %eax\n"
      "out %eax, $1\n"
      "out %eax, $2\n");

/*
 * Writes a number, each time another one, to the begin of one of ecx pages from ebx on, and counts
 * esi down. edi as in guest_checksum.
 */
GUEST(guest_scatter, 32,
      "1: imull $1103515245, %eax, %eax\n"
      "addl $12345, %eax\n"
      "movl %eax, %edx\n"
      "shrl $16, %edx\n"
      "imull %ecx, %edx\n"
      "shrl $16, %edx\n"
      "shll $12, %edx\n"
      "movl %eax, (%ebx, %edx)\n"
      "movl %esi, %edx\n"
      "2: decl %edx\n"
      "jns 2b\n"
      "incl (%edi)\n"
      "cmpl $0, 4(%edi)\n"
      "je 1b\n"
      "out %eax, $2\n");
