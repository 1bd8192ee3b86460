/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the tests of the native stubs: a vCPU in flat 64-bit mode whose linear memory is one buffer
 * of this process.
 *
 * Functions of the core are weak stand-ins: the tests do not need its segments and exceptions.
 */
#ifndef ENGINE_INTERP_NATIVE_FAKE_H
#define ENGINE_INTERP_NATIVE_FAKE_H

#include "engine/interp/native_int.h"
#include "host/host.h"

#include <stdlib.h>
#include <string.h>

#define FAKE           __attribute__((weak))
#define FAKE_MEM_BYTES 8192u

struct fake {
    struct cpu c;
    struct cpu_model model;
    struct native_cache *nc;
    uint8_t *mem;       /* FAKE_MEM_BYTES of linear memory at its own address */
    uint64_t no_access; /* 0, or the address of a byte that faults */
    unsigned nr_ferr;
};

FAKE enum step raise_vec(struct cpu *c, enum vector vec)
{
    c->exc = (struct cpu_exc){ .valid = true, .vector = vec };
    return STEP_FAULT;
}

FAKE enum step raise_err(struct cpu *c, enum vector vec, uint32_t err)
{
    c->exc = (struct cpu_exc){ .valid = true, .has_err = true, .vector = vec, .err = err };
    return STEP_FAULT;
}

FAKE enum step cpu_linear(struct cpu *c, enum seg_id s, uint64_t off, unsigned bytes, unsigned acc,
                          gva_t *lin)
{
    (void)bytes, (void)acc;
    *lin = GVA(in_long64(c) && s != SEG_FS && s != SEG_GS ? off : c->seg[s].base + off);
    return STEP_NEXT;
}

static enum step fake_probe(struct cpu *c, gva_t at, unsigned bytes, unsigned acc)
{
    const struct fake *f = container_of(c, struct fake, c);
    uint64_t base = (uintptr_t)f->mem, bad = 0;

    for (unsigned i = 0; i < bytes && !bad; i++)
        if (at.v + i < base || at.v + i >= base + FAKE_MEM_BYTES || at.v + i == f->no_access)
            bad = at.v + i;
    if (!bad)
        return STEP_NEXT;
    c->exc = (struct cpu_exc){ .valid = true,
                               .has_err = true,
                               .vector = VEC_PF,
                               .err = acc & ACC_WRITE ? PF_W : 0,
                               .addr = bad };
    return STEP_FAULT;
}

static enum step fake_read(struct cpu *c, gva_t at, void *buf, unsigned bytes, unsigned acc)
{
    if (fake_probe(c, at, bytes, acc) != STEP_NEXT)
        return STEP_FAULT;
    memcpy(buf, (const void *)(uintptr_t)at.v, bytes);
    return STEP_NEXT;
}

static enum step fake_write(struct cpu *c, gva_t at, const void *buf, unsigned bytes, unsigned acc)
{
    if (fake_probe(c, at, bytes, acc | ACC_WRITE) != STEP_NEXT)
        return STEP_FAULT;
    memcpy((void *)(uintptr_t)at.v, buf, bytes);
    return STEP_NEXT;
}

static void fake_ferr(struct cpu *c)
{
    container_of(c, struct fake, c)->nr_ferr++;
}

static const struct cpu_ops fake_ops = {
    .read = fake_read, .write = fake_write, .probe = fake_probe, .ferr = fake_ferr
};

/* The host's own features, as far as features.def names them. */
static void fake_model(struct cpu_model *m)
{
    static const struct {
        uint32_t leaf, sub;
        unsigned reg; /* 0 EAX .. 3 EDX */
    } where[NR_FEATURE_WORDS] = {
        [FW_1_EDX] = { 1, 0, 3 },
        [FW_1_ECX] = { 1, 0, 2 },
        [FW_7_EBX] = { 7, 0, 1 },
        [FW_7_ECX] = { 7, 0, 2 },
        [FW_7_EDX] = { 7, 0, 3 },
        [FW_7_2_EDX] = { 7, 2, 3 },
        [FW_D1_EAX] = { 0xd, 1, 0 },
        [FW_8_1_EDX] = { 0x80000001, 0, 3 },
        [FW_8_1_ECX] = { 0x80000001, 0, 2 },
        [FW_8_8_EBX] = { 0x80000008, 0, 1 },
    };
    uint32_t r[4];

    for (unsigned i = 0; i < NR_FEATURE_WORDS; i++) {
        __asm__("cpuid"
                : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
                : "a"(where[i].leaf), "c"(where[i].sub));
        m->words[i] = r[where[i].reg];
    }
    __asm__("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(0), "c"(0));
    m->vendor = r[1] == 0x68747541 ? VENDOR_AMD : VENDOR_INTEL; /* "Auth" */
}

static void fake_mode64(struct cpu *c)
{
    c->mode = MODE_PE | MODE_LMA | MODE_CS64 | MODE_PG;
    c->cr0 = CR0_PE | CR0_NE | CR0_MP | CR0_PG;
}

static inline void fake_mode32(struct cpu *c)
{
    c->mode = MODE_PE | MODE_CS32 | MODE_SS32;
}

static inline void fake_mode_real(struct cpu *c)
{
    c->mode = 0;
    c->cr0 &= ~CR0_PE;
}

/* Power-on x87 and SSE state, all features enabled. */
static void fake_reset(struct fake *f)
{
    struct cpu *c = &f->c;

    memset(c, 0, sizeof(*c));
    fake_mode64(c);
    c->ops = &fake_ops;
    c->model = &f->model;
    c->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    c->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    c->rflags = RFLAGS_FIXED1;
    c->fpu.fcw = FCW_INIT;
    c->fpu.mxcsr = MXCSR_INIT;
    f->no_access = 0;
    f->nr_ferr = 0;
}

static void fake_init(struct fake *f, uint8_t *mem)
{
    memset(f, 0, sizeof(*f));
    fake_model(&f->model);
    f->mem = mem;
    if (native_cache_create(&f->nc) < 0)
        abort();
    fake_reset(f);
}

static void fake_destroy(struct fake *f)
{
    native_cache_destroy(f->nc);
}

static bool fake_decode(const struct cpu *c, const uint8_t *bytes, unsigned nr,
                        ZydisDecodedInstruction *in, ZydisDecodedOperand *ops)
{
    ZydisDecoder dec;

    if (in_long64(c))
        (void)ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (c->mode & MODE_CS32)
        (void)ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    else
        (void)ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16);
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec, bytes, nr, in, ops));
}

static const struct native_stub *fake_stub(struct fake *f, const uint8_t *bytes, unsigned nr)
{
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    const struct native_stub *s;

    if (!fake_decode(&f->c, bytes, nr, &in, ops))
        return NULL;
    s = native_get(f->nc, &f->model, &in, ops, bytes);
    if (!s && native_cache_full(f->nc)) {
        native_cache_reset(f->nc);
        s = native_get(f->nc, &f->model, &in, ops, bytes);
    }
    return s;
}

/* Runs the instruction with its memory operand, if any, at `at` in DS. */
static inline enum step fake_run(struct fake *f, const char *bytes, unsigned nr, const void *at)
{
    const struct native_stub *s = fake_stub(f, (const uint8_t *)bytes, nr);

    if (!s)
        abort();
    f->c.exc.valid = false;
    return native_exec(&f->c, s, SEG_DS, (uintptr_t)at);
}

/* RUN(f, "\x0f\x58\x06", at) */
#define RUN(f, bytes, at) fake_run(f, bytes, sizeof(bytes) - 1, at)

#endif
