/* SPDX-License-Identifier: MIT */
/* What saving and cloning of QEMU's guests share. */
#ifndef QEMU_H
#define QEMU_H

/* The piece of state that is QEMU's own migration stream, and what the descriptor of it is called.
 */
#define QEMU_STATE "qemu"
#define QEMU_FD "guestram-state"

int cmd_qemu_save(int argc, char **argv);
int cmd_qemu_clone(int argc, char **argv);

#endif
