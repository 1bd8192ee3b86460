/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory map that firmware would report (INT 15h, function E820h): RAM, and what a guest must
 * not use as RAM.
 */
#include "boot/boot.h"

static void map_add(struct boot_map *map, uint64_t base, uint64_t end, uint32_t type)
{
    if (end <= base)
        return;
    BUG_ON(map->nr == E820_MAX);
    map->e[map->nr++] = (struct e820_entry){ .base = base, .bytes = end - base, .type = type };
}

void boot_map_init(struct boot_map *map, uint64_t ram_bytes)
{
    uint64_t low_end = MIN(ram_bytes, PC_LOW_RAM_MAX);

    *map = (struct boot_map){ 0 };
    map_add(map, 0, MIN(low_end, BOOT_EBDA_AT), E820_RAM);
    map_add(map, BOOT_EBDA_AT, 0xa0000, E820_RESERVED);
    map_add(map, BOOT_BIOS_AT, BOOT_BIOS_AT + BOOT_BIOS_BYTES, E820_RESERVED);
    map_add(map, BOOT_KERNEL_AT, low_end, E820_RAM);
    /* ECAM must be reserved here or in ACPI's motherboard resources for Linux to use it; it is in
     * both. */
    map_add(map, PC_ECAM_AT, PC_ECAM_AT + PC_ECAM_BYTES, E820_RESERVED);
    map_add(map, PC_IOAPIC_AT, PC_IOAPIC_AT + PAGE_BYTES, E820_RESERVED);
    map_add(map, PC_HPET_AT, PC_HPET_AT + PAGE_BYTES, E820_RESERVED);
    map_add(map, PC_LAPIC_AT, PC_LAPIC_AT + PAGE_BYTES, E820_RESERVED);
    map_add(map, GIB(4), GIB(4) + (ram_bytes - low_end), E820_RAM);
}
