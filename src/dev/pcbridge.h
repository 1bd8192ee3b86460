/* SPDX-License-Identifier: Apache-2.0 */
/* The two bridges every PC has on its PCI bus: see pcbridge.c. */
#ifndef DEV_PCBRIDGE_H
#define DEV_PCBRIDGE_H

#include "dev/pci.h"

struct pcbridge {
    struct pci_dev pci;
};

/* 00:00.0, the host bridge as a function of its own bus. */
int pcbridge_init_host(struct pcbridge *b, struct pci_host *h) MUST_CHECK;
/* 00:1f.0, the bridge behind which the ISA devices are, ACPI's ports from pm_port on among them. */
int pcbridge_init_isa(struct pcbridge *b, struct pci_host *h, uint16_t pm_port) MUST_CHECK;
void pcbridge_fini(struct pcbridge *b);

#endif
