/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Most instructions of compiled code by their first bytes, without the decoder, which is half of
 * what a translation costs. Only what is certain: an optional REX and an opcode that every x86-64
 * processor has, with operands that are not RIP-relative.
 */
#ifndef ENGINE_BT_DIRECT_QUICK_H
#define ENGINE_BT_DIRECT_QUICK_H

#include <stdbool.h>
#include <stdint.h>

enum quick_kind {
    QUICK_COPY, /* runs as it is */
    QUICK_JCC,  /* cc, rel */
    QUICK_JMP,  /* rel */
    QUICK_CALL, /* rel */
    QUICK_RET,  /* near, without an immediate */
};

struct quick {
    enum quick_kind kind;
    uint8_t len;
    uint8_t cc;
    int32_t rel; /* from the next instruction */
};

/* 64-bit code. False: not known here, or it needs more bytes than avail. */
bool quick_decode(const uint8_t *b, unsigned avail, struct quick *q);

#endif
