/* SPDX-License-Identifier: MIT */
/*
 * What the program makes of a status document that is damaged, of another version, or hostile: it
 * says why, or has structures that hold together; nothing else. Under AddressSanitizer this also
 * says that nothing is read beside them.
 */
#include "live.h"
#include "map.h"
#include "testing.h"
#include <guestram/status.h>

static struct gr_ram *ram;
static char *good;
static size_t good_length;

static int set_up(void **state)
{
	struct gr_space *space;
	struct gr_block *block, *gone;
	struct gr_pin pin;

	(void)state;
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "guest", &space));
	block = new_memfd(ram, "memory", 16 * PAGE);
	gone = new_anon(ram, "gone", PAGE, PAGE);
	assert_ok(gr_space_map(space, 0x1000, block, PAGE, PAGE, RW));
	assert_ok(gr_space_map(space, 0x4000, block, 2 * PAGE, 2 * PAGE, GR_READ));
	assert_ok(gr_block_pin(gone, 0, 1, GR_READ, &pin));
	assert_ok(gr_block_delete(gone));
	assert_ok(gr_status_text(&good));
	good_length = strlen(good);
	gr_unpin(&pin);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	free(good);
	return gr_ram_close(ram);
}

/* All that the verbs rely on. */
static void check(const struct live *live)
{
	size_t i, k, m;

	for (i = 0; i < live->count; i++) {
		const struct live_ram *one = &live->rams[i];

		for (k = 0; k < one->space_count; k++) {
			for (m = 0; m < one->spaces[k].count; m++) {
				const struct live_range *range = &one->spaces[k].ranges[m];

				assert_true(range->block < one->block_count);
				assert_true(range->length && range->visible <= range->length);
				assert_true(range->addr + (range->length - 1) >= range->addr);
				assert_true(!m || range->addr > range[-1].addr);
			}
		}
		for (k = 0; k < one->block_count; k++)
			assert_true(one->blocks[k].name && json_is_array(one->blocks[k].flags));
	}
}

/* Decodes and uses it; was it taken? @why of 256 bytes, may be NULL. */
static bool take(const char *text, size_t length, char *why)
{
	char reason[256] = "", *picture = NULL;
	size_t size = 0;
	struct live live;
	FILE *stream;
	int rc = live_decode(text, length, &live, reason, sizeof(reason));

	if (why)
		memcpy(why, reason, sizeof(reason));
	if (rc < 0) {
		assert_int_equal(rc, -EPROTO);
		assert_true(strlen(reason) > 3);
		assert_null(live.document);
		return false;
	}
	check(&live);
	stream = open_memstream(&picture, &size);
	assert_non_null(stream);
	map_draw(&live, stream);
	fclose(stream);
	free(picture);
	live_free(&live);
	return true;
}

static void test_the_real_one(void **state)
{
	struct live live;
	char why[256];

	(void)state;
	assert_int_equal(live_decode(good, good_length, &live, why, sizeof(why)), 0);
	assert_int_equal(live.count, 1);
	assert_int_equal(live.rams[0].block_count, 1);
	assert_int_equal(live.rams[0].pending_count, 1);
	assert_int_equal(live.rams[0].spaces[0].count, 2);
	assert_string_equal(live.rams[0].blocks[0].name, "memory");
	assert_true(live_block_has(&live.rams[0].blocks[0], "shared"));
	assert_false(live_block_has(&live.rams[0].blocks[0], "locked"));
	assert_true(live.rams[0].spaces[0].ranges[1].addr == 0x4000);
	live_free(&live);
	assert_true(take(good, good_length, NULL));
}

/* A copy with one text replaced; the caller frees it. */
static char *replaced(const char *what, const char *with)
{
	char *at = strstr(good, what), *copy;

	if (!at)
		print_error("no %s in %s\n", what, good);
	assert_non_null(at);
	copy = malloc(good_length + strlen(with) + 1);
	assert_non_null(copy);
	memcpy(copy, good, (size_t)(at - good));
	sprintf(copy + (at - good), "%s%s", with, at + strlen(what));
	return copy;
}

static void test_what_is_wrong_is_told(void **state)
{
	static const struct {
		const char *what, *with, *why;
	} cases[] = {
		{"\"guestram\":1", "\"guestram\":2", "version 2"},
		{"\"guestram\":1", "\"guestram\":\"1\"", "no document of guestram"},
		{"\"guestram\":1", "\"qemu\":1", "no document of guestram"},
		{"\"guestram\":1", "\"guestram\":1,\"guestram\":1", "no JSON"},
		{"\"library\":\"", "\"library\":0,\"l\":\"", "\"library\" is no text"},
		{"\"pid\":", "\"pid\":-", "\"pid\" is no count"},
		{"\"pid\":", "\"pid\":99999999999,\"p\":", "\"pid\" is no process"},
		{"\"rams\":[", "\"rams\":7,\"r\":[", "\"rams\" is no list"},
		{"\"rams\":[", "\"rams\":[7,", "no list of objects"},
		{"\"stats\":{", "\"stats\":{},\"s\":{", "\"blocks\" is no count"},
		{"\"blocks\":1,", "\"blocks\":1.0,", "\"blocks\" is no count"},
		{"\"addr\":\"0x1000\"", "\"addr\":4096", "\"addr\" is no address"},
		{"\"addr\":\"0x1000\"", "\"addr\":\"0x\"", "\"addr\" is no address"},
		{"\"addr\":\"0x1000\"", "\"addr\":\"-0x1000\"", "\"addr\" is no address"},
		{"\"addr\":\"0x1000\"", "\"addr\":\"0x10000000000000000\"", "is no address"},
		{"\"addr\":\"0x1000\"", "\"addr\":\"0x1001\"", "lengths that cannot be"},
		{"\"addr\":\"0x1000\"", "\"addr\":\"0x5000\"", "out of order"},
		{"\"addr\":\"0x1000\"", "\"addr\":\"0x4000\"", "out of order"},
		{"\"addr\":\"0x4000\"", "\"addr\":\"0xfffffffffffff000\"", "lengths that cannot"},
		{"\"length\":4096,\"visible\"", "\"length\":0,\"visible\"", "lengths that cannot"},
		{"\"visible\":4096", "\"visible\":8192", "lengths that cannot be"},
		{"\"offset\":4096", "\"offset\":65536", "lengths that cannot be"},
		{"\"offset\":4096", "\"offset\":9223372036854775807", "lengths that cannot be"},
		{"\"block\":\"memory\"", "\"block\":\"mem\"", "names block \"mem\""},
		{"\"length\":65536", "\"length\":65537", "lengths that cannot be"},
		{"\"flags\":[\"shared\"", "\"flags\":[1", "a flag is no text"},
		{"\"flags\":[", "\"flags\":{},\"f\":[", "\"flags\" is no list"},
		{"\"fd\":", "\"fd\":2147483648,\"f\":", "no descriptor"},
		{"\"file\":{", "\"file\":[],\"f\":{", "\"fd\" is no count"},
		{"\"waited_us\":", "\"w\":", "\"waited_us\" is no count"},
	};
	char why[256], *text;
	size_t i;

	(void)state;
	for (i = 0; i < COUNT_OF(cases); i++) {
		text = replaced(cases[i].what, cases[i].with);
		if (take(text, strlen(text), why) || !strstr(why, cases[i].why))
			fail_msg("%s: \"%s\", not \"%s\"", cases[i].with, why, cases[i].why);
		free(text);
	}
	assert_false(take("", 0, why));
	assert_false(take("HTTP/1.1 200 OK\r\n", 17, why));
	assert_false(take("[]", 2, why));
	assert_false(take("null", 4, why));
}

static void test_text_that_would_drive_a_terminal(void **state)
{
	struct live live;
	const char *byte;
	char why[256];
	char *text = replaced("\"name\":\"guest\"",
			      "\"name\":\"a\\u001b[2J\\u0007\\u009b1m\\n\xc3\xa9\\u007f\"");

	(void)state;
	assert_int_equal(live_decode(text, strlen(text), &live, why, sizeof(why)), 0);
	for (byte = live.rams[0].spaces[0].name; *byte; byte++)
		assert_false((unsigned char)*byte < 0x20 || *byte == 0x7f);
	assert_string_equal(live.rams[0].spaces[0].name, "a?[2J???1m?\xc3\xa9?");
	live_free(&live);
	free(text);
}

static void test_deep_and_long(void **state)
{
	size_t length = 4 << 20;
	char *text = malloc(length);

	(void)state;
	assert_non_null(text);
	memset(text, '[', length);
	assert_false(take(text, length, NULL));
	memset(text, ' ', length);
	assert_false(take(text, length, NULL));
	memset(text, 0, length);
	assert_false(take(text, length, NULL));
	free(text);
}

/* Every prefix, and each byte replaced by those that mean something to JSON. */
static void test_cut_and_scratched(void **state)
{
	static const char bytes[] = "\"{}[]:,0-9\\ n\xff";
	char *text = malloc(good_length + 1);
	size_t i, k, taken = 0;

	(void)state;
	assert_non_null(text);
	memcpy(text, good, good_length + 1);
	for (i = 0; i + 2 < good_length; i++)
		assert_false(take(text, i, NULL));
	for (i = 0; i < good_length; i++) {
		for (k = 0; k < sizeof(bytes); k++) {
			text[i] = bytes[k];
			taken += take(text, good_length, NULL);
		}
		text[i] = good[i];
	}
	assert_in_range(taken, 1, good_length * sizeof(bytes));
	free(text);
}

static void test_pieces_at_random(void **state)
{
	struct rng rng = {seed_of_the_day()};
	char *text = malloc(2 * good_length + 1);
	uint64_t seed = rng.state;
	int i;

	(void)state;
	assert_non_null(text);
	print_message("seed %llu\n", (unsigned long long)seed);
	for (i = 0; i < 5000; i++) {
		size_t from = rng_below(&rng, good_length), to = rng_below(&rng, good_length);
		size_t length = rng_below(&rng, 60), total = good_length;

		memcpy(text, good, good_length);
		if (length > good_length - from)
			length = good_length - from;
		if (length > good_length - to)
			length = good_length - to;
		if (rng_one_in(&rng, 2)) { /* a piece stands twice */
			memmove(text + to + length, text + to, good_length - to);
			total += length;
		}
		memcpy(text + to, good + from, length);
		take(text, total, NULL);
	}
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_real_one),
		cmocka_unit_test(test_what_is_wrong_is_told),
		cmocka_unit_test(test_text_that_would_drive_a_terminal),
		cmocka_unit_test(test_deep_and_long),
		cmocka_unit_test(test_cut_and_scratched),
		cmocka_unit_test(test_pieces_at_random),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
