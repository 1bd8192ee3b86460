/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PC: which devices there are, in the order in which they are made and reset, and what each is
 * wired to. A device is one row in pc_parts[].
 */
#include <stdlib.h>

#include "dev/acpi_pm.h"
#include "dev/cf9.h"
#include "dev/debugcon.h"
#include "dev/debugexit.h"
#include "dev/ferr.h"
#include "dev/fwcfg.h"
#include "dev/hpet.h"
#include "dev/i8042.h"
#include "dev/ioapic.h"
#include "dev/pci.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/port92.h"
#include "dev/rtc.h"
#include "dev/uart.h"
#include "vm/priv.h"

/* ISA interrupt lines. */
enum { IRQ_PIT = 0, IRQ_KBD = 1, IRQ_COM1 = 4, IRQ_RTC = 8, IRQ_MOUSE = 12, IRQ_FERR = 13 };

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
    struct fwcfg fwcfg;
    struct dma dma; /* of devices that no IOMMU stands before */
    struct debugcon debugcon;
    struct debugexit debugexit;
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

static void pc_ioapic_send(void *ctx, const struct apic_msg *msg)
{
    irq_send(ctx, msg, UINT32_MAX);
}

void pc_set_pic(struct pc *pc, unsigned irq, int level)
{
    pic_set_irq(&pc->pic, irq, level);
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

static int pc_add_rtc(struct pc *pc, struct bus *bus)
{
    uint64_t ram = pc->vm->cfg.boot.ram_bytes, low = MIN(ram, PC_LOW_RAM_MAX);

    return rtc_init(&pc->rtc, &(struct rtc_config){
                                  .bus = bus,
                                  .irq = bus_gsi(bus, IRQ_RTC),
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
                                });
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

static int pc_add_fwcfg(struct pc *pc, struct bus *bus)
{
    const struct boot_config *boot = &pc->vm->cfg.boot;
    int rc = fwcfg_init(&pc->fwcfg, bus, PC_FW_CFG_PORT, &pc->dma);

    if (rc < 0)
        return rc;
    rc = fwcfg_add_u64(&pc->fwcfg, FWCFG_RAM_BYTES, boot->ram_bytes);
    if (!rc)
        rc = fwcfg_add_u16(&pc->fwcfg, FWCFG_NR_CPUS, (uint16_t)boot->nr_cpus);
    if (!rc)
        rc = fwcfg_add_u16(&pc->fwcfg, FWCFG_MAX_CPUS, (uint16_t)boot->nr_cpus);
    if (rc < 0)
        fwcfg_fini(&pc->fwcfg);
    return rc;
}

static void pc_del_fwcfg(struct pc *pc)
{
    fwcfg_fini(&pc->fwcfg);
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
    { pc_add_fwcfg, pc_del_fwcfg, NULL },
    { pc_add_com1, pc_del_com1, NULL },
    { pc_add_debugcon, pc_del_debugcon, pc_wants_debugcon },
    { pc_add_debugexit, pc_del_debugexit, pc_wants_debugexit },
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
