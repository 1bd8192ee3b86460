/* SPDX-License-Identifier: Apache-2.0 */
/* See quick.h. SDM 2, appendix "Opcode Map". */
#include "engine/bt/direct/quick.h"

#include <string.h>

#include "lib/types.h"

/* What follows an opcode. */
enum form {
    F_NO,   /* not known here */
    F_NONE, /* nothing */
    F_I8,   /* an immediate of 1 byte */
    F_I32,  /* of 4 bytes */
    F_IV,   /* of 4 bytes, 8 with REX.W */
    F_M,    /* ModRM */
    F_MI8,
    F_MI32,
    F_SHIFT,     /* ModRM; /6 is nobody's */
    F_SHIFT_I8,  /* and an immediate */
    F_MOV_I8,    /* ModRM /0 only, immediate */
    F_MOV_I32,   /* the same */
    F_UNARY8,    /* group 3: /0 has an immediate, /1 is nobody's */
    F_UNARY32,   /* the same */
    F_INCDEC8,   /* /0 and /1 only */
    F_INCDECPUSH /* /0, /1 and /6 only */
};

#define ALU(op)                                                                            \
    [(op)] = F_M, [(op) + 1] = F_M, [(op) + 2] = F_M, [(op) + 3] = F_M, [(op) + 4] = F_I8, \
    [(op) + 5] = F_I32

static const uint8_t one_byte[256] = {
    ALU(0x00),
    ALU(0x08),
    ALU(0x10),
    ALU(0x18),
    ALU(0x20),
    ALU(0x28),
    ALU(0x30),
    ALU(0x38),
    [0x50 ... 0x5f] = F_NONE, /* PUSH, POP */
    [0x63] = F_M,             /* MOVSXD */
    [0x68] = F_I32,           /* PUSH */
    [0x69] = F_MI32,          /* IMUL */
    [0x6a] = F_I8,            /* PUSH */
    [0x6b] = F_MI8,           /* IMUL */
    [0x80] = F_MI8,
    [0x81] = F_MI32,
    [0x83] = F_MI8,
    [0x84 ... 0x8b] = F_M,    /* TEST, XCHG, MOV */
    [0x98 ... 0x99] = F_NONE, /* CDQE, CQO */
    [0xa8] = F_I8,            /* TEST */
    [0xa9] = F_I32,
    [0xb0 ... 0xb7] = F_I8, /* MOV */
    [0xb8 ... 0xbf] = F_IV,
    [0xc0 ... 0xc1] = F_SHIFT_I8,
    [0xc6] = F_MOV_I8,
    [0xc7] = F_MOV_I32,
    [0xc9] = F_NONE, /* LEAVE */
    [0xd0 ... 0xd3] = F_SHIFT,
    [0xf6] = F_UNARY8,
    [0xf7] = F_UNARY32,
    [0xfe] = F_INCDEC8,
    [0xff] = F_INCDECPUSH,
};

static const uint8_t two_byte[256] = {
    [0x40 ... 0x4f] = F_M,    /* CMOVcc */
    [0x90 ... 0x9f] = F_M,    /* SETcc */
    [0xaf] = F_M,             /* IMUL */
    [0xb6 ... 0xb7] = F_M,    /* MOVZX */
    [0xbe ... 0xbf] = F_M,    /* MOVSX */
    [0xc8 ... 0xcf] = F_NONE, /* BSWAP */
};

struct reader {
    const uint8_t *b;
    unsigned avail, at;
    bool wide; /* REX.W */
};

static unsigned peek(const struct reader *r)
{
    return r->at < r->avail ? r->b[r->at] : 0;
}

/* Bytes of ModRM, SIB and displacement; 0: RIP-relative. Bytes that are not there any more count as
 * 0: the length is compared with avail at the end. */
static unsigned modrm_bytes(const struct reader *r)
{
    unsigned modrm = peek(r), mod = modrm >> 6, rm = modrm & 7, n = 1;

    if (mod == 3)
        return n;
    if (rm == 4) {
        unsigned sib = r->at + 1 < r->avail ? r->b[r->at + 1] : 0;

        n++;
        if (mod == 0 && (sib & 7) == 5)
            n += 4;
    } else if (mod == 0 && rm == 5) {
        return 0;
    }
    return n + (mod == 1 ? 1 : mod == 2 ? 4 : 0);
}

/* All that follows the opcode; false: not known here. */
static bool skip_operands(struct reader *r, enum form form)
{
    unsigned reg = peek(r) >> 3 & 7, n = 0, imm = 0;

    switch (form) {
    case F_NO:
        return false;
    case F_NONE:
        return true;
    case F_I8:
        r->at += 1;
        return true;
    case F_I32:
        r->at += 4;
        return true;
    case F_IV:
        r->at += r->wide ? 8 : 4;
        return true;
    case F_M:
        break;
    case F_MI8:
        imm = 1;
        break;
    case F_MI32:
        imm = 4;
        break;
    case F_SHIFT:
    case F_SHIFT_I8:
        if (reg == 6)
            return false;
        imm = form == F_SHIFT_I8;
        break;
    case F_MOV_I8:
    case F_MOV_I32:
        if (reg)
            return false;
        imm = form == F_MOV_I8 ? 1 : 4;
        break;
    case F_UNARY8:
    case F_UNARY32:
        if (reg == 1)
            return false;
        if (reg == 0)
            imm = form == F_UNARY8 ? 1 : 4;
        break;
    case F_INCDEC8:
    case F_INCDECPUSH:
        if (reg > 1 && !(reg == 6 && form == F_INCDECPUSH))
            return false;
        break;
    }
    n = modrm_bytes(r);
    r->at += n + imm;
    return n;
}

static int32_t rel_at(const uint8_t *b, unsigned bytes)
{
    int32_t rel;

    if (bytes == 1)
        return (b[0] ^ 0x80) - 0x80; /* sign-extended */
    memcpy(&rel, b, sizeof(rel));
    return rel;
}

/* A direct branch with so many bytes of displacement at r->at. */
static bool branch(const struct reader *r, enum quick_kind kind, unsigned opcode, unsigned bytes,
                   struct quick *q)
{
    if (r->at + bytes > r->avail)
        return false;
    *q = (struct quick){ .kind = kind,
                         .cc = opcode & 15,
                         .len = (uint8_t)(r->at + bytes),
                         .rel = rel_at(r->b + r->at, bytes) };
    return true;
}

bool quick_decode(const uint8_t *b, unsigned avail, struct quick *q)
{
    struct reader r = { .b = b, .avail = MIN(avail, 15u) };
    unsigned opcode = peek(&r), rex = 0;
    bool two;

    if (opcode >> 4 == 4) {
        rex = opcode;
        r.at++;
        opcode = peek(&r);
    }
    r.wide = rex & 8;
    two = opcode == 0x0f;
    if (two) {
        r.at++;
        opcode = peek(&r);
    }
    r.at++;
    if (!two && opcode >> 4 == 7 && !rex)
        return branch(&r, QUICK_JCC, opcode, 1, q);
    if (two && opcode >> 4 == 8 && !rex)
        return branch(&r, QUICK_JCC, opcode, 4, q);
    if (!two && (opcode == 0xe8 || opcode == 0xe9) && !rex)
        return branch(&r, opcode == 0xe8 ? QUICK_CALL : QUICK_JMP, 0, 4, q);
    if (!two && opcode == 0xeb && !rex)
        return branch(&r, QUICK_JMP, 0, 1, q);
    *q = (struct quick){ .kind = QUICK_COPY };
    if (!two && opcode == 0xc3 && !rex)
        q->kind = QUICK_RET;
    else if (!two && opcode == 0x8d) { /* LEA: of memory only */
        if (peek(&r) >> 6 == 3 || !skip_operands(&r, F_M))
            return false;
    } else if (!skip_operands(&r, two ? two_byte[opcode] : one_byte[opcode]))
        return false;
    q->len = (uint8_t)r.at;
    return r.at <= r.avail;
}
