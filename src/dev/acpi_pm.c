/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI fixed hardware: PM1 event and control registers, PM timer, general-purpose events, and the
 * port by which an operating system asks the firmware for ACPI mode. There is no system management
 * mode behind that port: we are it.
 *
 * Manual: ACPI Specification, "ACPI Hardware Specification". What firmware tells about it is in the
 * FADT (boot/).
 */
#include "dev/acpi_pm.h"

#define PM_EVENT   0x00u /* status, and enable at +2 */
#define PM_CONTROL 0x04u
#define PM_TIMER   0x08u
#define PM_GPE0    0x10u
#define PM_SMI     0x100u /* not a place in the block: how the handlers know the SMI ports */

#define PM1_TMR    BIT(0)
#define PM1_GBL    BIT(5)
#define PM1_PWRBTN BIT(8)
#define PM1_SLPBTN BIT(9)
#define PM1_RTC    BIT(10)
#define PM1_EVENTS (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)

#define PM1_SCI_EN        BIT(0)
#define PM1_SLP_TYP_SHIFT 10
#define PM1_SLP_TYP       (7u << PM1_SLP_TYP_SHIFT)
#define PM1_SLP_EN        BIT(13) /* write-only */
/* SCI_EN is the firmware's; GBL_RLS would call an SMI handler and reads as 0. */
#define PM1_CONTROL_KEPT  (BIT(1) | PM1_SLP_TYP)

#define NS_PER_S 1000000000ull

/* ---- SCI
 * --------------------------------------------------------------------------------------------------------
 */

static void acpi_pm_update_sci(struct acpi_pm *pm)
{
    bool up = (pm->control & PM1_SCI_EN) &&
              ((pm->status & pm->enable & PM1_EVENTS) || (pm->gpe_status & pm->gpe_enable));

    if (up == pm->sci_up)
        return;
    pm->sci_up = up;
    irq_set(&pm->cfg.sci, up);
}

/* ---- PM timer
 * ---------------------------------------------------------------------------------------------------
 */

static uint64_t acpi_pm_ticks(const struct acpi_pm *pm)
{
    return (uint64_t)((unsigned __int128)clock_now_ns(bus_clock(pm->dev.bus)) * ACPI_PM_TIMER_HZ /
                      NS_PER_S);
}

static unsigned top_bit(const struct acpi_pm *pm)
{
    return pm->cfg.timer_is_32bit ? 31 : 23;
}

/* TMR_STS is set whenever the timer's top bit changes ("PM1 Status Registers"). */
static void acpi_pm_sync_timer(struct acpi_pm *pm)
{
    uint64_t halves = acpi_pm_ticks(pm) >> top_bit(pm);

    if (halves != pm->timer_halves)
        pm->status |= PM1_TMR;
    pm->timer_halves = halves;
}

static void acpi_pm_arm(struct acpi_pm *pm)
{
    unsigned __int128 next = (unsigned __int128)(pm->timer_halves + 1) << top_bit(pm);

    /* While it is set it cannot be set again. */
    if (!(pm->enable & PM1_TMR) || (pm->status & PM1_TMR))
        timer_cancel(&pm->timer);
    else /* rounded up: at the deadline the bit has changed */
        timer_arm(&pm->timer,
                  (uint64_t)((next * NS_PER_S + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ));
}

/* After anything that may change a status or enable bit. */
static void acpi_pm_update(struct acpi_pm *pm)
{
    acpi_pm_sync_timer(pm);
    acpi_pm_arm(pm);
    acpi_pm_update_sci(pm);
}

static void acpi_pm_timer_expired(void *arg)
{
    acpi_pm_update(arg);
}

/* ---- registers
 * --------------------------------------------------------------------------------------------------
 */

/* The 32 bits at `reg`, a multiple of 4. */
static uint32_t acpi_pm_get(struct acpi_pm *pm, uint32_t reg)
{
    switch (reg) {
    case PM_EVENT:
        acpi_pm_update(pm);
        return pm->status | (uint32_t)pm->enable << 16;
    case PM_CONTROL:
        return pm->control;
    case PM_TIMER:
        return (uint32_t)acpi_pm_ticks(pm) & (pm->cfg.timer_is_32bit ? UINT32_MAX : 0xffffffu);
    case PM_GPE0:
        return pm->gpe_status | (uint32_t)pm->gpe_enable << 16;
    case PM_SMI:
        return (uint32_t)pm->smi_status << 8; /* the command itself reads as 0: done */
    }
    return UINT32_MAX;
}

static void acpi_pm_sleep(struct acpi_pm *pm)
{
    unsigned typ = (pm->control & PM1_SLP_TYP) >> PM1_SLP_TYP_SHIFT;

    if (typ == pm->cfg.slp_typ_s5)
        bus_post_stop(pm->dev.bus, STOP_POWEROFF, 0);
    else if (log_first(bus_seen(pm->dev.bus), (uint64_t)pm->cfg.port << 8 | typ))
        log_warn("acpi: the guest asks for sleep type %u, which no \\_Sx object offers; ignored",
                 typ);
}

static void acpi_pm_put_control(struct acpi_pm *pm, uint16_t val, uint16_t mask)
{
    uint16_t kept = PM1_CONTROL_KEPT & mask;

    pm->control = (pm->control & ~kept) | (val & kept);
    if (val & PM1_SLP_EN)
        acpi_pm_sleep(pm);
}

static void acpi_pm_put_smi(struct acpi_pm *pm, uint8_t cmd)
{
    if (cmd == pm->cfg.smi_acpi_enable)
        pm->control |= PM1_SCI_EN;
    else if (cmd == pm->cfg.smi_acpi_disable)
        pm->control &= ~PM1_SCI_EN;
    else if (log_first(bus_seen(pm->dev.bus), (uint64_t)pm->cfg.smi_port << 8 | cmd))
        log_warn("acpi: SMI command %#x is unknown; ignored", cmd);
}

/* val and mask are shifted to their places in the 32 bits at reg; val has no bits outside mask. */
static void acpi_pm_put(struct acpi_pm *pm, uint32_t reg, uint32_t val, uint32_t mask)
{
    switch (reg) {
    case PM_EVENT: /* status bits are cleared by writing ones */
        acpi_pm_sync_timer(pm);
        pm->status &= ~val;
        pm->enable = (pm->enable & ~(mask >> 16)) | (val >> 16 & PM1_EVENTS);
        break;
    case PM_CONTROL:
        acpi_pm_put_control(pm, (uint16_t)val, (uint16_t)mask);
        break;
    case PM_GPE0:
        pm->gpe_status &= ~val;
        pm->gpe_enable = (uint16_t)((pm->gpe_enable & ~(mask >> 16)) | val >> 16);
        break;
    case PM_SMI:
        if (mask & 0xff00)
            pm->smi_status = (uint8_t)(val >> 8);
        if (mask & 0xff)
            acpi_pm_put_smi(pm, (uint8_t)val);
        break;
    }
    acpi_pm_update(pm);
}

static uint64_t acpi_pm_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    (void)bytes; /* the bus takes what it asked for */
    return acpi_pm_get(container_of(dev, struct acpi_pm, dev), off_bytes & ~3u) >>
           (8 * (off_bytes & 3));
}

static void acpi_pm_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    unsigned shift = 8 * (off_bytes & 3);

    acpi_pm_put(container_of(dev, struct acpi_pm, dev), off_bytes & ~3u, (uint32_t)val << shift,
                (uint32_t)low_bytes(UINT32_MAX, bytes) << shift);
}

/* ---- events
 * -----------------------------------------------------------------------------------------------------
 */

bool acpi_pm_power_button(struct acpi_pm *pm)
{
    assert_held(bus_lock(pm->dev.bus));
    pm->status |= PM1_PWRBTN;
    acpi_pm_update(pm);
    return (pm->control & PM1_SCI_EN) && (pm->enable & PM1_PWRBTN);
}

void acpi_pm_rtc_alarm(struct acpi_pm *pm)
{
    assert_held(bus_lock(pm->dev.bus));
    pm->status |= PM1_RTC;
    acpi_pm_update(pm);
}

void acpi_pm_gpe(struct acpi_pm *pm, unsigned n)
{
    assert_held(bus_lock(pm->dev.bus));
    BUG_ON(n >= 4 * ACPI_PM_GPE0_BYTES);
    pm->gpe_status |= (uint16_t)BIT(n);
    acpi_pm_update(pm);
}

/* ---- life
 * -------------------------------------------------------------------------------------------------------
 */

static void acpi_pm_reset(struct device *dev)
{
    struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

    pm->status = pm->enable = 0;
    pm->control = pm->cfg.smi_port ? 0 : PM1_SCI_EN;
    pm->gpe_status = pm->gpe_enable = 0;
    pm->smi_status = 0;
    pm->timer_halves = acpi_pm_ticks(pm) >> top_bit(pm); /* the timer itself runs on */
    acpi_pm_update(pm);
}

static void acpi_pm_loaded(struct device *dev)
{
    struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

    pm->enable &= PM1_EVENTS;
    pm->control &= PM1_CONTROL_KEPT | PM1_SCI_EN;
    pm->sci_up = false; /* so that a raised line is told again */
    acpi_pm_update_sci(pm);
    /* What is new since then, once the interrupt controllers are loaded, too. */
    timer_arm(&pm->timer, clock_now_ns(bus_clock(dev->bus)));
}

static const struct state_field acpi_pm_state[] = {
    FIELD(struct acpi_pm, status, U16, 1),     FIELD(struct acpi_pm, enable, U16, 1),
    FIELD(struct acpi_pm, control, U16, 1),    FIELD(struct acpi_pm, gpe_status, U16, 1),
    FIELD(struct acpi_pm, gpe_enable, U16, 1), FIELD(struct acpi_pm, timer_halves, U64, 1),
    FIELD(struct acpi_pm, smi_status, U8, 1),
};

static const struct device_type acpi_pm_type = {
    .name = "acpi-pm",
    .read = acpi_pm_read,
    .write = acpi_pm_write,
    .max_bytes = 4,
    .reset = acpi_pm_reset,
    .loaded = acpi_pm_loaded,
    .state = acpi_pm_state,
    .nr_state = ARRAY_SIZE(acpi_pm_state),
    .version = 1,
};

/* What is claimed, and where its registers begin. */
struct acpi_pm_block {
    uint16_t port;
    unsigned nr;
    uint32_t reg;
};

#define ACPI_PM_BLOCKS(cfg)                                                                   \
    {                                                                                         \
        { (cfg)->port + PM_EVENT, 4, PM_EVENT }, { (cfg)->port + PM_CONTROL, 2, PM_CONTROL }, \
            { (cfg)->port + PM_TIMER, 4, PM_TIMER },                                          \
            { (cfg)->port + PM_GPE0, ACPI_PM_GPE0_BYTES, PM_GPE0 },                           \
        {                                                                                     \
            (cfg)->smi_port, 2, PM_SMI                                                        \
        }                                                                                     \
    }

int acpi_pm_init(struct acpi_pm *pm, const struct acpi_pm_config *cfg)
{
    const struct acpi_pm_block blocks[] = ACPI_PM_BLOCKS(cfg);

    *pm = (struct acpi_pm){ .dev = { .type = &acpi_pm_type, .bus = cfg->bus, .state_base = pm },
                            .cfg = *cfg };
    timer_init(&pm->timer, bus_clock(cfg->bus), acpi_pm_timer_expired, pm);
    acpi_pm_reset(&pm->dev);
    bus_add(cfg->bus, &pm->dev);
    for (unsigned i = 0; i < ARRAY_SIZE(blocks); i++) {
        int err = blocks[i].port ? bus_claim_ports(cfg->bus, blocks[i].port, blocks[i].nr, &pm->dev,
                                                   blocks[i].reg)
                                 : 0;

        if (err)
            return err;
    }
    return 0;
}

void acpi_pm_fini(struct acpi_pm *pm)
{
    const struct acpi_pm_block blocks[] = ACPI_PM_BLOCKS(&pm->cfg);

    timer_cancel(&pm->timer);
    for (unsigned i = 0; i < ARRAY_SIZE(blocks); i++)
        bus_release_ports(pm->dev.bus, blocks[i].port, blocks[i].nr, &pm->dev);
}
