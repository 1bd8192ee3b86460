/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which format a file has. What is in it never decides: a guest writes what it likes to the first
 * sector of its raw disk, and if that made the file a qcow2 image at the next start, a header with
 * a backing file's name would give it any file of the host (QEMU: CVE-2008-2004). So the user
 * decides: by format=, or by a name that ends in .qcow2, and everything else is raw. The contents
 * can only contradict.
 *
 * Manual: "The QCOW2 image format", QEMU's docs/interop/qcow2.txt, "Header".
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/store_impl.h"

#define QCOW2_MAGIC         0x514649fbu /* "QFI\xfb" */
#define QCOW2_EXTERNAL_DATA BIT64(2)

struct qcow2_header {
    uint32_t magic, version;
    uint64_t backing_name_at;
    uint32_t backing_name_bytes, cluster_bits;
    uint64_t bytes;
    uint32_t crypt, nr_l1;
    uint64_t l1_at, refcounts_at;
    uint32_t nr_refcount_clusters, nr_snapshots;
    uint64_t snapshots_at;
    uint64_t incompatible; /* from version 3 on */
};
static_assert(offsetof(struct qcow2_header, incompatible) == 72, "Header");

static bool is_named_qcow2(const char *path)
{
    size_t len = strlen(path);

    return len > 6 && !strcmp(path + len - 6, ".qcow2");
}

static int refuse(const struct store *d, const char *why)
{
    log_error("%s: '%s' %s", d->cfg.name, d->what, why);
    return -EINVAL;
}

static int settle_qcow2(struct store *d, const struct qcow2_header *h)
{
    bool chosen = d->cfg.format == STORE_FORMAT_QCOW2;

    d->cfg.format = STORE_FORMAT_QCOW2;
    if (be32toh(h->magic) != QCOW2_MAGIC)
        return refuse(d, chosen ? "is no qcow2 image: it does not begin with a qcow2 header; "
                                  "without format=qcow2 it is a raw disk"
                                : "has the name of a qcow2 image, but does not begin with a qcow2 "
                                  "header; format=raw takes it as it is");
    if (be32toh(h->version) >= 3 && be64toh(h->incompatible) & QCOW2_EXTERNAL_DATA)
        return refuse(d, "is a qcow2 image with its data in another file, which is not supported; "
                         "`qemu-img convert -O qcow2` makes one file of it");
    return 0;
}

int store_settle_format(struct store *d)
{
    struct qcow2_header h = { 0 };
    ssize_t n = pread(d->fd, &h, sizeof(h), 0);

    if (n < 0) {
        log_error("%s: cannot read '%s': %s", d->cfg.name, d->what, strerror(errno));
        return -errno;
    }
    if (d->cfg.format == STORE_FORMAT_RAW)
        return 0;
    if (d->cfg.format == STORE_FORMAT_QCOW2 || is_named_qcow2(d->cfg.path))
        return settle_qcow2(d, &h);
    if (be32toh(h.magic) == QCOW2_MAGIC)
        return refuse(d, "begins with a qcow2 header, and only you can tell what it is: "
                         "format=qcow2 if you made it one; format=raw if a guest had it as a raw "
                         "disk, as it may have written that to read this host's files");
    d->cfg.format = STORE_FORMAT_RAW;
    return 0;
}
