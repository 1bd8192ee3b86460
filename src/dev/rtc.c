/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MC146818 real-time clock with 128 bytes of CMOS RAM, at ports 70h and 71h; port 70h also masks
 * NMI.
 *
 * Manual: Motorola MC146818 data sheet; Intel ICH9 data sheet, "Real Time Clock Registers".
 *
 * The time is the host's UTC, plus what the guest set. Flags and time are computed when the guest
 * looks; a timer runs only for interrupts that are enabled. An update takes no time, but UIP
 * announces it 244 us before, as the data sheet promises. A guest that does not read register C
 * gets no further interrupts, so late ones cannot pile up.
 */
#include "dev/rtc.h"

#include <string.h>

#define RTC_PORT 0x70
enum { RTC_AT_INDEX, RTC_AT_DATA };

#define INDEX_NMI_MASK 0x80

#define RTC_A_UIP    BIT(7)
#define RTC_A_DV     0x70
#define RTC_A_DV_RUN 0x20 /* a 32.768 kHz crystal: the only one PCs have */
#define RTC_A_RS     0x0f
#define RTC_B_SET    BIT(7)
#define RTC_B_SQWE   BIT(3)
#define RTC_D_VRT    BIT(7)

/* Flags in register C; their enables have the same places in register B. */
#define RTC_PERIODIC BIT(6)
#define RTC_ALARM    BIT(5)
#define RTC_UPDATE   BIT(4)
#define RTC_SOURCES  (RTC_PERIODIC | RTC_ALARM | RTC_UPDATE)
#define RTC_C_IRQF   BIT(7)

#define NS_PER_S           1000000000ull
#define CRYSTAL_HZ         32768u
#define UIP_AHEAD_NS       244000u
#define DIVIDER_RELEASE_NS 500000000u /* "the first update cycle begins one-half second later" */
#define SET_RANGE_S        400000000000ll /* more than 10000 years */
#define LOOK_AGAIN_NS      (60 * NS_PER_S)

static uint64_t rtc_real_ns(const struct rtc *r)
{
    return clock_real_ns(bus_clock(r->dev.bus));
}

/* The guest's time in seconds when the host's is real_ns. */
static int64_t rtc_seconds(const struct rtc *r, uint64_t real_ns)
{
    return (int64_t)((real_ns + r->phase_ns) / NS_PER_S + r->offset_s);
}

static bool rtc_divider_runs(const struct rtc *r)
{
    return (r->cmos[RTC_A] & RTC_A_DV) == RTC_A_DV_RUN;
}

/* Periods of the rate selector in crystal ticks ("Periodic Interrupt Rate"); 0: none. */
static unsigned rtc_period_ticks(const struct rtc *r)
{
    unsigned rs = r->cmos[RTC_A] & RTC_A_RS;

    if (rs == 1 || rs == 2) /* at 32 kHz these repeat rates 8 and 9 */
        rs += 7;
    return rs ? 1u << (rs - 1) : 0;
}

static uint64_t rtc_crystal_ticks(const struct rtc *r, uint64_t real_ns)
{
    return (uint64_t)((unsigned __int128)(real_ns + r->phase_ns) * CRYSTAL_HZ / NS_PER_S);
}

/* ---- flags and interrupts ---- */

static void rtc_find_alarm(struct rtc *r)
{
    r->alarm_s = r->stopped ? INT64_MAX : rtc_next_alarm(r->cmos, rtc_seconds(r, r->synced_ns) + 1);
}

/* Sets the flags of what happened since the last call. */
static void rtc_sync(struct rtc *r, uint64_t now)
{
    unsigned period = rtc_period_ticks(r);
    uint64_t was = r->synced_ns;

    r->synced_ns = now;
    if (now < was) { /* the host's clock was set back */
        rtc_find_alarm(r);
        return;
    }
    if (period && rtc_divider_runs(r) &&
        rtc_crystal_ticks(r, was) / period != rtc_crystal_ticks(r, now) / period)
        r->cmos[RTC_C] |= RTC_PERIODIC;
    if (r->stopped)
        return;
    if (rtc_seconds(r, was) != rtc_seconds(r, now))
        r->cmos[RTC_C] |= RTC_UPDATE;
    if (rtc_seconds(r, now) >= r->alarm_s) {
        r->cmos[RTC_C] |= RTC_ALARM;
        rtc_find_alarm(r);
    }
}

/* Host time of the next event that would raise the interrupt; UINT64_MAX: none. */
static uint64_t rtc_next_event_ns(const struct rtc *r, uint64_t now)
{
    /* A source whose flag is already up brings nothing new. */
    uint8_t waiting = r->cmos[RTC_B] & (uint8_t)~r->cmos[RTC_C];
    unsigned period = rtc_period_ticks(r);
    uint64_t at = UINT64_MAX;

    if (waiting & RTC_PERIODIC && period && rtc_divider_runs(r)) {
        uint64_t tick = (rtc_crystal_ticks(r, now) / period + 1) * period;
        unsigned __int128 ns = ((unsigned __int128)tick * NS_PER_S + CRYSTAL_HZ - 1) / CRYSTAL_HZ;

        at = (uint64_t)ns - r->phase_ns;
    }
    if (r->stopped)
        return at;
    if (waiting & RTC_UPDATE)
        at = MIN(at, ((now + r->phase_ns) / NS_PER_S + 1) * NS_PER_S - r->phase_ns);
    /* The host's clock may be set, and goes on when the VM's is paused: look again before a distant
     * alarm. */
    if (waiting & RTC_ALARM && r->alarm_s != INT64_MAX) {
        uint64_t ahead_s = (uint64_t)r->alarm_s - (uint64_t)rtc_seconds(r, now);
        uint64_t alarm = ((now + r->phase_ns) / NS_PER_S + ahead_s) * NS_PER_S - r->phase_ns;

        at = MIN(at, MIN(alarm, now + LOOK_AGAIN_NS));
    }
    return at;
}

/* ICH9, "PM1_STS", RTC_STS: the alarm's interrupt also is an event of the power management. */
static void rtc_tell_alarm(struct rtc *r)
{
    bool up = r->cmos[RTC_B] & r->cmos[RTC_C] & RTC_ALARM;

    if (up && !r->alarm_up && r->alarm)
        r->alarm(r->ctx);
    r->alarm_up = up;
}

/* IRQF and the line follow the flags. */
static void rtc_update_line(struct rtc *r)
{
    bool up = r->cmos[RTC_B] & r->cmos[RTC_C] & RTC_SOURCES;

    r->cmos[RTC_C] = (uint8_t)((r->cmos[RTC_C] & RTC_SOURCES) | (up ? RTC_C_IRQF : 0));
    rtc_tell_alarm(r);
    up = up && !r->detached;
    if (up != r->irq_up) {
        r->irq_up = up;
        irq_set(&r->irq, up);
    }
}

/* The timer waits for the next flag that brings an interrupt. */
static void rtc_update_irq(struct rtc *r)
{
    uint64_t now = r->synced_ns, at = rtc_next_event_ns(r, now);

    rtc_update_line(r);
    if (at == UINT64_MAX)
        timer_cancel(&r->timer);
    else
        timer_arm(&r->timer, clock_now_ns(bus_clock(r->dev.bus)) + (at - now));
}

static void rtc_timer(void *arg)
{
    struct rtc *r = arg;

    rtc_sync(r, rtc_real_ns(r));
    rtc_update_irq(r);
}

bool rtc_nmi_masked(const struct rtc *r)
{
    return r->index & INDEX_NMI_MASK;
}

void rtc_detach_irq(struct rtc *r, bool detached)
{
    r->detached = detached;
    rtc_sync(r, rtc_real_ns(r));
    rtc_update_irq(r);
}

/* ---- the time ---- */

/* The clock goes on from the time in the registers, with the phase it has. */
static void rtc_take_time(struct rtc *r, uint64_t now)
{
    int64_t s = rtc_decode_time(r->cmos, &r->dow_shift);

    r->offset_s = (uint64_t)s - (now + r->phase_ns) / NS_PER_S;
}

/* After a change of SET or of the divider: stop or start the clock ("Register B", SET; "Divider
 * Control"). */
static void rtc_run_or_stop(struct rtc *r, uint64_t now)
{
    bool stopped = r->cmos[RTC_B] & RTC_B_SET || !rtc_divider_runs(r);

    if (stopped == r->stopped)
        return;
    if (stopped)
        rtc_encode_time(r->cmos, rtc_seconds(r, now), r->dow_shift);
    else
        rtc_take_time(r, now);
    r->stopped = stopped;
}

static bool rtc_is_time(unsigned idx)
{
    switch (idx) {
    case RTC_SECONDS:
    case RTC_MINUTES:
    case RTC_HOURS:
    case RTC_WEEKDAY:
    case RTC_DAY:
    case RTC_MONTH:
    case RTC_YEAR:
    case RTC_CENTURY:
        return true;
    default:
        return false;
    }
}

static void rtc_write_a(struct rtc *r, uint8_t val, uint64_t now)
{
    bool ran = rtc_divider_runs(r);

    /* While the divider stands still the phase stays as it was; released, the chain begins anew. */
    r->cmos[RTC_A] = val & (uint8_t)~RTC_A_UIP;
    if (!ran && rtc_divider_runs(r))
        r->phase_ns = (DIVIDER_RELEASE_NS + NS_PER_S - now % NS_PER_S) % NS_PER_S;
    rtc_run_or_stop(r, now);
    if (rtc_divider_runs(r) || (val & 0x60) == 0x60)
        return;
    if (log_first(bus_seen(r->dev.bus), 0x146818))
        log_warn("rtc: guest chose the divider setting %#x, which is not for a PC's crystal; "
                 "its clock stands still",
                 val & RTC_A_DV);
}

static void rtc_write_b(struct rtc *r, uint8_t val, uint64_t now)
{
    uint8_t changed = r->cmos[RTC_B] ^ val;

    /* The bytes keep their format until SET or the guest changes them; a running clock shows the
     * new one at once. */
    if (changed & RTC_B_SET && val & RTC_B_SET)
        val &= (uint8_t)~RTC_UPDATE;
    if (val & RTC_B_SET && !r->stopped) {
        rtc_encode_time(r->cmos, rtc_seconds(r, now), r->dow_shift);
        r->stopped = true;
    }
    r->cmos[RTC_B] = val;
    rtc_run_or_stop(r, now);
}

static void rtc_write_byte(struct rtc *r, unsigned idx, uint8_t val)
{
    uint64_t now = rtc_real_ns(r);

    rtc_sync(r, now);
    switch (idx) {
    case RTC_A:
        rtc_write_a(r, val, now);
        break;
    case RTC_B:
        rtc_write_b(r, val, now);
        break;
    case RTC_C: /* read-only */
    case RTC_D:
        return;
    default:
        if (!rtc_is_time(idx) || r->stopped) {
            r->cmos[idx] = val;
            break;
        }
        rtc_encode_time(r->cmos, rtc_seconds(r, now), r->dow_shift);
        r->cmos[idx] = val;
        rtc_take_time(r, now);
        break;
    }
    if (idx > RTC_B && idx != RTC_CENTURY)
        return;
    rtc_find_alarm(r);
    rtc_update_irq(r);
}

static uint8_t rtc_read_byte(struct rtc *r, unsigned idx)
{
    uint64_t now = rtc_real_ns(r);
    uint8_t val;

    if (rtc_is_time(idx) && !r->stopped)
        rtc_encode_time(r->cmos, rtc_seconds(r, now), r->dow_shift);
    val = r->cmos[idx];
    if (idx == RTC_A && !r->stopped && (now + r->phase_ns) % NS_PER_S >= NS_PER_S - UIP_AHEAD_NS)
        val |= RTC_A_UIP;
    if (idx != RTC_C)
        return val;
    rtc_sync(r, now);
    rtc_update_irq(r); /* IRQF */
    val = r->cmos[RTC_C];
    r->cmos[RTC_C] = 0; /* "all flags are cleared by a read" */
    rtc_update_irq(r);
    return val;
}

static uint64_t rtc_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    struct rtc *r = container_of(dev, struct rtc, dev);

    (void)bytes;
    /* The index cannot be read back (ICH9, "RTC_INDEX"). */
    return off_bytes == RTC_AT_INDEX ? 0xff : rtc_read_byte(r, r->index & 0x7f);
}

static void rtc_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    struct rtc *r = container_of(dev, struct rtc, dev);

    (void)bytes;
    if (off_bytes == RTC_AT_INDEX)
        r->index = (uint8_t)val;
    else
        rtc_write_byte(r, r->index & 0x7f, (uint8_t)val);
}

/* ---- life ---- */

/* "RESET": time, calendar and RAM keep their contents. */
static void rtc_reset(struct device *dev)
{
    struct rtc *r = container_of(dev, struct rtc, dev);

    r->index = 0;
    rtc_sync(r, rtc_real_ns(r));
    r->cmos[RTC_B] &= (uint8_t) ~(RTC_SOURCES | RTC_B_SQWE);
    r->cmos[RTC_C] = 0;
    rtc_update_irq(r);
}

static void rtc_loaded(struct device *dev)
{
    struct rtc *r = container_of(dev, struct rtc, dev);

    /* Nothing a damaged state holds may overflow later: the chip knows the years 0 to 9999. */
    r->phase_ns %= NS_PER_S;
    if ((int64_t)r->offset_s > SET_RANGE_S || (int64_t)r->offset_s < -SET_RANGE_S)
        r->offset_s = 0;
    r->dow_shift %= 7;
    rtc_find_alarm(r);
    r->irq_up = false;
    r->alarm_up = r->cmos[RTC_B] & r->cmos[RTC_C] & RTC_ALARM; /* was told then */
    irq_set(&r->irq, 0);
    rtc_update_line(r);
    /* What has fallen due since makes an edge, which the interrupt controllers take when all is
     * loaded and time goes on. */
    timer_arm(&r->timer, clock_now_ns(bus_clock(dev->bus)));
}

static void rtc_put16(struct rtc *r, unsigned idx, uint64_t val)
{
    val = MIN(val, 0xffffu);
    r->cmos[idx] = (uint8_t)val;
    r->cmos[idx + 1] = (uint8_t)(val >> 8);
}

/* What a PC's firmware leaves in CMOS RAM: equipment, memory sizes, and the checksum over 10h to
 * 2Dh. */
static void rtc_fill_cmos(struct rtc *r, const struct rtc_config *cfg)
{
    uint64_t above_1m = cfg->low_ram_bytes > MIB(1) ? cfg->low_ram_bytes - MIB(1) : 0;
    uint64_t above_16m = cfg->low_ram_bytes > MIB(16) ? cfg->low_ram_bytes - MIB(16) : 0;
    uint64_t above_4g_64k = MIN(cfg->high_ram_bytes >> 16, 0xffffffu);
    unsigned sum = 0;

    r->cmos[RTC_A] = RTC_A_DV_RUN | 6; /* 1024 Hz */
    r->cmos[RTC_B] = RTC_B_24H;
    r->cmos[RTC_D] = RTC_D_VRT;
    r->cmos[0x14] = 0x06; /* FPU and PS/2 mouse */
    rtc_put16(r, 0x15, 640);
    rtc_put16(r, 0x17, above_1m >> 10);
    rtc_put16(r, 0x30, above_1m >> 10);
    rtc_put16(r, 0x34, above_16m >> 16);
    rtc_put16(r, 0x5b, above_4g_64k & 0xffff);
    r->cmos[0x5d] = (uint8_t)(above_4g_64k >> 16);
    for (unsigned i = 0x10; i <= 0x2d; i++)
        sum += r->cmos[i];
    r->cmos[0x2e] = (uint8_t)(sum >> 8);
    r->cmos[0x2f] = (uint8_t)sum;
}

static const struct state_field rtc_state[] = {
    FIELD(struct rtc, index, U8, 1),      FIELD(struct rtc, cmos, BYTES, 1),
    FIELD(struct rtc, phase_ns, U64, 1),  FIELD(struct rtc, offset_s, U64, 1),
    FIELD(struct rtc, dow_shift, U8, 1),  FIELD(struct rtc, stopped, BOOL, 1),
    FIELD(struct rtc, synced_ns, U64, 1), FIELD(struct rtc, detached, BOOL, 1),
};

static const struct device_type rtc_type = {
    .name = "rtc",
    .read = rtc_read,
    .write = rtc_write,
    .reset = rtc_reset,
    .loaded = rtc_loaded,
    .state = rtc_state,
    .nr_state = ARRAY_SIZE(rtc_state),
    .version = 1,
};

int rtc_init(struct rtc *r, const struct rtc_config *cfg)
{
    int err;

    *r = (struct rtc){
        .dev = { .type = &rtc_type, .bus = cfg->bus, .state_base = r },
        .irq = cfg->irq,
        .alarm = cfg->alarm,
        .ctx = cfg->ctx,
    };
    timer_init(&r->timer, bus_clock(cfg->bus), rtc_timer, r);
    rtc_fill_cmos(r, cfg);
    r->synced_ns = rtc_real_ns(r);
    rtc_find_alarm(r);
    err = bus_claim_ports(cfg->bus, RTC_PORT, 2, &r->dev, 0);
    if (!err)
        bus_add(cfg->bus, &r->dev);
    return err;
}

void rtc_fini(struct rtc *r)
{
    timer_cancel(&r->timer);
    bus_release_ports(r->dev.bus, RTC_PORT, 2, &r->dev);
}
