/* SPDX-License-Identifier: MIT */
#include "os/hooks.h"

#ifdef GR_HOOKS
void (*gr__hook_point)(const char *point);
int (*gr__hook_fault)(const char *call);
#else
/* A translation unit is not empty (ISO C 6.9). */
typedef int gr__no_hooks;
#endif
