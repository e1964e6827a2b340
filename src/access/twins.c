/* SPDX-License-Identifier: MIT */
/*
 * The exported twins of the inline gr_load(), gr_store() and gr_fill(), for callers that have no C
 * compiler at hand (dlsym, other languages). They touch memory only through the slow path, which is
 * as right; a caller of these does not notice.
 */
#define GR__ACCESS_TWINS
#include <guestram.h>

int gr_load(struct gr_space *space, uint64_t addr, void *buf, uint64_t length)
{
	int rc;

	gr_read_begin();
	rc = gr__load_slow(space, addr, buf, length);
	gr_read_end();
	return rc;
}

int gr_store(struct gr_space *space, uint64_t addr, const void *buf, uint64_t length)
{
	int rc;

	gr_read_begin();
	rc = gr__store_slow(space, addr, buf, length);
	gr_read_end();
	return rc;
}

int gr_fill(struct gr_space *space, uint64_t addr, int byte, uint64_t length)
{
	int rc;

	gr_read_begin();
	rc = gr__fill_slow(space, addr, byte, length);
	gr_read_end();
	return rc;
}
