/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the tests of this folder: a guest memory with its map and a vCPU, loading from a buffer, and
 * catching messages.
 */
#ifndef BOOT_TESTMACHINE_H
#define BOOT_TESTMACHINE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "boot/load.h"
#include "lib/log.h"

struct testmachine {
    struct mmu *m;
    struct boot_map map;
    struct boot_config cfg;
    struct cpu c;
    struct loader ld; /* of the last load */
    struct module initrd;
};

static inline void tm_add_ram(struct mmu *m, uint64_t base, uint64_t bytes)
{
    const struct slot_desc d = { .name = "ram", .base = GPA(base), .bytes = bytes };
    struct slot *s;

    assert_int_equal(mmu_slot_add(m, &d, &s), 0);
}

static inline void tm_init(struct testmachine *tm, uint64_t ram_bytes)
{
    *tm = (struct testmachine){
        .cfg = { .kernel = "k", .append = "a=1", .nr_cpus = 1, .ram_bytes = ram_bytes }
    };
    tm->m = mmu_create();
    assert_non_null(tm->m);
    tm_add_ram(tm->m, 0, ram_bytes);
    boot_map_init(&tm->map, ram_bytes);
    tm->map.rsdp = GPA(BOOT_BIOS_AT);
}

static inline void tm_fini(struct testmachine *tm)
{
    mmu_destroy(tm->m);
}

/* As boot_load() does, from memory. */
static inline int tm_load(struct testmachine *tm, const void *kernel, uint64_t bytes)
{
    const struct image img = { .path = "k", .data = kernel, .bytes = bytes };
    int kind;

    tm->c = (struct cpu){ 0 };
    tm->ld = (struct loader){ .m = tm->m,
                              .cfg = &tm->cfg,
                              .map = &tm->map,
                              .c = &tm->c,
                              .kernel = &img,
                              .mods = &tm->initrd,
                              .nr_mods = tm->initrd.img.data != NULL };
    kind = load_detect(&img);
    return kind < 0 ? kind : load_images(&tm->ld, (enum load_kind)kind);
}

static inline void tm_set_initrd(struct testmachine *tm, const void *data, uint64_t bytes)
{
    tm->initrd =
        (struct module){ .img = { .path = "i", .data = data, .bytes = bytes }, .cmdline = "i arg" };
}

static inline uint64_t tm_get(struct testmachine *tm, uint64_t at, unsigned bytes)
{
    uint64_t v = 0;

    assert_int_equal(mmu_read(tm->m, GPA(at), &v, bytes), bytes);
    return v;
}

static inline void tm_get_string(struct testmachine *tm, uint64_t at, char *buf, size_t bytes)
{
    assert_int_equal(mmu_read(tm->m, GPA(at), buf, bytes), bytes);
    assert_non_null(memchr(buf, 0, bytes));
}

static inline bool tm_has(struct testmachine *tm, uint64_t at, const void *want, uint64_t bytes)
{
    uint8_t *buf = malloc(bytes);
    bool same = mmu_read(tm->m, GPA(at), buf, bytes) == bytes && !memcmp(buf, want, bytes);

    free(buf);
    return same;
}

static inline void tm_quiet(void)
{
    log_set_level((enum log_level) - 1);
}

/* Loads, which must fail, and returns the message; static buffer. */
static inline const char *tm_refusal(struct testmachine *tm, const void *kernel, uint64_t bytes)
{
    static char text[2048];
    FILE *tmp = tmpfile();
    int saved = dup(STDERR_FILENO), rc;
    size_t n;

    assert_non_null(tmp);
    (void)fflush(stderr);
    (void)dup2(fileno(tmp), STDERR_FILENO);
    log_set_level(LOG_INFO);
    rc = tm_load(tm, kernel, bytes);
    (void)fflush(stderr);
    (void)dup2(saved, STDERR_FILENO);
    (void)close(saved);
    rewind(tmp);
    n = fread(text, 1, sizeof(text) - 1, tmp);
    text[n] = '\0';
    (void)fclose(tmp);
    assert_true(rc < 0);
    return text;
}

static inline void tm_expect_refusal(struct testmachine *tm, const void *kernel, uint64_t bytes,
                                     const char *want)
{
    const char *got = tm_refusal(tm, kernel, bytes);

    if (!strstr(got, want))
        fail_msg("message \"%s\" does not have \"%s\"", got, want);
}

/* Flat protected mode, as PVH and multiboot want it. */
static inline void tm_expect_flat32(const struct testmachine *tm)
{
    const struct cpu *c = &tm->c;

    assert_int_equal(c->cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(c->cr4, 0);
    assert_int_equal(c->efer, 0);
    assert_int_equal(c->rflags, RFLAGS_FIXED1);
    for (unsigned i = 0; i < NR_SEGS; i++) {
        assert_int_equal(c->seg[i].base, 0);
        assert_int_equal(c->seg[i].limit, ~0u);
        assert_int_equal(c->seg[i].attr & (SEG_P | SEG_DB | SEG_S), SEG_P | SEG_DB | SEG_S);
    }
    assert_true(c->seg[SEG_CS].attr & SEG_TYPE_CODE);
    assert_int_equal(c->tr.limit, 0x67);
}

/* Whatever the file: an error, or a vCPU that starts in RAM that was loaded. */
static inline void tm_expect_sane(struct testmachine *tm, int rc)
{
    if (rc < 0)
        return;
    assert_int_equal(rc, 0);
    for (unsigned i = 0; i < tm->ld.nr_used; i++) {
        const struct span *s = &tm->ld.used[i];

        if (tm->c.rip >= s->at && tm->c.rip - s->at < s->bytes &&
            (!strcmp(s->what, "kernel") || !strcmp(s->what, "ELF segment")))
            return;
    }
    fail_msg("loaded, but entry %#llx is nowhere", (unsigned long long)tm->c.rip);
}

/* Every truncation up to `limit`, then random bit flips. The seed is printed by a failure's
 * message. */
static inline void tm_torture(struct testmachine *tm, const uint8_t *image, uint64_t bytes,
                              uint64_t limit, unsigned nr_flips)
{
    uint64_t x = 0x9e3779b97f4a7c15ull;
    uint8_t *copy;

    tm_quiet();
    for (uint64_t n = 0; n < limit; n++) {
        copy = malloc(n + !n); /* exactly as large, for the address sanitizer */
        memcpy(copy, image, n);
        tm_expect_sane(tm, tm_load(tm, copy, n));
        free(copy);
    }
    copy = malloc(bytes);
    for (unsigned i = 0; i < nr_flips; i++) {
        memcpy(copy, image, bytes);
        for (unsigned k = 0; k <= i % 4; k++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            copy[(x >> 3) % limit] ^= (uint8_t)BIT(x & 7);
        }
        tm_expect_sane(tm, tm_load(tm, copy, bytes));
    }
    free(copy);
    log_set_level(LOG_INFO);
}

#endif
