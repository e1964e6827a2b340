/* SPDX-License-Identifier: MIT */
/*
 * The core: headers, notes, and the bytes of each range, in one pass from front to back, so that it
 * can go through a pipe.
 *
 *   0      ELF header            e_phnum, or PN_XNUM (0xffff) and …
 *   64     program headers       PT_NOTE, then a PT_LOAD for each range
 *   …      a section header      … only then: the first, whose sh_info is the real number
 *   …      notes                 GUESTRAM, VMCOREINFO, the caller's
 *   4 KiB  range after range     p_paddr = p_vaddr = guest-physical address, p_filesz = p_memsz
 *
 * Pages that are all zeroes are left out. Bytes are copied once and the copy is looked at, since
 * the guest may write meanwhile.
 *
 * Threads: one for each dump, no state besides.
 */
#include "dump/core.h"
#include "base/error.h"
#include "base/range.h"
#include "base/zero.h"
#include "dump/sink.h"
#include "os/alloc.h"
#include "ram/ram.h"
#include <elf.h>
#include <errno.h>
#include <string.h>

#define PIECE (UINT64_C(256) << 10)
/* Between two calls of progress. */
#define PROGRESS_BYTES (UINT64_C(16) << 20)
/* More than any processor's notes, less than what p_filesz and our arithmetic mind. */
#define NOTES_MAX (UINT64_C(256) << 20)

#if defined(__x86_64__)
#define OWN_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OWN_MACHINE EM_AARCH64
#elif defined(__riscv)
#define OWN_MACHINE EM_RISCV
#elif defined(__powerpc64__)
#define OWN_MACHINE EM_PPC64
#elif defined(__s390x__)
#define OWN_MACHINE EM_S390
#elif defined(__loongarch__)
#define OWN_MACHINE 258
#else
#define OWN_MACHINE EM_NONE
#endif

struct core {
	const struct gr_dump_source *source;
	const struct gr_dump_opts *opts;
	struct gr__sink sink;
	const char *about;
	uint64_t notes_offset, notes_length;
	uint64_t data_offset;
	uint64_t total, done, told;
	struct gr_dump_stats stats;
	char *buf; /* PIECE bytes */
};

/* ------------------------------------------------------------------------------------- layout */

static uint64_t note_size(size_t name_size, size_t length)
{
	/* parts are padded to 4 bytes; the name counts its terminator */
	return sizeof(Elf64_Nhdr) + ((name_size + 3) & ~UINT64_C(3)) +
	       ((length + 3) & ~UINT64_C(3));
}

static const char note_ours[] = "GUESTRAM";
#define NOTE_OURS 0x4752 /* not one that readers of NT_… know */
static const char note_vmcoreinfo[] = "VMCOREINFO";

static bool many(const struct core *core)
{
	return core->source->count + 1 >= PN_XNUM;
}

static int lay_out(struct core *core)
{
	const struct gr_dump_opts *opts = core->opts;
	uint64_t phdrs = core->source->count + 1, end, i, last;

	if (opts->notes_length > NOTES_MAX || opts->vmcoreinfo_length > NOTES_MAX)
		return gr__fail(-EINVAL, "dump: notes of %zu and %zu bytes", opts->notes_length,
				opts->vmcoreinfo_length);
	if (phdrs > UINT32_MAX)
		return gr__fail(-EFBIG, "dump: %llu ranges", (unsigned long long)phdrs - 1);
	core->notes_offset = sizeof(Elf64_Ehdr) + phdrs * sizeof(Elf64_Phdr) +
			     (many(core) ? sizeof(Elf64_Shdr) : 0);
	core->notes_length = note_size(sizeof(note_ours), strlen(core->about)) + opts->notes_length;
	if (opts->vmcoreinfo)
		core->notes_length += note_size(sizeof(note_vmcoreinfo), opts->vmcoreinfo_length);
	end = (core->notes_offset + core->notes_length + GR_PAGE_SIZE - 1) &
	      ~(uint64_t)(GR_PAGE_SIZE - 1);
	core->data_offset = end;
	for (i = 0; i < core->source->count; i++) {
		const struct gr_dump_range *range = &core->source->ranges[i];

		if (!gr__range_last(range->addr, range->length, &last))
			return gr__fail(-ERANGE, "dump: %#llx bytes at %#llx",
					(unsigned long long)range->length,
					(unsigned long long)range->addr);
		if (!gr__is_aligned(range->addr | range->length, GR_PAGE_SIZE))
			return gr__fail(-EINVAL, "dump: %#llx bytes at %#llx: not multiples of %#x",
					(unsigned long long)range->length,
					(unsigned long long)range->addr, GR_PAGE_SIZE);
		if (i && range->addr <= core->source->ranges[i - 1].addr +
						core->source->ranges[i - 1].length - 1)
			return gr__fail(-EINVAL, "dump: ranges at %#llx are not apart",
					(unsigned long long)range->addr);
		if (__builtin_add_overflow(end, range->length, &end) || end > INT64_MAX)
			return gr__fail(-EFBIG, "dump: more than 2^63 bytes");
		core->total += range->length;
	}
	return 0;
}

/* ------------------------------------------------------------------------------------ headers */

static int put_elf_header(struct core *core)
{
	Elf64_Ehdr header = {
		.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
			    EV_CURRENT},
		.e_type = ET_CORE,
		.e_machine = (Elf64_Half)(core->opts->machine ? core->opts->machine : OWN_MACHINE),
		.e_version = EV_CURRENT,
		.e_phoff = sizeof(header),
		.e_ehsize = sizeof(header),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = (Elf64_Half)(many(core) ? PN_XNUM : core->source->count + 1),
	};

	if (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)
		header.e_ident[EI_DATA] = ELFDATA2MSB;
	if (many(core)) {
		header.e_shoff = core->notes_offset - sizeof(Elf64_Shdr);
		header.e_shentsize = sizeof(Elf64_Shdr);
		header.e_shnum = 1;
	}
	return gr__sink_put(&core->sink, &header, sizeof(header));
}

static int put_program_headers(struct core *core)
{
	Elf64_Phdr *headers = (Elf64_Phdr *)core->buf;
	const size_t room = PIECE / sizeof(*headers);
	uint64_t offset = core->data_offset;
	size_t i, used = 1;
	int rc = 0;

	headers[0] = (Elf64_Phdr){
		.p_type = PT_NOTE,
		.p_offset = core->notes_offset,
		.p_filesz = core->notes_length,
		.p_memsz = 0,
		.p_align = 4,
	};
	for (i = 0; i < core->source->count && !rc; i++) {
		const struct gr_dump_range *range = &core->source->ranges[i];

		headers[used++] = (Elf64_Phdr){
			.p_type = PT_LOAD,
			.p_flags = PF_R | PF_W | PF_X,
			.p_offset = offset,
			.p_vaddr = core->opts->flags & GR_DUMP_NO_VADDR ? 0 : range->addr,
			.p_paddr = range->addr,
			.p_filesz = range->length,
			.p_memsz = range->length,
			.p_align = GR_PAGE_SIZE,
		};
		offset += range->length;
		if (used == room) {
			rc = gr__sink_put(&core->sink, headers, used * sizeof(*headers));
			used = 0;
		}
	}
	return rc ? rc : gr__sink_put(&core->sink, headers, used * sizeof(*headers));
}

static int put_section_header(struct core *core)
{
	Elf64_Shdr header = {
		.sh_type = SHT_NULL,
		.sh_size = 1, /* sections, as e_shnum */
		.sh_info = (Elf64_Word)(core->source->count + 1),
	};

	return many(core) ? gr__sink_put(&core->sink, &header, sizeof(header)) : 0;
}

static int put_note(struct core *core, const char *name, size_t name_size, unsigned type,
		    const void *bytes, size_t length)
{
	static const char padding[4];
	Elf64_Nhdr header = {
		.n_namesz = (Elf64_Word)name_size,
		.n_descsz = (Elf64_Word)length,
		.n_type = type,
	};
	int rc = gr__sink_put(&core->sink, &header, sizeof(header));

	if (!rc)
		rc = gr__sink_put(&core->sink, name, name_size);
	if (!rc)
		rc = gr__sink_put(&core->sink, padding, -name_size & 3);
	if (!rc)
		rc = gr__sink_put(&core->sink, bytes, length);
	if (!rc)
		rc = gr__sink_put(&core->sink, padding, -length & 3);
	return rc;
}

static int put_headers(struct core *core)
{
	const struct gr_dump_opts *opts = core->opts;
	int rc = put_elf_header(core);

	if (!rc)
		rc = put_program_headers(core);
	if (!rc)
		rc = put_section_header(core);
	if (!rc)
		rc = put_note(core, note_ours, sizeof(note_ours), NOTE_OURS, core->about,
			      strlen(core->about));
	if (!rc && opts->vmcoreinfo)
		rc = put_note(core, note_vmcoreinfo, sizeof(note_vmcoreinfo), 0, opts->vmcoreinfo,
			      opts->vmcoreinfo_length);
	if (!rc)
		rc = gr__sink_put(&core->sink, opts->notes, opts->notes_length);
	return rc ? rc : gr__sink_skip(&core->sink, core->data_offset - core->sink.at);
}

/* -------------------------------------------------------------------------------------- bytes */

static int advance(struct core *core, uint64_t bytes)
{
	int stop;

	core->done += bytes;
	if (!core->opts->progress ||
	    (core->done - core->told < PROGRESS_BYTES && core->done != core->total))
		return 0;
	core->told = core->done;
	gr__callback_begin();
	stop = core->opts->progress(core->opts->progress_context, core->done, core->total);
	gr__callback_end();
	return stop ? gr__fail(-ECANCELED, "dump: cancelled at %llu of %llu bytes",
			       (unsigned long long)core->done, (unsigned long long)core->total)
		    : 0;
}

/* Read what can be read, page by page when it cannot be at once. */
static int read_piece(struct core *core, size_t range, uint64_t offset, uint64_t length)
{
	const struct gr_dump_source *source = core->source;
	int rc = source->read(source->context, range, offset, core->buf, length);
	uint64_t at;

	for (at = 0; (rc == -EIO || rc == -EFAULT) && at < length; at += GR_PAGE_SIZE) {
		char *page = core->buf + at;
		int wrong = source->read(source->context, range, offset + at, page, GR_PAGE_SIZE);

		if (wrong && wrong != -EIO && wrong != -EFAULT)
			return wrong;
		if (wrong) {
			memset(page, 0, GR_PAGE_SIZE);
			core->stats.lost += GR_PAGE_SIZE;
		}
	}
	return rc == -EIO || rc == -EFAULT ? 0 : rc;
}

static int put_piece(struct core *core, uint64_t length)
{
	uint64_t from, to;
	int rc = 0;

	for (from = 0; from < length && !rc; from = to) {
		bool zero = gr__is_zero(core->buf + from, GR_PAGE_SIZE);

		for (to = from + GR_PAGE_SIZE;
		     to < length && gr__is_zero(core->buf + to, GR_PAGE_SIZE) == zero;
		     to += GR_PAGE_SIZE)
			;
		if (zero) {
			rc = gr__sink_skip(&core->sink, to - from);
		} else {
			rc = gr__sink_put(&core->sink, core->buf + from, to - from);
			core->stats.written += to - from;
		}
	}
	return rc;
}

/* @length may be most of a range; all of it is told to progress in steps. */
static int skip(struct core *core, uint64_t length)
{
	int rc = 0;

	while (length && !rc) {
		uint64_t piece =
			core->sink.sparse || length < PROGRESS_BYTES ? length : PROGRESS_BYTES;

		rc = gr__sink_skip(&core->sink, piece);
		if (!rc)
			rc = advance(core, piece);
		length -= piece;
	}
	return rc;
}

static int put_range(struct core *core, size_t range)
{
	const struct gr_dump_source *source = core->source;
	uint64_t whole = source->ranges[range].length, offset = 0, first, length, end;
	int rc = 0;

	while (offset < whole && !rc) {
		first = offset;
		length = whole - offset;
		if (source->next)
			rc = source->next(source->context, range, offset, &first, &length);
		if (rc)
			break;
		if (first < offset || first > whole || length > whole - first)
			return gr__fail(-EINVAL, "dump: the source leaves range %zu", range);
		/* whole pages */
		first = gr__align_down(first, GR_PAGE_SIZE);
		if (first < offset)
			first = offset;
		if (!length && first == offset)
			return gr__fail(-EINVAL, "dump: the source does not go on in range %zu",
					range);
		if (!gr__align_up(first + length, GR_PAGE_SIZE, &end) || end > whole)
			end = whole;
		rc = skip(core, first - offset);
		for (offset = first; offset < end && length && !rc; offset += first) {
			first = end - offset < PIECE ? end - offset : PIECE;
			rc = read_piece(core, range, offset, first);
			if (!rc)
				rc = put_piece(core, first);
			if (!rc)
				rc = advance(core, first);
		}
	}
	return rc;
}

/* ---------------------------------------------------------------------------------------- all */

int gr__core_write(const struct gr_dump_source *source, int fd, const struct gr_dump_opts *opts,
		   const char *about, uint64_t generation)
{
	static const struct gr_dump_opts defaults;
	struct core core = {.source = source, .opts = opts ? opts : &defaults, .about = about};
	size_t i;
	int rc;

	for (i = 0; i < sizeof(core.opts->reserved) / sizeof(core.opts->reserved[0]); i++)
		if (core.opts->reserved[i])
			return gr__fail(-EINVAL, "dump: reserved options are not zero");
	if (core.opts->flags & ~GR_DUMP_NO_VADDR || core.opts->machine > UINT16_MAX ||
	    (core.opts->notes_length && !core.opts->notes) || core.opts->notes_length % 4)
		return gr__fail(-EINVAL, "dump: flags, machine or notes are malformed");
	rc = lay_out(&core);
	if (rc < 0)
		return rc;
	core.buf = gr__alloc_aligned(GR_PAGE_SIZE, PIECE);
	if (!core.buf)
		return gr__fail(-ENOMEM, "dump: no memory");
	rc = gr__sink_open(&core.sink, fd);
	if (!rc)
		rc = put_headers(&core);
	for (i = 0; i < source->count && !rc; i++)
		rc = put_range(&core, i);
	if (!rc)
		rc = gr__sink_end(&core.sink);
	gr__free(core.buf);
	if (rc || !core.opts->stats)
		return rc;
	core.stats.segments = source->count;
	core.stats.bytes = core.total;
	core.stats.generation = generation;
	*core.opts->stats = core.stats;
	return 0;
}

int gr_dump_from(const struct gr_dump_source *source, int fd, const struct gr_dump_opts *opts)
{
	if (!source || !source->read || (source->count && !source->ranges))
		return gr__fail(-EINVAL, "dump: no source");
	return gr__core_write(source, fd, opts, "", 0);
}
