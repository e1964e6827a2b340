/* SPDX-License-Identifier: MIT */
/* Make guest memory, write to it by guest address, read it back, take it away. In README.md too. */
#include <guestram.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
	const uint64_t base = 0x40000000, size = 64 << 20;
	struct gr_block_opts opts = {.name = "ram0", .backing = GR_BACKING_MEMFD, .length = size};
	struct gr_ram *ram;
	struct gr_space *space;
	struct gr_block *block;
	char text[6] = "", *host;

	if (gr_ram_open(NULL, &ram) || gr_space_open(ram, "guest-physical", &space) ||
	    gr_block_new(ram, &opts, &block) ||
	    gr_space_map(space, base, block, 0, size, GR_READ | GR_WRITE)) {
		fprintf(stderr, "%s\n", gr_last_error());
		return 1;
	}
	gr_read_begin(); /* any thread; host pointers live until gr_read_end() */
	host = gr_host(space, base + 0x1000, 6, GR_WRITE);
	if (host)
		memcpy(host, "hello", 6);
	gr_read_end();
	gr_load(space, base + 0x1000, text, 6); /* or so: a read section of its own */
	puts(text);

	gr_space_unmap(space, base, size); /* new read sections find nothing there */
	gr_block_delete(block);		   /* its memory goes when the last reader has left */
	return strcmp(text, "hello") || gr_ram_drain(ram, 1000) || gr_ram_close(ram);
}
