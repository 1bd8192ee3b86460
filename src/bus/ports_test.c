/* SPDX-License-Identifier: Apache-2.0 */
/* Claims of ports and MMIO, splitting of accesses, lines that are shared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus.h"

struct probe {
    struct device dev;
    char log[256]; /* "r4@10 " and "w2@4=1234 " for each access */
};

static void probe_note(struct probe *p, const char *fmt, unsigned bytes, uint64_t off, uint64_t val)
{
    size_t at = strlen(p->log);

    (void)snprintf(p->log + at, sizeof(p->log) - at, fmt, bytes, (unsigned long long)off,
                   (unsigned long long)val);
}

/* Reads give the offset in each byte. */
static uint64_t probe_get(struct device *dev, uint64_t off_bytes, unsigned bytes)
{
    uint64_t val = 0;

    probe_note(container_of(dev, struct probe, dev), "r%u@%llx ", bytes, off_bytes, 0);
    for (unsigned i = 0; i < bytes; i++)
        val |= (off_bytes + i) << (8 * i);
    return val;
}

static uint64_t probe_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    return probe_get(dev, off_bytes, bytes);
}

static void probe_put(struct device *dev, uint64_t off_bytes, unsigned bytes, uint64_t val)
{
    probe_note(container_of(dev, struct probe, dev), "w%u@%llx=%llx ", bytes, off_bytes, val);
}

static void probe_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    probe_put(dev, off_bytes, bytes, val);
}

static const struct device_type narrow_type = { .name = "narrow",
                                                .read = probe_read,
                                                .write = probe_write };
static const struct device_type wide_type = { .name = "wide",
                                              .read = probe_read,
                                              .write = probe_write,
                                              .max_bytes = 4,
                                              .mmio_read = probe_get,
                                              .mmio_write = probe_put,
                                              .mmio_max_bytes = 8 };
static const struct device_type deaf_type = { .name = "deaf" };

struct env {
    struct bus *bus;
    struct probe narrow, wide, deaf;
};

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    log_set_level(LOG_ERROR - 1);
    e->bus = bus_create();
    e->narrow.dev.type = &narrow_type;
    e->wide.dev.type = &wide_type;
    e->deaf.dev.type = &deaf_type;
    bus_add(e->bus, &e->narrow.dev);
    bus_add(e->bus, &e->wide.dev);
    bus_add(e->bus, &e->deaf.dev);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    bus_destroy(e->bus);
    free(e);
    return 0;
}

static void test_claim_of_a_taken_port_is_ebusy_and_changes_nothing(void **state)
{
    struct env *e = *state;

    assert_int_equal(bus_claim_ports(e->bus, 0x100, 8, &e->narrow.dev, 0), 0);
    assert_int_equal(bus_claim_ports(e->bus, 0x107, 1, &e->wide.dev, 0), -EBUSY);
    assert_int_equal(bus_claim_ports(e->bus, 0x0f0, 0x40, &e->wide.dev, 0), -EBUSY);
    assert_int_equal(bus_claim_ports(e->bus, 0x108, 8, &e->wide.dev, 0), 0);
    assert_false(bus_ports_free(e->bus, 0xff, 2));
    assert_true(bus_ports_free(e->bus, 0xff, 1));
    bus_release_ports(e->bus, 0x100, 8, &e->wide.dev); /* not its own */
    assert_false(bus_ports_free(e->bus, 0x100, 1));
    bus_release_ports(e->bus, 0x100, 8, &e->narrow.dev);
    assert_true(bus_ports_free(e->bus, 0x100, 8));
}

static void test_wide_port_access_to_narrow_device_is_split_ascending(void **state)
{
    struct env *e = *state;

    assert_int_equal(bus_claim_ports(e->bus, 0x100, 8, &e->narrow.dev, 0x40), 0);
    assert_int_equal(bus_port_read(e->bus, 0x102, 4), 0x45444342);
    bus_port_write(e->bus, 0x100, 2, 0xbeef);
    assert_string_equal(e->narrow.log, "r1@42 r1@43 r1@44 r1@45 w1@40=ef w1@41=be ");
}

static void test_port_access_over_claim_borders_is_shared_out(void **state)
{
    struct env *e = *state;

    assert_int_equal(bus_claim_ports(e->bus, 0x100, 2, &e->wide.dev, 0), 0);
    assert_int_equal(bus_claim_ports(e->bus, 0x102, 1, &e->narrow.dev, 0x77), 0);
    assert_int_equal(bus_port_read(e->bus, 0x100, 4), 0xff770100); /* 103h: nobody */
    assert_string_equal(e->wide.log, "r2@0 ");
    assert_string_equal(e->narrow.log, "r1@77 ");
}

static void test_unaligned_port_access_reaches_device_aligned(void **state)
{
    struct env *e = *state;

    assert_int_equal(bus_claim_ports(e->bus, 0x100, 8, &e->wide.dev, 0), 0);
    assert_int_equal(bus_port_read(e->bus, 0x103, 4), 0x06050403);
    bus_port_write(e->bus, 0x104, 4, 0x12345678);
    assert_string_equal(e->wide.log, "r1@3 r2@4 r1@6 w4@4=12345678 ");
}

static void test_nobodys_port_and_missing_handler_read_ones(void **state)
{
    struct env *e = *state;

    assert_int_equal(bus_claim_ports(e->bus, 0x200, 4, &e->deaf.dev, 0), 0);
    assert_int_equal(bus_port_read(e->bus, 0x200, 2), 0xffff);
    assert_int_equal(bus_port_read(e->bus, 0x300, 4), 0xffffffff);
    bus_port_write(e->bus, 0x200, 4, 0);
    bus_port_write(e->bus, 0x300, 4, 0);
    assert_int_equal(bus_mmio_read(e->bus, GPA(0x1000), 8), UINT64_MAX);
    bus_mmio_write(e->bus, GPA(UINT64_MAX), 8, 0);
}

static void test_access_over_the_end_of_the_port_space_does_not_wrap(void **state)
{
    struct env *e = *state;

    assert_int_equal(bus_claim_ports(e->bus, 0, 1, &e->narrow.dev, 0), 0);
    assert_int_equal(bus_claim_ports(e->bus, 0xffff, 1, &e->wide.dev, 0x11), 0);
    assert_int_equal(bus_port_read(e->bus, 0xffff, 4), 0xffffff11);
    assert_string_equal(e->narrow.log, "");
}

static void test_wide_register_leaves_the_ports_behind_it_to_others(void **state)
{
    struct env *e = *state;

    assert_int_equal(bus_claim_wide_port(e->bus, 0xcf8, 4, &e->wide.dev, 0), 0);
    assert_int_equal(bus_claim_ports(e->bus, 0xcf9, 1, &e->narrow.dev, 0), 0);
    bus_port_write(e->bus, 0xcf8, 4, 0x80000000);
    bus_port_write(e->bus, 0xcf9, 1, 6);
    bus_port_write(e->bus, 0xcf8, 1, 9);
    assert_string_equal(e->wide.log, "w4@0=80000000 w1@0=9 ");
    assert_string_equal(e->narrow.log, "w1@0=6 ");
}

static void test_mmio_is_split_at_max_bytes_and_alignment(void **state)
{
    struct env *e = *state;

    assert_int_equal(bus_claim_mmio(e->bus, GPA(0xfed00000), 0x20, &e->wide.dev, 0), 0);
    assert_int_equal(bus_claim_mmio(e->bus, GPA(0xfed0001f), 1, &e->narrow.dev, 0), -EBUSY);
    assert_int_equal(bus_mmio_read(e->bus, GPA(0xfed00008), 8), 0x0f0e0d0c0b0a0908);
    assert_int_equal(bus_mmio_read(e->bus, GPA(0xfed0001e), 4), 0xffff1f1e);
    bus_mmio_write(e->bus, GPA(0xfed00002), 4, 0xaabbccdd);
    assert_string_equal(e->wide.log, "r8@8 r2@1e w2@2=ccdd w2@4=aabb ");
    bus_release_mmio(e->bus, GPA(0xfed00000), &e->wide.dev);
    assert_int_equal(bus_mmio_read(e->bus, GPA(0xfed00008), 4), 0xffffffff);
}

static void test_claims_stay_sorted_whatever_the_order_of_claiming(void **state)
{
    struct env *e = *state;

    for (unsigned i = 0; i < 256; i++) /* 37 is coprime to 256: each once, in wild order */
        assert_int_equal(
            bus_claim_ports(e->bus, (uint16_t)(i * 37 % 256 * 16), 8, &e->narrow.dev, i * 37 % 256),
            0);
    for (unsigned i = 0; i < 256; i++) {
        e->narrow.log[0] = 0;
        assert_int_equal(bus_port_read(e->bus, (uint16_t)(i * 16 + 3), 1), (uint8_t)(i + 3));
        assert_int_equal(bus_port_read(e->bus, (uint16_t)(i * 16 + 8), 1), 0xff);
    }
}

static void line_set(void *ctx, unsigned gsi, int level)
{
    char *log = ctx;

    (void)snprintf(log + strlen(log), 16, "%u=%d ", gsi, level);
}

static void test_shared_line_is_up_while_any_user_holds_it(void **state)
{
    struct env *e = *state;
    char log[256] = "";
    struct irq_shared s = { .out = bus_gsi(e->bus, 17) }; /* before there is a sink */
    struct irq_user a = { .line = &s }, b = { .line = &s };

    bus_set_gsi_sink(e->bus, line_set, NULL, log);
    irq_user_set(&a, 1);
    irq_user_set(&a, 1);
    irq_user_set(&b, 1);
    irq_user_set(&a, 0);
    irq_user_set(&a, 0);
    assert_string_equal(log, "17=1 ");
    irq_user_set(&b, 0);
    assert_string_equal(log, "17=1 17=0 ");
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_claim_of_a_taken_port_is_ebusy_and_changes_nothing),
        TEST(test_wide_port_access_to_narrow_device_is_split_ascending),
        TEST(test_port_access_over_claim_borders_is_shared_out),
        TEST(test_unaligned_port_access_reaches_device_aligned),
        TEST(test_nobodys_port_and_missing_handler_read_ones),
        TEST(test_access_over_the_end_of_the_port_space_does_not_wrap),
        TEST(test_wide_register_leaves_the_ports_behind_it_to_others),
        TEST(test_mmio_is_split_at_max_bytes_and_alignment),
        TEST(test_claims_stay_sorted_whatever_the_order_of_claiming),
        TEST(test_shared_line_is_up_while_any_user_holds_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
