/* SPDX-License-Identifier: MIT */
/*
 * QEMU's command line with its memory replaced by files of a mount.
 *
 * Threads: none.
 */
#ifndef QEMU_WORDS_H
#define QEMU_WORDS_H

#include <stdbool.h>
#include <stddef.h>

struct qemu_words {
	char *text; /* each ends with a zero byte */
	size_t length;
};

/*
 * @words, up to NULL, and what they need to have each file of @folder as a memory back-end of its
 * name: where an -object of that name is, it is replaced. @shared: share=on. CLI_…
 */
int qemu_words_make(char **words, const char *folder, bool shared, struct qemu_words *made);
/* Two more. CLI_… */
int qemu_words_add(struct qemu_words *made, const char *option, const char *value);
/* As execvp() takes them, to be freed; the words are those of @made. NULL: no memory, told. */
char **qemu_words_list(const struct qemu_words *made);
void qemu_words_free(struct qemu_words *made);

#endif
