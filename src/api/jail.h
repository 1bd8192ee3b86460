/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sandbox of a VM that the API starts (host/sandbox.h): jail_begin() before the first thread,
 * jail_allow() when it is known what the VM has, then its threads start, each going into its own
 * sandbox, and jail_enter() before its vCPUs run.
 */
#ifndef API_JAIL_H
#define API_JAIL_H

#include "lib/types.h"

struct api;

/* 0 or -errno after a message. */
int jail_begin(const struct api *a) MUST_CHECK;
/* While there is one thread. 0 or -errno after a message. */
int jail_allow(const struct api *a) MUST_CHECK;
/* This thread, which serves requests. */
void jail_enter(void);

#endif
