/* SPDX-License-Identifier: Apache-2.0 */
/* Requests whose answer is a file: answer_files.c. */
#ifndef CTL_ANSWER_H
#define CTL_ANSWER_H

#include <jansson.h>

#include "ctl/ctl.h"

#define ANSWER_NO_SCREEN "this VM has no screen; run it with --display vga"

/* The result, or NULL: *error says why, or, left NULL, that memory is short. */
typedef json_t *answer_files(struct vm *vm, const json_t *request, const struct ctl_fds *fds,
                             const char **error);
answer_files answer_screenshot, answer_snapshot, answer_snapshot_base, answer_snapshot_lost;

#endif
