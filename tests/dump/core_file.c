/* SPDX-License-Identifier: MIT */
#include "core_file.h"
#include "testing.h"
#include <fcntl.h>
#include <sys/stat.h>

static void read_at(int fd, void *buf, size_t length, uint64_t offset)
{
	assert_int_equal(pread(fd, buf, length, (off_t)offset), length);
}

static void check_segment(const struct core_file *core, uint64_t i)
{
	const Elf64_Phdr *segment = &core->segments[i];

	assert_int_equal(segment->p_type, i ? PT_LOAD : PT_NOTE);
	assert_true(segment->p_offset <= core->size &&
		    segment->p_filesz <= core->size - segment->p_offset);
	if (!i)
		return;
	assert_int_equal(segment->p_filesz, segment->p_memsz);
	assert_int_equal(segment->p_offset % PAGE, 0);
	/* one after the other, in the file and in the guest */
	if (i > 1) {
		assert_int_equal(segment->p_offset, segment[-1].p_offset + segment[-1].p_filesz);
		assert_true(segment->p_paddr >= segment[-1].p_paddr + segment[-1].p_memsz);
	}
}

void core_file_open(struct core_file *core, const char *path)
{
	Elf64_Shdr section;
	struct stat st;
	uint64_t i;

	core->fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(core->fd >= 0);
	assert_int_equal(fstat(core->fd, &st), 0);
	core->size = (uint64_t)st.st_size;
	core->disk = (uint64_t)st.st_blocks * 512;
	read_at(core->fd, &core->header, sizeof(core->header), 0);
	assert_memory_equal(core->header.e_ident, ELFMAG, SELFMAG);
	assert_int_equal(core->header.e_ident[EI_CLASS], ELFCLASS64);
	assert_int_equal(core->header.e_type, ET_CORE);
	assert_int_equal(core->header.e_phentsize, sizeof(Elf64_Phdr));
	core->count = core->header.e_phnum;
	if (core->count == PN_XNUM) {
		assert_int_equal(core->header.e_shnum, 1);
		assert_int_equal(core->header.e_shentsize, sizeof(section));
		read_at(core->fd, &section, sizeof(section), core->header.e_shoff);
		core->count = section.sh_info;
		assert_in_range(core->count, PN_XNUM, UINT32_MAX);
	}
	core->segments = calloc(core->count, sizeof(Elf64_Phdr));
	assert_non_null(core->segments);
	read_at(core->fd, core->segments, core->count * sizeof(Elf64_Phdr), core->header.e_phoff);
	for (i = 0; i < core->count; i++)
		check_segment(core, i);
	core->notes = calloc(1, core->segments[0].p_filesz + 1);
	assert_non_null(core->notes);
	read_at(core->fd, core->notes, core->segments[0].p_filesz, core->segments[0].p_offset);
}

void core_file_close(struct core_file *core)
{
	close(core->fd);
	free(core->segments);
	free(core->notes);
}

bool core_file_read(const struct core_file *core, uint64_t gpa, void *buf, uint64_t length)
{
	uint64_t i;

	for (i = 1; i < core->count; i++) {
		const Elf64_Phdr *segment = &core->segments[i];
		uint64_t into = gpa - segment->p_paddr;

		if (gpa < segment->p_paddr || into >= segment->p_memsz ||
		    length > segment->p_memsz - into)
			continue;
		read_at(core->fd, buf, length, segment->p_offset + into);
		return true;
	}
	return false;
}

const char *core_file_note(const struct core_file *core, const char *name, size_t *length)
{
	uint64_t at = 0;

	while (at + sizeof(Elf64_Nhdr) <= core->segments[0].p_filesz) {
		const Elf64_Nhdr *note = (const Elf64_Nhdr *)(core->notes + at);
		const char *its_name = core->notes + at + sizeof(*note);
		const char *bytes = its_name + ((note->n_namesz + 3u) & ~3u);

		if (!strcmp(its_name, name)) {
			*length = note->n_descsz;
			return bytes;
		}
		at = (uint64_t)(bytes - core->notes) + ((note->n_descsz + 3u) & ~3u);
	}
	assert_int_equal(at, core->segments[0].p_filesz);
	return NULL;
}
