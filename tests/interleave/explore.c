/* SPDX-License-Identifier: MIT */
/* See explore.h. */
#include "explore.h"
#include "memory.h"
#include "os/hooks.h"
#include "schedule.h"
#include <ctype.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef WITH_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#define STEPS_MAX 4000
/* One run takes far less than a millisecond. */
#define HANG_SECONDS 20
#define RUNS_PER_ALARM 256

struct step {
	const char *point;
	unsigned running, enabled; /* as it was when the choice was made */
	unsigned untried;	   /* bits of alternatives that are still to be tried */
	unsigned chosen;
	unsigned preemptions; /* before this step */
};

static struct {
	struct step steps[STEPS_MAX];
	unsigned count;	   /* steps that are decided: what is repeated */
	unsigned at;	   /* steps taken in this run */
	unsigned bound;	   /* preemptions */
	bool cut;	   /* the bound kept something from being tried */
	const char *given; /* a schedule to follow instead, or NULL */
	unsigned given_left;
	struct outcome *outcome; /* shared with the parent */
} search;

enum mutant mutant;

/* --------------------------------------------------------------------------- schedules as text */

/* Threads by letter, each with the number of steps that it takes before another one does. */
static void write_schedule(char *text, size_t size)
{
	const char *letters = sched_letters();
	unsigned i = 0, steps;
	size_t used = 0;

	text[0] = '\0';
	while (i < search.at && used < size) {
		unsigned chosen = search.steps[i].chosen;

		for (steps = 0; i < search.at && search.steps[i].chosen == chosen; i++)
			steps++;
		used += snprintf(text + used, size - used, "%c%u", letters[chosen], steps);
	}
}

static unsigned follow_given(unsigned running, unsigned enabled)
{
	const char *letters = sched_letters(), *letter;

	if (!search.given_left && *search.given) {
		char *rest;

		if (!isdigit((unsigned char)search.given[1]))
			found("the schedule is malformed at \"%s\"", search.given);
		search.given_left = strtoul(search.given + 1, &rest, 10);
		letter = strchr(letters, search.given[0]);
		if (!letter || !search.given_left)
			found("the schedule is malformed at \"%s\"", search.given);
		search.steps[search.at].chosen = letter - letters;
		search.given = rest;
	} else if (search.given_left) {
		search.steps[search.at].chosen = search.steps[search.at - 1].chosen;
	} else { /* at its end: as it comes */
		return enabled & 1u << running ? running : (unsigned)__builtin_ctz(enabled);
	}
	search.given_left--;
	if (!(enabled & 1u << search.steps[search.at].chosen))
		found("the schedule does not fit: %c cannot run at step %u",
		      letters[search.steps[search.at].chosen], search.at + 1);
	return search.steps[search.at].chosen;
}

/* ------------------------------------------------------------------------------------ choosing */

/* Points are string constants: most are known by their address. */
static void note_point(const char *point)
{
	static const char *known[128];
	char *points = search.outcome->points;
	size_t used = strlen(points), i;

	for (i = 0; known[i]; i++)
		if (known[i] == point)
			return;
	if (i + 1 == sizeof(known) / sizeof(known[0]))
		found("there are more points than the explorer has room for");
	known[i] = point;
	snprintf(points + used, sizeof(search.outcome->points) - used, "%s\n", point);
}

static bool is_preemption(const struct step *step, unsigned chosen)
{
	return step->enabled & 1u << step->running && chosen != step->running;
}

static void decide(struct step *step, unsigned running, unsigned enabled, const char *point)
{
	const struct step *before = search.at ? step - 1 : NULL;
	unsigned preferred = enabled & 1u << running ? running : (unsigned)__builtin_ctz(enabled);

	note_point(point);
	step->point = point;
	step->running = running;
	step->enabled = enabled;
	step->preemptions =
		before ? before->preemptions + is_preemption(before, before->chosen) : 0;
	if (search.given) {
		step->untried = 0;
		step->chosen = follow_given(running, enabled);
		return;
	}
	step->chosen = preferred;
	step->untried = enabled & ~(1u << preferred);
	if (step->untried && preferred == running && step->preemptions == search.bound) {
		step->untried = 0; /* no preemption left to spend */
		search.cut = true;
	}
}

unsigned explore_choose(unsigned running, unsigned enabled, const char *point)
{
	struct step *step = &search.steps[search.at];

	if (search.at == STEPS_MAX) /* the schedule of the failure has all of them */
		found("it is not over after %d steps: does it turn in a circle?", STEPS_MAX);
	if (search.at >= search.count) {
		decide(step, running, enabled, point);
	} else if (step->running != running || step->enabled != enabled ||
		   strcmp(step->point, point) != 0) {
		found("the script does not repeat itself: step %u was at %s, now it is at %s",
		      search.at, step->point, point);
	}
	search.at++;
	return step->chosen;
}

/* The next schedule: the last step with an alternative takes it. False when there is none. */
static bool advance(void)
{
	search.count = search.at;
	while (search.count > 0) {
		struct step *step = &search.steps[search.count - 1];

		if (step->untried) {
			step->chosen = __builtin_ctz(step->untried);
			step->untried &= step->untried - 1;
			return true;
		}
		search.count--;
	}
	return false;
}

/* -------------------------------------------------------------------------------- in the child */

static __attribute__((noreturn)) void end_with(const char *message)
{
	struct outcome *outcome = search.outcome;
	const struct step *last = search.at ? &search.steps[search.at - 1] : NULL;

	outcome->failed = true;
	snprintf(outcome->message, sizeof(outcome->message), "%s", message);
	write_schedule(outcome->schedule, sizeof(outcome->schedule));
	outcome->preemptions = last ? last->preemptions + is_preemption(last, last->chosen) : 0;
	fflush(stdout);
	_exit(0); /* with threads that wait, and locks that are held */
}

void found(const char *format, ...)
{
	char message[sizeof(search.outcome->message)];
	va_list args;

	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	sched_trace("FOUND: %s", message);
	end_with(message);
}

/* What was running is broken and will not run on, so that what end_with() calls is safe enough. */
static void on_signal(int number)
{
	char message[100];

	if (number == SIGALRM)
		end_with("a run hangs where the scheduler does not see it");
	snprintf(message, sizeof(message), "signal %d (%s)", number, sigabbrev_np(number));
	end_with(message);
}

#ifdef WITH_ASAN
static void on_sanitizer(void)
{
	end_with("AddressSanitizer has stopped it");
}
#endif

static void catch_signals(void)
{
	static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM};
	struct sigaction action = {.sa_handler = on_signal};
	size_t i;

	sigfillset(&action.sa_mask);
	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		sigaction(numbers[i], &action, NULL);
#ifdef WITH_ASAN
	__sanitizer_set_death_callback(on_sanitizer);
#endif
}

/* Passing the turn on costs half as much when nobody has to wake another processor. */
static void stay_on_one_processor(void)
{
	int cpu = sched_getcpu();
	cpu_set_t set;

	CPU_ZERO(&set);
	if (cpu < 0)
		return;
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void run_once(const struct script *script)
{
	search.at = 0;
	memory_begin();
	sched_begin(script->ends);
	script->prepare();
	sched_run();
	script->judge();
	memory_end();
}

static void run_all(const struct script *script, unsigned bound)
{
	struct outcome *outcome = search.outcome;

	for (search.bound = 0; search.bound <= bound && !outcome->all; search.bound++) {
		outcome->schedules = 0;
		outcome->bound = search.bound;
		search.count = 0;
		search.cut = false;
		do {
			if (outcome->schedules % RUNS_PER_ALARM == 0)
				alarm(HANG_SECONDS);
			run_once(script);
			outcome->schedules++;
			if (search.at > outcome->steps)
				outcome->steps = search.at;
		} while (advance());
		outcome->all = !search.cut;
	}
}

static void run_given(const struct script *script, const char *schedule)
{
	search.given = schedule;
	alarm(HANG_SECONDS);
	run_once(script);
	search.outcome->schedules = 1;
	if (*search.given || search.given_left)
		found("the script was over before the schedule, at \"%s\"", search.given);
}

/* ------------------------------------------------------------------------------- in the parent */

static void in_child(const struct script *script, enum mutant which, unsigned bound,
		     const char *schedule, bool trace, struct outcome *outcome)
{
	struct outcome *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child;
	int status = 0;

	if (shared == MAP_FAILED) {
		perror("mmap");
		exit(2);
	}
	fflush(stdout);
	child = fork();
	if (!child) {
		mutant = which;
		search.outcome = shared;
		sched_tracing = trace;
		gr__hook_point = sched_point;
		catch_signals();
		stay_on_one_processor();
		if (schedule)
			run_given(script, schedule);
		else
			run_all(script, bound);
		fflush(stdout);
		_exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child) {
		perror("fork");
		exit(2);
	}
	*outcome = *shared;
	if (status && !outcome->failed) {
		outcome->failed = true;
		snprintf(outcome->message, sizeof(outcome->message),
			 "it died (wait status %#x) and could not say where", status);
	}
	munmap(shared, sizeof(*shared));
}

void explore(const struct script *script, enum mutant which, unsigned bound,
	     struct outcome *outcome)
{
	in_child(script, which, bound, NULL, false, outcome);
}

void explore_replay(const struct script *script, enum mutant which, const char *schedule,
		    bool trace, struct outcome *outcome)
{
	in_child(script, which, 0, schedule, trace, outcome);
}
