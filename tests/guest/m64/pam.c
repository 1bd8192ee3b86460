/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chip set's routing of C0000h to FFFFFh: reads and writes of each segment to RAM or not.
 * Intel 3 Series Express Chipset Family data sheet, "PAM0: Programmable Attribute Map 0".
 *
 * What is there where reads do not go to RAM depends on the machine (nothing, or firmware): it is
 * only compared with what RAM has.
 */
#include "guest.h"

#define NR_SEGMENTS 13u
#define HOST_PCI    0x80000000u
#define ECAM_REG    0x60u

enum { NONE, READ, WRITE, RAM };

static uint32_t segment_at(unsigned idx)
{
    return 0xc0000u + idx * 0x4000u;
}

static unsigned segment_bytes(unsigned idx)
{
    return idx == 12 ? 0x10000u : 0x4000u;
}

static unsigned segment_reg(unsigned idx)
{
    return idx == 12 ? 0x90u : 0x91u + idx / 2;
}

static unsigned segment_shift(unsigned idx)
{
    return idx == 12 || idx % 2 ? 4 : 0;
}

static void set_by_ports(unsigned idx, unsigned attr)
{
    unsigned reg = segment_reg(idx), shift = segment_shift(idx);
    uint8_t val;

    outl(0xcf8, HOST_PCI | (reg & ~3u));
    val = inb((uint16_t)(0xcfc + reg % 4));
    outb((uint16_t)(0xcfc + reg % 4), (uint8_t)((val & ~(3u << shift)) | attr << shift));
}

/* A function of its own: what a store to device memory changes is seen behind its block. */
static NOINLINE void set_by_memory(unsigned idx, unsigned attr)
{
    unsigned reg = segment_reg(idx), shift = segment_shift(idx);
    uint8_t *at;

    outl(0xcf8, HOST_PCI | ECAM_REG);
    at = (uint8_t *)(word_t)(inl(0xcfc) & ~1u) + reg;
    write8(at, (uint8_t)((read8(at) & ~(3u << shift)) | attr << shift));
}

static uint32_t mark(unsigned idx, unsigned nr)
{
    return 0x9abc0000u + 0x100 * idx + nr;
}

/* First and last words of a segment. */
static void fill(unsigned idx, unsigned nr)
{
    write32((void *)(word_t)segment_at(idx), mark(idx, nr));
    write32((void *)(word_t)(segment_at(idx) + segment_bytes(idx) - 4), mark(idx, nr));
}

static bool holds(unsigned idx, unsigned nr)
{
    return read32((void *)(word_t)segment_at(idx)) == mark(idx, nr) &&
           read32((void *)(word_t)(segment_at(idx) + segment_bytes(idx) - 4)) == mark(idx, nr);
}

static void deviates_at_vapic(unsigned idx)
{
    if (idx == 2 || idx == 3)
        tcg_deviates("a ROM of QEMU's own is there, which can be written");
}

static void check_segment(unsigned idx)
{
    static const char tcg_why[] = "QEMU has such a segment read from RAM";
    unsigned at = segment_at(idx);

    set_by_ports(idx, RAM);
    fill(idx, 1);
    EXPECT(holds(idx, 1), "%x: RAM is written and read", at);
    set_by_ports(idx, READ);
    EXPECT(holds(idx, 1), "%x: write-protected RAM is read", at);
    fill(idx, 2);
    deviates_at_vapic(idx);
    EXPECT(holds(idx, 1), "%x: a write to it is lost", at);
    set_by_ports(idx, WRITE);
    tcg_deviates(tcg_why);
    EXPECT(!holds(idx, 1), "%x: with writes alone reads are not RAM's", at);
    fill(idx, 3);
    tcg_deviates(tcg_why);
    EXPECT(!holds(idx, 3), "%x: after a write neither", at);
    set_by_ports(idx, READ);
    EXPECT(holds(idx, 3), "%x: but it was written", at);
    set_by_ports(idx, NONE);
    EXPECT(!holds(idx, 3), "%x: without both reads are not RAM's", at);
    fill(idx, 4);
    set_by_ports(idx, RAM);
    deviates_at_vapic(idx);
    EXPECT(holds(idx, 3), "%x: and a write is lost", at);
}

/* A switch of one segment leaves the others as they are. */
static void check_neighbours(void)
{
    for (unsigned i = 0; i < NR_SEGMENTS; i++) {
        set_by_ports(i, RAM);
        fill(i, 5);
    }
    set_by_memory(7, READ);
    for (unsigned i = 0; i < NR_SEGMENTS; i++)
        fill(i, 6);
    for (unsigned i = 0; i < NR_SEGMENTS; i++)
        EXPECT(holds(i, i == 7 ? 5 : 6), "%x: only DC000h is write-protected", segment_at(i));
    set_by_memory(7, RAM);
}

/* ---- code ---- */

/* mov $val, %eax; ret */
static void write_code(uint8_t *at, uint32_t val)
{
    at[0] = 0xb8;
    write32(at + 1, val);
    at[5] = 0xc3;
}

static uint32_t call(void *at)
{
    return ((uint32_t(*)(void))at)();
}

static word_t call_trap(word_t a, word_t b)
{
    (void)b;
    return call((void *)a);
}

/* Hot code of RAM: it is gone with the RAM, and is there again with it. */
static void check_code(void)
{
    uint8_t *at = (uint8_t *)(word_t)segment_at(9);
    uint32_t sum = 0;
    struct trap t;

    write_code(at, 5);
    for (unsigned i = 0; i < 20000; i++)
        sum += call(at);
    EXPECT_EQ(sum, 100000, "code runs from a segment");
    set_by_ports(9, READ);
    write_code(at, 6);
    EXPECT_EQ(call(at), 5, "a lost write does not change code");
    set_by_ports(9, WRITE);
    write_code(at, 7);
    set_by_ports(9, RAM);
    EXPECT_EQ(call(at), 7, "one that is not seen yet does");
    write_code(at, 8);
    EXPECT_EQ(call(at), 8, "code is written as before");
    t = try_user(call_trap, segment_at(9) + USER_ALIAS, 0);
    EXPECT_EQ(t.f.ax, 8, "user code runs there");
    set_by_ports(9, READ);
    write_code(at, 9);
    t = try_user(call_trap, segment_at(9) + USER_ALIAS, 0);
    EXPECT_EQ(t.f.ax, 8, "and is protected for it");
    set_by_ports(9, RAM);
}

int main(void)
{
    for (unsigned i = 0; i < NR_SEGMENTS; i++)
        check_segment(i);
    check_neighbours();
    check_code();
    return 0;
}
