/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: the kernel loaders. The input's first byte says how much of its end is the initrd
 * (in 16ths), the rest is the kernel file. A load must end with an error or with a vCPU whose first
 * instruction is in guest RAM.
 */
#include "boot/load.h"
#include "lib/log.h"

#define RAM_BYTES MIB(16)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* One guest memory for all inputs: what an earlier one left there must not matter. */
static struct mmu *fuzz_memory(void)
{
    static struct mmu *m;
    const struct slot_desc d = { .name = "ram", .base = GPA(0), .bytes = RAM_BYTES };
    struct slot *s;

    if (m)
        return m;
    log_set_level((enum log_level) - 1);
    m = mmu_create();
    BUG_ON(!m || mmu_slot_add(m, &d, &s) < 0);
    return m;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const struct boot_config cfg = {
        .kernel = "k", .append = "a", .ram_bytes = RAM_BYTES, .nr_cpus = 1
    };
    struct cpu c = { 0 };
    struct module initrd = { .cmdline = "i x" };
    struct image kernel = { .path = "k" };
    struct boot_map map;
    struct loader ld = {
        .m = fuzz_memory(), .cfg = &cfg, .map = &map, .c = &c, .kernel = &kernel, .mods = &initrd
    };
    size_t initrd_bytes;
    uint8_t first;
    int kind;

    if (bytes < 2)
        return 0;
    initrd_bytes = (bytes - 1) * (data[0] & 0xf) / 16;
    kernel.data = data + 1;
    kernel.bytes = bytes - 1 - initrd_bytes;
    initrd.img =
        (struct image){ .path = "i", .data = data + bytes - initrd_bytes, .bytes = initrd_bytes };
    ld.nr_mods = initrd_bytes ? 1 : 0;
    boot_map_init(&map, RAM_BYTES);
    kind = load_detect(&kernel);
    if (kind >= 0 && load_images(&ld, (enum load_kind)kind) == 0)
        BUG_ON(mmu_read(ld.m, GPA(c.rip), &first, 1) != 1);
    return 0;
}
