/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's own machine code, see stub.c. Bytes to be copied, not functions to be called. */
#ifndef ENGINE_BT_DIRECT_STUB_H
#define ENGINE_BT_DIRECT_STUB_H

#include "lib/types.h"

extern const uint8_t direct_stub_begin[], direct_stub_handler[], direct_stub_init[],
    direct_stub_exit[], direct_stub_end[];

#endif
