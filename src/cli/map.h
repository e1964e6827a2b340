/* SPDX-License-Identifier: MIT */
/* How `guestram map` shows what it fetched. */
#ifndef MAP_H
#define MAP_H

#include "live.h"
#include <stdio.h>

/* Tables on stdout; map_text.c */
void map_print(const struct live *live);
/* A picture; map_svg.c */
void map_draw(const struct live *live, FILE *out);

/* The letters of a block by its place among the blocks of its RAM. */
const char *map_tag(char text[4], size_t block);

#endif
