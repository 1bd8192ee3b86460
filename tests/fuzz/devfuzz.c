/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest, a user and a snapshot that want to break the devices: libFuzzer target over the bus.
 *
 * The input is a program of small operations (see ops[]): register accesses, time passing, keys and
 * serial input, interrupt acknowledges, machine reset, and loading a damaged state. Time stands
 * still but for the input's wish, so every finding repeats. What must hold after each input:
 * nothing crashed, hung or tripped a sanitizer, and the PIC's INTR is what its own registers say.
 */
#include <string.h>

#include "dev/fakeclock.h"

#include "backend/backend.h"
#include "dev/acpi_pm.h"
#include "dev/cf9.h"
#include "dev/debugcon.h"
#include "dev/debugexit.h"
#include "dev/fwcfg.h"
#include "dev/hpet.h"
#include "dev/i8042.h"
#include "dev/ioapic.h"
#include "dev/pcbridge.h"
#include "dev/pci.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/port92.h"
#include "dev/rtc.h"
#include "dev/uart.h"

#define MAX_ADVANCE_NS  (200 * 1000000ull) /* of simulated time an input: each fires timers */
#define MAX_STATE_BYTES 4096
#define RAM_BYTES       (4 * PAGE_BYTES)
#define HPET_AT         0xfed00000u
#define ACPI_PM_PORT    0x600
#define FWCFG_PORT      0x510
#define SCI_GSI         9
#define ECAM_AT         0xe0000000u
#define BARS_AT         0xc0000000u
#define FUNCTION_DEVFN  PCI_DEVFN(3, 0)
#define IOAPIC_AT       0xfec00000u

struct machine {
    struct bus *bus;
    struct pic pic;
    struct pit pit;
    struct rtc rtc;
    struct uart uart[2];
    struct i8042 kbc;
    struct port92 port92;
    struct cf9 cf9;
    struct debugcon debugcon;
    struct debugexit debugexit;
    struct ioapic ioapic;
    struct hpet hpet;
    struct acpi_pm acpi_pm;
    struct fwcfg fwcfg;
    struct dma dma;
    struct pci_host pci;
    struct pam pam;
    struct pirq pirq;
    struct pcbridge bridges[2];
    struct pci_dev function;
    struct chr chr[3];
    uint64_t advance_left_ns;
};

struct input {
    const uint8_t *at, *end;
};

static uint8_t next8(struct input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

static uint32_t next32(struct input *in)
{
    uint32_t v = 0;

    for (unsigned i = 0; i < 4; i++)
        v |= (uint32_t)next8(in) << 8 * i;
    return v;
}

/* ---- a channel that swallows output; the input offers what it receives ---- */

static void chr_fuzz_write(struct chr *c, const uint8_t *buf, size_t bytes)
{
    (void)c, (void)buf, (void)bytes;
}

static void chr_fuzz_nothing(struct chr *c)
{
    (void)c;
}

static const struct chr_ops chr_fuzz_ops = {
    .write = chr_fuzz_write,
    .accept = chr_fuzz_nothing,
    .close = chr_fuzz_nothing,
};

void chr_connect(struct chr *c, struct lock *lock, size_t (*rx)(void *arg, const uint8_t *, size_t),
                 void *arg)
{
    c->lock = lock;
    c->rx = rx;
    c->rx_arg = arg;
}

/* ---- the machine ---- */

/* As the PC wires it: both controllers hear the ISA lines, the timer sits at pin 2 of the I/O APIC.
 */
static void machine_gsi(void *ctx, unsigned gsi, int level)
{
    struct machine *m = ctx;

    if (gsi < 16)
        pic_set_irq(&m->pic, gsi, level);
    ioapic_set_pin(&m->ioapic, gsi ? gsi : 2, level);
}

static void machine_send(void *ctx, const struct apic_msg *msg)
{
    (void)ctx, (void)msg;
}

/* The PIT and the RTC give their interrupts to the HPET. */
static void machine_legacy(void *ctx, bool on)
{
    struct machine *m = ctx;

    pit_detach_irq(&m->pit, on);
    rtc_detach_irq(&m->rtc, on);
}

/* ---- a PCI function with everything a function can have; what is behind its BARs is the BARs'
 * offset ---- */

static uint64_t function_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    (void)dev, (void)bytes;
    return off_bytes;
}

static void function_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    struct pci_dev *d = container_of(dev, struct pci_dev, dev);

    (void)bytes;
    if (off_bytes & 8)
        pci_intx(d, val & 1);
    else if (off_bytes & 4)
        pci_msix_send(d, val % 4);
    else
        pci_msi_send(d, val % 4);
}

static uint64_t function_mmio_read(struct device *dev, uint64_t off_bytes, unsigned bytes)
{
    return function_read(dev, (uint32_t)off_bytes, bytes);
}

static void function_mmio_write(struct device *dev, uint64_t off_bytes, unsigned bytes,
                                uint64_t val)
{
    function_write(dev, (uint32_t)off_bytes, bytes, val);
}

static void function_reset(struct device *dev)
{
    pci_dev_reset(container_of(dev, struct pci_dev, dev));
}

static void function_loaded(struct device *dev)
{
    pci_dev_loaded(container_of(dev, struct pci_dev, dev));
}

static const struct state_field function_state[] = {
    PCI_DEV_FIELDS(struct machine, function, 1),
};

static const struct device_type function_type = {
    .name = "function",
    .read = function_read,
    .write = function_write,
    .mmio_read = function_mmio_read,
    .mmio_write = function_mmio_write,
    .reset = function_reset,
    .loaded = function_loaded,
    .state = function_state,
    .nr_state = ARRAY_SIZE(function_state),
    .version = 1,
};

/* Some RAM for fw_cfg's DMA. Made once, because memory is dear; zeroed for every input. */
static struct mmu *machine_ram(void)
{
    static struct mmu *mmu;
    static struct slot *slot;

    if (!mmu) {
        struct slot_desc d = { .name = "ram", .base = GPA(0), .bytes = RAM_BYTES };

        mmu = mmu_create();
        BUG_ON(!mmu || mmu_slot_add(mmu, &d, &slot));
    }
    memset(slot->hva, 0, RAM_BYTES);
    return mmu;
}

static void ignore(void *ctx)
{
    (void)ctx;
}

static void ignore_pic(void *ctx, unsigned irq, int level)
{
    (void)ctx, (void)irq, (void)level;
}

static int machine_create_pci(struct machine *m)
{
    static const struct pci_bar bars[] = {
        { .kind = PCI_BAR_IO, .bytes = 32 },
        { .kind = PCI_BAR_MEM32, .bytes = 4096, .off_bytes = 0x100 },
        { .kind = PCI_BAR_MEM64_PREF, .bytes = MIB(64), .off_bytes = 0x10000 },
    };
    struct pci_host_config host = {
        .bus = m->bus,
        .ecam_at = GPA(ECAM_AT),
        .ecam_bytes = MIB(256),
        .intx_gsi = 16,
    };
    struct pci_dev_desc desc = {
        .type = &function_type,
        .state_base = m,
        .devfn = FUNCTION_DEVFN,
        .vendor = 0x1234,
        .device = 0x5678,
        .class_code = 0xff0000,
        .int_pin = 1,
    };

    struct pam_config pam = { .bus = m->bus, .mmu = machine_ram(), .changed = ignore };

    pirq_init(&m->pirq, ignore_pic, NULL);
    if (pci_host_init(&m->pci, &host) || pam_init(&m->pam, &pam) ||
        pcbridge_init_host(&m->bridges[0], &m->pci, &m->pam, false) ||
        pcbridge_init_isa(&m->bridges[1], &m->pci, 0x600, &m->pirq) ||
        pci_dev_init(&m->function, &m->pci, &desc))
        return -1;
    for (unsigned i = 0; i < ARRAY_SIZE(bars); i++) {
        struct pci_bar bar = bars[i];

        bar.dev = &m->function.dev;
        pci_add_bar(&m->function, i, &bar);
    }
    pci_add_msi(&m->function, 4);
    pci_add_msix(&m->function, 4, 4);
    return 0;
}

/* ---- the whole ---- */

static int machine_create_fwcfg(struct machine *m)
{
    static const uint8_t file[100] = { 1, 2, 3 };

    m->dma.mmu = machine_ram();
    return fwcfg_init(&m->fwcfg, m->bus, FWCFG_PORT, &m->dma) ||
           fwcfg_add_file(&m->fwcfg, "etc/file", file, sizeof(file));
}

static int machine_create_acpi(struct machine *m)
{
    struct acpi_pm_config pm = {
        .bus = m->bus,
        .port = ACPI_PM_PORT,
        .smi_port = 0xb2,
        .smi_acpi_enable = 0xf1,
        .smi_acpi_disable = 0xf0,
        .slp_typ_s5 = 5,
        .sci = bus_gsi(m->bus, SCI_GSI),
    };
    struct hpet_config hpet = {
        .bus = m->bus,
        .at = GPA(HPET_AT),
        .irq0 = bus_gsi(m->bus, 0),
        .irq8 = bus_gsi(m->bus, 8),
        .legacy = machine_legacy,
        .ctx = m,
    };

    return acpi_pm_init(&m->acpi_pm, &pm) || hpet_init(&m->hpet, &hpet);
}

static void machine_create(struct machine *m)
{
    int err = 0;

    *m = (struct machine){ .advance_left_ns = MAX_ADVANCE_NS };
    m->bus = bus_create();
    BUG_ON(!m->bus);
    bus_clock(m->bus)->real_ns = 1700000000ull * 1000000000;
    err |= pic_init(&m->pic, &(struct pic_config){ .bus = m->bus });
    err |= ioapic_init(&m->ioapic, &(struct ioapic_config){
                                       .bus = m->bus, .at = GPA(IOAPIC_AT), .send = machine_send });
    bus_set_gsi_sink(m->bus, machine_gsi, NULL, m);
    err |= pit_init(&m->pit, &(struct pit_config){ m->bus, bus_gsi(m->bus, 0) });
    err |= rtc_init(&m->rtc, &(struct rtc_config){ .bus = m->bus,
                                                   .irq = bus_gsi(m->bus, 8),
                                                   .alarm = ignore,
                                                   .low_ram_bytes = GIB(1) });
    for (unsigned i = 0; i < 2; i++) {
        struct uart_config cfg = {
            .bus = m->bus,
            .port = i ? UART_COM2_PORT : UART_COM1_PORT,
            .irq = bus_gsi(m->bus, 4 - i),
            .chr = &m->chr[i],
        };

        m->chr[i].ops = &chr_fuzz_ops;
        err |= uart_init(&m->uart[i], &cfg);
    }
    err |= i8042_init(&m->kbc,
                      &(struct i8042_config){ m->bus, bus_gsi(m->bus, 1), bus_gsi(m->bus, 12) });
    err |= port92_init(&m->port92, m->bus);
    err |= cf9_init(&m->cf9, m->bus);
    m->chr[2].ops = &chr_fuzz_ops;
    err |= debugcon_init(&m->debugcon, m->bus, &m->chr[2]);
    err |= debugexit_init(&m->debugexit, m->bus);
    err |= machine_create_acpi(m) || machine_create_fwcfg(m) || machine_create_pci(m);
    BUG_ON(err);
}

static void machine_destroy(struct machine *m)
{
    /* With the lock no timer is on its way, and lines may fall. */
    lock_take(bus_lock(m->bus));
    pci_dev_fini(&m->function);
    pcbridge_fini(&m->bridges[1]);
    pcbridge_fini(&m->bridges[0]);
    pam_fini(&m->pam);
    pci_host_fini(&m->pci);
    fwcfg_fini(&m->fwcfg);
    hpet_fini(&m->hpet);
    acpi_pm_fini(&m->acpi_pm);
    debugexit_fini(&m->debugexit);
    debugcon_fini(&m->debugcon);
    cf9_fini(&m->cf9);
    port92_fini(&m->port92);
    i8042_fini(&m->kbc);
    uart_fini(&m->uart[1]);
    uart_fini(&m->uart[0]);
    rtc_fini(&m->rtc);
    pit_fini(&m->pit);
    ioapic_fini(&m->ioapic);
    pic_fini(&m->pic);
    lock_drop(bus_lock(m->bus));
    bus_destroy(m->bus);
}

/* ---- operations ---- */

/* Where something answers, so that an input need not guess 16 bits. */
static const struct port_range {
    uint16_t base;
    uint8_t nr;
} ranges[] = {
    { 0x20, 2 }, { 0xa0, 2 },          { 0x4d0, 2 },       { 0x40, 4 },  { 0x61, 1 },  { 0x70, 2 },
    { 0x60, 1 }, { 0x64, 1 },          { 0x92, 1 },        { 0xcf9, 1 }, { 0x3f8, 8 }, { 0x2f8, 8 },
    { 0xe9, 1 }, { ACPI_PM_PORT, 20 }, { FWCFG_PORT, 12 }, { 0xb2, 2 },  { 0xf4, 1 },
};

static const uint64_t windows[] = { IOAPIC_AT, HPET_AT, BARS_AT };

static uint16_t pick_port(struct input *in)
{
    uint8_t pick = next8(in);
    const struct port_range *r = &ranges[pick % ARRAY_SIZE(ranges)];

    return (uint16_t)(r->base + next8(in) % r->nr);
}

static void op_read(struct machine *m, struct input *in)
{
    (void)bus_port_read(m->bus, pick_port(in), 1);
}

static void op_write(struct machine *m, struct input *in)
{
    uint16_t port = pick_port(in);

    bus_port_write(m->bus, port, 1, next8(in));
}

/* Any port, any width. */
static void op_wild(struct machine *m, struct input *in)
{
    uint32_t v = next32(in);
    unsigned bytes = 1u << (v >> 16) % 3;

    if (v & BIT(24))
        bus_port_write(m->bus, (uint16_t)v, bytes, next32(in));
    else
        (void)bus_port_read(m->bus, (uint16_t)v, bytes);
}

/* A register of a memory-mapped device, or, with any offset and width, its neighbourhood. */
static void op_mmio(struct machine *m, struct input *in)
{
    uint8_t v = next8(in);
    gpa_t at =
        GPA(windows[v % ARRAY_SIZE(windows)] + (v & 64 ? next32(in) % 0x2000 : next8(in) * 8u));
    unsigned bytes = v & 64 ? 1u << (v >> 4 & 3) : 4;

    if (v & 128)
        bus_mmio_write(m->bus, at, bytes, next32(in) | (uint64_t)next32(in) << 32);
    else
        (void)bus_mmio_read(m->bus, at, bytes);
}

/* A configuration register of a function that exists, mostly. */
static void op_config(struct machine *m, struct input *in)
{
    static const uint8_t devfns[] = { FUNCTION_DEVFN, FUNCTION_DEVFN, PCI_DEVFN(0, 0),
                                      PCI_DEVFN(31, 0) };
    uint8_t v = next8(in), devfn = devfns[v & 3];
    unsigned off = next8(in), bytes = 1u << (v >> 2) % 3;
    gpa_t ecam = GPA(ECAM_AT + (devfn << 12) + off);

    if (v & 16) { /* by CF8h */
        bus_port_write(m->bus, 0xcf8, 4, BIT(31) | (uint32_t)devfn << 8 | (off & 0xfc));
        if (v & 32)
            bus_port_write(m->bus, (uint16_t)(0xcfc + (off & 3)), bytes, next32(in));
        else
            (void)bus_port_read(m->bus, (uint16_t)(0xcfc + (off & 3)), bytes);
    } else if (v & 32) {
        bus_mmio_write(m->bus, ecam, bytes, next32(in));
    } else {
        (void)bus_mmio_read(m->bus, ecam, bytes);
    }
}

/* Puts one of the function's memory BARs where op_mmio looks, and switches decoding on. */
static void op_map_bar(struct machine *m, struct input *in)
{
    static const uint8_t regs[] = { 0x14, 0x18, 0x20 };
    uint64_t config = ECAM_AT + ((uint64_t)FUNCTION_DEVFN << 12);

    bus_mmio_write(m->bus, GPA(config + regs[next8(in) % ARRAY_SIZE(regs)]), 4, BARS_AT);
    bus_mmio_write(m->bus, GPA(config + PCI_COMMAND), 2, next8(in) | PCI_COMMAND_MEM);
}

static void op_ioapic_eoi(struct machine *m, struct input *in)
{
    lock_take(bus_lock(m->bus));
    ioapic_eoi(&m->ioapic, next8(in));
    lock_drop(bus_lock(m->bus));
}

static void op_advance(struct machine *m, struct input *in)
{
    uint8_t v = next8(in);
    uint64_t ns = (uint64_t)(v & 7) << (v >> 3 & 31);

    ns = MIN(ns, m->advance_left_ns);
    m->advance_left_ns -= ns;
    fakeclock_advance(m->bus, ns);
}

/* The host was busy, up to centuries. */
static void op_jump(struct machine *m, struct input *in)
{
    uint8_t v = next8(in);

    fakeclock_jump(m->bus, (uint64_t)(v & 3) << (v >> 2) % 60);
}

/* The host's clock was set. */
static void op_set_date(struct machine *m, struct input *in)
{
    bus_clock(m->bus)->real_ns = (uint64_t)next32(in) * 1000000000;
}

static void op_key(struct machine *m, struct input *in)
{
    uint32_t code = next32(in);

    lock_take(bus_lock(m->bus));
    i8042_key(&m->kbc, (const uint8_t *)&code, code >> 30);
    lock_drop(bus_lock(m->bus));
}

static void op_move(struct machine *m, struct input *in)
{
    int dx = (int32_t)next32(in), dy = (int32_t)next32(in);

    lock_take(bus_lock(m->bus));
    i8042_move(&m->kbc, dx, dy, (int8_t)next8(in), next8(in));
    lock_drop(bus_lock(m->bus));
}

static void op_serial(struct machine *m, struct input *in)
{
    struct chr *c = &m->chr[next8(in) & 1];
    uint8_t text[40];
    size_t nr = next8(in) % (sizeof(text) + 1);

    for (size_t i = 0; i < nr; i++)
        text[i] = next8(in);
    lock_take(bus_lock(m->bus));
    BUG_ON(c->rx(c->rx_arg, text, nr) > nr);
    lock_drop(bus_lock(m->bus));
}

static void op_ack(struct machine *m, struct input *in)
{
    (void)in;
    lock_take(bus_lock(m->bus));
    (void)pic_ack(&m->pic);
    lock_drop(bus_lock(m->bus));
}

static void op_line(struct machine *m, struct input *in)
{
    uint8_t v = next8(in);

    lock_take(bus_lock(m->bus));
    machine_gsi(m, v & 31, v >> 7);
    lock_drop(bus_lock(m->bus));
}

static void op_detach(struct machine *m, struct input *in)
{
    uint8_t v = next8(in);

    lock_take(bus_lock(m->bus));
    pit_detach_irq(&m->pit, v & 1);
    rtc_detach_irq(&m->rtc, v & 2);
    lock_drop(bus_lock(m->bus));
}

static void op_reset(struct machine *m, struct input *in)
{
    (void)in;
    lock_take(bus_lock(m->bus));
    for (struct device *d = bus_device_next(m->bus, NULL); d; d = bus_device_next(m->bus, d))
        if (d->type->reset)
            d->type->reset(d);
    lock_drop(bus_lock(m->bus));
}

/* A whole fw_cfg transfer: the control structure in RAM, then the doorbell. */
static void op_fwcfg(struct machine *m, struct input *in)
{
    uint32_t control[4], at = next8(in) * 64u;

    for (unsigned i = 0; i < ARRAY_SIZE(control); i++)
        control[i] = __builtin_bswap32(i == 2 ? 0 : next32(in));
    (void)mmu_write(m->dma.mmu, GPA(at), control, sizeof(control));
    bus_port_write(m->bus, FWCFG_PORT + 4, 4, 0);
    bus_port_write(m->bus, FWCFG_PORT + 8, 4, __builtin_bswap32(at));
}

static void op_acpi(struct machine *m, struct input *in)
{
    uint8_t v = next8(in);

    lock_take(bus_lock(m->bus));
    if (v & 128)
        acpi_pm_power_button(&m->acpi_pm);
    else
        acpi_pm_gpe(&m->acpi_pm, v & 15);
    lock_drop(bus_lock(m->bus));
}

/* One device's state, saved, some bytes of it changed, loaded. */
static void op_state(struct machine *m, struct input *in)
{
    struct device *d = bus_device_next(m->bus, NULL);
    uint8_t buf[MAX_STATE_BYTES];
    size_t bytes;

    for (unsigned skip = next8(in) % 32; skip && d; skip--)
        d = bus_device_next(m->bus, d);
    if (!d)
        return;
    bytes = state_bytes(d);
    BUG_ON(bytes > sizeof(buf));
    lock_take(bus_lock(m->bus));
    state_save(d, buf);
    for (unsigned nr = next8(in) % 8; nr && bytes; nr--) {
        size_t at = (next8(in) | (size_t)next8(in) << 8) % bytes;

        buf[at] = next8(in);
    }
    BUG_ON(state_load(d, buf, bytes, d->type->version) != 0);
    lock_drop(bus_lock(m->bus));
}

static void (*const ops[])(struct machine *m, struct input *in) = {
    op_read,  op_write,    op_write,  op_write,   op_wild,   op_mmio, op_ioapic_eoi, op_advance,
    op_jump,  op_set_date, op_key,    op_move,    op_serial, op_ack,  op_line,       op_detach,
    op_reset, op_config,   op_config, op_map_bar, op_fwcfg,  op_acpi, op_state,
};

/* INTR is never up without a request that is not masked, or was one when it was withdrawn. */
static void check_pic(struct machine *m)
{
    bool pending = pic_pending(&m->pic);
    struct pic_chip *master = &m->pic.chip[0];

    if (pending)
        BUG_ON(!(master->irr & ~master->imr) && !master->withdrawn);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct input in = { .at = data, .end = data + bytes };
    struct machine m;

    log_set_level(LOG_ERROR);
    machine_create(&m);
    while (in.at < in.end)
        ops[next8(&in) % ARRAY_SIZE(ops)](&m, &in);
    check_pic(&m);
    machine_destroy(&m);
    return 0;
}
