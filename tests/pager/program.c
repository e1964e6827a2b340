/* SPDX-License-Identifier: MIT */
/* See program.h. */
#include "program.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>

pid_t program_start(const char *program, const char *const *words, const char *said)
{
	const char *argv[40] = {program, "pager"};
	pid_t pid = fork();
	int null, error;

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (unsigned i = 0; words[i] && i < COUNT_OF(argv) - 3; i++)
		argv[i + 2] = words[i];
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	dup2(null, 1);
	if (said) {
		error = open(said, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		dup2(error, 2);
	}
	execv(program, (char **)(uintptr_t)argv);
	_exit(127);
}

pid_t server_of(pid_t keeper)
{
	char name[80], text[40] = "";
	FILE *file;

	snprintf(name, sizeof(name), "/proc/%d/task/%d/children", (int)keeper, (int)keeper);
	file = fopen(name, "r");
	if (!file || !fgets(text, sizeof(text), file))
		text[0] = 0;
	if (file)
		fclose(file);
	return atoi(text);
}
