/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: a machine with 1 MB of RAM and a page of ROM, and a driver's side of queues, which
 * writes rings as it is told, right or wrong.
 */
#ifndef VIRTIO_TESTDRIVER_H
#define VIRTIO_TESTDRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "bus/bus.h"
#include "mmu/mmu.h"
#include "virtio/transport.h"

#define TEST_RAM_BYTES MIB(1)
#define TEST_ROM_AT    MIB(16)
#define TEST_QUEUE     0x1000u /* queue n's areas begin at n + 1 times this */
#define TEST_DRIVER    0x400u
#define TEST_DEVICE    0x800u
#define TEST_BUFFERS   0x20000u

enum { D_NEXT = 1, D_WRITE = 2, D_INDIRECT = 4, D_AVAIL = 0x80, D_USED = 0x8000 };

struct testmachine {
    struct bus *bus;
    struct mmu *mmu;
    uint8_t *ram;
    unsigned nr_queue_irqs, nr_config_irqs;
};

static inline void testmachine_init(struct testmachine *m)
{
    struct slot *s;

    log_set_level(LOG_ERROR - 1);
    *m = (struct testmachine){ .bus = bus_create(), .mmu = mmu_create() };
    assert_non_null(m->bus);
    assert_int_equal(mmu_slot_add(m->mmu,
                                  &(struct slot_desc){
                                      .name = "rom",
                                      .base = GPA(TEST_ROM_AT),
                                      .bytes = PAGE_BYTES,
                                      .flags = SLOT_RO,
                                  },
                                  &s),
                     0);
    assert_int_equal(
        mmu_slot_add(m->mmu, &(struct slot_desc){ .name = "ram", .bytes = TEST_RAM_BYTES }, &s), 0);
    m->ram = s->hva;
}

static inline void testmachine_fini(struct testmachine *m)
{
    bus_destroy(m->bus);
    mmu_destroy(m->mmu);
}

static inline void put16(struct testmachine *m, uint64_t at, uint16_t val)
{
    memcpy(m->ram + at, &val, 2);
}

static inline void put64(struct testmachine *m, uint64_t at, uint64_t val)
{
    memcpy(m->ram + at, &val, 8);
}

static inline uint16_t get16(struct testmachine *m, uint64_t at)
{
    uint16_t val;

    memcpy(&val, m->ram + at, 2);
    return val;
}

static inline uint32_t get32(struct testmachine *m, uint64_t at)
{
    return get16(m, at) | (uint32_t)get16(m, at + 2) << 16;
}

/* A descriptor at `at`: split has flags and next at its end, packed id and flags. */
static inline void put_desc(struct testmachine *m, uint64_t at, uint64_t addr, uint32_t bytes,
                            uint16_t word6, uint16_t word7)
{
    put64(m, at, addr);
    put64(m, at + 8, bytes | (uint64_t)word6 << 32 | (uint64_t)word7 << 48);
}

static inline uint64_t queue_at(unsigned idx)
{
    return (idx + 1) * TEST_QUEUE;
}

/* Descriptor n of a queue's table. */
static inline void put_split(struct testmachine *m, unsigned queue, unsigned n, uint64_t addr,
                             uint32_t bytes, uint16_t flags, uint16_t next)
{
    put_desc(m, queue_at(queue) + 16 * n, addr, bytes, flags, next);
}

/* The chain that begins with descriptor `head` is available, as number avail_idx + 1. */
static inline void make_available(struct testmachine *m, unsigned queue, unsigned size,
                                  uint16_t head)
{
    uint64_t driver = queue_at(queue) + TEST_DRIVER;
    uint16_t idx = get16(m, driver + 2);

    put16(m, driver + 4 + 2 * (idx % size), head);
    put16(m, driver + 2, (uint16_t)(idx + 1));
}

static inline uint16_t used_idx(struct testmachine *m, unsigned queue)
{
    return get16(m, queue_at(queue) + TEST_DEVICE + 2);
}

static inline void test_queue_interrupt(void *arg, unsigned idx)
{
    (void)idx;
    ((struct testmachine *)arg)->nr_queue_irqs++;
}

static inline void test_config_interrupt(void *arg)
{
    ((struct testmachine *)arg)->nr_config_irqs++;
}

static const struct virtio_transport_ops test_transport = {
    .queue_interrupt = test_queue_interrupt,
    .config_interrupt = test_config_interrupt,
};

/* As a driver does it, with these features and a size for all queues. */
static inline void driver_start(struct virtio *vd, uint64_t features, uint16_t size)
{
    lock_take(bus_lock(vd->bus));
    virtio_set_status(vd, VIRTIO_STATUS_ACKNOWLEDGE);
    virtio_set_status(vd, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    virtio_accept(vd, 0, (uint32_t)features);
    virtio_accept(vd, 1, (uint32_t)(features >> 32));
    virtio_set_status(vd, VIRTIO_STATUS_FEATURES_OK);
    assert_true(vd->status & VIRTIO_STATUS_FEATURES_OK);
    for (unsigned i = 0; i < vd->nr_queues; i++) {
        struct virtq *q = virtio_queue(vd, i);
        uint64_t at = queue_at(i);

        virtq_set_size(q, size);
        virtq_set_address(q, VIRTQ_DESC, 0, (uint32_t)at);
        virtq_set_address(q, VIRTQ_DRIVER, 0, (uint32_t)at + TEST_DRIVER);
        virtq_set_address(q, VIRTQ_DEVICE, 0, (uint32_t)at + TEST_DEVICE);
        virtq_enable(q);
    }
    virtio_set_status(vd, VIRTIO_STATUS_DRIVER_OK);
    lock_drop(bus_lock(vd->bus));
}

static inline void driver_reset(struct virtio *vd)
{
    lock_take(bus_lock(vd->bus));
    virtio_set_status(vd, 0);
    lock_drop(bus_lock(vd->bus));
}

#endif
