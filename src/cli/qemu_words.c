/* SPDX-License-Identifier: MIT */
/* See qemu_words.h. */
#include "qemu_words.h"
#include "cli.h"
#include <argz.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int no_memory(void)
{
	return cli_fail(ENOMEM, "QEMU's command line");
}

int qemu_words_add(struct qemu_words *made, const char *option, const char *value)
{
	return argz_add(&made->text, &made->length, option) ||
			       argz_add(&made->text, &made->length, value)
		       ? no_memory()
		       : CLI_OK;
}

char **qemu_words_list(const struct qemu_words *made)
{
	char **list = calloc(argz_count(made->text, made->length) + 1, sizeof(*list));

	if (list)
		argz_extract(made->text, made->length, list);
	else
		no_memory();
	return list;
}

void qemu_words_free(struct qemu_words *made)
{
	free(made->text);
	memset(made, 0, sizeof(*made));
}

/* Is it an -object's value that makes a memory back-end named @id? */
static bool makes(const char *value, const char *id)
{
	size_t length = strlen(id);
	const char *at = value;

	if (strncmp(value, "memory-backend-", 15) != 0)
		return false;
	while ((at = strchr(at, ','))) {
		at++;
		if (!strncmp(at, "id=", 3) && !strncmp(at + 3, id, length) &&
		    (at[3 + length] == ',' || !at[3 + length]))
			return true;
	}
	return false;
}

/* In an option's value a comma is written twice. */
static void escape(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == ',')
			fputc(',', out);
		fputc(*text, out);
	}
}

static char *describe(const char *id, const char *folder, unsigned long long size, bool shared)
{
	char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);

	if (!out)
		return NULL;
	fprintf(out, "memory-backend-file,id=%s,size=%llu,share=%s,mem-path=", id, size,
		shared ? "on" : "off");
	escape(out, folder);
	fputc('/', out);
	escape(out, id);
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}

/* Put it in the place of the object that has its name, or at the end. */
static int place(struct qemu_words *made, const char *id, const char *object)
{
	char *word = NULL;
	bool value = false; /* of -object */

	while ((word = argz_next(made->text, made->length, word))) {
		if (value && makes(word, id)) {
			size_t at = (size_t)(word - made->text);

			if (argz_insert(&made->text, &made->length, word, object))
				return no_memory();
			argz_delete(&made->text, &made->length,
				    made->text + at + strlen(object) + 1);
			return CLI_OK;
		}
		value = !strcmp(word, "-object") || !strcmp(word, "--object");
	}
	return qemu_words_add(made, "-object", object);
}

static int add_file(struct qemu_words *made, const char *folder, const char *id, bool shared)
{
	char path[PATH_MAX], *object;
	struct stat st;
	int rc;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", folder, id) >= sizeof(path))
		return cli_fail(ENAMETOOLONG, "%s", folder);
	if (stat(path, &st) < 0)
		return cli_fail(errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return CLI_OK;
	object = describe(id, folder, (unsigned long long)st.st_size, shared);
	rc = object ? place(made, id, object) : no_memory();
	free(object);
	return rc;
}

static int add_files(struct qemu_words *made, const char *folder, bool shared)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	int rc = CLI_OK;

	if (!dir)
		return cli_fail(errno, "%s", folder);
	while (!rc && (entry = readdir(dir))) {
		if (entry->d_name[0] != '.')
			rc = add_file(made, folder, entry->d_name, shared);
	}
	closedir(dir);
	return rc;
}

int qemu_words_make(char **words, const char *folder, bool shared, struct qemu_words *made)
{
	int rc;

	memset(made, 0, sizeof(*made));
	rc = argz_create(words, &made->text, &made->length) ? no_memory()
							    : add_files(made, folder, shared);
	if (rc)
		qemu_words_free(made);
	return rc;
}
