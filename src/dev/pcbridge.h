/* SPDX-License-Identifier: Apache-2.0 */
/* The two bridges every PC has on its PCI bus: see pcbridge.c. */
#ifndef DEV_PCBRIDGE_H
#define DEV_PCBRIDGE_H

#include "dev/pam.h"
#include "dev/pci.h"
#include "dev/pirq.h"

struct pcbridge {
    struct pci_dev pci;
    struct pirq *router; /* the ISA bridge's */
    struct pam *pam;     /* the host bridge's */
};

/* 00:00.0, the host bridge as a function of its own bus. After a reset the area of the PAM
 * registers is ROM, or, all_ram, what a firmware would have made of it. */
int pcbridge_init_host(struct pcbridge *b, struct pci_host *h, struct pam *pam,
                       bool all_ram) MUST_CHECK;
/* 00:1f.0, the bridge behind which the ISA devices are, ACPI's ports from pm_port on among them.
 * Its registers say how the router leads its lines. */
int pcbridge_init_isa(struct pcbridge *b, struct pci_host *h, uint16_t pm_port,
                      struct pirq *router) MUST_CHECK;
/* As firmware would have set it up: the lines' routes. Machine lock held. */
void pcbridge_set_routes(struct pcbridge *b, const uint8_t routes[PIRQ_NR_LINES]);
void pcbridge_fini(struct pcbridge *b);

#endif
