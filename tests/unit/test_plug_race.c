/* SPDX-License-Identifier: MIT */
/* Granules: threads stopped at named points of the library (src/os/hooks.h); and a storm of all. */
#include "os/hooks.h"
#include "plug_util.h"
#include "stop.h"

#define COUNT 8

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;
static struct gr_plug *plug;
static char *host;

static int open_ram(void **unused)
{
	stuck = 0;
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block = new_anon(ram, "vmem", COUNT * GRANULE, 0);
	host = info_of(block).host;
	assert_ok(gr_plug_open(block, NULL, &plug));
	assert_ok(gr_plug_map(plug, space, 0, 0, COUNT * GRANULE, RW));
	assert_ok(gr_plug_add(plug, 0, 4 * GRANULE));
	memset(host, 0x66, PAGE);
	return 0;
}

static int close_ram(void **unused)
{
	assert_int_equal(stuck, 0);
	assert_ok(gr_plug_unmap(plug, space, 0));
	assert_ok(gr_plug_remove_all(plug));
	assert_ok(gr_plug_close(plug));
	assert_ok(gr_ram_close(ram));
	return 0;
}

static struct gr_pin pin;
static int pin_rc, remove_rc;

static void *pin_it(void *unused)
{
	pin_rc = gr_pin(space, 0, PAGE, RW, &pin);
	return NULL;
}

static void *remove_it(void *unused)
{
	remove_rc = gr_plug_remove(plug, 0, GRANULE);
	return NULL;
}

/* It saw that the granule may be pinned, and has not counted yet: the removal waits for it. */
static void test_a_pin_that_saw_its_granule_plugged_keeps_it(void **unused)
{
	pthread_t pinner, remover;

	arm("pin.granule");
	pinner = thread_start(pin_it, NULL);
	assert_true(gate_wait(&arrived));
	remover = thread_start(remove_it, NULL);
	sleep_us(20000);
	assert_int_equal(gr_plug_is(plug, 0, GRANULE), GR_PLUG_ALL);
	gate_open(&go_on);
	thread_join(pinner);
	thread_join(remover);
	assert_int_equal(pin_rc, 0);
	assert_int_equal(remove_rc, -EBUSY);
	assert_int_equal(*(unsigned char *)pin.host, 0x66);
	assert_ptr_equal(look_up(space, 0, 4 * GRANULE, RW), host);
	gr_unpin(&pin);
	assert_ok(gr_plug_remove(plug, 0, GRANULE));
	assert_int_equal(host[0], 0);
}

/* At each step of a removal: no new pin, and no other change of granules or of the block. */
static void test_nothing_gets_in_between_the_steps_of_a_removal(void **unused)
{
	static const char *const points[] = {"plug.closed", "plug.unpublished", "plug.discard"};
	struct gr_discard_claim *claim;
	size_t i;

	for (i = 0; i < COUNT_OF(points); i++) {
		pthread_t remover;
		struct gr_pin late;

		arm(points[i]);
		remover = thread_start(remove_it, NULL);
		assert_true(gate_wait(&arrived));
		assert_error(gr_pin(space, 0, PAGE, RW, &late), -EFAULT, "");
		assert_error(gr_block_pin(block, 0, PAGE, RW, &late), -EFAULT, "unplugged");
		assert_ok(gr_pin(space, GRANULE, PAGE, RW, &late)); /* its neighbour */
		gr_unpin(&late);
		assert_error(gr_plug_add(plug, 5 * GRANULE, GRANULE), -EBUSY, "granules");
		assert_error(gr_plug_remove(plug, GRANULE, GRANULE), -EBUSY, "granules");
		assert_error(gr_plug_remove_all(plug), -EBUSY, "granules");
		assert_error(gr_plug_unmap(plug, space, 0), -EBUSY, "granules");
		assert_error(gr_plug_map(plug, space, GIB, 0, GRANULE, RW), -EBUSY, "granules");
		assert_int_equal(gr_plug_close(plug), -EBUSY);
		assert_error(gr_block_resize(block, GRANULE), -EBUSY, "");
		assert_error(gr_block_delete(block), -EBUSY, "");
		assert_int_equal(gr_ram_close(ram), -EBUSY);
		assert_error(gr_discard_claim_open(ram, NULL, GR_DISCARD_FORBID, "dma", &claim),
			     -EBUSY, "");
		/* the bytes stay until the last step */
		assert_int_equal((unsigned char)host[0], i < 3 ? 0x66 : 0);
		gate_open(&go_on);
		thread_join(remover);
		assert_int_equal(remove_rc, 0);
		assert_int_equal(host[0], 0);
		assert_ok(gr_plug_add(plug, 0, GRANULE));
		memset(host, 0x66, PAGE);
	}
}

static void *hold_section(void *context)
{
	struct gate *gates = context;
	char *at;

	gr_read_begin();
	at = gr_host(space, 0, PAGE, RW);
	gate_open(&gates[0]);
	if (!gate_wait(&gates[1]) || !at || *(unsigned char *)at != 0x66)
		set(&stuck, 1);
	gr_read_end();
	return NULL;
}

/* A reader that looked the granule up reads its bytes until the section ends. */
static void test_memory_is_not_discarded_while_a_reader_has_it(void **unused)
{
	pthread_t reader, remover;
	struct gate gates[2];

	gate_init(&gates[0]);
	gate_init(&gates[1]);
	arm("plug.unpublished");
	remover = thread_start(remove_it, NULL);
	assert_true(gate_wait(&arrived)); /* hidden by now: a reader from before is needed */
	gate_open(&go_on);
	thread_join(remover);
	assert_ok(gr_plug_add(plug, 0, GRANULE));
	memset(host, 0x66, PAGE);

	reader = thread_start(hold_section, gates);
	assert_true(gate_wait(&gates[0]));
	remover = thread_start(remove_it, NULL);
	sleep_us(20000);
	assert_int_equal((unsigned char)host[0], 0x66);
	gate_open(&gates[1]);
	thread_join(reader);
	thread_join(remover);
	assert_int_equal(remove_rc, 0);
	assert_int_equal(host[0], 0);
}

/* The first grace period is over when a reader that loaded the view comes: the second is its. */
static void test_a_reader_between_the_two_grace_periods_is_waited_for(void **unused)
{
	pthread_t reader, remover;
	struct gate gates[2];

	gate_init(&gates[0]);
	gate_init(&gates[1]);
	arm("view.publish"); /* pins were looked at, the view is not there yet */
	remover = thread_start(remove_it, NULL);
	assert_true(gate_wait(&arrived));
	reader = thread_start(hold_section, gates);
	assert_true(gate_wait(&gates[0]));
	gate_open(&go_on);
	sleep_us(20000);
	assert_int_equal((unsigned char)host[0], 0x66);
	gate_open(&gates[1]);
	thread_join(reader);
	thread_join(remover);
	assert_int_equal(remove_rc, 0);
	assert_int_equal(host[0], 0);
}

static struct gr_block *ram0;
static struct gr_plug *second;
static int open_rc;

static void *open_granules(void *unused)
{
	open_rc = gr_plug_open(ram0, NULL, &second);
	return NULL;
}

static void *pin_ram0(void *unused)
{
	pin_rc = gr_block_pin(ram0, 0, PAGE, RW, &pin);
	return NULL;
}

/* Not counted yet when granules open, and found in a section that is waited for. */
static void test_a_pin_that_comes_while_granules_open_stops_it(void **unused)
{
	pthread_t opener, pinner;

	ram0 = new_anon(ram, "ram0", GRANULE, 0);
	second = NULL;
	memset(info_of(ram0).host, 4, PAGE);
	arm("pin.count");
	pinner = thread_start(pin_ram0, NULL);
	assert_true(gate_wait(&arrived));
	opener = thread_start(open_granules, NULL);
	assert_true(wait_until(({
		bool open;

		gr_read_begin();
		open = gr_plug_of(ram0);
		gr_read_end();
		open;
	})));
	gate_open(&go_on);
	thread_join(pinner);
	thread_join(opener);
	assert_int_equal(pin_rc, 0);
	assert_int_equal(open_rc, -EBUSY);
	assert_null(second);
	assert_int_equal(*(char *)pin.host, 4);
	gr_unpin(&pin);
	assert_int_equal(info_of(ram0).pins, 0);
	assert_ok(gr_plug_open(ram0, NULL, &second));
	assert_ok(gr_plug_close(second));
	assert_ok(gr_block_pin(ram0, 0, PAGE, RW, &pin)); /* ordinary memory */
	gr_unpin(&pin);
	assert_ok(gr_block_delete(ram0));
}

/* ---------------------------------------------------------------------------------- a storm */

static int stop, stale;

/* What is looked up or pinned holds its granule's number, until the section or the pin ends. */
static void *read_all(void *arg)
{
	struct rng rng = {(uintptr_t)arg};
	uint64_t lookups = 0;

	while (!get(&stop)) {
		uint64_t granule = rng_below(&rng, COUNT), addr = granule * GRANULE;
		struct gr_pin held;
		unsigned char *at;

		gr_read_begin();
		at = gr_host(space, addr, PAGE, GR_READ);
		/* zero between the plugging and the writer's own mark */
		if (at && __atomic_load_n(at, __ATOMIC_RELAXED) > 0 &&
		    __atomic_load_n(at, __ATOMIC_RELAXED) != granule + 1)
			set(&stale, 1);
		gr_read_end();
		if (!gr_pin(space, addr + PAGE, PAGE, RW, &held)) {
			unsigned char mark = (unsigned char)(1 + (uintptr_t)arg);

			__atomic_store_n((unsigned char *)held.host + (uintptr_t)arg, mark,
					 __ATOMIC_RELAXED);
			sched_yield();
			if (__atomic_load_n((unsigned char *)held.host + (uintptr_t)arg,
					    __ATOMIC_RELAXED) != mark)
				set(&stale, 2); /* discarded under a pin */
			gr_unpin(&held);
		}
		lookups++;
	}
	return (void *)(uintptr_t)lookups;
}

static void test_readers_and_pins_in_a_storm_of_granules(void **unused)
{
	struct rng rng = {7};
	pthread_t readers[2];
	unsigned changes = 0, refused = 0;
	int64_t end = now_ms() + 700;
	uint64_t i;

	stop = stale = 0;
	for (i = 0; i < 4; i++)
		host[i * GRANULE] = (char)(i + 1);
	for (i = 0; i < COUNT_OF(readers); i++)
		readers[i] = thread_start(read_all, (void *)(uintptr_t)i);
	while (now_ms() < end) {
		uint64_t granule = rng_below(&rng, COUNT);
		int rc;

		if (gr_plug_is(plug, granule * GRANULE, GRANULE) == GR_PLUG_NONE) {
			assert_ok(gr_plug_add(plug, granule * GRANULE, GRANULE));
			__atomic_store_n((unsigned char *)host + granule * GRANULE,
					 (unsigned char)(granule + 1), __ATOMIC_RELAXED);
		} else {
			rc = gr_plug_remove(plug, granule * GRANULE, GRANULE);
			assert_true(!rc || rc == -EBUSY);
			refused += rc < 0;
		}
		changes++;
	}
	set(&stop, 1);
	for (i = 0; i < COUNT_OF(readers); i++)
		thread_join(readers[i]);
	assert_int_equal(stale, 0);
	assert_int_equal(info_of(block).pins, 0);
	print_message("%u changes, %u refused for pins\n", changes, refused);
	assert_true(changes > 20);
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_ram, close_ram)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(test_a_pin_that_saw_its_granule_plugged_keeps_it),
		each(test_nothing_gets_in_between_the_steps_of_a_removal),
		each(test_memory_is_not_discarded_while_a_reader_has_it),
		each(test_a_reader_between_the_two_grace_periods_is_waited_for),
		each(test_a_pin_that_comes_while_granules_open_stops_it),
		each(test_readers_and_pins_in_a_storm_of_granules),
	};

	gr__hook_point = stop_at;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
