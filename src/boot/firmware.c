/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Firmware in ROM: SeaBIOS, or OVMF's code. The image lies below 4 GB, where the processor begins
 * (SDM 3, "First Instruction Executed"), and its end again below 1 MB, where 16-bit code is at
 * home.
 *
 * What is below 1 MB is dev/pam.c's affair. Where that has no effect (lock-step), it is RAM with a
 * copy from the start, as if the PAM registers were set to read and write.
 */
#include "boot/boot.h"

#include <errno.h>
#include <stdlib.h>

#include "boot/image.h"
#include "lib/log.h"

#define FIRMWARE_END       GIB(4)
#define FIRMWARE_MAX_BYTES MIB(16)
#define FIRMWARE_UNIT      PAGE_BYTES
#define SHADOW_END         MIB(1)
#define SHADOW_MAX_BYTES   KIB(128)

static int firmware_check(const struct image *img)
{
    if (img->bytes % FIRMWARE_UNIT == 0)
        return 0;
    log_error("firmware '%s' has %llu bytes, which is no multiple of 4 KB: it is no ROM image",
              img->path, (unsigned long long)img->bytes);
    return -ENOEXEC;
}

int boot_firmware_load(struct mmu *m, const char *path)
{
    struct slot_desc d = { .name = "firmware", .flags = SLOT_RO };
    struct image img;
    struct slot *s;
    int rc = image_read(&img, "firmware", path, FIRMWARE_MAX_BYTES);

    if (rc < 0)
        return rc;
    rc = firmware_check(&img);
    if (!rc) {
        d.base = GPA(FIRMWARE_END - img.bytes);
        d.bytes = img.bytes;
        rc = mmu_slot_add(m, &d, &s);
    }
    if (!rc)
        memcpy(s->hva, img.data, img.bytes);
    image_free(&img);
    return rc;
}

int boot_firmware_shadow(struct mmu *m)
{
    const struct slot *s = mmu_slot_find(m, GPA(FIRMWARE_END - 1));
    uint64_t bytes;

    BUG_ON(!s);
    bytes = MIN(s->bytes, SHADOW_MAX_BYTES);
    if (mmu_write(m, GPA(SHADOW_END - bytes), s->hva + s->bytes - bytes, bytes) == bytes)
        return 0;
    log_error("a machine with firmware needs more than 1 MB of memory");
    return -ENOMEM;
}
