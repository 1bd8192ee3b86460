/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PCI functions of host bridge and ISA bridge, with the identities of an Intel Q35 and its
 * ICH9, which systems know well. They have identity only: what a real chip set configures there
 * (memory controller, decoding, interrupt routing) is fixed here and described by the ACPI tables.
 * INTx pins go to the I/O APIC alone.
 */
#include "dev/pcbridge.h"

#define VENDOR_INTEL   0x8086
#define DEVICE_Q35_MCH 0x29c0
#define DEVICE_ICH9    0x2918
#define CLASS_HOST     0x060000u
#define CLASS_ISA      0x060100u

static void pcbridge_reset(struct device *dev)
{
    pci_dev_reset(&container_of(dev, struct pcbridge, pci.dev)->pci);
}

static void pcbridge_loaded(struct device *dev)
{
    pci_dev_loaded(&container_of(dev, struct pcbridge, pci.dev)->pci);
}

static const struct state_field pcbridge_state[] = {
    PCI_DEV_FIELDS(struct pcbridge, pci, 1),
};

static const struct device_type pcbridge_host_type = {
    .name = "host-bridge",
    .reset = pcbridge_reset,
    .loaded = pcbridge_loaded,
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

int pcbridge_init_host(struct pcbridge *b, struct pci_host *h)
{
    return pci_dev_init(&b->pci, h,
                        &(struct pci_dev_desc){ .type = &pcbridge_host_type,
                                                .state_base = b,
                                                .devfn = PCI_DEVFN(0, 0),
                                                .vendor = VENDOR_INTEL,
                                                .device = DEVICE_Q35_MCH,
                                                .class_code = CLASS_HOST });
}

int pcbridge_init_isa(struct pcbridge *b, struct pci_host *h)
{
    return pci_dev_init(&b->pci, h,
                        &(struct pci_dev_desc){ .type = &pcbridge_isa_type,
                                                .state_base = b,
                                                .devfn = PCI_DEVFN(0x1f, 0),
                                                .vendor = VENDOR_INTEL,
                                                .device = DEVICE_ICH9,
                                                .class_code = CLASS_ISA,
                                                .revision = 2 });
}

void pcbridge_fini(struct pcbridge *b)
{
    pci_dev_fini(&b->pci);
}
