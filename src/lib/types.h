/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The types and macros every folder shares: address types, the outcome of a guest step, small
 * macros.
 *
 * Freestanding: usable by the semantic core and, later, by a build without an operating system.
 */
#ifndef LIB_TYPES_H
#define LIB_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A guest-virtual (x86: linear) address and a guest-physical one. Structs, so that mixing them does
 * not compile. */
typedef struct {
    uint64_t v;
} gva_t;

typedef struct {
    uint64_t v;
} gpa_t;

#define GVA(x) ((gva_t){ .v = (x) })
#define GPA(x) ((gpa_t){ .v = (x) })

static inline gva_t gva_add(gva_t a, uint64_t off_bytes)
{
    return GVA(a.v + off_bytes);
}

static inline gpa_t gpa_add(gpa_t a, uint64_t off_bytes)
{
    return GPA(a.v + off_bytes);
}

/* What became of an instruction, or of a part of one. On STEP_FAULT the exception is already in the
 * vCPU. */
enum step {
    STEP_NEXT,  /* it completed */
    STEP_FAULT, /* an exception is pending in cpu->exc; no architectural state was changed */
    STEP_EXIT,  /* the engine has to return to its caller: see cpu->activity and cpu->req */
    STEP_ALONE, /* as STEP_FAULT, without an exception: the engine runs it again, by itself */
};

#define PAGE_SHIFT 12
#define PAGE_BYTES 4096ull
#define PAGE_MASK  (~(PAGE_BYTES - 1))

#define ARRAY_SIZE(a)                   (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define likely(x)                       __builtin_expect(!!(x), 1)
#define unlikely(x)                     __builtin_expect(!!(x), 0)
#define MUST_CHECK                      __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args)          __attribute__((format(printf, fmt, args)))
#define NOINLINE                        __attribute__((noinline))
#define ALWAYS_INLINE                   inline __attribute__((always_inline))

#define BIT(n)    (1u << (n))
#define BIT64(n)  (1ull << (n))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)

/* Bits hi..lo of x, shifted down. */
static inline uint64_t bits(uint64_t x, unsigned hi, unsigned lo)
{
    return (x >> lo) & (~0ull >> (63 - (hi - lo)));
}

static inline uint64_t align_down(uint64_t x, uint64_t align)
{
    return x & ~(align - 1);
}

static inline uint64_t align_up(uint64_t x, uint64_t align)
{
    return (x + align - 1) & ~(align - 1);
}

/* The low `bytes` bytes of x (bytes = 1..8). */
static inline uint64_t low_bytes(uint64_t x, unsigned bytes)
{
    return x & (~0ull >> (64 - 8 * bytes));
}

/* x, a value of `bytes` bytes, sign-extended to 64 bits. */
static inline uint64_t sign_extend(uint64_t x, unsigned bytes)
{
    unsigned sh = 64 - 8 * bytes;

    return (uint64_t)((int64_t)(x << sh) >> sh);
}

/* A wrong program, never a wrong guest: prints where and aborts. In all builds; no side effects in
 * cond. */
void bug_at(const char *file, int line, const char *what) __attribute__((noreturn));
#define BUG_ON(cond)                           \
    do {                                       \
        if (unlikely(cond))                    \
            bug_at(__FILE__, __LINE__, #cond); \
    } while (0)

#endif
