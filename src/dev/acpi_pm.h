/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI fixed hardware: see acpi_pm.c. All functions want the machine lock held.
 *
 * Ports from config.port on: +0 PM1a event block (4 bytes), +4 PM1a control block (2), +8 PM timer
 * (4), +10h GPE0 block (ACPI_PM_GPE0_BYTES: status, then enable).
 */
#ifndef DEV_ACPI_PM_H
#define DEV_ACPI_PM_H

#include "bus/bus.h"

#define ACPI_PM_GPE0_BYTES 4u
#define ACPI_PM_TIMER_HZ   3579545ull

struct acpi_pm_config {
    struct bus *bus;
    uint16_t port;
    /* FADT's SMI_CMD, ACPI_ENABLE and ACPI_DISABLE. smi_port 0: there is no legacy mode, SCI_EN
     * always is 1. */
    uint16_t smi_port;
    uint8_t smi_acpi_enable, smi_acpi_disable;
    uint8_t slp_typ_s5;  /* the DSDT's \_S5 */
    bool timer_is_32bit; /* FADT's TMR_VAL_EXT; else 24 bits */
    struct irq_line sci; /* level-triggered */
};

struct acpi_pm {
    struct device dev;
    struct acpi_pm_config cfg;
    uint16_t status, enable, control; /* PM1 */
    uint16_t gpe_status, gpe_enable;
    uint64_t
        timer_halves;   /* times the PM timer's top bit changed, up to which TMR_STS was computed */
    uint8_t smi_status; /* port B3h: a scratch byte */
    bool sci_up;
    struct timer timer; /* armed for the top bit's next change while TMR_EN is set */
};

int acpi_pm_init(struct acpi_pm *pm, const struct acpi_pm_config *cfg) MUST_CHECK;
void acpi_pm_fini(struct acpi_pm *pm);
/* Somebody presses the power button: an operating system that listens shuts down. False: none
 * does; it has not enabled the button's event. */
bool acpi_pm_power_button(struct acpi_pm *pm);
/* The real-time clock's alarm rang. */
void acpi_pm_rtc_alarm(struct acpi_pm *pm);
/* Raises GPE n (0..15), edge. */
void acpi_pm_gpe(struct acpi_pm *pm, unsigned n);

#endif
