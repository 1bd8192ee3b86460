/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The library of the small guests: a console, checks that print TAP, exceptions that a check can
 * look at, and the end.
 *
 * A guest is one C file with main(); it starts with flat segments and interrupts off. m64: long
 * mode, memory below 4 GB mapped one to one for the supervisor, and once more at USER_ALIAS for the
 * user. m32: protected mode, no paging.
 */
#ifndef GUEST_GUEST_H
#define GUEST_GUEST_H

#include "x86.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PAGE_BYTES    4096u
#define PAGE_ALIGNED  __attribute__((aligned(4096)))
#define NOINLINE      __attribute__((noinline))

/* ---- checks ---- */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
struct where {
    const char *file;
    int line;
};
#define HERE (&(const struct where){ __FILE__, __LINE__ })
bool expect(const struct where *at, bool ok, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
bool expect_eq(const struct where *at, uint64_t got, uint64_t want, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
#define EXPECT(cond, ...)         expect(HERE, (cond), __VA_ARGS__)
#define EXPECT_EQ(got, want, ...) expect_eq(HERE, (uint64_t)(got), (uint64_t)(want), __VA_ARGS__)
/* got within percent of want. */
bool expect_near(const struct where *at, uint64_t got, uint64_t want, unsigned percent,
                 const char *fmt, ...) __attribute__((format(printf, 5, 6)));
#define EXPECT_NEAR(got, want, percent, ...) \
    expect_near(HERE, (got), (want), (percent), __VA_ARGS__)
void skip(const char *why, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* QEMU's TCG is known to fail the next check, for this reason. There it is reported as TODO;
 * elsewhere it counts. */
void tcg_deviates(const char *why);
bool on_tcg(void); /* or in a guest of a guest of it */

/* The run ends: prints the plan. main() returning does the same. */
void guest_end(void) __attribute__((noreturn));
/* The machine is about to end by itself: prints the plan. */
void guest_plan(void);
int main(void);

/* ---- what the loader said (saved before main) ---- */
extern uint32_t boot_magic, boot_info;
/* The command line behind the image's name, or "". */
const char *boot_args(void);

/* ---- exceptions and interrupts ---- */
#ifdef __x86_64__
struct frame {
    word_t r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
    word_t vec, err;
    word_t ip, cs, flags, sp, ss;
};
#else
struct frame {
    word_t gs, fs, es, ds;
    word_t di, si, bp, sp_pushed, bx, dx, cx, ax;
    word_t vec, err;
    word_t ip, cs, flags;
    word_t sp, ss;                 /* only from an outer ring */
    word_t v_es, v_ds, v_fs, v_gs; /* only from virtual-8086 mode */
};
#endif
#define VEC_NONE     0xffffu
#define VEC_USER_END 0x80u /* the gate by which user code gives up the CPU */

struct trap {
    struct frame f;
    word_t cr2;
    word_t vec; /* VEC_NONE: the function returned */
    word_t err;
};
typedef word_t guest_fn(word_t a, word_t b);

/* Calls fn(a, b); an exception without a handler of its own ends it. f.ax is the result where there
 * was none. */
struct trap try(guest_fn *fn, word_t a, word_t b);
/* The same at CPL 3 with user_flags; f.ax is the result when vec is VEC_USER_END. */
struct trap try_user(guest_fn *fn, word_t a, word_t b);
extern word_t user_flags;
bool expect_trap(const struct where *at, const struct trap *t, word_t vec, word_t err,
                 const char *fmt, ...) __attribute__((format(printf, 5, 6)));
#define EXPECT_TRAP(t, vec, err, ...) expect_trap(HERE, (t), (vec), (err), __VA_ARGS__)

/* A handler returns to the frame, which it may change. NULL takes it away. */
typedef void trap_handler(struct frame *f);
void trap_handle(unsigned vec, trap_handler *h);

/* ---- descriptors ---- */
#define SEL_KCODE   0x08u
#define SEL_KDATA   0x10u
#define SEL_UCODE32 0x18u /* this order suits SYSCALL, SYSRET, SYSENTER and SYSEXIT alike */
#define SEL_UDATA   0x20u
#define SEL_UCODE64 0x28u
#define SEL_UDATA2  0x30u
#define SEL_KCODE32 0x38u
#define SEL_KCODE16 0x40u
#define SEL_KDATA16 0x48u
#define SEL_TSS     0x50u /* two slots in long mode */
#define SEL_FREE    0x60u /* from here the guest's own */
#define NR_GDT      64u
extern uint64_t gdt[NR_GDT];
#define GDT(sel) gdt[(sel) / 8]

/* Access byte (type, S, DPL, P) in bits 0-7; G, D, L and AVL in bits 12-15, as in the descriptor's
 * second word. */
#define DESC_G     0x8000u
#define DESC_D     0x4000u
#define DESC_L     0x2000u
#define ACC_CODE   0x9au /* readable, DPL 0, present */
#define ACC_DATA   0x92u /* writable */
#define ACC_DPL(n) ((n) << 5)
uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access);
/* A gate of 8 bytes: type and DPL as access byte. For long mode's IDT see idt_set(). */
uint64_t gate(unsigned sel, uint32_t offset, unsigned access, unsigned nr_params);

#ifdef __x86_64__
struct idt_entry {
    uint64_t lo, hi;
};
struct tss {
    uint32_t reserved0;
    uint64_t rsp[3], reserved1, ist[7], reserved2;
    uint16_t reserved3, iomap;
    uint8_t bitmap[8192 + 1];
} __attribute__((packed));
#else
struct idt_entry {
    uint64_t lo;
};
struct tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp,
        esi, edi, es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, iomap;
    uint8_t intmap[32]; /* of virtual-8086 mode extensions, directly below the I/O map */
    uint8_t bitmap[8192 + 1];
} __attribute__((packed));
#endif
extern struct idt_entry idt[256];
extern struct tss tss;
#define GATE_INT  0x8eu
#define GATE_TRAP 0x8fu
/* The library's own stub for that vector, or another handler. ist: 0, or 1 to 7 (m64 only). */
void idt_set(unsigned vec, word_t handler, unsigned access, unsigned ist);
word_t trap_stub(unsigned vec);
void load_tss(unsigned sel);

struct table_ptr {
    uint16_t limit;
    word_t base;
} __attribute__((packed));
static inline void lidt(const struct table_ptr *p)
{
    asm volatile("lidt %0" : : "m"(*p) : "memory");
}
static inline void lgdt(const struct table_ptr *p)
{
    asm volatile("lgdt %0" : : "m"(*p) : "memory");
}
static inline struct table_ptr sidt(void)
{
    struct table_ptr p;

    asm volatile("sidt %0" : "=m"(p));
    return p;
}

/*
 * ---- code for 16-bit modes: copied to LOW_AT, where a 16-bit offset reaches it ----
 * It is assembled anywhere, between two labels; LOW(label) is a label's address in the copy.
 */
#define LOW_AT    0x1000u
#define LOW_BYTES 0x4000u
void low_install(const uint8_t *begin, const uint8_t *end);

/* ---- memory ---- */
void *memcpy(void *to, const void *from, size_t bytes);
void *memset(void *to, int c, size_t bytes);
int memcmp(const void *a, const void *b, size_t bytes);
size_t strlen(const char *s);
bool str_has(const char *s, const char *word);

/* ---- time: TSC ticks per millisecond, measured once against the PIT's channel 2 ---- */
uint64_t tsc_per_ms(void);
void delay_us(uint32_t us);
/* Waits with interrupts on until *word >= want, at most ms. */
bool wait_for(const volatile unsigned *word, unsigned want, unsigned ms);
/* Ticks (less than 2^32 ms of them) to microseconds. */
uint32_t tsc_to_us(uint64_t ticks);
/* What takes a known time, in microseconds, is tried a few times: the host may disturb it, but not
 * always. */
typedef uint32_t measure_fn(void);
bool expect_time(const struct where *at, measure_fn *measure, uint32_t want_us, unsigned percent,
                 const char *what);
#define EXPECT_TIME(measure, want_us, percent, what) \
    expect_time(HERE, (measure), (want_us), (percent), (what))

/* ---- PIC and local APIC ---- */
void pic_init(unsigned first_vec); /* all masked */
void pic_unmask(unsigned irq);
void pic_mask_all(void);
void pic_eoi(unsigned irq);
#define APIC_AT         0xfee00000ul
#define IOAPIC_AT       0xfec00000ul
#define APIC_ID         0x20u
#define APIC_VERSION    0x30u
#define APIC_TPR        0x80u
#define APIC_PPR        0xa0u
#define APIC_EOI        0xb0u
#define APIC_LDR        0xd0u
#define APIC_DFR        0xe0u
#define APIC_SVR        0xf0u
#define APIC_ISR        0x100u
#define APIC_TMR        0x180u
#define APIC_IRR        0x200u
#define APIC_ESR        0x280u
#define APIC_ICR        0x300u
#define APIC_ICR2       0x310u
#define APIC_LVT_TIMER  0x320u
#define APIC_LVT_LINT0  0x350u
#define APIC_LVT_LINT1  0x360u
#define APIC_LVT_ERROR  0x370u
#define APIC_TIMER_INIT 0x380u
#define APIC_TIMER_NOW  0x390u
#define APIC_TIMER_DIV  0x3e0u
static inline uint32_t apic_read(unsigned reg)
{
    return read32((void *)(APIC_AT + reg));
}
static inline void apic_write(unsigned reg, uint32_t v)
{
    write32((void *)(APIC_AT + reg), v);
}
/* Software-enabled with spurious vector FFh, TPR 0, LVTs masked; the PIC's lines masked. */
void apic_init(void);
uint32_t ioapic_read(unsigned reg);
void ioapic_write(unsigned reg, uint32_t v);

#ifdef __x86_64__
/* ---- page tables (m64) ---- */
#define USER_ALIAS 0x8000000000ull  /* PML4[1]: all of the low 4 GB for the user */
#define TEST_VA    0x10000000000ull /* PML4[2]: empty, the guest's own */
static inline void *user_ptr(const volatile void *p)
{
    return (void *)((word_t)p + USER_ALIAS);
}
extern uint64_t pml4[512];
/* A table page from the pool, zeroed. */
uint64_t *page_table(void);
/* The entry that maps va at level 1 (PT) to 4 (PML4); tables above it are made, present, writable
 * and user. */
uint64_t *page_entry(uint64_t va, unsigned level);
/* Sets that entry and flushes. */
void page_set(uint64_t va, unsigned level, uint64_t entry);
#endif

#endif
