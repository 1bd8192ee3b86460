/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the multiboot loader hands over: registers and segments, memory sizes and map, the command
 * line, a module. Multiboot Specification 0.6.96, "Machine state", "Boot information format". The
 * runner gives the arguments and the module.
 */
#include "guest.h"

static uint32_t info_at(unsigned word)
{
    return ((const uint32_t *)boot_info)[word];
}

static void memory_map(void)
{
    const uint8_t *p = (const uint8_t *)info_at(12), *end = p + info_at(11);
    uint64_t usable = 0, last_end = 0;
    bool sorted = true, has_1mb = false;

    while (p < end) {
        uint32_t size, type;
        uint64_t base, bytes;

        memcpy(&size, p, 4);
        memcpy(&base, p + 4, 8);
        memcpy(&bytes, p + 12, 8);
        memcpy(&type, p + 20, 4);
        sorted = sorted && base >= last_end;
        last_end = base + bytes;
        if (type == 1) {
            usable += bytes;
            has_1mb = has_1mb || (base <= 0x100000 && base + bytes > 0x200000);
        }
        p += size + 4;
    }
    EXPECT(p == end, "the map's entries fill it");
    EXPECT(sorted, "they are sorted and do not overlap");
    EXPECT(has_1mb, "memory at 1 MB is usable");
    EXPECT(usable >= 64u << 20, "64 MB or more are usable");
}

static void module(void)
{
    const char *from, *to;

    EXPECT_EQ(info_at(0) >> 3 & 1, 1, "modules field is valid");
    if (!EXPECT_EQ(info_at(5), 1, "one module"))
        return;
    from = (const char *)((const uint32_t *)info_at(6))[0];
    to = (const char *)((const uint32_t *)info_at(6))[1];
    EXPECT_EQ((word_t)from & 4095, 0, "the module begins on a page");
    EXPECT_EQ(to - from, 16 * 300, "its size");
    EXPECT(!memcmp(from, "module contents\n", 16) && !memcmp(to - 16, "module contents\n", 16),
           "its contents");
}

int main(void)
{
    const char *cmdline = (const char *)info_at(4);
    word_t cr0 = read_cr0();

    EXPECT_EQ(boot_magic, 0x2badb002, "EAX");
    EXPECT_EQ(cr0 & (CR0_PE | CR0_PG), CR0_PE, "protected mode without paging");
    EXPECT_EQ(info_at(0) & 1, 1, "memory field is valid");
    EXPECT(info_at(1) >= 512 && info_at(1) <= 640, "lower memory in KB");
    EXPECT(info_at(2) >= 64 << 10, "upper memory in KB");
    EXPECT_EQ(info_at(0) >> 2 & 1, 1, "command line is valid");
    EXPECT(str_has(cmdline, "multiboot.elf "), "its first word is the image's name");
    EXPECT(str_has(boot_args(), "one  two=3"), "the rest is what was given");
    EXPECT_EQ(info_at(0) >> 6 & 1, 1, "memory map is valid");
    memory_map();
    module();
    return 0;
}
