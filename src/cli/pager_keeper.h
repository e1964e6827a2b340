/* SPDX-License-Identifier: MIT */
/* Of `guestram pager`: the process that outlives the server. See pager_keeper.c. */
#ifndef PAGER_KEEPER_H
#define PAGER_KEEPER_H

#include <guestram/pager.h>
#include <stdbool.h>
#include <sys/types.h>

/* In the server: the callback of its sessions; @context is a descriptor to the keeper. */
int pager_keeper_tell(int keeper, uint64_t number, enum gr_pager_news news, int pid, int uffd);

/* The rest of the life of the process that started @server. Returns its exit status. */
int pager_keeper_run(int server_fd, pid_t server, int signals);

#endif
