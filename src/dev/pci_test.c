/* SPDX-License-Identifier: Apache-2.0 */
/* PCI: the two configuration mechanisms, BARs on the bus, INTx, MSI and MSI-X, by a small device
 * with one of each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dev/fakeclock.h"
#include "dev/pcbridge.h"
#include "dev/pci.h"

#define ECAM    0xe0000000ull
#define MEM_AT  0xc0000000u
#define MEM64   0x800000000ull
#define MSIX_AT 0xc0010000u

struct toy {
    struct pci_dev pci;
    uint64_t last_off, last_val;
};

static uint64_t toy_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    (void)dev, (void)bytes;
    return 0x1000 + off_bytes;
}

static uint64_t toy_mmio_read(struct device *dev, uint64_t off_bytes, unsigned bytes)
{
    (void)dev, (void)bytes;
    return 0x2000 + off_bytes;
}

static void toy_mmio_write(struct device *dev, uint64_t off_bytes, unsigned bytes, uint64_t val)
{
    struct toy *t = container_of(dev, struct toy, pci.dev);

    (void)bytes;
    t->last_off = off_bytes;
    t->last_val = val;
}

static void toy_reset(struct device *dev)
{
    pci_dev_reset(&container_of(dev, struct toy, pci.dev)->pci);
}

static void toy_loaded(struct device *dev)
{
    pci_dev_loaded(&container_of(dev, struct toy, pci.dev)->pci);
}

static const struct state_field toy_state[] = { PCI_DEV_FIELDS(struct toy, pci, 1) };

static const struct device_type toy_type = { .name = "toy",
                                             .read = toy_read,
                                             .max_bytes = 4,
                                             .mmio_read = toy_mmio_read,
                                             .mmio_write = toy_mmio_write,
                                             .reset = toy_reset,
                                             .loaded = toy_loaded,
                                             .state = toy_state,
                                             .nr_state = ARRAY_SIZE(toy_state),
                                             .version = 1 };

struct env {
    struct bus *bus;
    struct pci_host host;
    struct pirq pirq;
    struct mmu *mmu;
    struct pam pam;
    unsigned pic_level[16];
    struct pcbridge bridge, isa;
    struct toy toy[2]; /* 00:02.0 and 00:06.0: INTA of both is the same line */
    int level[32];
    unsigned nr_msi;
    uint64_t msi_addr;
    uint32_t msi_data;
};

static void env_line(void *ctx, unsigned gsi, int level)
{
    ((struct env *)ctx)->level[gsi] = level;
}

static void env_pic(void *ctx, unsigned irq, int level)
{
    ((struct env *)ctx)->pic_level[irq] = (unsigned)level;
}

static void env_pam(void *ctx)
{
    (void)ctx;
}

static void env_msi(void *ctx, uint64_t addr, uint32_t data)
{
    struct env *e = ctx;

    e->nr_msi++;
    e->msi_addr = addr;
    e->msi_data = data;
}

static int toy_init(struct toy *t, struct pci_host *h, unsigned dev)
{
    int err = pci_dev_init(&t->pci, h,
                           &(struct pci_dev_desc){ .type = &toy_type,
                                                   .state_base = t,
                                                   .devfn = PCI_DEVFN(dev, 0),
                                                   .vendor = 0x1af4,
                                                   .device = 0x1110,
                                                   .class_code = 0x050000,
                                                   .int_pin = 1 });

    if (err)
        return err;
    pci_add_bar(&t->pci, 0, &(struct pci_bar){ .kind = PCI_BAR_IO, .bytes = 0x20 });
    pci_add_bar(&t->pci, 1,
                &(struct pci_bar){ .kind = PCI_BAR_MEM32, .bytes = KIB(4), .off_bytes = 0x10000 });
    pci_add_bar(&t->pci, 2, &(struct pci_bar){ .kind = PCI_BAR_MEM64_PREF, .bytes = GIB(8) });
    pci_add_msi(&t->pci, 4);
    pci_add_msix(&t->pci, 4, 3);
    return 0;
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    log_set_level(LOG_ERROR - 1);
    e->bus = bus_create();
    *state = e;
    bus_set_gsi_sink(e->bus, env_line, NULL, e);
    bus_set_msi_sink(e->bus, env_msi, e);
    assert_int_equal(pci_host_init(&e->host, &(struct pci_host_config){ .bus = e->bus,
                                                                        .ecam_at = GPA(ECAM),
                                                                        .ecam_bytes = MIB(256),
                                                                        .intx_gsi = 16 }),
                     0);
    e->mmu = mmu_create();
    assert_int_equal(
        pam_init(&e->pam, &(struct pam_config){ .bus = e->bus, .mmu = e->mmu, .changed = env_pam }),
        0);
    assert_int_equal(pcbridge_init_host(&e->bridge, &e->host, &e->pam, false), 0);
    pirq_init(&e->pirq, env_pic, e);
    assert_int_equal(pcbridge_init_isa(&e->isa, &e->host, 0x600, &e->pirq), 0);
    assert_int_equal(toy_init(&e->toy[0], &e->host, 2), 0);
    assert_int_equal(toy_init(&e->toy[1], &e->host, 6), 0);
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    pci_dev_fini(&e->toy[1].pci);
    pci_dev_fini(&e->toy[0].pci);
    pcbridge_fini(&e->isa);
    pcbridge_fini(&e->bridge);
    pam_fini(&e->pam);
    mmu_destroy(e->mmu);
    pci_host_fini(&e->host);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

static gpa_t ecam(unsigned dev, unsigned reg)
{
    return GPA(ECAM + (dev << 15) + reg);
}

static void put(struct env *e, unsigned dev, unsigned reg, unsigned bytes, uint32_t val)
{
    bus_mmio_write(e->bus, ecam(dev, reg), bytes, val);
}

static uint32_t get(struct env *e, unsigned dev, unsigned reg, unsigned bytes)
{
    return (uint32_t)bus_mmio_read(e->bus, ecam(dev, reg), bytes);
}

static void intx(struct env *e, unsigned toy, int level)
{
    lock_take(bus_lock(e->bus));
    pci_intx(&e->toy[toy].pci, level);
    lock_drop(bus_lock(e->bus));
}

static void test_both_mechanisms_show_the_same_bridges(void **state)
{
    struct env *e = *state;

    assert_int_equal(get(e, 0, 0, 4), 0x29c08086);
    assert_int_equal(get(e, 0x1f, 0, 4), 0x29188086);
    assert_int_equal(get(e, 0, PCI_CLASS + 1, 2), 0x0600);
    bus_port_write(e->bus, 0xcf8, 4, 0x8000f800);
    assert_int_equal(bus_port_read(e->bus, 0xcf8, 4), 0x8000f800);
    assert_int_equal(bus_port_read(e->bus, 0xcfc, 4), 0x29188086);
    assert_int_equal(bus_port_read(e->bus, 0xcfe, 2), 0x2918);
    assert_int_equal(bus_port_read(e->bus, 0xcff, 1), 0x29);
    bus_port_write(e->bus, 0xcf8, 4, 0x7f00f803); /* not enabled; reserved bits stay 0 */
    assert_int_equal(bus_port_read(e->bus, 0xcf8, 4), 0x0000f800);
    assert_int_equal(bus_port_read(e->bus, 0xcfc, 4), 0xffffffff);
    bus_port_write(e->bus, 0xcf8, 1, 0x55); /* not a dword: not for us */
    assert_int_equal(bus_port_read(e->bus, 0xcf8, 4), 0x0000f800);
}

static void test_absent_functions_buses_and_registers_read_ones(void **state)
{
    struct env *e = *state;

    assert_int_equal(get(e, 3, 0, 4), 0xffffffff);
    assert_int_equal(get(e, 2, 0x100, 4), 0xffffffff);
    assert_int_equal(bus_mmio_read(e->bus, GPA(ECAM + (1 << 12)), 4), 0xffffffff); /* 00:00.1 */
    assert_int_equal(bus_mmio_read(e->bus, GPA(ECAM + MIB(1)), 4), 0xffffffff);
    bus_mmio_write(e->bus, GPA(ECAM + MIB(1)), 4, 0);
    assert_int_equal(bus_mmio_read(e->bus, GPA(ECAM + MIB(256) - 4), 4), 0xffffffff);
}

static void test_second_device_at_one_function_is_refused(void **state)
{
    struct env *e = *state;
    struct toy again;

    assert_int_equal(toy_init(&again, &e->host, 2), -EBUSY);
    pci_dev_fini(&again.pci);
    assert_int_equal(get(e, 2, 0, 4), 0x11101af4);
}

static void test_bars_tell_their_size_by_unwritable_bits(void **state)
{
    struct env *e = *state;
    static const uint32_t want[] = {
        0xffffffe1, 0xfffff000, 0x0000000c, 0xfffffffe, 0xffffe000, 0
    };

    for (unsigned i = 0; i < 6; i++) {
        put(e, 2, PCI_BAR0 + 4 * i, 4, 0xffffffff);
        assert_int_equal(get(e, 2, PCI_BAR0 + 4 * i, 4), want[i]);
    }
}

static void test_bars_answer_where_and_while_decoding_says(void **state)
{
    struct env *e = *state;

    put(e, 2, PCI_BAR0, 4, 0xc000);
    put(e, 2, PCI_BAR0 + 4, 4, MEM_AT);
    put(e, 2, PCI_BAR0 + 8, 4, (uint32_t)MEM64);
    put(e, 2, PCI_BAR0 + 12, 4, MEM64 >> 32);
    assert_int_equal(bus_port_read(e->bus, 0xc004, 2), 0xffff);
    put(e, 2, PCI_COMMAND, 2, PCI_COMMAND_IO);
    assert_int_equal(bus_port_read(e->bus, 0xc004, 2), 0x1004);
    assert_int_equal(bus_mmio_read(e->bus, GPA(MEM_AT + 8), 4), 0xffffffff);
    put(e, 2, PCI_COMMAND, 2, PCI_COMMAND_MEM);
    assert_int_equal(bus_port_read(e->bus, 0xc004, 2), 0xffff);
    assert_int_equal(bus_mmio_read(e->bus, GPA(MEM_AT + 8), 4), 0x12008);
    bus_mmio_write(e->bus, GPA(MEM64 + 0x40), 4, 77);
    assert_int_equal(e->toy[0].last_off, 0x40);
    assert_int_equal(e->toy[0].last_val, 77);
    put(e, 2, PCI_BAR0 + 4, 4, MEM_AT + 0x5000); /* moves while decoding */
    assert_int_equal(bus_mmio_read(e->bus, GPA(MEM_AT + 8), 4), 0xffffffff);
    assert_int_equal(bus_mmio_read(e->bus, GPA(MEM_AT + 0x5008), 4), 0x12008);
    put(e, 2, PCI_BAR0 + 4, 4, 0xffffffff); /* sizing while decoding: nowhere */
    assert_int_equal(bus_mmio_read(e->bus, GPA(0xfffff000), 4), 0xffffffff);
}

static void test_bar_on_another_device_stays_unmapped_until_that_moves(void **state)
{
    struct env *e = *state;

    put(e, 2, PCI_BAR0 + 4, 4, MEM_AT);
    put(e, 2, PCI_COMMAND, 2, PCI_COMMAND_MEM);
    put(e, 6, PCI_BAR0 + 4, 4, MEM_AT);
    put(e, 6, PCI_COMMAND, 2, PCI_COMMAND_MEM);
    bus_mmio_write(e->bus, GPA(MEM_AT), 4, 1);
    assert_int_equal(e->toy[0].last_val, 1);
    put(e, 6, PCI_BAR0 + 4, 4, (uint32_t)ECAM); /* on the bridge's own window */
    assert_int_equal(get(e, 0, 0, 4), 0x29c08086);
    put(e, 6, PCI_BAR0 + 4, 4, MEM_AT);
    put(e, 2, PCI_COMMAND, 2, 0);
    bus_mmio_write(e->bus, GPA(MEM_AT), 4, 2);
    assert_int_equal(e->toy[1].last_val, 2);
}

static void test_shared_intx_is_the_or_of_its_functions(void **state)
{
    struct env *e = *state;

    assert_int_equal(pci_intx_gsi(&e->host, PCI_DEVFN(2, 0), 1), 18);
    assert_int_equal(pci_intx_gsi(&e->host, PCI_DEVFN(3, 0), 4), 18);
    intx(e, 0, 1);
    intx(e, 1, 1);
    intx(e, 0, 0);
    assert_int_equal(e->level[18], 1);
    intx(e, 1, 0);
    assert_int_equal(e->level[18], 0);
}

static void test_intx_disable_quiets_the_pin_but_not_the_status(void **state)
{
    struct env *e = *state;

    put(e, 2, PCI_COMMAND, 2, PCI_COMMAND_INTX_OFF);
    intx(e, 0, 1);
    assert_int_equal(e->level[18], 0);
    assert_true(get(e, 2, PCI_STATUS, 2) & PCI_STATUS_INTX);
    put(e, 2, PCI_COMMAND, 2, 0);
    assert_int_equal(e->level[18], 1);
    toy_reset(&e->toy[0].pci.dev);
    assert_int_equal(e->level[18], 0);
}

/* Walks the list as a guest does. */
static unsigned find_cap(struct env *e, unsigned dev, uint8_t id)
{
    unsigned at = get(e, dev, PCI_CAP_PTR, 1);

    assert_true(get(e, dev, PCI_STATUS, 2) & PCI_STATUS_CAPS);
    for (unsigned i = 0; at && i < 48; i++, at = get(e, dev, at + 1, 1))
        if (get(e, dev, at, 1) == id)
            return at;
    return 0;
}

static void test_msi_sends_masks_and_pends(void **state)
{
    struct env *e = *state;
    struct pci_dev *d = &e->toy[0].pci;
    unsigned at = find_cap(e, 2, PCI_CAP_MSI);

    assert_int_not_equal(at, 0);
    assert_int_equal(get(e, 2, at + 2, 2), 0x0184); /* 64 bits, masks, 4 vectors */
    put(e, 2, at + 4, 4, 0xfee01003);
    put(e, 2, at + 12, 2, 0x4041);
    pci_msi_send(d, 1);           /* off */
    put(e, 2, at + 2, 2, 0x0021); /* on, 4 vectors */
    pci_msi_send(d, 1);           /* no bus master */
    assert_int_equal(e->nr_msi, 0);
    put(e, 2, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    pci_msi_send(d, 2);
    assert_int_equal(e->nr_msi, 1);
    assert_int_equal(e->msi_addr, 0xfee01000);
    assert_int_equal(e->msi_data, 0x4042);
    put(e, 2, at + 16, 4, 0xffffffff);
    assert_int_equal(get(e, 2, at + 16, 4), 0xf);
    pci_msi_send(d, 3);
    assert_int_equal(e->nr_msi, 1);
    assert_int_equal(get(e, 2, at + 20, 4), 8);
    put(e, 2, at + 16, 4, 0x7);
    assert_int_equal(e->nr_msi, 2);
    assert_int_equal(e->msi_data, 0x4043);
    assert_int_equal(get(e, 2, at + 20, 4), 0);
    put(e, 2, at + 16, 4, 0);
    put(e, 2, at + 2, 2, 0x0071); /* more than offered: as many as offered */
    pci_msi_send(d, 3);
    assert_int_equal(e->msi_data, 0x4043);
    put(e, 2, at + 2, 2, 0x0001); /* one: all share it */
    pci_msi_send(d, 3);
    assert_int_equal(e->msi_data, 0x4041);
}

static void test_msi_switched_on_quiets_intx(void **state)
{
    struct env *e = *state;
    unsigned at = find_cap(e, 2, PCI_CAP_MSI);

    intx(e, 0, 1);
    put(e, 2, at + 2, 2, 1);
    assert_int_equal(e->level[18], 0);
    put(e, 2, at + 2, 2, 0);
    assert_int_equal(e->level[18], 1);
}

static void test_msix_table_masks_and_pending_bits(void **state)
{
    struct env *e = *state;
    struct pci_dev *d = &e->toy[0].pci;
    unsigned at = find_cap(e, 2, PCI_CAP_MSIX);

    assert_int_equal(get(e, 2, at + 2, 2), 2); /* 3 vectors */
    assert_int_equal(get(e, 2, at + 4, 4), 4);
    assert_int_equal(get(e, 2, at + 8, 4), 0x1004);
    put(e, 2, PCI_BAR0 + 16, 4, MSIX_AT);
    put(e, 2, PCI_COMMAND, 2, PCI_COMMAND_MEM | PCI_COMMAND_MASTER);
    assert_int_equal(bus_mmio_read(e->bus, GPA(MSIX_AT + 0x2c), 4), 1); /* masked at reset */
    bus_mmio_write(e->bus, GPA(MSIX_AT + 0x20), 8, 0x1fee02000);
    bus_mmio_write(e->bus, GPA(MSIX_AT + 0x28), 4, 0x55);
    put(e, 2, at + 2, 2, 0x8000);
    pci_msix_send(d, 2);
    pci_msix_send(d, 3); /* there is none */
    assert_int_equal(e->nr_msi, 0);
    assert_int_equal(bus_mmio_read(e->bus, GPA(MSIX_AT + 0x1000), 8), 4);
    bus_mmio_write(e->bus, GPA(MSIX_AT + 0x1000), 8, 0); /* read-only */
    bus_mmio_write(e->bus, GPA(MSIX_AT + 0x2c), 4, 0xfffffffe);
    assert_int_equal(e->nr_msi, 1);
    assert_int_equal(e->msi_addr, 0x1fee02000);
    assert_int_equal(e->msi_data, 0x55);
    assert_int_equal(bus_mmio_read(e->bus, GPA(MSIX_AT + 0x1000), 4), 0);
    put(e, 2, at + 2, 2, 0xc000); /* function mask */
    pci_msix_send(d, 2);
    assert_int_equal(e->nr_msi, 1);
    put(e, 2, at + 2, 2, 0x8000);
    assert_int_equal(e->nr_msi, 2);
    bus_mmio_write(e->bus, GPA(MSIX_AT + 0xffc), 4, 0); /* behind the table */
    assert_int_equal(bus_mmio_read(e->bus, GPA(MSIX_AT + 0x30), 4), 0);
}

static void test_saved_function_is_mapped_again_after_loading(void **state)
{
    struct env *e = *state;
    size_t n = state_bytes(&e->toy[0].pci.dev);
    uint8_t *buf = malloc(n);

    put(e, 2, PCI_BAR0 + 4, 4, MEM_AT);
    put(e, 2, PCI_COMMAND, 2, PCI_COMMAND_MEM);
    intx(e, 0, 1);
    state_save(&e->toy[0].pci.dev, buf);
    toy_reset(&e->toy[0].pci.dev);
    assert_int_equal(bus_mmio_read(e->bus, GPA(MEM_AT + 8), 4), 0xffffffff);
    buf[0] = 0; /* a saved vendor ID counts for nothing */
    assert_int_equal(state_load(&e->toy[0].pci.dev, buf, n, 1), 0);
    assert_int_equal(get(e, 2, 0, 4), 0x11101af4);
    assert_int_equal(bus_mmio_read(e->bus, GPA(MEM_AT + 8), 4), 0x12008);
    assert_int_equal(e->level[18], 1);
    memset(buf, 0xff, n); /* hostile */
    assert_int_equal(state_load(&e->toy[0].pci.dev, buf, n, 1), 0);
    assert_int_equal(get(e, 2, 0, 4), 0x11101af4);
    pci_msix_send(&e->toy[0].pci, 1);
    free(buf);
}

static void test_ecam_follows_pciexbar_but_not_over_others(void **state)
{
    struct env *e = *state;

    put(e, 0, 0x60, 4, 0xb0000001);
    assert_int_equal(bus_mmio_read(e->bus, ecam(0, 0), 4), 0xffffffff);
    assert_int_equal(bus_mmio_read(e->bus, GPA(0xb0000000), 4), 0x29c08086);
    bus_mmio_write(e->bus, GPA(0xb0000060), 4, 0xb0000000); /* off */
    assert_int_equal(bus_mmio_read(e->bus, GPA(0xb0000000), 4), 0xffffffff);
    assert_false(e->host.ecam_on);
    lock_take(bus_lock(e->bus));
    pci_dev_reset(&e->bridge.pci);
    e->bridge.pci.dev.type->reset(&e->bridge.pci.dev);
    lock_drop(bus_lock(e->bus));
    assert_int_equal(get(e, 0, 0, 4), 0x29c08086);
}

static void test_isa_bridge_routes_lines_to_the_8259s(void **state)
{
    static const uint8_t routes[PIRQ_NR_LINES] = { 5, 6, 7, 9, 10, 11, 12, 14 };
    struct env *e = *state;

    assert_int_equal(get(e, 0x1f, 0x60, 4), 0x80808080);
    pirq_set_line(&e->pirq, 1, 1);
    pirq_set_line(&e->pirq, 7, 1);
    put(e, 0x1f, 0x60, 4, 0xfb7a0b0a); /* reserved bits stay 0 */
    assert_int_equal(get(e, 0x1f, 0x60, 4), 0x8b0a0b0a);
    assert_int_equal(e->pic_level[11], 1);
    put(e, 0x1f, 0x6b, 1, 5); /* PIRQH */
    assert_int_equal(e->pic_level[5], 1);
    lock_take(bus_lock(e->bus));
    e->isa.pci.dev.type->reset(&e->isa.pci.dev);
    assert_int_equal(e->pic_level[5] | e->pic_level[11], 0);
    pcbridge_set_routes(&e->isa, routes);
    pci_set_int_lines(&e->host, routes);
    lock_drop(bus_lock(e->bus));
    assert_int_equal(e->pic_level[6], 1);
    assert_int_equal(e->pic_level[14], 1);
    assert_int_equal(get(e, 0x1f, 0x68, 4), 0x0e0c0b0a);
    assert_int_equal(get(e, 2, PCI_INT_LINE, 1), 7); /* INTA of 00:02.0 is PIRQC */
    assert_int_equal(get(e, 0, PCI_INT_LINE, 1), 0); /* has no pin */
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_ecam_follows_pciexbar_but_not_over_others),
        TEST(test_both_mechanisms_show_the_same_bridges),
        TEST(test_absent_functions_buses_and_registers_read_ones),
        TEST(test_second_device_at_one_function_is_refused),
        TEST(test_bars_tell_their_size_by_unwritable_bits),
        TEST(test_bars_answer_where_and_while_decoding_says),
        TEST(test_bar_on_another_device_stays_unmapped_until_that_moves),
        TEST(test_shared_intx_is_the_or_of_its_functions),
        TEST(test_intx_disable_quiets_the_pin_but_not_the_status),
        TEST(test_msi_sends_masks_and_pends),
        TEST(test_msi_switched_on_quiets_intx),
        TEST(test_msix_table_masks_and_pending_bits),
        TEST(test_saved_function_is_mapped_again_after_loading),
        TEST(test_isa_bridge_routes_lines_to_the_8259s),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
