/* SPDX-License-Identifier: MIT */
/*
 * Time, medians, threads, rows and goals of all benchmarks; see bench.h.
 *
 * Threads: bench_threads() starts all but one of its threads itself and ends them before it
 * returns. `gate` counts those that are warm; the last one lets all go (release, pairs with the
 * acquire of those that spin on it).
 */
#include "bench.h"
#include "cli.h"
#include "out.h"
#include <dirent.h>
#include <errno.h>
#include <guestram.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <urcu/urcu-memb.h>

enum { ATTEMPTS = 6 }; /* of a piece that the kernel cut */

int bench_init(struct bench *bench, const char *name, bool quick)
{
	cpu_set_t allowed;
	int cpu;

	*bench = (struct bench){.name = name, .quick = quick};
	bench->repetitions = quick ? 3 : 31;
	CPU_ZERO(&allowed);
	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		return -errno;
	for (cpu = 0; cpu < CPU_SETSIZE && bench->processors < BENCH_THREADS_MAX; cpu++) {
		if (CPU_ISSET(cpu, &allowed))
			bench->processor[bench->processors++] = cpu;
	}
	bench->rows = json_array();
	bench->goals = json_array();
	if (bench->rows && bench->goals)
		return 0;
	bench_fini(bench);
	return -ENOMEM;
}

void bench_fini(struct bench *bench)
{
	json_decref(bench->rows);
	json_decref(bench->goals);
	bench->rows = NULL;
	bench->goals = NULL;
}

static json_t *machine(void)
{
	char line[256], processor[128] = "unknown";
	struct utsname name;
	FILE *file = fopen("/proc/cpuinfo", "re");

	while (file && fgets(line, sizeof(line), file)) {
		if (!strncmp(line, "model name", 10) && strchr(line, ':')) {
			snprintf(processor, sizeof(processor), "%.100s", strchr(line, ':') + 2);
			processor[strcspn(processor, "\n")] = 0;
			break;
		}
	}
	if (file)
		fclose(file);
	if (uname(&name))
		memset(&name, 0, sizeof(name));
	return json_pack("{s:i, s:s, s:s}", "cores", (int)sysconf(_SC_NPROCESSORS_ONLN),
			 "processor", processor, "kernel", name.release);
}

static int print_text(const struct bench *bench, json_t *machine)
{
	size_t i;
	json_t *goal;

	printf("bench %s on %lld cores, %s, Linux %s%s\n\n", bench->name,
	       (long long)json_integer_value(json_object_get(machine, "cores")),
	       json_string_value(json_object_get(machine, "processor")),
	       json_string_value(json_object_get(machine, "kernel")),
	       bench->quick ? " (quick: these are no figures)" : "");
	out_table(bench->rows, 0);
	puts("\ngoals");
	json_array_foreach(bench->goals, i, goal)
	{
		const json_t *met = json_object_get(goal, "met");
		const json_t *value = json_object_get(goal, "value");
		const char *why = json_string_value(json_object_get(goal, "why"));

		printf("  %-7s  %s: ",
		       json_is_true(met)    ? "met"
		       : json_is_false(met) ? "NOT MET"
					    : "-",
		       json_string_value(json_object_get(goal, "name")));
		if (json_is_number(value))
			printf("%.5g", json_number_value(value));
		else
			printf("not measured: %s", why ? why : "unknown");
		printf(" (goal %s %.5g)\n", json_string_value(json_object_get(goal, "relation")),
		       json_number_value(json_object_get(goal, "goal")));
	}
	return 0;
}

int bench_print(struct bench *bench, bool json)
{
	json_t *about, *all;
	int rc;

	out_progress_end();
	about = machine();
	all = json_pack("{s:s, s:b, s:o?, s:O, s:O}", "bench", bench->name, "quick", bench->quick,
			"machine", about, "rows", bench->rows, "goals", bench->goals);
	if (!all || !about || bench->error) {
		json_decref(all);
		return -ENOMEM;
	}
	rc = json ? out_json(all) : print_text(bench, about);
	json_decref(all);
	return rc < 0 ? rc : out_flush();
}

void bench_row(struct bench *bench, json_t *row)
{
	if (json_array_append_new(bench->rows, row))
		bench->error = -ENOMEM;
}

static const char *const relation_text[] = {[AT_MOST] = "<=", [AT_LEAST] = ">="};

void bench_goal(struct bench *bench, const char *name, double value, enum bench_relation relation,
		double goal)
{
	/* NaN meets nothing */
	bool met = relation == AT_MOST ? value <= goal : value >= goal;

	if (!met)
		bench->not_met = true;
	/* JSON knows no NaN or infinity */
	if (json_array_append_new(
		    bench->goals,
		    json_pack("{s:s, s:o, s:s, s:f, s:b}", "name", name, "value",
			      __builtin_isfinite(value) ? json_real(value) : json_null(),
			      "relation", relation_text[relation], "goal", goal, "met", met)))
		bench->error = -ENOMEM;
}

void bench_goal_missing(struct bench *bench, const char *name, enum bench_relation relation,
			double goal, const char *why)
{
	if (json_array_append_new(bench->goals,
				  json_pack("{s:s, s:n, s:s, s:f, s:n, s:s}", "name", name, "value",
					    "relation", relation_text[relation], "goal", goal,
					    "met", "why", why)))
		bench->error = -ENOMEM;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

double bench_percentile(double *values, int count, double share)
{
	if (count < 1)
		return 0;
	qsort(values, (size_t)count, sizeof(*values), compare);
	return values[(int)((count - 1) * share + 0.5)];
}

double bench_median(const double *values, int count)
{
	double sorted[BENCH_REPETITIONS_MAX];

	memcpy(sorted, values, (size_t)count * sizeof(*values));
	return bench_percentile(sorted, count, 0.5);
}

double bench_ratio(const double *a, const double *b, int count)
{
	double ratio[BENCH_REPETITIONS_MAX];
	int i;

	for (i = 0; i < count; i++)
		ratio[i] = a[i] / b[i];
	return bench_median(ratio, count);
}

double bench_difference(const double *a, const double *b, int count)
{
	double difference[BENCH_REPETITIONS_MAX];
	int i;

	for (i = 0; i < count; i++)
		difference[i] = a[i] - b[i];
	return bench_median(difference, count);
}

struct turn {
	const struct bench *bench;
	bench_fn fn;
	void *context;
	uint64_t iterations;
	int thread, threads;
	int *gate; /* atomic: threads that are not warm yet */
	double ns;
	bool preempted;
	pthread_t id;
};

static long preemptions(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nivcsw;
}

void bench_bind(const struct bench *bench, int thread)
{
	cpu_set_t mine;

	CPU_ZERO(&mine);
	CPU_SET(bench->processor[thread], &mine);
	sched_setaffinity(0, sizeof(mine), &mine);
}

static void *take_turn(void *argument)
{
	struct turn *turn = argument;
	uint64_t warm = turn->iterations / 2;
	long switches;
	double begin;

	bench_bind(turn->bench, turn->thread);
	if (warm > BENCH_TRACE)
		warm = BENCH_TRACE;
	turn->fn(turn->context, turn->thread, warm / 64 * 64);
	__atomic_sub_fetch(turn->gate, 1, __ATOMIC_RELEASE); /* pairs with the load below */
	while (__atomic_load_n(turn->gate, __ATOMIC_ACQUIRE) > 0)
		;
	switches = preemptions();
	begin = bench_now();
	turn->fn(turn->context, turn->thread, turn->iterations);
	turn->ns = bench_now() - begin;
	turn->preempted = preemptions() != switches;
	return NULL;
}

static void *take_registered_turn(void *argument)
{
	urcu_memb_register_thread();
	take_turn(argument);
	urcu_memb_unregister_thread();
	return NULL;
}

static double run_once(const struct bench *bench, int threads, bench_fn fn, void *context,
		       uint64_t iterations, bool *preempted)
{
	struct turn turn[BENCH_THREADS_MAX] = {{0}};
	int gate = threads, started, t, rc = 0;
	double slowest = 0;

	if (threads < 1 || threads > BENCH_THREADS_MAX)
		return -EINVAL;
	for (t = 0; t < threads; t++)
		turn[t] = (struct turn){bench,	 fn,	context, iterations, t,
					threads, &gate, 0,	 false,	     0};
	for (started = 1; started < threads; started++) {
		rc = pthread_create(&turn[started].id, NULL, take_registered_turn, &turn[started]);
		if (rc)
			break;
	}
	if (rc) /* those that are missing count as warm, so that the others end */
		__atomic_sub_fetch(&gate, threads - started, __ATOMIC_RELEASE);
	take_turn(&turn[0]);
	for (t = 1; t < started; t++)
		pthread_join(turn[t].id, NULL);
	if (rc)
		return -rc;
	for (t = 0; t < threads; t++) {
		if (turn[t].ns > slowest)
			slowest = turn[t].ns;
		*preempted |= turn[t].preempted;
	}
	return slowest / (double)iterations;
}

double bench_threads(const struct bench *bench, int threads, bench_fn fn, void *context,
		     uint64_t iterations)
{
	bool preempted = true;
	double ns = 0;
	int attempt;

	for (attempt = 0; attempt < ATTEMPTS && preempted && ns >= 0; attempt++) {
		preempted = false;
		ns = run_once(bench, threads, fn, context, iterations, &preempted);
	}
	return ns;
}

uint64_t bench_calibrate(const struct bench *bench, int threads, bench_fn fn, void *context)
{
	/* ns; shorter than a time slice, so that most pieces are not cut by one */
	double piece = bench->quick ? 0.2e6 : 1e6;
	uint64_t iterations = 64;

	for (;;) {
		double each = bench_threads(bench, threads, fn, context, iterations);
		double all = each * (double)iterations;

		if (each < 0 || all >= piece / 4) {
			double wanted = piece / (each > 0.01 ? each : 0.01);

			return wanted < 64 ? 64 : (uint64_t)wanted / 64 * 64;
		}
		iterations *= all < piece / 64 ? 8 : 2;
	}
}

long bench_rss_kib(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	long size, resident = -EIO;

	if (!file)
		return -errno;
	if (fscanf(file, "%ld %ld", &size, &resident) != 2)
		resident = -EIO;
	fclose(file);
	return resident < 0 ? resident : resident * (sysconf(_SC_PAGESIZE) / 1024);
}

long bench_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	long count = 0;

	if (!folder)
		return -errno;
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

long bench_maps(void)
{
	FILE *file = fopen("/proc/self/maps", "re");
	long lines = 0;
	int c;

	if (!file)
		return -errno;
	while ((c = getc(file)) != EOF)
		lines += c == '\n';
	fclose(file);
	return lines;
}

void bench_trace(uint64_t *trace, uint64_t ranges, uint64_t stride, uint64_t length, bool local)
{
	uint64_t x = UINT64_C(88172645463325252), range = 0;
	int i;

	for (i = 0; i < BENCH_TRACE; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		if (!local || (x >> 32) % 100 >= 95)
			range = ((uint64_t)(uint32_t)x * ranges) >> 32;
		trace[i] = range * stride + ((x >> 40) & (length - 8));
	}
}
