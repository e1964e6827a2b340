/* SPDX-License-Identifier: MIT */
/* See svg.h. */
#include "svg.h"
#include <stdbool.h>
#include <stdint.h>

/* How many bytes of one character of XML begin at @text; 0: they are none. */
static int character(const unsigned char *text)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	int length = *text < 0x80   ? 1
		     : *text < 0xc0 ? 0
		     : *text < 0xe0 ? 2
		     : *text < 0xf0 ? 3
		     : *text < 0xf8 ? 4
				    : 0;
	uint32_t value = length > 1 ? *text & (0x7fu >> length) : *text;

	for (int i = 1; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80) /* the end, too */
			return 0;
		value = value << 6 | (text[i] & 0x3fu);
	}
	if (length == 1)
		return value >= ' ' && value != 0x7f;
	if (value < least[length] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000) ||
	    value == 0xfffe || value == 0xffff)
		return 0;
	return length;
}

void svg_text(FILE *out, const char *text)
{
	while (*text) {
		int length = character((const unsigned char *)text);

		if (!length)
			fputc('?', out);
		else if (*text == '<')
			fputs("&lt;", out);
		else if (*text == '>')
			fputs("&gt;", out);
		else if (*text == '&')
			fputs("&amp;", out);
		else if (*text == '"')
			fputs("&quot;", out);
		else
			fwrite(text, 1, (size_t)length, out);
		text += length ? length : 1;
	}
}
