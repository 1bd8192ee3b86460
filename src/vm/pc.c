/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PC: which devices there are, in the order in which they are made and reset, and what each is
 * wired to. A device is one row in pc_parts[].
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "dev/acpi_pm.h"
#include "dev/boottimer.h"
#include "dev/cf9.h"
#include "dev/debugcon.h"
#include "dev/debugexit.h"
#include "dev/ferr.h"
#include "dev/flash.h"
#include "dev/hpet.h"
#include "dev/i8042.h"
#include "dev/ide.h"
#include "dev/ioapic.h"
#include "dev/pam.h"
#include "dev/pcbridge.h"
#include "dev/pci.h"
#include "dev/pic.h"
#include "dev/pirq.h"
#include "dev/pit.h"
#include "dev/port92.h"
#include "dev/rtc.h"
#include "dev/uart.h"
#include "vm/priv.h"

/* ISA interrupt lines. */
enum {
    IRQ_PIT = 0,
    IRQ_KBD = 1,
    IRQ_COM1 = 4,
    IRQ_RTC = 8,
    IRQ_MOUSE = 12,
    IRQ_FERR = 13,
    IRQ_IDE = 14
};

struct pc {
    struct vm *vm;
    unsigned nr_parts; /* how many rows of pc_parts[] were made */

    struct pic pic;
    struct ioapic ioapic;
    struct pit pit;
    struct rtc rtc;
    struct i8042 i8042;
    struct port92 port92;
    struct cf9 cf9;
    struct ferr ferr;
    struct uart com1;
    struct hpet hpet;
    struct acpi_pm acpi_pm;
    struct pci_host pci;
    struct pirq pirq;
    struct pam pam;
    struct pcbridge host_bridge, isa_bridge;
    struct ide ide;
    struct pc_display *display; /* NULL: none */
    struct pc_virtio *virtio;
    struct flash vars;
    struct pc_firmware *firmware;
    struct dma dma; /* of devices that no IOMMU stands before */
    struct debugcon debugcon;
    struct debugexit debugexit;
    struct boottimer boottimer;
};

/* ---- wires ---- */

/* INTR of the bootstrap processor (LINT0). It asks pc_pic_pending(), so only the rise is news. */
static void pc_intr(void *ctx, unsigned idx, int level)
{
    struct vm *vm = ctx;

    (void)idx;
    if (level && vm->nr_vcpus)
        cpu_post(&vm->vcpus[0].v->cpu, REQ_IRQ);
}

/* An edge of that GSI has been served: those that keep missed ones have the next. */
static void pc_irq_served(void *ctx, unsigned gsi)
{
    struct pc *pc = ((struct vm *)ctx)->pc;

    if (gsi == IRQ_PIT)
        pit_irq_served(&pc->pit);
    hpet_irq_served(&pc->hpet, gsi);
}

static void pc_pin_served(void *ctx, unsigned pin)
{
    pc_irq_served(ctx, pin == PIT_IOAPIC_PIN ? IRQ_PIT : pin);
}

static void pc_ioapic_watch(void *ctx, unsigned pin, const struct apic_msg *msg)
{
    irq_watch_eoi(ctx, pin, msg);
}

static void pc_ioapic_send(void *ctx, const struct apic_msg *msg)
{
    irq_send(ctx, msg, UINT32_MAX);
}

static void pc_pic_input(void *ctx, unsigned irq, int level)
{
    pic_set_irq(&((struct pc *)ctx)->pic, irq, level);
}

void pc_set_pic(struct pc *pc, unsigned irq, int level)
{
    pirq_set_isa(&pc->pirq, irq, level);
}

void pc_set_pirq(struct pc *pc, unsigned line, int level)
{
    pirq_set_line(&pc->pirq, line, level);
}

void pc_set_ioapic(struct pc *pc, unsigned pin, int level)
{
    ioapic_set_pin(&pc->ioapic, pin, level);
}

bool pc_pic_waits(const struct pc *pc, unsigned irq)
{
    return pic_waits(&pc->pic, irq);
}

bool pc_ioapic_msg(const struct pc *pc, unsigned pin, struct apic_msg *msg)
{
    return ioapic_msg(&pc->ioapic, pin, msg);
}

void pc_ioapic_eoi(struct pc *pc, uint8_t vector)
{
    ioapic_eoi(&pc->ioapic, vector);
}

bool pc_pic_pending(struct pc *pc)
{
    return pic_pending(&pc->pic);
}

uint8_t pc_pic_ack(struct pc *pc)
{
    return pic_ack(&pc->pic);
}

void pc_ferr(struct pc *pc)
{
    ferr_raise(&pc->ferr);
}

struct virtio_mem *pc_mem(struct pc *pc)
{
    return pc_virtio_mem(pc->virtio);
}

struct virtio_balloon *pc_balloon(struct pc *pc)
{
    return pc_virtio_balloon(pc->virtio);
}

struct virtio_blk *pc_disk(struct pc *pc, unsigned disk)
{
    return pc_virtio_disk(pc->virtio, disk);
}

int pc_resize_disk(struct pc *pc, unsigned disk, uint64_t bytes)
{
    return pc_virtio_disk_resize(pc->virtio, disk, bytes);
}

void pc_resize_console(struct pc *pc, uint16_t cols, uint16_t rows)
{
    pc_virtio_resize_console(pc->virtio, cols, rows);
}

/* ---- the parts: making one may fail, with a message ---- */

static int pc_add_pic(struct pc *pc, struct bus *bus)
{
    return pic_init(&pc->pic, &(struct pic_config){
                                  .bus = bus,
                                  .intr = { .set = pc_intr, .ctx = pc->vm },
                                  .served = pc_irq_served,
                                  .ctx = pc->vm,
                              });
}

static void pc_del_pic(struct pc *pc)
{
    pic_fini(&pc->pic);
}

static int pc_add_ioapic(struct pc *pc, struct bus *bus)
{
    return ioapic_init(&pc->ioapic, &(struct ioapic_config){
                                        .bus = bus,
                                        .at = GPA(PC_IOAPIC_AT),
                                        .id = PC_IOAPIC_ID,
                                        .send = pc_ioapic_send,
                                        .told_pins = HPET_GSIS | BIT(PIT_IOAPIC_PIN),
                                        .served = pc_pin_served,
                                        .watch = pc_ioapic_watch,
                                        .ctx = pc->vm,
                                    });
}

static void pc_del_ioapic(struct pc *pc)
{
    ioapic_fini(&pc->ioapic);
}

static int pc_add_pit(struct pc *pc, struct bus *bus)
{
    return pit_init(&pc->pit, &(struct pit_config){ .bus = bus, .irq = bus_gsi(bus, IRQ_PIT) });
}

static void pc_del_pit(struct pc *pc)
{
    pit_fini(&pc->pit);
}

static void pc_rtc_alarm(void *arg)
{
    struct pc *pc = arg;

    acpi_pm_rtc_alarm(&pc->acpi_pm);
}

static int pc_add_rtc(struct pc *pc, struct bus *bus)
{
    uint64_t ram = pc->vm->cfg.boot.ram_bytes, low = MIN(ram, PC_LOW_RAM_MAX);

    return rtc_init(&pc->rtc, &(struct rtc_config){
                                  .bus = bus,
                                  .irq = bus_gsi(bus, IRQ_RTC),
                                  .alarm = pc_rtc_alarm,
                                  .ctx = pc,
                                  .low_ram_bytes = low,
                                  .high_ram_bytes = ram - low,
                              });
}

static void pc_del_rtc(struct pc *pc)
{
    rtc_fini(&pc->rtc);
}

static int pc_add_i8042(struct pc *pc, struct bus *bus)
{
    return i8042_init(&pc->i8042, &(struct i8042_config){
                                      .bus = bus,
                                      .irq_kbd = bus_gsi(bus, IRQ_KBD),
                                      .irq_aux = bus_gsi(bus, IRQ_MOUSE),
                                  });
}

static void pc_del_i8042(struct pc *pc)
{
    i8042_fini(&pc->i8042);
}

int pc_key(struct pc *pc, const uint8_t *code, unsigned nr)
{
    if (!i8042_has_room(&pc->i8042, nr))
        return -EAGAIN;
    i8042_key(&pc->i8042, code, nr);
    return 0;
}

void pc_pointer(struct pc *pc, int dx, int dy, int dz, uint8_t buttons)
{
    i8042_move(&pc->i8042, dx, dy, dz, buttons);
}

static int pc_add_port92(struct pc *pc, struct bus *bus)
{
    return port92_init(&pc->port92, bus);
}

static void pc_del_port92(struct pc *pc)
{
    port92_fini(&pc->port92);
}

static int pc_add_cf9(struct pc *pc, struct bus *bus)
{
    return cf9_init(&pc->cf9, bus);
}

static void pc_del_cf9(struct pc *pc)
{
    cf9_fini(&pc->cf9);
}

static int pc_add_ferr(struct pc *pc, struct bus *bus)
{
    return ferr_init(&pc->ferr, bus, bus_gsi(bus, IRQ_FERR));
}

static void pc_del_ferr(struct pc *pc)
{
    ferr_fini(&pc->ferr);
}

static int pc_add_com1(struct pc *pc, struct bus *bus)
{
    return uart_init(&pc->com1, &(struct uart_config){
                                    .bus = bus,
                                    .port = UART_COM1_PORT,
                                    .irq = bus_gsi(bus, IRQ_COM1),
                                    .chr = pc->vm->cfg.serial,
                                    .limit = pc->vm->cfg.serial_bytes,
                                });
}

uint64_t pc_serial_dropped(struct pc *pc)
{
    return atomic_load_explicit(&pc->com1.nr_dropped, memory_order_relaxed);
}

static void pc_del_com1(struct pc *pc)
{
    chr_connect(pc->vm->cfg.serial, NULL, NULL,
                NULL); /* its thread may be about to call the UART */
    uart_fini(&pc->com1);
}

/* The legacy replacement route takes IRQ 0 and IRQ 8 from the PIT and the RTC. */
static void pc_hpet_legacy(void *ctx, bool on)
{
    struct pc *pc = ctx;

    pit_detach_irq(&pc->pit, on);
    rtc_detach_irq(&pc->rtc, on);
}

static int pc_add_hpet(struct pc *pc, struct bus *bus)
{
    return hpet_init(&pc->hpet, &(struct hpet_config){
                                    .bus = bus,
                                    .at = GPA(PC_HPET_AT),
                                    .irq0 = bus_gsi(bus, IRQ_PIT),
                                    .irq8 = bus_gsi(bus, IRQ_RTC),
                                    .legacy = pc_hpet_legacy,
                                    .ctx = pc,
                                });
}

static void pc_del_hpet(struct pc *pc)
{
    hpet_fini(&pc->hpet);
}

static int pc_add_acpi_pm(struct pc *pc, struct bus *bus)
{
    return acpi_pm_init(&pc->acpi_pm, &(struct acpi_pm_config){
                                          .bus = bus,
                                          .port = PC_ACPI_PM_PORT,
                                          .slp_typ_s5 = PC_S5_SLP_TYP,
                                          .timer_is_32bit = true,
                                          .sci = bus_gsi(bus, PC_SCI_GSI),
                                      });
}

void pc_set_paused(struct pc *pc, bool on)
{
    pc_virtio_set_paused(pc->virtio, on);
}

const char *pc_settle(struct pc *pc)
{
    return pc_virtio_settle(pc->virtio);
}

const char *pc_unsaveable(struct pc *pc)
{
    return pc_virtio_unsaveable(pc->virtio);
}

void pc_gpe(struct pc *pc, unsigned n)
{
    acpi_pm_gpe(&pc->acpi_pm, n);
}

bool pc_power_button(struct pc *pc)
{
    return acpi_pm_power_button(&pc->acpi_pm);
}

static void pc_del_acpi_pm(struct pc *pc)
{
    acpi_pm_fini(&pc->acpi_pm);
}

static int pc_add_pci(struct pc *pc, struct bus *bus)
{
    return pci_host_init(&pc->pci, &(struct pci_host_config){
                                       .bus = bus,
                                       .ecam_at = GPA(PC_ECAM_AT),
                                       .ecam_bytes = PC_ECAM_BYTES,
                                       .intx_gsi = PC_PCI_INTX_GSI,
                                   });
}

static void pc_del_pci(struct pc *pc)
{
    pci_host_fini(&pc->pci);
}

static void pc_pam_changed(void *ctx)
{
    run_post_remap(((struct pc *)ctx)->vm);
}

static int pc_add_pam(struct pc *pc, struct bus *bus)
{
    struct mmu *m = pc->vm->mmu;
    const struct vm_config *cfg = &pc->vm->cfg;

    return pam_init(&pc->pam,
                    &(struct pam_config){
                        .bus = bus,
                        .mmu = m,
                        .ram = mmu_slot_find(m, GPA(VM_SHADOW_PARKED_AT)),
                        .rom = cfg->boot.firmware ? mmu_slot_find(m, GPA(GIB(4) - 1)) : NULL,
                        .fixed = cfg->lockstep.reference, /* its copy of memory is made once */
                        .changed = pc_pam_changed,
                        .ctx = pc,
                    });
}

static void pc_del_pam(struct pc *pc)
{
    pam_fini(&pc->pam);
}

void pc_remap(struct pc *pc)
{
    bool changed;

    if (pc->display)
        pc_display_remap(pc->display);
    if (pam_apply(&pc->pam, &changed) < 0)
        vm_stop(pc->vm, STOP_ERROR, 0);
    if (pc_mem(pc)) {
        bool plugged;

        if (vm_remap_mem(pc->vm, pc_mem(pc), &plugged) < 0)
            vm_stop(pc->vm, STOP_ERROR, 0);
        changed |= plugged;
    }
    if (changed)
        vm_state_changed(pc->vm);
}

static int pc_add_bridges(struct pc *pc, struct bus *bus)
{
    int rc = pcbridge_init_host(&pc->host_bridge, &pc->pci, &pc->pam, !pc->vm->cfg.boot.firmware);

    (void)bus;
    return rc ? rc : pcbridge_init_isa(&pc->isa_bridge, &pc->pci, PC_ACPI_PM_PORT, &pc->pirq);
}

static void pc_del_bridges(struct pc *pc)
{
    pcbridge_fini(&pc->isa_bridge);
    pcbridge_fini(&pc->host_bridge);
}

static int pc_add_ide(struct pc *pc, struct bus *bus)
{
    struct ide_config cfg = {
        .host = &pc->pci,
        .dma = &pc->dma,
        .irq = { bus_gsi(bus, IRQ_IDE), bus_gsi(bus, IRQ_IDE + 1) },
        .devfn = PC_IDE_DEVFN,
    };

    for (unsigned i = 0; i < pc->vm->cfg.nr_disks; i++) {
        const struct vm_disk *d = &pc->vm->cfg.disks[i];
        int slot = vm_ide_slot(&pc->vm->cfg, i);

        if (slot >= (int)ARRAY_SIZE(cfg.slots)) {
            log_error("%s: no room for more than two IDE disks and two CD-ROM drives",
                      store_name(d->store));
            return -ENOSPC;
        }
        if (slot >= 0)
            cfg.slots[slot] = (struct ide_slot){ .store = d->store, .is_cd = d->is_cd };
    }
    return ide_init(&pc->ide, &cfg);
}

static void pc_del_ide(struct pc *pc)
{
    ide_fini(&pc->ide);
}

static bool pc_wants_ide(const struct vm_config *cfg)
{
    for (unsigned i = 0; i < cfg->nr_disks; i++)
        if (vm_ide_slot(cfg, i) >= 0)
            return true;
    return false;
}

static int pc_add_display(struct pc *pc, struct bus *bus)
{
    (void)bus;
    pc->display = pc_display_create(pc->vm, &pc->pci);
    return pc->display ? 0 : -EIO;
}

static void pc_del_display(struct pc *pc)
{
    pc_display_destroy(pc->display);
}

static bool pc_wants_display(const struct vm_config *cfg)
{
    return cfg->vga;
}

struct pc_display *pc_display(struct pc *pc)
{
    return pc->display;
}

/* Its tables for the kernel tell of these devices, so they come before. */
static int pc_add_virtio(struct pc *pc, struct bus *bus)
{
    (void)bus;
    pc->virtio = pc_virtio_create(pc->vm, &pc->pci);
    return pc->virtio ? 0 : -EIO;
}

static void pc_del_virtio(struct pc *pc)
{
    pc_virtio_destroy(pc->virtio);
}

/* Right below the firmware's code. */
static int pc_add_vars(struct pc *pc, struct bus *bus)
{
    const struct vm_config *cfg = &pc->vm->cfg;
    const struct slot *code = mmu_slot_find(pc->vm->mmu, GPA(GIB(4) - 1));

    BUG_ON(!code); /* the ROM was loaded before */
    return flash_init(&pc->vars, bus, GPA(code->base.v - cfg->vars_bytes), cfg->vars,
                      cfg->vars_bytes);
}

static void pc_del_vars(struct pc *pc)
{
    flash_fini(&pc->vars);
}

static bool pc_wants_vars(const struct vm_config *cfg)
{
    return cfg->boot.firmware && cfg->vars;
}

static int pc_add_firmware(struct pc *pc, struct bus *bus)
{
    (void)bus;
    pc->firmware = pc_firmware_create(pc->vm, &pc->pci, pc->virtio, &pc->dma);
    return pc->firmware ? 0 : -EIO;
}

static void pc_del_firmware(struct pc *pc)
{
    pc_firmware_destroy(pc->firmware);
}

static int pc_add_debugcon(struct pc *pc, struct bus *bus)
{
    return debugcon_init(&pc->debugcon, bus, pc->vm->cfg.debugcon);
}

static void pc_del_debugcon(struct pc *pc)
{
    debugcon_fini(&pc->debugcon);
}

static bool pc_wants_debugcon(const struct vm_config *cfg)
{
    return cfg->debugcon;
}

static int pc_add_debugexit(struct pc *pc, struct bus *bus)
{
    return debugexit_init(&pc->debugexit, bus);
}

static void pc_del_debugexit(struct pc *pc)
{
    debugexit_fini(&pc->debugexit);
}

static bool pc_wants_debugexit(const struct vm_config *cfg)
{
    return cfg->debug_exit;
}

static int pc_add_boottimer(struct pc *pc, struct bus *bus)
{
    return boottimer_init(&pc->boottimer, &(struct boottimer_config){
                                              .bus = bus,
                                              .at = GPA(PC_BOOT_TIMER_AT),
                                              .booted = pc->vm->cfg.booted,
                                              .arg = pc->vm->cfg.booted_arg,
                                          });
}

static void pc_del_boottimer(struct pc *pc)
{
    boottimer_fini(&pc->boottimer);
}

static bool pc_wants_boottimer(const struct vm_config *cfg)
{
    return cfg->booted;
}

/* ---- the list ---- */

static const struct pc_part {
    int (*add)(struct pc *pc, struct bus *bus);
    void (*del)(struct pc *pc);
    bool (*wanted)(const struct vm_config *cfg); /* NULL: always */
} pc_parts[] = {
    { pc_add_pic, pc_del_pic, NULL },
    { pc_add_ioapic, pc_del_ioapic, NULL },
    { pc_add_pit, pc_del_pit, NULL },
    { pc_add_rtc, pc_del_rtc, NULL },
    { pc_add_i8042, pc_del_i8042, NULL },
    { pc_add_port92, pc_del_port92, NULL },
    { pc_add_cf9, pc_del_cf9, NULL },
    { pc_add_ferr, pc_del_ferr, NULL },
    { pc_add_hpet, pc_del_hpet, NULL },
    { pc_add_acpi_pm, pc_del_acpi_pm, NULL },
    { pc_add_pci, pc_del_pci, NULL },
    { pc_add_pam, pc_del_pam, NULL },
    { pc_add_bridges, pc_del_bridges, NULL },
    { pc_add_ide, pc_del_ide, pc_wants_ide },
    { pc_add_display, pc_del_display, pc_wants_display },
    { pc_add_virtio, pc_del_virtio, NULL },
    { pc_add_vars, pc_del_vars, pc_wants_vars },
    { pc_add_firmware, pc_del_firmware, NULL },
    { pc_add_com1, pc_del_com1, NULL },
    { pc_add_debugcon, pc_del_debugcon, pc_wants_debugcon },
    { pc_add_debugexit, pc_del_debugexit, pc_wants_debugexit },
    { pc_add_boottimer, pc_del_boottimer, pc_wants_boottimer },
};

static bool pc_part_wanted(const struct pc *pc, const struct pc_part *part)
{
    return !part->wanted || part->wanted(&pc->vm->cfg);
}

struct pc *pc_create(struct vm *vm)
{
    struct pc *pc = calloc(1, sizeof(*pc));

    if (!pc) {
        log_error("out of memory for the devices");
        return NULL;
    }
    pc->vm = vm;
    pc->dma.mmu = vm->mmu;
    pirq_init(&pc->pirq, pc_pic_input, pc);
    vm->pc = pc; /* the interrupt router knows it from the first device on */
    for (; pc->nr_parts < ARRAY_SIZE(pc_parts); pc->nr_parts++) {
        const struct pc_part *part = &pc_parts[pc->nr_parts];

        if (pc_part_wanted(pc, part) && part->add(pc, vm->bus) < 0) {
            vm->pc = NULL;
            pc_destroy(pc);
            return NULL;
        }
    }
    return pc;
}

void pc_destroy(struct pc *pc)
{
    if (!pc)
        return;
    while (pc->nr_parts--) {
        const struct pc_part *part = &pc_parts[pc->nr_parts];

        if (pc_part_wanted(pc, part))
            part->del(pc);
    }
    free(pc);
}

void pc_reset(struct vm *vm)
{
    lock_take(bus_lock(vm->bus));
    for (struct device *d = NULL; (d = bus_device_next(vm->bus, d));)
        if (d->type->reset)
            d->type->reset(d);
    lock_drop(bus_lock(vm->bus));
}

void pc_route_intx(struct pc *pc)
{
    static const uint8_t routes[PIRQ_NR_LINES] = PC_PIRQ_ROUTES;
    struct bus *bus = pc->vm->bus;
    unsigned level = 0;

    for (unsigned i = 0; i < PIRQ_NR_LINES; i++)
        level |= BIT(routes[i]);
    bus_port_write(bus, PIC_ELCR_PORT, 1, level & 0xff);
    bus_port_write(bus, PIC_ELCR_PORT + 1, 1, level >> 8);
    lock_take(bus_lock(bus));
    pcbridge_set_routes(&pc->isa_bridge, routes);
    pci_set_int_lines(&pc->pci, routes);
    lock_drop(bus_lock(bus));
}
