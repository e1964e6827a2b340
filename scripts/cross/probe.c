/* SPDX-License-Identifier: MIT */
/*
 * Says what the emulator in front of this program does not do, one word a line, for
 * scripts/run-cross: tests that need it are then skipped. A real kernel of Linux 5.14 gives
 * nothing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

/* Many emulators answer 0 and do nothing: the advice is a hint to them. */
static int madvise_acts(void)
{
	int fd = memfd_create("probe", MFD_CLOEXEC);
	char *page;

	if (fd < 0 || ftruncate(fd, PAGE) < 0)
		return 0;
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return 0;
	page[0] = 1;
	return !madvise(page, PAGE, MADV_REMOVE) && page[0] == 0;
}

static int numa_is_known(void)
{
	return !syscall(SYS_get_mempolicy, NULL, NULL, 0, NULL, 0);
}

/* A pool without pages is no lack: that is -ENOMEM, and tests say it themselves. */
static int hugetlb_is_known(void)
{
	void *page = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	return page != MAP_FAILED || errno == ENOMEM;
}

static int noreplace_is_known(void)
{
	void *taken = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *again = mmap(taken, PAGE, PROT_READ,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	return again == MAP_FAILED && errno == EEXIST;
}

static int uring_is_known(void)
{
	return syscall(SYS_io_uring_setup, 0, NULL) < 0 && errno != ENOSYS;
}

/* What it does not know is no descriptor's either. */
static int ioctls_of_kvm_are_known(void)
{
	return ioctl(-1, KVM_GET_API_VERSION, 0) < 0 && errno == EBADF;
}

static void leave(int number)
{
	(void)number;
	_exit(0);
}

/* A SIGBUS that is sent is taken by some for a fault of their own. */
static int sigbus_is_sent(void)
{
	siginfo_t info = {.si_signo = SIGBUS, .si_code = BUS_MCEERR_AR};
	pid_t child = fork();
	int status = -1;

	if (!child) {
		signal(SIGBUS, leave);
		syscall(SYS_rt_sigqueueinfo, getpid(), SIGBUS, &info);
		_exit(1);
	}
	return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

int main(void)
{
	static const struct {
		const char *name;
		int (*works)(void);
	} probes[] = {
		{"madvise", madvise_acts},	   {"numa", numa_is_known},
		{"hugetlb", hugetlb_is_known},	   {"sigbus", sigbus_is_sent},
		{"noreplace", noreplace_is_known}, {"uring", uring_is_known},
		{"kvm", ioctls_of_kvm_are_known},
	};
	size_t i;

	for (i = 0; i < sizeof(probes) / sizeof(probes[0]); i++)
		if (!probes[i].works())
			puts(probes[i].name);
	return 0;
}
