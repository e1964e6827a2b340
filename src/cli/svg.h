/* SPDX-License-Identifier: MIT */
/* What the pictures share. */
#ifndef SVG_H
#define SVG_H

#include <stdio.h>

/* Text from elsewhere, whatever its bytes are: what cannot stand in XML becomes '?'. */
void svg_text(FILE *out, const char *text);

#endif
