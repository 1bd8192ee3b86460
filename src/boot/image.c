/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading image files whole. Plain stdio, so that pipes and devices work like files; the size is
 * found by reading, never believed, because a file can grow while it is read and a pipe has none.
 */
#include "boot/image.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/log.h"

#define IMAGE_CHUNK_BYTES MIB(1)

/* Makes room for one more chunk; doubling keeps the copies few. */
static int image_grow(uint8_t **buf, uint64_t *room, uint64_t used)
{
    uint64_t want = *room ? *room * 2 : IMAGE_CHUNK_BYTES;
    uint8_t *p;

    if (*room - used >= IMAGE_CHUNK_BYTES)
        return 0;
    p = realloc(*buf, want);
    if (!p)
        return -ENOMEM;
    *buf = p;
    *room = want;
    return 0;
}

static int image_read_all(FILE *f, uint8_t **buf, uint64_t *bytes, uint64_t max_bytes)
{
    uint64_t room = 0;
    size_t n;
    int rc;

    do {
        rc = image_grow(buf, &room, *bytes);
        if (rc < 0)
            return rc;
        errno = 0;
        n = fread(*buf + *bytes, 1, IMAGE_CHUNK_BYTES, f);
        *bytes += n;
        if (*bytes > max_bytes)
            return -EFBIG;
    } while (n == IMAGE_CHUNK_BYTES);
    if (ferror(f))
        return errno ? -errno : -EIO;
    return 0;
}

static int image_read_failed(const char *what, const char *path, uint64_t max_bytes, int rc)
{
    if (rc == -EFBIG)
        log_error("%s '%s' is larger than the limit of %llu bytes: is it the right file?", what,
                  path, (unsigned long long)max_bytes);
    else
        log_error("%s: cannot read '%s': %s", what, path, strerror(-rc));
    return rc;
}

int image_read(struct image *img, const char *what, const char *path, uint64_t max_bytes)
{
    uint8_t *buf = NULL;
    uint64_t bytes = 0;
    FILE *f;
    int rc;

    *img = (struct image){ .path = path };
    f = fopen(path, "rbe");
    if (!f) {
        rc = errno ? -errno : -EIO;
        log_error("%s: cannot open '%s': %s", what, path, strerror(-rc));
        return rc;
    }
    rc = image_read_all(f, &buf, &bytes, max_bytes);
    (void)fclose(f); /* only read from: nothing can be lost */
    if (rc < 0) {
        free(buf);
        return image_read_failed(what, path, max_bytes, rc);
    }
    if (!bytes) {
        free(buf);
        log_error("%s '%s' is empty", what, path);
        return -ENOEXEC;
    }
    img->data = buf;
    img->bytes = bytes;
    return 0;
}

void image_free(struct image *img)
{
    free((void *)img->data);
    *img = (struct image){ 0 };
}

void image_say_refused(const struct image *img, const char *fmt, ...)
{
    char why[512];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    log_error("'%s' is not a kernel doppel can boot: %s", img->path, why);
}
