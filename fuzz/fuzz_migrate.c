/* SPDX-License-Identifier: MIT */
/*
 * Both decoders of a migration: the receiver is given a stream, or the sender is given answers,
 * that the input makes up. Records have the right sequence and hash unless the input wants
 * otherwise, so that what is inside of them is reached.
 *
 * Kept: it ends with an error or a guest, never with both sides' guest; nothing is touched outside
 * of the blocks (their neighbours are inaccessible); no descriptor, thread or memory stays.
 *
 * Input: a byte of options (FEED_…), then records: type, flags, what is wrong with it, the length
 * of its payload in 2 bytes, the payload.
 *
 * Threads: the library's, which have ended when an input ends. All bytes are in the sockets before
 * it begins, and their ends are shut, so nobody waits.
 */
#include "fuzz.h"
#include "migrate/wire.h"
#include <endian.h>
#include <errno.h>
#include <guestram/migrate.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#define PAGE 4096
#define CHANNELS 2

enum {
	FEED_SENDER = 1,
	FEED_TWO = 2,
	FEED_POSTCOPY = 4,
	FEED_NO_MANIFEST = 8,
	FEED_ONE_WAY = 16,
	FEED_GREET_BADLY = 32
};

#define HASHES_MAX 16 /* as many pages as a block has */

struct feed {
	struct fuzz_input in;
	int ours[CHANNELS], theirs[CHANNELS];
	uint64_t sequence[CHANNELS], digest[CHANNELS];
	unsigned channels;
	bool resumed;
};

static void put(const struct feed *feed, unsigned channel, const void *bytes, size_t size)
{
	/* what does not fit is a stream that ends early */
	if (send(feed->ours[channel], bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		FUZZ_SAY("channel %u is full\n", channel);
}

static void put_record(struct feed *feed, unsigned channel, unsigned type, unsigned flags,
		       const void *payload, uint32_t length, uint32_t hashed, unsigned wrong)
{
	struct wire_record head = {.type = (uint8_t)type,
				   .flags = (uint8_t)flags,
				   .length = htole32(length),
				   .sequence = htole64(feed->sequence[channel])};
	uint64_t first, hash;

	if (wrong & 1)
		head.length = htole32(length + wrong);
	if (wrong & 2)
		head.sequence = ~head.sequence;
	memcpy(&first, &head, sizeof(first));
	hash = XXH3_64bits_withSeed(payload, hashed, le64toh(first) + feed->sequence[channel]);
	head.hash = htole64(wrong & 4 ? hash + 1 : hash);
	feed->digest[channel] = (feed->digest[channel] << 1 | feed->digest[channel] >> 63) ^ hash;
	feed->sequence[channel]++;
	put(feed, channel, &head, sizeof(head));
	if (length)
		put(feed, channel, payload, length);
}

static void put_header(struct feed *feed, unsigned channel, unsigned options)
{
	struct wire_header header = {.version = htole32(WIRE_VERSION),
				     .channel = htole16((uint16_t)channel),
				     .channels = htole16((uint16_t)feed->channels)};

	memcpy(header.magic, WIRE_MAGIC, sizeof(header.magic));
	if (options & FEED_POSTCOPY)
		header.flags |= htole32(WIRE_HEADER_POSTCOPY);
	if (options & FEED_ONE_WAY)
		header.flags |= htole32(WIRE_HEADER_ONE_WAY);
	if (options & FEED_GREET_BADLY) {
		uint8_t at = fuzz_u8(&feed->in) % 40;

		((uint8_t *)&header)[at] ^= fuzz_u8(&feed->in);
	}
	header.hash = htole64(XXH3_64bits(&header, offsetof(struct wire_header, hash)));
	put(feed, channel, &header, sizeof(header));
}

static void put_manifest(struct feed *feed)
{
	static const struct {
		const char *name;
		uint64_t used, max;
	} blocks[] = {{"low", 16, 16}, {"high", 4, 16}};
	uint8_t bytes[256];
	size_t used = 0;

	for (unsigned i = 0; i < COUNT_OF(blocks); i++) {
		struct wire_block entry = {
			.used = htole64(blocks[i].used * PAGE),
			.max = htole64(blocks[i].max * PAGE),
			.page_size = htole64(PAGE),
			.name_length = htole16((uint16_t)strlen(blocks[i].name)),
		};

		memcpy(bytes + used, &entry, sizeof(entry));
		used += sizeof(entry);
		memcpy(bytes + used, blocks[i].name, strlen(blocks[i].name));
		used += strlen(blocks[i].name);
	}
	put_record(feed, 0, WIRE_MANIFEST, 0, bytes, (uint32_t)used, (uint32_t)used, 0);
}

/* PAGES with the hashes of pages put in, @wrong ones if need be; how much is before the data. */
static uint32_t put_hashes(uint8_t *payload, uint16_t *length, bool wrong)
{
	struct wire_pages head;
	uint64_t before, count, hash, i;

	if (*length < sizeof(head))
		return *length;
	memcpy(&head, payload, sizeof(head));
	before = sizeof(head) + (uint64_t)le32toh(head.extents) * sizeof(struct wire_extent);
	count = le32toh(head.memory) / WIRE_PAGE;
	if (before > *length || count > HASHES_MAX)
		return *length;
	memmove(payload + before + count * sizeof(hash), payload + before, *length - before);
	*length += count * sizeof(hash);
	for (i = 0; i < count; i++) {
		uint64_t at = before + count * sizeof(hash) + i * WIRE_PAGE;

		hash = at + WIRE_PAGE > *length ? 0 : htole64(XXH3_64bits(payload + at, WIRE_PAGE));
		hash += wrong;
		memcpy(payload + before + i * sizeof(hash), &hash, sizeof(hash));
	}
	return (uint32_t)(before + count * sizeof(hash));
}

/* END with the right digest, when the input has only two sums for it. */
static void put_records(struct feed *feed)
{
	static uint8_t payload[65536 + HASHES_MAX * sizeof(uint64_t)];

	while (feed->in.left) {
		uint8_t type = fuzz_u8(&feed->in), flags = fuzz_u8(&feed->in),
			wrong = fuzz_u8(&feed->in);
		uint16_t length = fuzz_u16(&feed->in);
		unsigned channel = wrong & 0x80 && feed->channels > 1;

		uint32_t hashed;

		if (length > UINT16_MAX - HASHES_MAX * sizeof(uint64_t))
			length = UINT16_MAX - HASHES_MAX * sizeof(uint64_t);
		fuzz_take(&feed->in, payload, length);
		if (type == WIRE_END && length == 16) {
			uint64_t digest = htole64(feed->digest[channel]);

			memcpy(payload + 16, &digest, sizeof(digest));
			length = sizeof(struct wire_end);
		}
		hashed = type == WIRE_PAGES ? put_hashes(payload, &length, wrong & 8) : length;
		FUZZ_SAY("channel %u: type %u, flags %u, %u bytes, wrong %u\n", channel, type,
			 flags, length, wrong);
		put_record(feed, channel, type, flags, payload, length, hashed, wrong & 7);
	}
}

static void on_resume(void *context)
{
	((struct feed *)context)->resumed = true;
}

static int on_load(void *context, const char *name, const void *bytes, uint64_t length)
{
	uint64_t sum = strlen(name);

	for (uint64_t i = 0; i < length; i++)
		sum += ((const uint8_t *)bytes)[i];
	return sum % 16 == 15 ? -EINVAL : 0;
}

static int on_save(void *context, struct gr_migrate_state *state)
{
	return gr_migrate_put_state(state, "cpu", "12345678", 8);
}

static struct gr_ram *make_ram(void)
{
	struct gr_block_opts opts = {.name = "low", .length = 16 * PAGE};
	struct gr_block *block;
	struct gr_ram *ram = NULL;

	FUZZ_CHECK(!gr_ram_open(NULL, &ram));
	FUZZ_CHECK(!gr_block_new(ram, &opts, &block));
	opts = (struct gr_block_opts){.name = "high",
				      .backing = GR_BACKING_MEMFD,
				      .length = 4 * PAGE,
				      .max_length = 16 * PAGE};
	FUZZ_CHECK(!gr_block_new(ram, &opts, &block));
	return ram;
}

static void run(struct feed *feed, struct gr_ram *ram, unsigned options)
{
	static const struct gr_migrate_ops ops = {
		.resume = on_resume, .state_load = on_load, .state_save = on_save};
	struct gr_migrate_opts opts = {
		.fds = feed->theirs,
		.fd_count = feed->channels,
		.timeout_ms = 200,
		.max_downtime_ms = 1000,
		.max_state = 100000,
		.ops = &ops,
		.context = feed,
	};
	struct gr_migrate_stats stats;
	int rc;

	if (options & FEED_SENDER) {
		if (options & FEED_POSTCOPY)
			opts.flags = GR_MIGRATE_POSTCOPY;
		rc = gr_migrate_send(ram, &opts, &stats);
		/* nobody stopped it, so nobody resumes it */
		FUZZ_CHECK(stats.guest != GR_GUEST_THERE || rc == 0);
	} else {
		if (options & FEED_ONE_WAY)
			opts.flags = GR_MIGRATE_ONE_WAY;
		rc = gr_migrate_receive(ram, &opts, &stats);
		FUZZ_CHECK((stats.guest == GR_GUEST_HERE) == (rc == 0));
		FUZZ_CHECK(feed->resumed ==
			   (stats.guest == GR_GUEST_HERE || stats.guest == GR_GUEST_LOST));
	}
	FUZZ_SAY("%d: %s\n", rc, rc ? gr_last_error() : "");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed feed = {.in = {data, size}};
	struct fuzz_ledger before = fuzz_ledger_now();
	unsigned options = fuzz_u8(&feed.in), i;
	struct gr_ram *ram = make_ram();

	feed.channels = options & FEED_TWO ? 2 : 1;
	for (i = 0; i < feed.channels; i++) {
		int fds[2];

		FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
		feed.ours[i] = fds[0];
		feed.theirs[i] = fds[1];
		if (!(options & FEED_SENDER))
			put_header(&feed, i, options);
	}
	if (!(options & (FEED_SENDER | FEED_NO_MANIFEST)))
		put_manifest(&feed);
	put_records(&feed);
	for (i = 0; i < feed.channels; i++)
		shutdown(feed.ours[i], SHUT_WR);
	run(&feed, ram, options);
	for (i = 0; i < feed.channels; i++) {
		close(feed.ours[i]);
		close(feed.theirs[i]);
	}
	FUZZ_CHECK(!gr_ram_close(ram));
	fuzz_ledger_check(&before);
	return 0;
}
