/* SPDX-License-Identifier: MIT */
/*
 * The words of qemu-storage-daemon for one disk: nodes (--blockdev) of a file, a block device or
 * nothing, raw ones over them, an export of one of them, and I/O threads by name.
 *
 * Words, what they may say and what they say when they are left out are tables. What QEMU knows and
 * we do not do is listed with the reason, so that nobody's word is passed over in silence.
 *
 * Threads: main's, while it reads its options.
 */
#include "blk_args.h"
#include "cli.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Drivers of nodes. */
enum driver { FILE_ = 1, HOST_DEVICE = 2, NULL_CO = 4, RAW = 8 };
#define STORED (FILE_ | HOST_DEVICE)
#define ANY (STORED | NULL_CO | RAW)

enum kind {
	TEXT,
	SWITCH, /* on or off */
	NUMBER, /* in [min, max], with a suffix k, M, G or T */
	ONE_OF, /* a list "a|b": its place */
	ONLY,	/* a list of what is taken without effect; all else is refused: why */
};

struct word {
	const char *key;
	enum kind kind;
	unsigned drivers; /* of nodes that know it; 0: it is no node's */
	size_t at;	  /* in the object: const char *, bool, uint64_t or unsigned */
	const char *list;
	const char *why;
	uint64_t min, max;
};

#define NODE(member) offsetof(struct blk_node, member)
#define EXPORT(member) offsetof(struct blk_export, member)
#define THREAD(member) offsetof(struct blk_thread, member)

enum { AIO_UNSAID, AIO_THREADS, AIO_URING };

static const struct word node_words[] = {
	{"node-name", TEXT, ANY, NODE(name), NULL, NULL, 0, 0},
	{"filename", TEXT, STORED, NODE(filename), NULL, NULL, 0, 0},
	{"file", TEXT, RAW, NODE(below), NULL, NULL, 0, 0},
	{"size", NUMBER, NULL_CO, NODE(size), NULL, NULL, 512, UINT64_C(1) << 62},
	{"read-zeroes", SWITCH, NULL_CO, NODE(zeroes), NULL, NULL, 0, 0},
	{"latency-ns", ONLY, NULL_CO, 0, "0", "a null disk answers at once", 0, 0},
	{"read-only", SWITCH, ANY, NODE(read_only), NULL, NULL, 0, 0},
	{"auto-read-only", ONLY, ANY, 0, "off", "say read-only=on where writes are to fail", 0, 0},
	{"cache.direct", SWITCH, ANY, NODE(direct), NULL, NULL, 0, 0},
	{"cache.no-flush", ONLY, ANY, 0, "off", "a flush always reaches the file", 0, 0},
	{"aio", ONE_OF, STORED, NODE(aio), "|threads|io_uring",
	 "take io_uring, or threads: plain calls of the queue's thread", 0, 0},
	{"discard", ONE_OF, ANY, NODE(discard), "ignore|unmap|off|on", NULL, 0, 0},
	{"detect-zeroes", ONLY, ANY, 0, "off", "zeroes that the guest writes are data", 0, 0},
	{"locking", ONLY, STORED, 0, "off|auto", "files are not locked", 0, 0},
	{0},
};

static const struct word export_words[] = {
	{"id", TEXT, 0, EXPORT(id), NULL, NULL, 0, 0},
	{"node-name", TEXT, 0, EXPORT(node), NULL, NULL, 0, 0},
	{"addr.type", ONE_OF, 0, EXPORT(addr), "|unix", "take unix, and addr.path", 0, 0},
	{"addr.path", TEXT, 0, EXPORT(path), NULL, NULL, 0, 0},
	{"writable", SWITCH, 0, EXPORT(writable), NULL, NULL, 0, 0},
	{"writethrough", ONLY, 0, 0, "off",
	 "writes are synchronous for a guest that knows no flush, and for no other", 0, 0},
	{"num-queues", NUMBER, 0, EXPORT(queues), NULL, NULL, 1, 256},
	{"logical-block-size", NUMBER, 0, EXPORT(block_size), NULL, NULL, 512, 2 * MIB},
	{"iothread", TEXT, 0, EXPORT(thread), NULL, NULL, 0, 0},
	{"fixed-iothread", ONLY, 0, 0, "off|on", "on or off", 0, 0},
	{0},
};

static const struct word thread_words[] = {
	{"id", TEXT, 0, THREAD(id), NULL, NULL, 0, 0},
	{"poll-max-ns", NUMBER, 0, THREAD(poll_ns), NULL, NULL, 0, 1000 * MIB},
	{0},
};

/* ------------------------------------------------------------------------------- one key=value */

/* The place of @value in "a|b|c", or -1. */
static int place_in(const char *list, const char *value)
{
	size_t length = strlen(value);

	for (int place = 0;; place++) {
		size_t part = strcspn(list, "|");

		if (part == length && length && !strncmp(list, value, length))
			return place;
		if (!list[part])
			return -1;
		list += part + 1;
	}
}

static uint64_t number(const struct argp_state *state, const char *option, const struct word *word,
		       const char *text)
{
	static const char suffixes[] = "kMGT";
	unsigned long long value;
	char *end, what[64];

	snprintf(what, sizeof(what), "%s: %s", option, word->key);
	value = strtoull(text, &end, 10);
	for (const char *s = suffixes; *end && s < suffixes + 4; s++) {
		unsigned shift = 10 * (unsigned)(s - suffixes + 1);

		if (*end != *s || end[1] || end == text || *text == '-' || *text == '+')
			continue;
		if (value > word->max >> shift)
			cli_usage(state, "%s: %s is more than %llu", what, text,
				  (unsigned long long)word->max);
		value <<= shift;
		if (value < word->min)
			cli_usage(state, "%s: %s is less than %llu", what, text,
				  (unsigned long long)word->min);
		return value;
	}
	return cli_number(state, what, text, word->min, word->max);
}

static void take_word(const struct argp_state *state, const char *option, const struct word *word,
		      void *object, const char *value)
{
	char *at = (char *)object + word->at;
	int place;

	switch (word->kind) {
	case TEXT:
		if (!*value)
			cli_usage(state, "%s: %s is empty", option, word->key);
		*(const char **)(void *)at = value;
		break;
	case SWITCH:
		place = place_in("off|on", value);
		if (place < 0)
			cli_usage(state, "%s: %s is on or off, not %s", option, word->key, value);
		*(bool *)at = place;
		break;
	case NUMBER:
		*(uint64_t *)(void *)at = number(state, option, word, value);
		break;
	case ONE_OF:
		place = place_in(word->list, value);
		if (place < 0 && word->why)
			cli_usage(state, "%s: %s=%s is not supported: %s", option, word->key, value,
				  word->why);
		if (place < 0)
			cli_usage(state, "%s: %s is one of %s, not %s", option, word->key,
				  word->list, value);
		*(unsigned *)(void *)at = (unsigned)place;
		break;
	case ONLY:
		if (place_in(word->list, value) < 0)
			cli_usage(state, "%s: %s=%s is not supported: %s", option, word->key, value,
				  word->why);
		break;
	}
}

/* Cuts the first key=value off @text, with ",," in a value for a comma; NULL: there is no more. */
static char *next_pair(char **text, char **value)
{
	char *key = *text, *from, *to;

	if (!key)
		return NULL;
	*value = NULL;
	for (from = to = key; *from; from++) {
		if (*from == ',' && from[1] != ',')
			break;
		if (*from == ',')
			from++;
		*to++ = *from;
	}
	*text = *from ? from + 1 : NULL;
	*to = 0;
	to = strchr(key, '=');
	if (to) {
		*to = 0;
		*value = to + 1;
	}
	return key;
}

/* The key=value of one object. */
struct pairs {
	const struct argp_state *state;
	struct blk_words *words;
	const char *option;
	char *keys[32], *values[32];
	unsigned count;
};

/* All key=value of @text; the first may be a value alone, that of @first. */
static void split(struct pairs *pairs, const char *first, char *text)
{
	char *key, *value;

	if (*text == '{')
		cli_usage(pairs->state, "%s: JSON is not read here: write %s=…,…", pairs->option,
			  first);
	while ((key = next_pair(&text, &value))) {
		if (!value && !pairs->count) {
			value = key;
			key = (char *)first; /* which nobody writes to */
		}
		if (!value)
			cli_usage(pairs->state, "%s: '%s' says nothing: write %s=…", pairs->option,
				  key, key);
		for (unsigned i = 0; i < pairs->count; i++)
			if (!strcmp(pairs->keys[i], key))
				cli_usage(pairs->state, "%s: %s is said twice", pairs->option, key);
		if (pairs->count == COUNT_OF(pairs->keys))
			cli_usage(pairs->state, "%s: too many words", pairs->option);
		pairs->keys[pairs->count] = key;
		pairs->values[pairs->count++] = value;
	}
}

/* The value of @key, which must be there and be in @list; its place. */
static int main_word(const struct pairs *pairs, const char *key, const char *list)
{
	for (unsigned i = 0; i < pairs->count; i++) {
		int place;

		if (strcmp(pairs->keys[i], key))
			continue;
		place = place_in(list, pairs->values[i]);
		if (place < 0)
			cli_usage(pairs->state, "%s: %s=%s is not supported: it may be %s",
				  pairs->option, key, pairs->values[i], list);
		return place;
	}
	cli_usage(pairs->state, "%s: it has no %s", pairs->option, key);
}

static void take_words(const struct pairs *pairs, const char *but, const struct word *words,
		       unsigned driver, void *object)
{
	for (unsigned i = 0; i < pairs->count; i++) {
		const struct word *word = words;

		if (!strcmp(pairs->keys[i], but))
			continue;
		while (word->key && strcmp(word->key, pairs->keys[i]))
			word++;
		if (!word->key)
			cli_usage(pairs->state, "%s: %s is not known here", pairs->option,
				  pairs->keys[i]);
		if (word->drivers && !(word->drivers & driver))
			cli_usage(pairs->state, "%s: this driver has no %s", pairs->option,
				  word->key);
		take_word(pairs->state, pairs->option, word, object, pairs->values[i]);
	}
}

static void need(const struct pairs *pairs, const char *key, const char *value)
{
	if (!value)
		cli_usage(pairs->state, "%s: it has no %s", pairs->option, key);
}

/* --------------------------------------------------------------------------------- the objects */

static const struct blk_node *find_node(const struct blk_words *words, const char *name)
{
	for (unsigned i = 0; i < words->node_count; i++)
		if (!strcmp(words->nodes[i].name, name))
			return &words->nodes[i];
	return NULL;
}

static const struct blk_thread *find_thread(const struct blk_words *words, const char *id)
{
	for (unsigned i = 0; i < words->thread_count; i++)
		if (!strcmp(words->threads[i].id, id))
			return &words->threads[i];
	return NULL;
}

static void take_node(struct pairs *pairs, char *text)
{
	struct blk_words *words = pairs->words;
	struct blk_node *node = &words->nodes[words->node_count];

	if (words->node_count == COUNT_OF(words->nodes))
		cli_usage(pairs->state, "--blockdev: too many of them");
	split(pairs, "driver", text);
	*node = (struct blk_node){.size = 1024 * MIB};
	node->driver = 1u << main_word(pairs, "driver", "file|host_device|null-co|raw");
	take_words(pairs, "driver", node_words, node->driver, node);
	need(pairs, "node-name", node->name);
	if (node->driver & STORED)
		need(pairs, "filename", node->filename);
	if (node->driver == RAW)
		need(pairs, "file", node->below);
	if (find_node(words, node->name))
		cli_usage(pairs->state, "--blockdev: two are named %s", node->name);
	if (node->below && !find_node(words, node->below))
		cli_usage(pairs->state, "--blockdev: file=%s: no node before it has this name",
			  node->below);
	words->node_count++;
}

static void take_export(struct pairs *pairs, char *text)
{
	struct blk_export *export = &pairs->words->export;

	if (pairs->words->exported)
		cli_usage(pairs->state, "--export: one for each program: start another one");
	split(pairs, "type", text);
	main_word(pairs, "type", "vhost-user-blk");
	*export = (struct blk_export){.queues = 1, .block_size = BLK_SECTOR};
	take_words(pairs, "type", export_words, 0, export);
	need(pairs, "id", export->id);
	need(pairs, "node-name", export->node);
	need(pairs, "addr.type", export->addr ? "unix" : NULL);
	need(pairs, "addr.path", export->path);
	pairs->words->exported = true;
}

static void take_thread(struct pairs *pairs, char *text)
{
	struct blk_words *words = pairs->words;
	struct blk_thread *thread = &words->threads[words->thread_count];

	if (words->thread_count == COUNT_OF(words->threads))
		cli_usage(pairs->state, "--object: too many of them");
	split(pairs, "qom-type", text);
	main_word(pairs, "qom-type", "iothread");
	*thread = (struct blk_thread){.poll_ns = BLK_POLL_US * UINT64_C(1000)};
	take_words(pairs, "qom-type", thread_words, 0, thread);
	need(pairs, "id", thread->id);
	if (find_thread(words, thread->id))
		cli_usage(pairs->state, "--object: two are named %s", thread->id);
	words->thread_count++;
}

void blk_words_take(const struct argp_state *state, struct blk_words *words, const char *option,
		    char *text)
{
	struct pairs pairs = {.state = state, .words = words, .option = option};

	if (!strcmp(option, "--blockdev"))
		take_node(&pairs, text);
	else if (!strcmp(option, "--export"))
		take_export(&pairs, text);
	else
		take_thread(&pairs, text);
}

bool blk_words_given(const struct blk_words *words)
{
	return words->node_count || words->exported || words->thread_count;
}

/* --------------------------------------------------------------------------------- all of them */

/* The node at the bottom; what those above it say is taken together. */
static void apply_nodes(const struct argp_state *state, const struct blk_words *words,
			struct blk_args *args)
{
	const char *name = words->export.node;
	const struct blk_node *node;
	bool unmap = true;

	do {
		node = find_node(words, name);
		if (!node)
			cli_usage(state, "--export: node-name=%s: there is no such node", name);
		if (node->read_only && words->export.writable)
			cli_usage(state, "--export: writable=on, but node %s is read-only",
				  node->name);
		unmap = unmap && node->discard % 2; /* unmap and on */
		args->direct = args->direct || node->direct;
		name = node->below;
	} while (node->driver == RAW);
	args->keep_discarded = !unmap;
	if (node->driver == NULL_CO) {
		args->null_size = node->size;
		args->zeroes = node->zeroes;
		args->direct = false;
		return;
	}
	args->file = node->filename;
	if (node->aio && args->io != BLK_IO_AUTO)
		cli_usage(state, "--io, and aio of node %s: say it once", node->name);
	if (node->aio)
		args->io = node->aio == AIO_THREADS ? BLK_IO_PLAIN : BLK_IO_URING;
}

void blk_words_apply(const struct argp_state *state, const struct blk_words *words,
		     struct blk_args *args)
{
	const struct blk_export *export = &words->export;

	if (!words->exported)
		cli_usage(state, "--blockdev or --object, and no --export");
	apply_nodes(state, words, args);
	if (export->thread) {
		const struct blk_thread *thread = find_thread(words, export->thread);

		if (!thread)
			cli_usage(state, "--export: iothread=%s: there is no such object",
				  export->thread);
		args->poll_us = (unsigned)(thread->poll_ns / 1000);
	}
	args->socket = export->path;
	args->read_only = !export->writable;
	args->queues = (unsigned)export->queues;
	args->block_size = (unsigned)export->block_size;
}
