/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PCI functions of host bridge and ISA bridge, with the identities of an Intel Q35 and its
 * ICH9, which systems and firmware know well.
 *
 * Manuals: Intel 3 Series Express Chipset Family data sheet, "PCIEXBAR", "PAM0", "SMRAM"; Intel
 * ICH9 data sheet, "LPC Interface Bridge Registers". Of what a real chip set configures there, the
 * place of the memory-mapped configuration space can be chosen, and what is below 1 MB (pam.c). The
 * rest is fixed and described by the ACPI tables: power management is where it is (PMBASE), and
 * there is no memory of SMM's (SMRAM).
 *
 * The subsystem numbers are those by which SeaBIOS and OVMF know a machine that has fw_cfg.
 */
#include "dev/pcbridge.h"

#define VENDOR_INTEL   0x8086
#define DEVICE_Q35_MCH 0x29c0
#define DEVICE_ICH9    0x2918
#define CLASS_HOST     0x060000u
#define CLASS_ISA      0x060100u
#define SUBSYS_VENDOR  0x1af4
#define SUBSYS         0x1100

/* Of the host bridge */
#define MCH_PCIEXBAR     0x60u
#define PCIEXBAR_ON      BIT(0)
#define PCIEXBAR_LENGTH  0x6u /* 0: 256 MB */
#define PCIEXBAR_AT      0xff0000000ull
#define MCH_PAM          0x90u
#define MCH_PAM_WRITABLE 0x33u
#define PAM0_WRITABLE    0x30u
#define MCH_SMRAM        0x9du
#define MCH_SMRAM_BYTES  2u /* and ESMRAMC */
#define SMRAM_CODE_SEG   0x02u

/* Of the ISA bridge */
#define LPC_PMBASE     0x40u
#define PMBASE_IO      BIT(0)
#define LPC_ACPI_CNTL  0x44u
#define ACPI_CNTL_ON   BIT(7)
#define LPC_PIRQA      0x60u
#define LPC_PIRQE      0x68u
#define PIRQS_OFF      (0x01010101u * PIRQ_OFF)
#define PIRQS_WRITABLE 0x8f8f8f8fu
#define LPC_RCBA       0xf0u
#define RCBA_WRITABLE  0xffffc001u

/* "PCIEXBAR": other lengths than 256 MB are not there; such a setting is as good as none. */
static void pcbridge_update_ecam(struct pci_dev *d)
{
    uint64_t bar = pci_get32(d, MCH_PCIEXBAR) | (uint64_t)pci_get32(d, MCH_PCIEXBAR + 4) << 32;

    pci_host_set_ecam(d->host, GPA(bar & PCIEXBAR_AT),
                      (bar & PCIEXBAR_ON) && !(bar & PCIEXBAR_LENGTH));
}

static void pcbridge_update_pam(struct pci_dev *d)
{
    pam_set(container_of(d, struct pcbridge, pci)->pam, &d->config[MCH_PAM]);
}

static void pcbridge_host_written(struct pci_dev *d, unsigned off, unsigned bytes)
{
    if (off + bytes > MCH_PCIEXBAR && off < MCH_PCIEXBAR + 8)
        pcbridge_update_ecam(d);
    if (off + bytes > MCH_PAM && off < MCH_PAM + PAM_NR_REGS)
        pcbridge_update_pam(d);
    if (off + bytes > MCH_SMRAM && off < MCH_SMRAM + MCH_SMRAM_BYTES &&
        log_first(bus_seen(d->dev.bus), 0x3c50000u | MCH_SMRAM))
        log_warn("host bridge: guest wrote SMRAM's registers (9Dh, 9Eh); there is no memory of "
                 "SMM's, and they stay as they are");
}

static const struct pci_ops pcbridge_host_ops = {
    .config_written = pcbridge_host_written,
};

static void pcbridge_host_reset(struct device *dev)
{
    struct pci_dev *d = &container_of(dev, struct pcbridge, pci.dev)->pci;

    pci_dev_reset(d);
    pcbridge_update_ecam(d);
    pcbridge_update_pam(d);
}

static void pcbridge_host_loaded(struct device *dev)
{
    struct pci_dev *d = &container_of(dev, struct pcbridge, pci.dev)->pci;

    pci_dev_loaded(d);
    pcbridge_update_ecam(d);
    pcbridge_update_pam(d);
}

static unsigned pcbridge_route_at(unsigned line)
{
    return line < 4 ? LPC_PIRQA + line : LPC_PIRQE + line - 4;
}

static void pcbridge_update_routes(struct pcbridge *b)
{
    for (unsigned i = 0; i < PIRQ_NR_LINES; i++)
        pirq_route(b->router, i, b->pci.config[pcbridge_route_at(i)]);
}

static void pcbridge_isa_written(struct pci_dev *d, unsigned off, unsigned bytes)
{
    (void)off, (void)bytes;
    pcbridge_update_routes(container_of(d, struct pcbridge, pci));
}

static const struct pci_ops pcbridge_isa_ops = {
    .config_written = pcbridge_isa_written,
};

void pcbridge_set_routes(struct pcbridge *b, const uint8_t routes[PIRQ_NR_LINES])
{
    for (unsigned i = 0; i < PIRQ_NR_LINES; i++)
        pci_set(&b->pci, pcbridge_route_at(i), 1, routes[i]);
    pcbridge_update_routes(b);
}

static void pcbridge_reset(struct device *dev)
{
    struct pcbridge *b = container_of(dev, struct pcbridge, pci.dev);

    pci_dev_reset(&b->pci);
    pcbridge_update_routes(b);
}

static void pcbridge_loaded(struct device *dev)
{
    struct pcbridge *b = container_of(dev, struct pcbridge, pci.dev);

    pci_dev_loaded(&b->pci);
    pcbridge_update_routes(b);
}

static const struct state_field pcbridge_state[] = {
    PCI_DEV_FIELDS(struct pcbridge, pci, 1),
};

static const struct device_type pcbridge_host_type = {
    .name = "host-bridge",
    .reset = pcbridge_host_reset,
    .loaded = pcbridge_host_loaded,
    .state = pcbridge_state,
    .nr_state = ARRAY_SIZE(pcbridge_state),
    .version = 1,
};

static const struct device_type pcbridge_isa_type = {
    .name = "isa-bridge",
    .reset = pcbridge_reset,
    .loaded = pcbridge_loaded,
    .state = pcbridge_state,
    .nr_state = ARRAY_SIZE(pcbridge_state),
    .version = 1,
};

int pcbridge_init_host(struct pcbridge *b, struct pci_host *h, struct pam *pam, bool all_ram)
{
    int err = pci_dev_init(&b->pci, h,
                           &(struct pci_dev_desc){ .type = &pcbridge_host_type,
                                                   .state_base = b,
                                                   .ops = &pcbridge_host_ops,
                                                   .devfn = PCI_DEVFN(0, 0),
                                                   .vendor = VENDOR_INTEL,
                                                   .device = DEVICE_Q35_MCH,
                                                   .subsys_vendor = SUBSYS_VENDOR,
                                                   .subsys = SUBSYS,
                                                   .class_code = CLASS_HOST });

    if (err)
        return err;
    pci_define(&b->pci, MCH_PCIEXBAR, 4, (uint32_t)h->ecam_at.v | PCIEXBAR_ON,
               (uint32_t)PCIEXBAR_AT | PCIEXBAR_LENGTH | PCIEXBAR_ON);
    pci_define(&b->pci, MCH_PCIEXBAR + 4, 4, (uint32_t)(h->ecam_at.v >> 32),
               (uint32_t)(PCIEXBAR_AT >> 32));
    b->pam = pam;
    pci_define(&b->pci, MCH_PAM, 1, all_ram ? PAM_ALL_RAM_REG0 : 0, PAM0_WRITABLE);
    for (unsigned i = 1; i < PAM_NR_REGS; i++)
        pci_define(&b->pci, MCH_PAM + i, 1, all_ram ? PAM_ALL_RAM_REG : 0, MCH_PAM_WRITABLE);
    pci_define(&b->pci, MCH_SMRAM, 1, SMRAM_CODE_SEG, 0);
    pcbridge_update_pam(&b->pci);
    return 0;
}

int pcbridge_init_isa(struct pcbridge *b, struct pci_host *h, uint16_t pm_port, struct pirq *router)
{
    int err = pci_dev_init(&b->pci, h,
                           &(struct pci_dev_desc){ .type = &pcbridge_isa_type,
                                                   .state_base = b,
                                                   .ops = &pcbridge_isa_ops,
                                                   .devfn = PCI_DEVFN(0x1f, 0),
                                                   .vendor = VENDOR_INTEL,
                                                   .device = DEVICE_ICH9,
                                                   .subsys_vendor = SUBSYS_VENDOR,
                                                   .subsys = SUBSYS,
                                                   .class_code = CLASS_ISA,
                                                   .revision = 2,
                                                   .multifunction = true });

    if (err)
        return err;
    b->router = router;
    pci_define(&b->pci, LPC_PMBASE, 4, pm_port | PMBASE_IO, 0);
    pci_define(&b->pci, LPC_ACPI_CNTL, 1, ACPI_CNTL_ON, 0);
    pci_define(&b->pci, LPC_PIRQA, 4, PIRQS_OFF, PIRQS_WRITABLE);
    pci_define(&b->pci, LPC_PIRQE, 4, PIRQS_OFF, PIRQS_WRITABLE);
    pci_define(&b->pci, LPC_RCBA, 4, 0, RCBA_WRITABLE);
    return 0;
}

void pcbridge_fini(struct pcbridge *b)
{
    pci_dev_fini(&b->pci);
}
