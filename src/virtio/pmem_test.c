/* SPDX-License-Identifier: Apache-2.0 */
/* The persistent memory device: where it is, flushes, and requests that are none. */
#include "virtio/testdriver.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "virtio/pmem.h"

#define SIZE 16u
#define AT   0x20000u

static void ask(struct testmachine *m, struct virtio_pmem *p, uint32_t type, uint32_t type_bytes,
                uint32_t reply_bytes)
{
    uint16_t nr = used_idx(m, 0);
    const uint16_t *idx = (const uint16_t *)(m->ram + queue_at(0) + TEST_DEVICE + 2);

    memcpy(m->ram + AT, &type, sizeof(type));
    memset(m->ram + AT + 0x100, 0xee, 8);
    put_split(m, 0, 0, AT, type_bytes, D_NEXT, 1);
    put_split(m, 0, 1, AT + 0x100, reply_bytes, D_WRITE, 0);
    make_available(m, 0, SIZE, 0);
    lock_take(bus_lock(m->bus));
    virtio_notify(&p->vd, 0);
    lock_drop(bus_lock(m->bus));
    while (__atomic_load_n(idx, __ATOMIC_ACQUIRE) == nr)
        (void)sched_yield();
}

static void test_flushes_are_answered(void **state)
{
    static const struct {
        bool has_file;
        uint32_t type, type_bytes, reply_bytes, reply;
    } cases[] = {
        { true, 0, 4, 4, 0 },
        { false, 0, 4, 4, 0 },
        { true, 1, 4, 4, 1 },
        { true, 0, 3, 4, 1 },
        { true, 0, 4, 8, 0 },
        { true, 0, 4, 1, 0xeeeeee00 }, /* what there is no room for is not written */
    };
    int fd = memfd_create("pmem", MFD_CLOEXEC);

    (void)state;
    assert_true(fd >= 0);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct testmachine m;
        struct virtio_pmem p;

        testmachine_init(&m);
        assert_int_equal(virtio_pmem_init(&p,
                                          &(struct virtio_pmem_desc){
                                              .bus = m.bus,
                                              .mmu = m.mmu,
                                              .name = "pmem",
                                              .at = GPA(MIB(64)),
                                              .bytes = MIB(2),
                                              .fd = cases[i].has_file ? fd : -1,
                                          }),
                         0);
        assert_int_equal(p.config.start, MIB(64));
        assert_int_equal(p.config.bytes, MIB(2));
        virtio_attach(&p.vd, &test_transport, &m);
        driver_start(&p.vd, BIT64(VIRTIO_F_VERSION_1), SIZE);
        ask(&m, &p, cases[i].type, cases[i].type_bytes, cases[i].reply_bytes);
        assert_int_equal(get32(&m, AT + 0x100), cases[i].reply);
        virtio_pmem_stop(&p);
        driver_reset(&p.vd);
        virtio_pmem_fini(&p);
        testmachine_fini(&m);
    }
    assert_int_equal(close(fd), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_flushes_are_answered) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
