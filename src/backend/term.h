/* SPDX-License-Identifier: Apache-2.0 */
/* The process's terminal in raw mode, put back on every way out. Only for stdio.c. */
#ifndef BACKEND_TERM_H
#define BACKEND_TERM_H

#include "lib/types.h"

/* Saves the modes of the terminal behind fd and makes it raw. -EBUSY if it is held already. */
int term_acquire(int fd) MUST_CHECK;
/* Puts it back and forgets it. */
void term_release(void);
/* SIGNAL_SAFE. Puts it back, if it is held. */
void term_restore(void);

#endif
