/* SPDX-License-Identifier: MIT */
/* What the files of the status socket share: the document, the members. */
#ifndef GR__STATUS_H
#define GR__STATUS_H

#include <guestram/status.h>
#include <jansson.h>
#include <stdbool.h>

/* Of the document; a reader refuses a larger one. Members may be added without a new number. */
#define GR__STATUS_VERSION 1

/* Put @value, which is taken over, under @key. 0, or -ENOMEM, also when @value is NULL. */
int gr__json_put(json_t *object, const char *key, json_t *value);

/* The members of programs, called; -ENOMEM or 0. members.c */
int gr__status_members(json_t *object);

#endif
