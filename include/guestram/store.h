/* SPDX-License-Identifier: MIT */
/*
 * Pages from an NBD export, and a bounded cache in front of any source of pages.
 *
 *    pager ─ struct gr_page_source ─► cache (a file, so many bytes) ─► NBD client ─► server
 *
 * Caveats first:
 *  - While the server is away reads fail after a while with -ETIMEDOUT, and whoever asked asks
 *    again: a pager does, and the guest's touch waits. The log and the figures tell.
 *  - What comes back must be the same export. Its size and samples of its bytes are compared, so
 *    that another image is refused; one that differs in few places is not told apart.
 *  - Bytes are as right as the server's: without TLS whoever is on the way can change them.
 *  - The resolver is asked for a host's name on each connection, and may take its time.
 */
#ifndef GUESTRAM_STORE_H
#define GUESTRAM_STORE_H

#include <guestram.h>
#include <guestram/pager.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------ an NBD export */

/** enum gr_nbd_tls - as NBD's clients have it. */
enum gr_nbd_tls {
	GR_NBD_TLS_OFF = 0, /* unless the URI asks for it (nbds:) */
	GR_NBD_TLS_ALLOW = 1,
	GR_NBD_TLS_REQUIRE = 2,
};

/* gr_nbd_opts.flags */
#define GR_NBD_URI_FILES (1u << 0) /* the URI may name files of this machine (tls-psk-file=) */
#define GR_NBD_NO_STATUS (1u << 1) /* do not ask which parts are zero */

/**
 * struct gr_nbd_opts - how to reach an export; all zero is a good default
 * @socket, @export_name: without a URI: path of a Unix socket; NULL: the default export
 * @connect:      without both: gives a connected socket, which is the source's from then on, or
 *                -errno. Any thread of the source calls it, for each connection
 * @connect_context: its argument
 * @connections:  1 to 16, if the server allows for several; 0: 2
 * @in_flight:    requests on each of them, 1 to 64; 0: 16
 * @timeout_ms:   a connection that leaves a request unanswered so long is given up; 0: 30 s
 * @away_ms:      how long a read waits for a server that is away; 0: 1 s
 * @status_ms:    how long the opening waits to learn what is zero. It goes on behind; 0: 200 ms
 * @flags:        GR_NBD_…
 * @tls:          whether to encrypt
 * @tls_certificates: directory with ca-cert.pem …, or NULL: the system's
 * @tls_username, @tls_psk_file: a secret that both know, and who we are there; or NULL
 * @log:          told when the store goes away, is still away, is back, or is another; may be NULL
 * @log_context:  its argument
 */
struct gr_nbd_opts {
	const char *socket;
	const char *export_name;
	int (*connect)(void *context);
	void *connect_context;
	unsigned connections;
	unsigned in_flight;
	unsigned timeout_ms;
	unsigned away_ms;
	unsigned status_ms;
	unsigned flags;
	enum gr_nbd_tls tls;
	const char *tls_certificates;
	const char *tls_username;
	const char *tls_psk_file;
	gr_log_fn log;
	void *log_context;
	uint64_t reserved[8]; /* zero */
};

/**
 * gr_nbd_source_open() - an NBD export as a source of pages: the byte at an offset of the memory is
 * the one at that offset of the export
 * @uri:    nbd://host:port/export, nbds:…, nbd+unix:///export?socket=PATH …; or NULL: see @opts
 * @opts:   copied; may be NULL
 * @source: result; ends with gr_page_source_close()
 *
 * It has one block, which any name finds. Its last page may be cut, the rest of that is zero. Any
 * offset and length can be read. The export must not change while it is used.
 *
 * Context: any thread; waits for the server; not in a read section or callback.
 * Return: 0, -EINVAL (a malformed URI, an empty export), -ETIMEDOUT, -EPROTO (no NBD server, or
 * what it says makes no sense), -ENOTSUP (TLS that this libnbd has not), -ENOMEM, or the error of
 * connecting: gr_last_error() has the sentence. Since 0.1.
 */
GR_API int gr_nbd_source_open(const char *uri, const struct gr_nbd_opts *opts,
			      struct gr_page_source *source);

/**
 * struct gr_nbd_stats - an NBD source at one moment
 * @size:        of the export, bytes
 * @zero_bytes:  known to be zero, which are never asked for
 * @status_done: 1 when all is known that the server tells
 * @reads, @read_bytes: requests that were answered well, and their bytes
 * @in_flight:   requests sent and not yet answered, @in_flight_most: ever
 * @retries:     requests that were sent again
 * @connections: that serve now
 * @lost:        connections that broke, @reconnects: that came back
 * @refused:     connections to another export, which were given up
 * @stalled:     1 while none serves; @stalled_ns: how long that has been, in all
 */
struct gr_nbd_stats {
	uint64_t size;
	uint64_t zero_bytes;
	uint64_t status_done;
	uint64_t reads;
	uint64_t read_bytes;
	uint64_t in_flight;
	uint64_t in_flight_most;
	uint64_t retries;
	uint64_t connections;
	uint64_t lost;
	uint64_t reconnects;
	uint64_t refused;
	uint64_t stalled;
	uint64_t stalled_ns;
	uint64_t reserved[8];
};

/** gr_nbd_source_get_stats() - its figures. Context: any thread; never waits long.
 * Return: 0, -EINVAL: that is no NBD source. Since 0.1. */
GR_API int gr_nbd_source_get_stats(const struct gr_page_source *source, struct gr_nbd_stats *stats);

/* -------------------------------------------------------------------------------------- a cache */

/**
 * struct gr_cache_opts - a cache; all zero is a good default
 * @directory: where its file goes, which has no name and is gone with the source; NULL: in memory
 * @max_bytes: of that file; 0: 256 MiB. At least one chunk
 * @chunk:     what is fetched and kept as one, a power of two from 4 KiB to 4 MiB; 0: 256 KiB
 */
struct gr_cache_opts {
	const char *directory;
	uint64_t max_bytes;
	uint64_t chunk;
	uint64_t reserved[8]; /* zero */
};

/**
 * gr_cache_source_open() - keep what a source gave, up to so many bytes
 * @below:  is the cache's from then on, and closed with it; nothing happens to it on an error
 * @opts:   may be NULL
 * @source: result; ends with gr_page_source_close()
 *
 * What several ask for at once is fetched once. What was not used lately goes first. Each page is
 * compared with a checksum when it comes from the file; a damaged one is fetched again. A cache
 * that cannot be written is a slower one, no error.
 *
 * Context: any thread. Return: 0, -EINVAL, -ENOMEM, or the error of making its file. Since 0.1.
 */
GR_API int gr_cache_source_open(const struct gr_page_source *below,
				const struct gr_cache_opts *opts, struct gr_page_source *source);

/**
 * struct gr_cache_stats - a cache at one moment, in chunks
 * @hits, @misses: read from the file, and fetched
 * @shared:    asked for while they were being fetched
 * @evicted:   made room for others
 * @damaged:   pages that did not match their checksums, and were fetched again
 * @unkept:    fetched and not kept: all room was in use, or the file could not be written
 * @bytes, @max_bytes: what it holds, and may
 */
struct gr_cache_stats {
	uint64_t hits;
	uint64_t misses;
	uint64_t shared;
	uint64_t evicted;
	uint64_t damaged;
	uint64_t unkept;
	uint64_t bytes;
	uint64_t max_bytes;
	uint64_t reserved[8];
};

/** gr_cache_source_get_stats() - its figures. Context: any thread.
 * Return: 0, -EINVAL: that is no cache. Since 0.1. */
GR_API int gr_cache_source_get_stats(const struct gr_page_source *source,
				     struct gr_cache_stats *stats);

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_STORE_H */
