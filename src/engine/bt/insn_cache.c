/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that were decoded before. Most code is like other code but for displacements and
 * immediates, so these are taken from the bytes and all else from the last such instruction: of the
 * 1.6 million instructions that a boot of Debian translates three quarters are found so; a third
 * was when all bytes had to be the same (nine tenths and 59 % with 8192 places).
 */
#include "engine/bt/insn.h"

#include <string.h>

#define REST(member) (offsetof(struct insn, member) - offsetof(struct insn, op))

/* Which opcodes of the one-byte map have a ModRM byte: a bit each. */
static const uint32_t has_modrm[8] = {
    0x0f0f0f0f, 0x0f0f0f0f, 0,          0x00000a08, /* 00..7f; 63, 69, 6B */
    0x0000ffff, 0,          0xff0f00c3, 0xc0c00000, /* 80..ff */
};

/* How many bytes are prefixes, opcode, ModRM and SIB. A guess that need not be right: it says where
 * to look, and not what is found there. */
static unsigned guess_fixed(const uint8_t *b, unsigned avail, bool long64)
{
    unsigned n = 0;

    while (n + 3 < avail && (b[n] == 0x66 || b[n] == 0xf2 || b[n] == 0xf3 || b[n] == 0x65))
        n++;
    if (long64 && (b[n] & 0xf0) == 0x40)
        n++;
    if (n + 2 >= avail)
        return avail;
    if (b[n] == 0x0f) {
        if ((b[n + 1] & 0xf0) == 0x80) /* Jcc */
            return n + 2;
        n++;
    } else if (!(has_modrm[b[n] >> 5] >> (b[n] & 31) & 1)) {
        return n + 1;
    }
    n++;
    return n + 1 + ((b[n] & 7) == 4 && b[n] < 0xc0);
}

static unsigned slot_of(const uint8_t *bytes, unsigned avail, uint32_t key)
{
    unsigned n = MIN(guess_fixed(bytes, avail, key & MODE_CS64), MIN(avail, 8u));
    uint64_t x = 0;

    memcpy(&x, bytes, n);
    x ^= (uint64_t)key << 40;
    return (unsigned)((x * 0x9e3779b97f4a7c15ull) >> 52); /* INSN_SLOTS = 2^12 */
}

/* Only as many operands as there are. */
static void copy_ops(ZydisDecodedOperand *to, const ZydisDecodedOperand *from, unsigned nr)
{
    memcpy(to, from, nr * sizeof(*to));
}

/* May displacement and immediate be others? */
static bool may_differ(const struct insn *in)
{
    switch (in->cls) {
    case INSN_COPY:
    case INSN_LEA:
    case INSN_PUSH:
    case INSN_JMP:
    case INSN_JCC:
    case INSN_LOOP:
    case INSN_CALL:
        break;
    default:
        return false;
    }
    return in->op.fn != op_native && !in->z.raw.imm[1].size && in->z.raw.disp.size < 64 &&
           in->z.raw.encoding2 != ZYDIS_INSTRUCTION_ENCODING_EVEX;
}

/* The place that was filled first, or one that never was: its number plus 1. */
static uint16_t take_oldest(struct insn_cache *cache)
{
    unsigned i = cache->next++ % INSN_KNOWN;

    if (cache->at[cache->known[i].slot] == i + 1)
        cache->at[cache->known[i].slot] = 0;
    return (uint16_t)(i + 1);
}

static void remember(struct insn_cache *cache, unsigned slot, uint32_t key, const struct insn *in)
{
    struct insn_known *k;
    unsigned fixed = in->len;

    if (in->z.operand_count > INSN_KNOWN_OPS)
        return;
    if (may_differ(in)) {
        if (in->z.raw.disp.size)
            fixed = in->z.raw.disp.offset;
        if (in->z.raw.imm[0].size)
            fixed = MIN(fixed, in->z.raw.imm[0].offset);
    }
    if (!cache->at[slot])
        cache->at[slot] = take_oldest(cache);
    k = &cache->known[cache->at[slot] - 1];
    k->key = key;
    k->slot = (uint16_t)slot;
    k->fixed = (uint8_t)fixed;
    k->z = in->z;
    copy_ops(k->ops, in->ops, in->z.operand_count);
    memcpy(k->rest, &in->op, sizeof(k->rest));
}

/* Bytes of the instruction as a number; bits is 8, 16, 32 or 64. */
static uint64_t number(const uint8_t *at, unsigned bits, bool is_signed)
{
    uint64_t x = 0;

    memcpy(&x, at, bits / 8);
    if (is_signed && bits < 64 && x >> (bits - 1))
        x |= ~0ull << bits;
    return x;
}

static void set_disp(struct insn *in)
{
    in->z.raw.disp.value =
        (int64_t)number(in->bytes + in->z.raw.disp.offset, in->z.raw.disp.size, true);
    for (unsigned i = 0; i < in->z.operand_count; i++)
        if (in->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY && in->ops[i].mem.disp.has_displacement)
            in->ops[i].mem.disp.value = in->z.raw.disp.value;
}

static void set_imm(struct insn *in)
{
    uint64_t x = number(in->bytes + in->z.raw.imm[0].offset, in->z.raw.imm[0].size,
                        in->z.raw.imm[0].is_signed);

    in->z.raw.imm[0].value.u = x;
    for (unsigned i = 0; i < in->z.operand_count_visible; i++)
        if (in->ops[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
            in->ops[i].imm.value.u = x;
    if (in->cls == INSN_PUSH)
        in->imm = in->word == 8 ? x : (uint32_t)x;
    else if (in->cls >= INSN_JMP && in->cls <= INSN_CALL)
        in->target = (int64_t)in->off + in->len + (int64_t)x;
}

static unsigned recall(const struct insn_known *k, const uint8_t *bytes, uint16_t off,
                       struct insn *in)
{
    in->z = k->z;
    copy_ops(in->ops, k->ops, k->z.operand_count);
    memcpy(&in->op, k->rest, sizeof(k->rest));
    if (k->fixed < in->len) {
        memcpy(in->bytes, bytes, in->len);
        if (in->z.raw.disp.size)
            set_disp(in);
        if (in->z.raw.imm[0].size)
            set_imm(in);
    }
    if (in->cls >= INSN_JMP && in->cls <= INSN_CALL)
        in->target += (int64_t)off - in->off;
    in->op.off = in->off = off;
    return in->len;
}

unsigned insn_decode_cached(struct insn_cache *cache, struct ivcpu *v, uint32_t key,
                            const uint8_t *bytes, unsigned avail, uint16_t off, struct insn *in)
{
    const struct insn_known *k;
    unsigned slot, len;

    if (avail < 3)
        return insn_decode(v, key, bytes, avail, off, in);
    slot = slot_of(bytes, avail, key);
    k = &cache->known[cache->at[slot] ? cache->at[slot] - 1 : 0];
    if (cache->at[slot] && k->key == key && k->z.length <= avail &&
        !memcmp(k->rest + REST(bytes), bytes, k->fixed))
        return recall(k, bytes, off, in);
    len = insn_decode(v, key, bytes, avail, off, in);
    if (len && in->op.fn != op_ud) /* what does not exist may be told by bytes behind its length */
        remember(cache, slot, key, in);
    return len;
}

void insn_forget(struct insn_cache *cache)
{
    memset(cache->at, 0, sizeof(cache->at));
}
