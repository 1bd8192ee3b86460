/* SPDX-License-Identifier: Apache-2.0 */
/* Serial output, checks as TAP lines, the beginning and the end of a guest. */
#include "guest.h"

#include <stdarg.h>

#define COM1            0x3f8
#define DEBUG_EXIT_PORT 0xf4
#define EXIT_BAD        0x10 /* status 21h */

uint32_t boot_magic = 1,
         boot_info = 1; /* in .data: start.S writes them before .bss can be trusted */
static unsigned nr_checks, nr_failed;
static const char *tcg_reason;

static void put(char c)
{
    while (!(inb(COM1 + 5) & 0x20))
        pause();
    outb(COM1, (uint8_t)c);
}

static void serial_init(void)
{
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 0x80);
    outb(COM1, 1);
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 3);
    outb(COM1 + 2, 7);
}

static void put_number(uint64_t v, unsigned base)
{
    char buf[24];
    unsigned n = 0;

    if (base == 16) {
        do
            buf[n++] = "0123456789abcdef"[v & 15];
        while (v >>= 4);
    } else {
        /* 32 bits are enough, and need no division helper in 32-bit guests. */
        uint32_t w = (uint32_t)v;

        do
            buf[n++] = (char)('0' + w % 10);
        while (w /= 10);
    }
    while (n)
        put(buf[--n]);
}

static void vprint(const char *fmt, va_list ap)
{
    for (; *fmt; fmt++) {
        unsigned nr_l = 0;

        if (*fmt != '%') {
            put(*fmt);
            continue;
        }
        while (*++fmt == 'l')
            nr_l++;
        if (*fmt == 's') {
            for (const char *s = va_arg(ap, const char *); *s; s++)
                put(*s);
        } else if (*fmt == 'd' || *fmt == 'u' || *fmt == 'x') {
            uint64_t v = nr_l == 2 ? va_arg(ap, uint64_t)
                         : nr_l    ? va_arg(ap, unsigned long)
                                   : va_arg(ap, unsigned);

            if (*fmt == 'd' && (int32_t)v < 0) {
                put('-');
                v = -v;
            }
            put_number(v, *fmt == 'x' ? 16 : 10);
        } else {
            put(*fmt);
        }
    }
}

void print(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
}

bool on_tcg(void)
{
    struct cpuid id = cpuid(0x40000000, 0);

    if (id.b == 0x54474354 && id.c == 0x43544743) /* "TCGTCGTCGTCG" */
        return true;
    /* A hypervisor between shows its own name: tests/kvm tells. */
    return str_has(boot_args(), "nested-in-tcg");
}

void tcg_deviates(const char *why)
{
    tcg_reason = on_tcg() ? why : NULL;
}

static void check_line(bool ok, const char *fmt, va_list ap)
{
    print("%sok %u - ", ok ? "" : "not ", ++nr_checks);
    vprint(fmt, ap);
    if (tcg_reason)
        print(" # TODO TCG: %s", tcg_reason);
    else if (!ok)
        nr_failed++;
    tcg_reason = NULL;
    print("\n");
}

#define CHECK_LINE(ok, fmt)      \
    do {                         \
        va_list ap;              \
        va_start(ap, fmt);       \
        check_line(ok, fmt, ap); \
        va_end(ap);              \
    } while (0)

bool expect(const struct where *at, bool ok, const char *fmt, ...)
{
    CHECK_LINE(ok, fmt);
    if (!ok)
        print("# %s:%d\n", at->file, at->line);
    return ok;
}

bool expect_eq(const struct where *at, uint64_t got, uint64_t want, const char *fmt, ...)
{
    CHECK_LINE(got == want, fmt);
    if (got != want)
        print("# %s:%d got %llx, want %llx\n", at->file, at->line, (unsigned long long)got,
              (unsigned long long)want);
    return got == want;
}

bool expect_near(const struct where *at, uint64_t got, uint64_t want, unsigned percent,
                 const char *fmt, ...)
{
    uint64_t off = got > want ? got - want : want - got;
    bool ok = off * 100 <= want * percent;

    CHECK_LINE(ok, fmt);
    if (!ok)
        print("# %s:%d got %u, want %u within %u percent\n", at->file, at->line, (unsigned)got,
              (unsigned)want, percent);
    return ok;
}

bool expect_trap(const struct where *at, const struct trap *t, word_t vec, word_t err,
                 const char *fmt, ...)
{
    bool ok = t->vec == vec && (vec == VEC_NONE || t->err == err);

    CHECK_LINE(ok, fmt);
    if (!ok)
        print("# %s:%d got vector %u error %lx (cr2 %lx, at %lx), want vector %u error %lx\n",
              at->file, at->line, (unsigned)t->vec, (unsigned long)t->err, (unsigned long)t->cr2,
              (unsigned long)t->f.ip, (unsigned)vec, (unsigned long)err);
    return ok;
}

void skip(const char *why, const char *fmt, ...)
{
    va_list ap;

    print("ok %u - ", ++nr_checks);
    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
    print(" # SKIP %s\n", why);
}

void guest_plan(void)
{
    print("1..%u\n", nr_checks);
}

void guest_end(void)
{
    guest_plan();
    outb(DEBUG_EXIT_PORT, nr_failed ? EXIT_BAD : 0);
    for (;;)
        asm volatile("cli; hlt");
}

void low_install(const uint8_t *begin, const uint8_t *end)
{
    memcpy((void *)(word_t)LOW_AT, begin, (size_t)(end - begin));
}

const char *boot_args(void)
{
    const uint32_t *info = (const uint32_t *)(word_t)boot_info;
    const char *s = info[0] & 4 ? (const char *)(word_t)info[4] : "";

    while (*s && *s != ' ')
        s++;
    return *s ? s + 1 : s;
}

void desc_init(void);
void lib_main(void) __attribute__((noreturn));
void lib_main(void)
{
    serial_init();
    desc_init();
    pic_mask_all(); /* firmware may have left a timer running */
    main();
    guest_end();
}
