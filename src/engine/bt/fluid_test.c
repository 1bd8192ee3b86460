/* SPDX-License-Identifier: Apache-2.0 */
/* Fluid pages and what devices write to them; the cache of decoded instructions; what an idle vCPU
 * gives back. */
#include "engine/bt/bt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/bt/direct/direct_fake.h"

#define CODE 0x400000ull
#define HLT  0xf4

static struct fake *start(void)
{
    struct fake *f = fake_machine(&bt_engine);

    assert_non_null(f);
    memset(f->ram->hva + HANDLERS_PA, HLT, 32 * 16);
    f->v->cpu.rip = CODE;
    return f;
}

/* ---- a device that writes code ---- */

/* A loop that patches itself, then one that waits for its own code to change. */
static const uint8_t waits[] = {
    0xb9, 200,  0, 0, 0,    /*     mov $200, %ecx */
    0x89, 0x0d, 1, 0, 0, 0, /* 1: mov %ecx, 1(%rip) */
    0x05, 0,    0, 0, 0,    /*     add $0, %eax */
    0xff, 0xc9,             /*     dec %ecx */
    0x75, 0xf1,             /*     jnz 1b */
    0xba, 0,    0, 0, 0,    /* 2: mov $0, %edx */
    0x85, 0xd2,             /*     test %edx, %edx */
    0x74, 0xf7,             /*     jz 2b */
    HLT,                    /*     #GP, whose handler halts */
};
#define WAITS_IMM 21

static void sleep_ms(long ms)
{
    (void)nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL);
}

struct device {
    struct fake *f;
    _Atomic bool over;
};

/* Changes the immediate once the program waits for that; and ends the run if that was in vain. */
static void *device(void *arg)
{
    struct device *d = arg;
    struct fake *f = d->f;
    gpa_t at = GPA(USER_PA + 16 * PAGE_BYTES + WAITS_IMM);

    for (unsigned ms = 0;
         ms < 10000 && !__atomic_load_n(&f->v->nr_exits[EXIT_FLUID], __ATOMIC_RELAXED); ms++)
        sleep_ms(1);
    sleep_ms(50);
    (void)mmu_write(f->mmu, at, &(uint32_t){ 7 }, 4);
    for (unsigned ms = 0; ms < 60000 && !d->over; ms++)
        sleep_ms(1);
    cpu_post(&f->v->cpu, REQ_STOP);
    return NULL;
}

static void test_device_write_to_a_loop_in_a_fluid_page_is_seen(void **state)
{
    struct fake *f = start();
    struct device d = { .f = f };
    uint64_t at = fake_map(f, CODE, 1, PTE_RWX);
    pthread_t thread;

    (void)state;
    assert_int_equal(at, USER_PA + 16 * PAGE_BYTES);
    memcpy(f->ram->hva + at, waits, sizeof(waits));
    f->v->cpu.gpr[RAX] = 0;
    assert_int_equal(pthread_create(&thread, NULL, device, &d), 0);
    assert_int_equal(f->evm->ops->run(f->v), RUN_HALTED);
    d.over = true;
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(f->v->nr_exits[EXIT_FLUID], 1);
    assert_int_equal(f->v->cpu.gpr[RAX], 200 * 201 / 2);
    assert_int_equal(f->v->cpu.gpr[RDX], 7);
    fake_destroy(f);
}

/* ---- the cache ---- */

static uint64_t rnd(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static void check_same(const struct insn *a, const struct insn *b)
{
    assert_int_equal(a->len, b->len);
    assert_int_equal(a->cls, b->cls);
    if (!a->len)
        return;
    assert_int_equal(a->off, b->off);
    assert_int_equal(a->unit, b->unit);
    assert_int_equal(a->ends, b->ends);
    assert_int_equal(a->mem, b->mem);
    assert_int_equal(a->op.off, b->op.off);
    assert_ptr_equal(a->op.fn, b->op.fn);
    assert_memory_equal(a->bytes, b->bytes, a->len);
    assert_memory_equal(&a->z, &b->z, sizeof(a->z));
    assert_memory_equal(a->ops, b->ops, a->z.operand_count * sizeof(a->ops[0]));
    if (a->cls >= INSN_JMP && a->cls <= INSN_CALL)
        assert_int_equal(a->target, b->target);
    if (a->cls == INSN_PUSH)
        assert_int_equal(a->imm, b->imm);
}

static void test_insn_found_by_its_bytes_is_as_if_decoded(void **state)
{
    static const uint8_t first[][3] = { { 0xe9 },       { 0xeb },       { 0x74 }, { 0x0f, 0x84 },
                                        { 0xe8 },       { 0x48, 0x81 }, { 0x8b }, { 0x48, 0x8d },
                                        { 0xf3, 0x0f }, { 0xc5 },       { 0x50 }, { 0x66, 0x0f },
                                        { 0x68 },       { 0x6a },       { 0xb8 }, { 0x48, 0xb8 },
                                        { 0x81 },       { 0x83 },       { 0xc7 }, { 0x48, 0x69 },
                                        { 0xc1 },       { 0xd1 },       { 0xa1 }, { 0x48, 0x89 },
                                        { 0xff },       { 0xe2 },       { 0xe3 }, { 0x65, 0x8b } };
    struct fake *f = start();
    struct bt_vcpu *b = container_of(f->v, struct bt_vcpu, iv.vc);
    struct insn plain, cached;
    uint64_t x = 88172645463325252ull;
    uint8_t bytes[256][16];

    (void)state;
    for (unsigned i = 0; i < 256; i++) {
        for (unsigned k = 0; k < 16; k += 8)
            memcpy(bytes[i] + k, &(uint64_t){ rnd(&x) }, 8);
        if (i % 2)
            memcpy(bytes[i], first[i / 2 % ARRAY_SIZE(first)], 2);
    }
    for (unsigned i = 0; i < 200000; i++) {
        uint8_t *p = bytes[rnd(&x) % 256];
        unsigned avail = 1 + (unsigned)(rnd(&x) % 16);
        uint16_t off = (uint16_t)(rnd(&x) % (PAGE_BYTES - 16));
        uint32_t key = MODE_PE | MODE_LMA | MODE_CS64 | KEY_FLAT_CS | KEY_FLAT_DATA |
                       (rnd(&x) & 1 ? KEY_USER : 0);

        if (i % 2) /* often a displacement or an immediate */
            p[1 + rnd(&x) % 11] = (uint8_t)rnd(&x);
        if (i % 64 == 0)
            key = MODE_PE | MODE_CS32 | MODE_SS32 | KEY_FLAT_CS | KEY_FLAT_DATA;
        memset(&plain, 0, sizeof(plain));
        memset(&cached, 0, sizeof(cached));
        plain.len = (uint8_t)insn_decode(&b->iv, key, p, avail, off, &plain);
        cached.len = (uint8_t)insn_decode_cached(&b->insns, &b->iv, key, p, avail, off, &cached);
        check_same(&plain, &cached);
    }
    fake_destroy(f);
}

/* ---- idling ---- */

#define LONG_PAGES 64

/* Counts in EAX through all its pages. */
static void run_long(struct fake *f)
{
    f->v->cpu.activity = CPU_RUNNING;
    fake_user_state(f, CODE);
    f->v->cpu.gpr[RAX] = 0;
    assert_int_equal(f->evm->ops->run(f->v), RUN_HALTED);
    assert_int_equal(f->v->cpu.gpr[RAX], (LONG_PAGES * PAGE_BYTES - 2) / 2);
}

static void halt_after(struct bt_vcpu *b, uint64_t s, uint64_t busy_s)
{
    uint64_t per_s = 1000000ull * b->ticks_per_us, now = b->idle.since + s * per_s;

    b->idle.busy = 0;
    b->idle.entered = now - busy_s * per_s;
    bt_idle_halted(b, now);
}

static void test_translations_go_when_the_vcpu_idles(void **state)
{
    struct fake *f = start();
    struct bt_vcpu *b = container_of(f->v, struct bt_vcpu, iv.vc);
    uint64_t at = fake_map(f, CODE, LONG_PAGES, PTE_RWX);
    struct direct *direct = b->direct;
    unsigned nr;

    (void)state;
    b->direct = NULL; /* the checked tier alone */
    for (unsigned i = 0; i < LONG_PAGES * PAGE_BYTES; i += 2)
        memcpy(f->ram->hva + at + i, "\xff\xc0", 2); /* inc eax */
    f->ram->hva[at + LONG_PAGES * PAGE_BYTES - 2] = HLT;
    for (unsigned i = 0; i < 4; i++)
        run_long(f);
    nr = b->cache->nr_by_pc;
    assert_true(nr > 1000);
    halt_after(b, b->cfg->idle_s / 2, 0); /* not for long */
    assert_int_equal(b->cache->nr_by_pc, nr);
    halt_after(b, b->cfg->idle_s + 1, b->cfg->idle_s / 4); /* not idle */
    assert_int_equal(b->cache->nr_by_pc, nr);
    halt_after(b, b->cfg->idle_s + 1, 0);
    assert_int_equal(b->cache->nr_by_pc, 0);
    for (unsigned i = 0; i < 4; i++)
        run_long(f);
    assert_true(b->cache->nr_by_pc > 1000);
    b->direct = direct;
    fake_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device_write_to_a_loop_in_a_fluid_page_is_seen),
        cmocka_unit_test(test_insn_found_by_its_bytes_is_as_if_decoded),
        cmocka_unit_test(test_translations_go_when_the_vcpu_idles),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
