/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file the user named, in memory: the only way loaders look at it is through bounds-checked
 * views.
 */
#ifndef BOOT_IMAGE_H
#define BOOT_IMAGE_H

#include <errno.h>
#include <string.h>

#include "lib/types.h"

#define IMAGE_KERNEL_MAX GIB(1) /* an unstripped vmlinux is some hundred MB */

struct image {
    const char *path; /* as the user wrote it, for messages */
    const uint8_t *data;
    uint64_t bytes;
};

/*
 * Reads all of a regular file, pipe or device, at most max_bytes. what: "kernel" or "initrd", for
 * messages. 0, or -errno after a message. path must live as long as the image.
 */
int image_read(struct image *img, const char *what, const char *path,
               uint64_t max_bytes) MUST_CHECK;
void image_free(struct image *img); /* one that image_read() filled, or a zeroed one */

/* A view of that part of the file, or NULL when the file does not have all of it. */
static inline const uint8_t *image_at(const struct image *img, uint64_t off_bytes, uint64_t bytes)
{
    if (off_bytes > img->bytes || bytes > img->bytes - off_bytes)
        return NULL;
    return img->data + off_bytes;
}

/* Says that this file cannot be booted and why; -ENOEXEC. */
#define image_refuse(...) (image_say_refused(__VA_ARGS__), -ENOEXEC)
void image_say_refused(const struct image *img, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Little-endian fields at any alignment. */
static inline uint16_t get_le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t get_le32(const uint8_t *p)
{
    return get_le16(p) | (uint32_t)get_le16(p + 2) << 16;
}

static inline uint64_t get_le64(const uint8_t *p)
{
    return get_le32(p) | (uint64_t)get_le32(p + 4) << 32;
}

#endif
