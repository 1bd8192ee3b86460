/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel's global pages in the upper half, as some systems have them, for guests that look at
 * what a translator or a TLB makes of them: all of the low memory once more in 2 MB pages, a PML4
 * slot with small pages, the stack among them. Functions and data here are the guest's own.
 */
#ifndef GUEST_UPPER_H
#define GUEST_UPPER_H

#include "guest.h"

#define DIRECT 0xffff888000000000ull /* the first GB in 2 MB pages */
#define SMALL  0xffffc90000000000ull /* the first of its PML4 slot, small pages */
#define STACK  (SMALL + LARGE)
#define OTHER  0xffffd90000000000ull /* its slot is seen at other slots, too */
#define HUGE   0xffffe10000000000ull
#define KERNEL 0xffffffff80000000ull
#define TOP    0xfffffffffffff000ull
#define LARGE  0x200000ull
#define GIGA   0x40000000ull
#define BIG(n) (0x2000000ull + (n)*LARGE) /* RAM above the image: 2 MB pages */
#define GR     (PTE_P | PTE_G)
#define GRW    (GR | PTE_W)
#define ROUNDS 100u
#define PAGES  16u
#define SLOT   (1ull << 39)

__attribute__((unused)) static uint8_t pages[PAGES][PAGE_BYTES] PAGE_ALIGNED;
static uint8_t upper_stacks[2][PAGES][PAGE_BYTES] PAGE_ALIGNED;

#define PA(n)         ((word_t)pages[n])
#define INLINE        static inline __attribute__((always_inline))
#define ALONE         static __attribute__((noinline, noclone, no_icf))
#define AT(type, lin) (*(volatile type *)(lin))

/* One instruction as a function, for try(); where it is: name_at. */
#define INSN(name, insn)                                        \
    extern const uint8_t name##_at[];                           \
    ALONE word_t name(word_t at, word_t v)                      \
    {                                                           \
        asm volatile(".globl " #name "_at\n" #name "_at: " insn \
                     : "+r"(v)                                  \
                     : "r"(at)                                  \
                     : "memory", "cc", "rcx");                  \
        return v;                                               \
    }

/* All, global ones too. */
static inline void flush_all(void)
{
    write_cr4(read_cr4() & ~(word_t)CR4_PGE);
    write_cr4(read_cr4() | CR4_PGE);
}

static inline void map(word_t lin, word_t entry)
{
    *page_entry(lin, 1) = entry;
    invlpg((void *)lin);
}

static inline void map_large(word_t lin, word_t entry)
{
    *page_entry(lin, 2) = entry | PTE_PS;
    invlpg((void *)lin);
}

/* Is it that exception, of that instruction? CR2 counts for a #PF only. */
static inline bool is_fault(const struct trap *t, word_t vec, word_t err, word_t cr2,
                            const uint8_t *ip)
{
    bool good =
        t->vec == vec && t->err == err && t->f.ip == (word_t)ip && (vec != VEC_PF || t->cr2 == cr2);

    if (!good)
        print("# vector %u error %x cr2 %lx at %lx, want %u, %x, %lx, %lx\n", (unsigned)t->vec,
              (unsigned)t->err, t->cr2, t->f.ip, (unsigned)vec, (unsigned)err, cr2, (word_t)ip);
    return good;
}

static inline word_t stack_page(unsigned of, word_t page)
{
    return (word_t)upper_stacks[of][page * 7 % PAGES];
}

/* Runs them all on a stack in the upper half, with nothing remembered at each one's begin. */
typedef void upper_fn(void);
struct upper_run {
    upper_fn *const *fns;
    unsigned nr;
};

static void upper_run_all(const struct upper_run *r)
{
    for (unsigned i = 0; i < r->nr; i++) {
        flush_all();
        r->fns[i]();
    }
}

static inline void upper_run(upper_fn *const *fns, unsigned nr)
{
    const struct upper_run r = { fns, nr };
    const struct upper_run *arg = &r;

    for (word_t at = 0; at < GIGA; at += LARGE)
        *page_entry(DIRECT + at, 2) = at | GRW | PTE_PS;
    for (unsigned i = 0; i < PAGES; i++)
        *page_entry(STACK + i * PAGE_BYTES, 1) = stack_page(0, i) | GRW;
    asm volatile("mov %%rsp, %%rbx\n\tmov %1, %%rsp\n\tcall *%2\n\tmov %%rbx, %%rsp"
                 : "+D"(arg)
                 : "r"(STACK + PAGES * PAGE_BYTES), "r"(upper_run_all)
                 : "rax", "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
}

#endif
