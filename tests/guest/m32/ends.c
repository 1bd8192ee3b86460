/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a machine ends. The word on the command line says which way; tests/guest/run knows the exit
 * status that belongs to it. The power-off is found as an operating system finds it: RSDP, FADT,
 * the DSDT's \_S5.
 */
#include "guest.h"

#define CMOS_SCRATCH 0x5a
#define MAGIC        0xa7

static bool sum_is_zero(const uint8_t *p, uint32_t bytes)
{
    uint8_t sum = 0;

    while (bytes--)
        sum += *p++;
    return sum == 0;
}

static const uint8_t *find_rsdp(void)
{
    for (const uint8_t *p = (const uint8_t *)0xe0000; p < (const uint8_t *)0x100000; p += 16) {
        if (!memcmp(p, "RSD PTR ", 8) && sum_is_zero(p, 20))
            return p;
    }
    return NULL;
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, 4);
    return v;
}

/* A table by its signature, from the RSDT or XSDT. */
static const uint8_t *find_table(const char *sig)
{
    const uint8_t *rsdp = find_rsdp(), *root;
    unsigned entry_bytes = 4;

    if (!rsdp)
        return NULL;
    root = (const uint8_t *)get32(rsdp + 16);
    if (rsdp[15] >= 2 && get32(rsdp + 24)) {
        root = (const uint8_t *)get32(rsdp + 24);
        entry_bytes = 8;
    }
    for (uint32_t at = 36; at < get32(root + 4); at += entry_bytes) {
        const uint8_t *table = (const uint8_t *)get32(root + at);

        if (!memcmp(table, sig, 4))
            return table;
    }
    return NULL;
}

/* SLP_TYP of S5: the first number of the package behind the name. */
static int sleep_type(const uint8_t *dsdt)
{
    for (const uint8_t *p = dsdt + 36; p < dsdt + get32(dsdt + 4) - 8; p++) {
        if (memcmp(p, "_S5_", 4) || p[4] != 0x12)
            continue;
        p += 7; /* name, package, length, number of elements */
        return p[0] == 0x0a ? p[1] : p[0] <= 1 ? p[0] : -1;
    }
    return -1;
}

static void power_off(void)
{
    const uint8_t *fadt = find_table("FACP"), *dsdt;
    int type = -1;

    EXPECT(find_rsdp() != NULL, "RSDP");
    if (EXPECT(fadt != NULL, "FADT") &&
        EXPECT(sum_is_zero(fadt, get32(fadt + 4)), "its checksum")) {
        dsdt = (const uint8_t *)get32(fadt + 40);
        EXPECT(!memcmp(dsdt, "DSDT", 4) && sum_is_zero(dsdt, get32(dsdt + 4)),
               "DSDT and its checksum");
        type = sleep_type(dsdt);
    }
    EXPECT(type >= 0, "_S5");
    guest_plan();
    if (type >= 0)
        outw((uint16_t)get32(fadt + 64), (uint16_t)(1u << 13 | (unsigned)type << 10));
}

static void triple_fault(void)
{
    static const struct table_ptr none = { 0, 0 };

    guest_plan();
    lidt(&none);
    asm volatile("int3");
}

static void reset_by_acpi(void)
{
    const uint8_t *fadt = find_table("FACP");

    if (!fadt || !EXPECT(get32(fadt + 112) & 1u << 10, "FADT offers a reset register"))
        return;
    EXPECT_EQ(fadt[116], 1, "in I/O space");
    guest_plan();
    outb((uint16_t)get32(fadt + 120), fadt[128]);
}

/* Comes up twice: what CMOS holds survives the reset. */
static void reset_again(void)
{
    outb(0x70, CMOS_SCRATCH);
    if (inb(0x71) == MAGIC) {
        outb(0x70, CMOS_SCRATCH);
        outb(0x71, 0);
        EXPECT(true, "the guest comes up again after a reset");
        EXPECT_EQ(boot_magic, 0x2badb002, "loaded anew");
        return;
    }
    outb(0x70, CMOS_SCRATCH);
    outb(0x71, MAGIC);
    outb(0xcf9, 2);
    outb(0xcf9, 6);
    for (;;)
        pause();
}

int main(void)
{
    const char *how = boot_args();

    if (str_has(how, "poweroff"))
        power_off();
    else if (str_has(how, "triple"))
        triple_fault();
    else if (str_has(how, "reset-acpi"))
        reset_by_acpi();
    else if (str_has(how, "reset-again"))
        return reset_again(), 0;
    else
        guest_plan();
    if (str_has(how, "reset-cf9")) {
        outb(0xcf9, 2);
        outb(0xcf9, 6);
    } else if (str_has(how, "reset-i8042")) {
        outb(0x64, 0xfe);
    } else if (str_has(how, "reset-port92")) {
        outb(0x92, inb(0x92) | 1);
    } else if (str_has(how, "debug-exit")) {
        outb(0xf4, 0x55);
    }
    /* The end may take a moment, but it comes. */
    for (unsigned i = 0; i < 6000; i++)
        delay_us(10000);
    print("# still here\n");
    outb(0xf4, 0x11);
    return 1;
}
