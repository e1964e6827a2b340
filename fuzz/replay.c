/* SPDX-License-Identifier: MIT */
/*
 * Runs inputs of a fuzzer once each, in a build without libFuzzer: the arguments are files, and
 * folders of files; after -v each step is shown. Exit code 0 when all of them ran; an input that
 * breaks a check ends the process after its name was printed, and one that hangs is ended by an
 * alarm.
 */
#include "fuzz.h"
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECONDS_EACH 60 /* the machine may have other things to do */

static char now_running[512];

/* Says which input it was, then dies of the signal as it would have. */
static void say_which(int signal)
{
	static const char text[] = "replay: this input did it: ";

	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0 ||
	    write(STDERR_FILENO, now_running, strlen(now_running)) < 0 ||
	    write(STDERR_FILENO, "\n", 1) < 0)
		_exit(1);
	raise(signal); /* SA_RESETHAND: the default action now */
}

static unsigned run_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data;
	long size;

	if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) < 0 ||
	    fseek(file, 0, SEEK_SET)) {
		fprintf(stderr, "replay: %s: %s\n", path, strerror(errno));
		exit(1);
	}
	/* exactly as long, so that a tool that watches the heap sees reads past its end */
	data = malloc(size ? (size_t)size : 1);
	if (!data || fread(data, 1, (size_t)size, file) != (size_t)size) {
		fprintf(stderr, "replay: %s cannot be read\n", path);
		exit(1);
	}
	fclose(file);
	snprintf(now_running, sizeof(now_running), "%s", path);
	alarm(SECONDS_EACH);
	LLVMFuzzerTestOneInput(data, (size_t)size);
	alarm(0);
	free(data);
	return 1;
}

static unsigned run_folder(const char *path)
{
	struct dirent **names;
	int count = scandir(path, &names, NULL, alphasort);
	unsigned ran = 0;

	if (count < 0) {
		fprintf(stderr, "replay: %s: %s\n", path, strerror(errno));
		exit(1);
	}
	for (int i = 0; i < count; i++) {
		char name[1024];

		snprintf(name, sizeof(name), "%s/%s", path, names[i]->d_name);
		if (names[i]->d_name[0] != '.')
			ran += run_file(name);
		free(names[i]);
	}
	free(names);
	return ran;
}

int main(int argc, char **argv)
{
	static const int deadly[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};
	struct sigaction action = {.sa_handler = say_which, .sa_flags = SA_RESETHAND | SA_NODEFER};
	unsigned ran = 0;

	for (size_t i = 0; i < COUNT_OF(deadly); i++)
		sigaction(deadly[i], &action, NULL);
	for (int i = 1; i < argc; i++) {
		struct stat st;

		if (!strcmp(argv[i], "-v")) {
			fuzz_verbose = true;
			continue;
		}
		if (stat(argv[i], &st)) {
			fprintf(stderr, "replay: %s: %s\n", argv[i], strerror(errno));
			return 1;
		}
		ran += S_ISDIR(st.st_mode) ? run_folder(argv[i]) : run_file(argv[i]);
	}
	if (!ran) {
		fprintf(stderr, "replay: no inputs\n");
		return 1;
	}
	printf("ok 1 - %u inputs replayed\n", ran);
	return 0;
}
