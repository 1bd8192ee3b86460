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
#define L1_MAX              (MIB(32) / 8)         /* QEMU's own limit */
#define L1_OFFSET           0x00fffffffffffe00ull /* "L1 table entry" */

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

/*
 * An image that was cut short (a download, a full disk): QEMU takes what is missing for zeroes, and
 * an image whose tables are missing for an empty one. Metadata have to be there: the tables that
 * the header names and those that the first of them names. What else is wrong `qemu-img check`
 * tells.
 */
static int check_whole(struct store *d, const struct qcow2_header *h)
{
    uint64_t l1_at = be64toh(h->l1_at), nr = be32toh(h->nr_l1), have = 0, need, l2[512];
    unsigned cluster_bits = be32toh(h->cluster_bits);

    if (store_measure(d, &have) < 0 || cluster_bits < 9 || cluster_bits > 21 || nr > L1_MAX ||
        l1_at > L1_OFFSET || be64toh(h->refcounts_at) > L1_OFFSET)
        return 0; /* QEMU says what is wrong with that */
    need = be64toh(h->refcounts_at) + ((uint64_t)be32toh(h->nr_refcount_clusters) << cluster_bits);
    need = MAX(need, l1_at + nr * sizeof(*l2));
    for (uint64_t i = 0; i < nr && need <= have; i += ARRAY_SIZE(l2)) {
        size_t now = MIN(nr - i, ARRAY_SIZE(l2));
        ssize_t n = pread(d->fd, l2, now * sizeof(*l2), (off_t)(l1_at + i * sizeof(*l2)));

        for (unsigned k = 0; n == (ssize_t)(now * sizeof(*l2)) && k < now; k++)
            if (be64toh(l2[k]) & L1_OFFSET)
                need = MAX(need, (be64toh(l2[k]) & L1_OFFSET) + STORE_SECTOR_BYTES);
    }
    if (need <= have)
        return 0;
    log_error("%s: '%s' is cut short: it has %llu bytes, its tables alone need %llu; "
              "`qemu-img check` tells more",
              d->cfg.name, d->what, (unsigned long long)have, (unsigned long long)need);
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
    return check_whole(d, h);
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
