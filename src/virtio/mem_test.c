/* SPDX-License-Identifier: Apache-2.0 */
/* The memory device: what may be plugged and unplugged when, and requests that name nothing. */
#include "virtio/testdriver.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>

#include "virtio/mem.h"

#define SIZE      16u
#define AT        0x20000u
#define BASE      GIB(4)
#define BLOCK     MIB(2)
#define NR_BLOCKS 40u

enum { PLUG, UNPLUG, UNPLUG_ALL, STATE };
enum { ACK, NACK, BUSY, ERROR, NOTHING = 0xee };

struct env {
    struct testmachine m;
    struct virtio_mem mem;
    struct slot *slot;
    _Atomic bool changed;
};

static void on_changed(void *ctx)
{
    atomic_store(&((struct env *)ctx)->changed, true);
}

/* As the machine's supervisor does it. */
static void apply(struct env *e)
{
    bool changed;

    if (atomic_exchange(&e->changed, false))
        assert_int_equal(virtio_mem_apply(&e->mem, &changed), 0);
}

/* A bit for each block that a guest finds. */
static uint64_t shown(struct env *e)
{
    uint64_t bits_ = 0;

    for (unsigned i = 0; i < NR_BLOCKS; i++)
        bits_ |= (uint64_t)(mmu_slot_find(e->m.mmu, GPA(BASE + i * BLOCK)) != NULL) << i;
    return bits_;
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    testmachine_init(&e->m);
    assert_int_equal(mmu_slot_add(e->m.mmu,
                                  &(struct slot_desc){ .name = "hotplug",
                                                       .base = GPA(MMU_PARKED_AT),
                                                       .bytes = NR_BLOCKS * BLOCK },
                                  &e->slot),
                     0);
    assert_int_equal(virtio_mem_init(&e->mem, &(struct virtio_mem_desc){ .bus = e->m.bus,
                                                                         .mmu = e->m.mmu,
                                                                         .memory = e->slot,
                                                                         .at = GPA(BASE),
                                                                         .bytes = NR_BLOCKS * BLOCK,
                                                                         .block_bytes = BLOCK,
                                                                         .piece_bytes = 2 * BLOCK,
                                                                         .changed = on_changed,
                                                                         .ctx = e }),
                     0);
    virtio_attach(&e->mem.vd, &test_transport, &e->m);
    driver_start(&e->mem.vd, BIT64(VIRTIO_F_VERSION_1), SIZE);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    virtio_mem_stop(&e->mem);
    driver_reset(&e->mem.vd);
    virtio_mem_fini(&e->mem);
    testmachine_fini(&e->m);
    free(e);
    return 0;
}

/* The answer's type, and its state in the upper half. */
static uint32_t ask(struct env *e, uint16_t type, uint64_t at, uint16_t nr, uint32_t req_bytes)
{
    uint16_t was = used_idx(&e->m, 0);
    const uint16_t *idx = (const uint16_t *)(e->m.ram + queue_at(0) + TEST_DEVICE + 2);

    memset(e->m.ram + AT, 0, 24);
    put16(&e->m, AT, type);
    put64(&e->m, AT + 8, at);
    put16(&e->m, AT + 16, nr);
    memset(e->m.ram + AT + 0x100, NOTHING, 16);
    put_split(&e->m, 0, 0, AT, req_bytes, D_NEXT, 1);
    put_split(&e->m, 0, 1, AT + 0x100, 10, D_WRITE, 0);
    make_available(&e->m, 0, SIZE, 0);
    lock_take(bus_lock(e->m.bus));
    virtio_notify(&e->mem.vd, 0);
    lock_drop(bus_lock(e->m.bus));
    while (__atomic_load_n(idx, __ATOMIC_ACQUIRE) == was) {
        apply(e);
        (void)sched_yield();
    }
    return get16(&e->m, AT + 0x100) | (uint32_t)get16(&e->m, AT + 0x108) << 16;
}

static uint64_t plugged_blocks(struct env *e)
{
    uint64_t plugged, requested;

    virtio_mem_sizes(&e->mem, &plugged, &requested);
    return plugged / BLOCK;
}

static void test_requests_are_answered_as_the_manual_says(void **state)
{
    static const struct {
        uint16_t type;
        uint64_t at;
        uint16_t nr;
        uint32_t bytes, answer;
        uint64_t plugged; /* blocks, behind it */
    } steps[] = {
        { PLUG, BASE + BLOCK, 2, 24, ACK, 2 },
        { PLUG, BASE + 2 * BLOCK, 2, 24, ERROR, 2 }, /* one is plugged */
        { PLUG, BASE + 8 * BLOCK, 3, 24, NACK, 2 },  /* more than requested */
        { PLUG, BASE + 8 * BLOCK, 2, 24, ACK, 4 },
        { STATE, BASE + BLOCK, 2, 24, ACK, 4 },
        { STATE, BASE, 1, 24, ACK | 1u << 16, 4 },
        { STATE, BASE, NR_BLOCKS, 24, ACK | 2u << 16, 4 },
        { STATE, BASE, NR_BLOCKS + 1, 24, ERROR, 4 },
        { STATE, BASE, 0, 24, ERROR, 4 },
        { UNPLUG, BASE + BLOCK, 3, 24, ERROR, 4 }, /* one is not plugged */
        { UNPLUG, BASE + BLOCK, 1, 24, ACK, 3 },
        { UNPLUG, BASE + BLOCK, 1, 24, ERROR, 3 },
        { UNPLUG, BASE + 2 * BLOCK + 4096, 1, 24, ERROR, 3 },
        { UNPLUG, BASE - BLOCK, 1, 24, ERROR, 3 },
        { UNPLUG, BASE + NR_BLOCKS * BLOCK, 1, 24, ERROR, 3 },
        { UNPLUG, UINT64_MAX - BLOCK + 1, 1, 24, ERROR, 3 },
        { UNPLUG, 0, 1, 24, ERROR, 3 },
        { 4, BASE, 1, 24, ERROR, 3 },
        { UNPLUG_ALL, 0, 0, 23, ERROR, 3 },
        { UNPLUG_ALL, 0, 0, 24, ACK, 0 },
    };
    struct env *e = *state;

    assert_int_equal(virtio_mem_request(&e->mem, BLOCK / 2), -EINVAL);
    assert_int_equal(virtio_mem_request(&e->mem, (NR_BLOCKS + 1) * BLOCK), -EINVAL);
    assert_int_equal(ask(e, PLUG, BASE, 1, 24), NACK);
    assert_int_equal(virtio_mem_request(&e->mem, 4 * BLOCK), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
        assert_int_equal(ask(e, steps[i].type, steps[i].at, steps[i].nr, steps[i].bytes),
                         steps[i].answer);
        assert_int_equal(plugged_blocks(e), steps[i].plugged);
    }
}

static void test_what_is_unplugged_is_zeroes_and_nothing_else(void **state)
{
    struct env *e = *state;

    assert_int_equal(virtio_mem_request(&e->mem, 4 * BLOCK), 0);
    assert_int_equal(ask(e, PLUG, BASE, 4, 24), ACK);
    memset(e->slot->hva, 0xaa, 4 * BLOCK);
    assert_int_equal(ask(e, UNPLUG, BASE + BLOCK, 2, 24), ACK);
    for (uint64_t at = 0; at < 4 * BLOCK; at += PAGE_BYTES)
        assert_int_equal(e->slot->hva[at], at / BLOCK == 1 || at / BLOCK == 2 ? 0 : 0xaa);
}

/* By pieces of two blocks. */
static void test_what_is_not_plugged_is_not_there(void **state)
{
    struct env *e = *state;

    assert_int_equal(shown(e), 0);
    assert_int_equal(virtio_mem_request(&e->mem, NR_BLOCKS * BLOCK), 0);
    assert_int_equal(ask(e, PLUG, BASE + BLOCK, 1, 24), ACK);
    assert_int_equal(shown(e), 0x3);
    assert_int_equal(ask(e, PLUG, BASE + 5 * BLOCK, 4, 24), ACK);
    assert_int_equal(shown(e), 0x3f3);
    assert_int_equal(ask(e, UNPLUG, BASE + BLOCK, 1, 24), ACK);
    assert_int_equal(shown(e), 0x3f0);
    assert_int_equal(ask(e, UNPLUG, BASE + 6 * BLOCK, 2, 24), ACK);
    assert_int_equal(shown(e), 0x330);
    assert_int_equal(ask(e, UNPLUG_ALL, 0, 0, 24), ACK);
    assert_int_equal(shown(e), 0);
    /* More pieces apart than there are views: the last one spans what is between. */
    for (unsigned i = 0; i < NR_BLOCKS; i += 4)
        assert_int_equal(ask(e, PLUG, BASE + i * BLOCK, 1, 24), ACK);
    assert_int_equal(shown(e), 0x3ff3333333);
}

/* The vCPU that resets the device cannot stand still for what it waits for. */
static void test_a_reset_waits_for_nobody(void **state)
{
    struct env *e = *state;

    assert_int_equal(virtio_mem_request(&e->mem, BLOCK), 0);
    put16(&e->m, AT, PLUG);
    put64(&e->m, AT + 8, BASE);
    put16(&e->m, AT + 16, 1);
    put_split(&e->m, 0, 0, AT, 24, D_NEXT, 1);
    put_split(&e->m, 0, 1, AT + 0x100, 10, D_WRITE, 0);
    make_available(&e->m, 0, SIZE, 0);
    lock_take(bus_lock(e->m.bus));
    virtio_notify(&e->mem.vd, 0);
    lock_drop(bus_lock(e->m.bus));
    while (!atomic_load(&e->changed))
        (void)sched_yield();
    driver_reset(&e->mem.vd);
    apply(e);
    assert_int_equal(shown(e), 0x3);
}

static void test_a_hostile_state_is_put_right(void **state)
{
    struct env *e = *state;

    memset(e->mem.plugged, 0xff, sizeof(e->mem.plugged));
    e->mem.config.requested_bytes = UINT64_MAX;
    lock_take(bus_lock(e->m.bus));
    e->mem.vd.type->loaded(&e->mem.vd, false);
    lock_drop(bus_lock(e->m.bus));
    assert_int_equal(plugged_blocks(e), NR_BLOCKS);
    assert_int_equal(e->mem.plugged[NR_BLOCKS / 8], 0);
    assert_int_equal(e->mem.config.requested_bytes, NR_BLOCKS * BLOCK);
    apply(e);
    assert_int_equal(shown(e), BIT64(NR_BLOCKS) - 1);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_requests_are_answered_as_the_manual_says),
        T(test_what_is_unplugged_is_zeroes_and_nothing_else),
        T(test_what_is_not_plugged_is_not_there),
        T(test_a_reset_waits_for_nobody),
        T(test_a_hostile_state_is_put_right),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
