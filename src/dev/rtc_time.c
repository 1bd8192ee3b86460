/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The calendar of the real-time clock: between seconds since 1970 and the bytes in its registers,
 * and when the alarm bytes match.
 *
 * Manual: Motorola MC146818 data sheet, "Time, Calendar, and Alarm Locations". Bytes come from the
 * guest: any value decodes to some time near it.
 */
#include "dev/rtc.h"

#define SECONDS_PER_DAY    86400
#define DAYS_PER_400_YEARS 146097
#define DAYS_TO_1970       719468 /* from 1 March of the year 0 */
#define HOUR_PM            0x80
#define ALARM_ANY          0xc0 /* "don't care": both top bits set */

static uint8_t rtc_to_reg(const uint8_t *cmos, unsigned v)
{
    return (uint8_t)(cmos[RTC_B] & RTC_B_BINARY ? v : v / 10 << 4 | v % 10);
}

/* A value between lo and hi. */
static int rtc_from_reg(const uint8_t *cmos, uint8_t reg, int lo, int hi)
{
    int v = cmos[RTC_B] & RTC_B_BINARY ? reg : (reg >> 4) * 10 + (reg & 15);

    return v < lo ? lo : MIN(v, hi);
}

static uint8_t rtc_hour_to_reg(const uint8_t *cmos, unsigned hour)
{
    if (cmos[RTC_B] & RTC_B_24H)
        return rtc_to_reg(cmos, hour);
    return rtc_to_reg(cmos, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static int rtc_hour_from_reg(const uint8_t *cmos, uint8_t reg)
{
    if (cmos[RTC_B] & RTC_B_24H)
        return rtc_from_reg(cmos, reg, 0, 23);
    return rtc_from_reg(cmos, reg & ~HOUR_PM, 1, 12) % 12 + (reg & HOUR_PM ? 12 : 0);
}

static int64_t rtc_floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* Days since 1970. Years begin in March here, so that the leap day is their last. */
static int64_t rtc_days(int year, int month, int day)
{
    int64_t y = year + 400 - (month <= 2);
    int m = month <= 2 ? month + 9 : month - 3;

    return y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - DAYS_PER_400_YEARS -
           DAYS_TO_1970;
}

/* Sunday is 0; 1 January 1970 was a Thursday. */
static unsigned rtc_weekday(int64_t days)
{
    return (unsigned)((days % 7 + 7 + 4) % 7);
}

void rtc_encode_time(uint8_t *cmos, int64_t s, uint8_t dow_shift)
{
    int64_t days = rtc_floor_div(s, SECONDS_PER_DAY);
    int64_t z = days + DAYS_TO_1970;
    int64_t era = rtc_floor_div(z, DAYS_PER_400_YEARS), year;
    unsigned sec = (unsigned)(s - days * SECONDS_PER_DAY);
    unsigned rest = (unsigned)(z - era * DAYS_PER_400_YEARS);
    unsigned century, leap, single, m;

    /* The last century of four, and the last year of four, have a day more. */
    century = MIN(rest / 36524, 3u);
    rest -= century * 36524;
    leap = rest / 1461;
    rest -= leap * 1461;
    single = MIN(rest / 365, 3u);
    rest -= single * 365;
    m = (5 * rest + 2) / 153; /* months since March */
    year = era * 400 + century * 100 + leap * 4 + single + (m >= 10);
    year = (year % 10000 + 10000) % 10000;

    cmos[RTC_SECONDS] = rtc_to_reg(cmos, sec % 60);
    cmos[RTC_MINUTES] = rtc_to_reg(cmos, sec / 60 % 60);
    cmos[RTC_HOURS] = rtc_hour_to_reg(cmos, sec / 3600);
    cmos[RTC_WEEKDAY] = (uint8_t)((rtc_weekday(days) + dow_shift) % 7 + 1);
    cmos[RTC_DAY] = rtc_to_reg(cmos, rest - (153 * m + 2) / 5 + 1);
    cmos[RTC_MONTH] = rtc_to_reg(cmos, m >= 10 ? m - 9 : m + 3);
    cmos[RTC_YEAR] = rtc_to_reg(cmos, (unsigned)(year % 100));
    cmos[RTC_CENTURY] = rtc_to_reg(cmos, (unsigned)(year / 100));
}

int64_t rtc_decode_time(const uint8_t *cmos, uint8_t *dow_shift)
{
    int year = rtc_from_reg(cmos, cmos[RTC_CENTURY], 0, 99) * 100 +
               rtc_from_reg(cmos, cmos[RTC_YEAR], 0, 99);
    int64_t days = rtc_days(year, rtc_from_reg(cmos, cmos[RTC_MONTH], 1, 12),
                            rtc_from_reg(cmos, cmos[RTC_DAY], 1, 31));
    unsigned weekday = (unsigned)rtc_from_reg(cmos, cmos[RTC_WEEKDAY], 1, 7) - 1;

    *dow_shift = (uint8_t)((weekday + 7 - rtc_weekday(days)) % 7);
    return days * SECONDS_PER_DAY + rtc_hour_from_reg(cmos, cmos[RTC_HOURS]) * 3600 +
           rtc_from_reg(cmos, cmos[RTC_MINUTES], 0, 59) * 60 +
           rtc_from_reg(cmos, cmos[RTC_SECONDS], 0, 59);
}

static bool rtc_alarm_byte_matches(uint8_t alarm, uint8_t reg)
{
    return (alarm & ALARM_ANY) == ALARM_ANY || alarm == reg;
}

int64_t rtc_next_alarm(const uint8_t *cmos, int64_t from)
{
    int64_t midnight = rtc_floor_div(from, SECONDS_PER_DAY) * SECONDS_PER_DAY, s = from - midnight;
    int64_t end = s + SECONDS_PER_DAY;

    /* Whole hours and minutes that do not match are skipped: at most some 200 steps for a day. */
    while (s < end) {
        unsigned hour = (unsigned)(s / 3600 % 24), minute = (unsigned)(s / 60 % 60);

        if (!rtc_alarm_byte_matches(cmos[RTC_HOURS_ALARM], rtc_hour_to_reg(cmos, hour)))
            s = s / 3600 * 3600 + 3600;
        else if (!rtc_alarm_byte_matches(cmos[RTC_MINUTES_ALARM], rtc_to_reg(cmos, minute)))
            s = s / 60 * 60 + 60;
        else if (!rtc_alarm_byte_matches(cmos[RTC_SECONDS_ALARM],
                                         rtc_to_reg(cmos, (unsigned)(s % 60))))
            s++;
        else
            return midnight + s;
    }
    return INT64_MAX;
}
