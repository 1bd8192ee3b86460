/* SPDX-License-Identifier: Apache-2.0 */
/* The MC146818 real-time clock and CMOS RAM: see rtc.c. */
#ifndef DEV_RTC_H
#define DEV_RTC_H

#include "bus/bus.h"

struct rtc_config {
    struct bus *bus;
    struct irq_line irq; /* IRQ 8 */
    /* The alarm's interrupt rises, wherever IRQ 8 goes; optional. Under the machine lock. */
    void (*alarm)(void *ctx);
    void *ctx;
    uint64_t low_ram_bytes,
        high_ram_bytes; /* RAM below and above 4 GB, for the CMOS bytes firmware reads */
};

struct rtc {
    struct device dev;
    struct irq_line irq;
    void (*alarm)(void *ctx);
    void *ctx;
    uint8_t index; /* port 70h: bits 6..0 choose the byte, bit 7 masks NMI */
    /* Registers A to D at 0Ah..0Dh; the time's bytes are current only while the clock stands still.
     */
    uint8_t cmos[128];
    /*
     * The guest's time is UTC of the host + phase_ns, in whole seconds + offset_s: phase_ns (< 1 s)
     * is what the divider chain is off, offset_s what the guest set.
     */
    uint64_t phase_ns;
    uint64_t offset_s;  /* two's complement */
    uint8_t dow_shift;  /* the day of the week is the guest's own affair */
    bool stopped;       /* SET, or the divider held in reset: cmos[] has the time */
    uint64_t synced_ns; /* host UTC up to which flags of register C were computed */
    int64_t alarm_s;    /* guest time of the next alarm match after that; INT64_MAX: none */
    bool irq_up, alarm_up;
    bool detached;
    struct timer timer;
};

/* Places of the bytes that make up time and alarm, and the registers. */
enum {
    RTC_SECONDS = 0x00,
    RTC_SECONDS_ALARM = 0x01,
    RTC_MINUTES = 0x02,
    RTC_MINUTES_ALARM = 0x03,
    RTC_HOURS = 0x04,
    RTC_HOURS_ALARM = 0x05,
    RTC_WEEKDAY = 0x06,
    RTC_DAY = 0x07,
    RTC_MONTH = 0x08,
    RTC_YEAR = 0x09,
    RTC_A = 0x0a,
    RTC_B = 0x0b,
    RTC_C = 0x0c,
    RTC_D = 0x0d,
    RTC_CENTURY = 0x32,
};

#define RTC_B_24H    BIT(1)
#define RTC_B_BINARY BIT(2)

/* rtc_time.c: the calendar. Seconds since 1970, may be negative; formats as register B in cmos
 * says. */
void rtc_encode_time(uint8_t *cmos, int64_t s, uint8_t dow_shift);
int64_t rtc_decode_time(const uint8_t *cmos, uint8_t *dow_shift);
/* The first second from `from` on that the alarm bytes match; INT64_MAX if none ever does. */
int64_t rtc_next_alarm(const uint8_t *cmos, int64_t from);

int rtc_init(struct rtc *r, const struct rtc_config *cfg) MUST_CHECK;
void rtc_fini(struct rtc *r);
/* Bit 7 of port 70h. Caller holds the machine lock. */
bool rtc_nmi_masked(const struct rtc *r);
/* The HPET's legacy replacement route takes IRQ 8 over, or gives it back. Caller holds the machine
 * lock. */
void rtc_detach_irq(struct rtc *r, bool detached);

#endif
