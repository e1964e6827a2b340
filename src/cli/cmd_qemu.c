/* SPDX-License-Identifier: MIT */
/* guestram qemu: freeze a running guest of QEMU into a snapshot, and start clones of one. */
#include "cli.h"
#include "qemu.h"
#include <string.h>

int cmd_qemu(int argc, char **argv)
{
	static const struct argp none = {
		.args_doc = "save|clone OPTION…",
		.doc = "Snapshots of QEMU as it is: 'save' makes one of a running guest, 'clone' "
		       "starts a guest "
		       "from one (see 'guestram qemu save --help').",
	};

	if (argc > 1 && !strcmp(argv[1], "save"))
		return cmd_qemu_save(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "clone"))
		return cmd_qemu_clone(argc - 1, argv + 1);
	{
		int next = 0;

		cli_parse(&none, "qemu", argc, argv, ARGP_IN_ORDER | ARGP_NO_ARGS, &next, NULL);
	}
	cli_usage(NULL, argc < 2 ? "save or clone?" : "neither save nor clone: %s", argv[1]);
}
