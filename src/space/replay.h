/* SPDX-License-Identifier: MIT */
/* A RAM's state at one moment, as listeners are told of it. */
#ifndef GR__REPLAY_H
#define GR__REPLAY_H

#include "ram/listener.h"

/* Everything there is, as events that tell its removal. Lock held. 0 or -ENOMEM. */
int gr__collect_all(struct gr_ram *ram, struct gr__events *events);

#endif
