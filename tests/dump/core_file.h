/* SPDX-License-Identifier: MIT */
/* Reads back an ELF core as the specification says, apart from the code that wrote it. */
#ifndef CORE_FILE_H
#define CORE_FILE_H

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct core_file {
	int fd;
	Elf64_Ehdr header;
	Elf64_Phdr *segments; /* PT_NOTE is the first */
	uint64_t count;
	uint64_t size, disk; /* of the file, and what it takes */
	char *notes;
};

/* Fails the test when the file is malformed. */
void core_file_open(struct core_file *core, const char *path);
void core_file_close(struct core_file *core);

/* Bytes by guest-physical address; false: no segment has all of them. */
bool core_file_read(const struct core_file *core, uint64_t gpa, void *buf, uint64_t length);

/* The contents of a note, and their length; NULL: there is none of that name. */
const char *core_file_note(const struct core_file *core, const char *name, size_t *length);

#endif
