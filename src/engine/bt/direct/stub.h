/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's own machine code, see stub.c. Bytes to be copied, not functions to be called. */
#ifndef ENGINE_BT_DIRECT_STUB_H
#define ENGINE_BT_DIRECT_STUB_H

#include "lib/types.h"

extern const uint8_t direct_stub_begin[], direct_stub_handler[], direct_stub_init[],
    direct_stub_exit[], direct_stub_end[];

/* Where one of these is in the stub, in bytes from its beginning. */
static inline uint64_t direct_stub_offset(const uint8_t *at)
{
    return (uint64_t)(uintptr_t)at - (uint64_t)(uintptr_t)direct_stub_begin;
}

#endif
