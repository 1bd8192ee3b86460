/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chip set's routing of C0000h to FFFFFh (PAM registers): to RAM, or to ROM and the bus behind
 * it, for reads and for writes, see pam.c.
 */
#ifndef DEV_PAM_H
#define DEV_PAM_H

#include "bus/bus.h"
#include "mmu/mmu.h"

#define PAM_AT           0xc0000ull
#define PAM_END          0x100000ull
#define PAM_NR_REGS      7u
#define PAM_NR_SEGMENTS  13u
/* All of it is RAM, as firmware leaves it for systems that it does not protect it from. */
#define PAM_ALL_RAM_REG0 0x30u
#define PAM_ALL_RAM_REG  0x33u

struct pam_config {
    struct bus *bus;
    struct mmu *mmu;
    struct slot *ram; /* what is shown of it; NULL or shorter: the machine has less RAM */
    struct slot *rom; /* the firmware's, which ends below 4 GB; NULL: there is none */
    /* It is RAM whatever the registers say, for machines whose slots cannot change. */
    bool fixed;
    /* What pam_apply() brings is not what the registers say any more. Machine lock held. */
    void (*changed)(void *ctx);
    void *ctx;
};

struct pam {
    struct device dev; /* answers where no slot does; not on the bus's list: it has no state */
    struct pam_config cfg;
    uint8_t wanted[PAM_NR_SEGMENTS]; /* PAM_READ, PAM_WRITE as the registers say; machine lock */
    uint8_t shown[PAM_NR_SEGMENTS];  /* as the slots are */
    struct slot *views[PAM_NR_SEGMENTS];
    unsigned nr_views;
};

/* Everything is RAM at first. */
int pam_init(struct pam *p, const struct pam_config *cfg) MUST_CHECK;
void pam_fini(struct pam *p);
/* What the registers say now. Machine lock held. */
void pam_set(struct pam *p, const uint8_t regs[PAM_NR_REGS]);
/* Changes the slots. All vCPUs stand still, and what engines derived is dropped behind, if
 * *changed. -ENOMEM after a message. */
int pam_apply(struct pam *p, bool *changed) MUST_CHECK;

#endif
