/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images that are not just bytes: qcow2, and whatever is not to be written to (snapshot=on). A
 * process of their own (store_child.h) has them open, and the guest's requests go to it by NBD.
 *
 * Its nodes: "file" has the bytes, "image" the format; with snapshot=on "disk" is a new qcow2 image
 * over that, in a file without a name, else "image" is the disk. The export has the node's name.
 * The process holds QEMU's locks on the image and what is behind it, and the disk thread does not
 * outlive it.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/store_child.h"
#include "backend/store_nbd.h"

#define NS_PER_MS 1000000ull
#define FREE_NS   (2000 * NS_PER_MS) /* for the process of a VM that was killed to end */
#define LOOK_MS   20

static const char *disk_node(const struct store *d)
{
    return d->cfg.snapshot ? "disk" : "image";
}

/* ---- telling it what to do ---- */

/* What fails in words that are QEMU's alone, and what can be done. */
static const struct hint {
    const char *in, *text;
} hints[] = {
    { " lock", " (it, or a backing file of it, is in use by another process)" },
    { "Operation not permitted", " (backing files have to be files of this host)" },
    { "backing file", " (`qemu-img info --backing-chain` shows what it needs)" },
    { "corrupt", " (`qemu-img check` tells more, `qemu-img check -r all` repairs)" },
    { "encrypt", " (encrypted images are not supported)" },
};

static int image_fail(struct store *d, int err)
{
    const char *hint = "";
    char buf[512];
    const char *why = store_child_why(d->child, buf, sizeof(buf));

    for (unsigned i = 0; i < ARRAY_SIZE(hints) && !*hint; i++)
        if (strstr(why, hints[i].in))
            hint = hints[i].text;
    log_error("%s: '%s': %s%s", d->cfg.name, d->what, why, hint);
    return err;
}

/* One command whose result does not matter. */
static int image_do(struct store *d, const char *command, json_t *args)
{
    int err = qmp_do(&d->child->qmp, command, args, NULL);

    return err ? image_fail(d, err) : 0;
}

/* The bytes: never what a name with a colon means to QEMU. */
static json_t *file_node(const struct store *d, const char *node, const char *path, bool readonly)
{
    char name[4096];

    (void)snprintf(name, sizeof(name), "%s%s", *path == '/' ? "" : "./", path);
    return json_pack("{s:s, s:s, s:s, s:b, s:s, s:s}", "node-name", node, "driver",
                     d->is_device && path == d->cfg.path ? "host_device" : "file", "filename", name,
                     "read-only", readonly, "discard", "unmap", "aio",
                     d->cfg.aio == STORE_AIO_URING ? "io_uring" : "threads");
}

static int image_add_nodes(struct store *d)
{
    bool readonly = d->cfg.readonly || d->cfg.snapshot;
    int err = image_do(d, "blockdev-add", file_node(d, "file", d->cfg.path, readonly));

    if (err)
        return err;
    return image_do(d, "blockdev-add",
                    json_pack("{s:s, s:s, s:s, s:b, s:s}", "node-name", "image", "driver",
                              d->cfg.format == STORE_FORMAT_QCOW2 ? "qcow2" : "raw", "file", "file",
                              "read-only", readonly, "discard", "unmap"));
}

/* ---- snapshot=on ---- */

static int image_measure(struct store *d, json_int_t *bytes)
{
    json_t *nodes = NULL, *node;
    size_t i;
    int err = qmp_do(&d->child->qmp, "query-named-block-nodes", NULL, &nodes);

    *bytes = 0;
    json_array_foreach(nodes, i, node)
    {
        const char *name = json_string_value(json_object_get(node, "node-name"));

        if (name && !strcmp(name, "image"))
            *bytes =
                json_integer_value(json_object_get(json_object_get(node, "image"), "virtual-size"));
    }
    json_decref(nodes);
    return err ? image_fail(d, err) : 0;
}

/* Until the job "overlay" is over. */
static int image_wait_job(struct store *d)
{
    struct qmp *q = &d->child->qmp;
    bool over = false;
    int err = 0;

    while (!err && !over) {
        json_t *jobs = NULL, *job;
        const char *status, *why;

        err = qmp_do(q, "query-jobs", NULL, &jobs);
        job = json_array_get(jobs, 0);
        status = json_string_value(json_object_get(job, "status"));
        why = json_string_value(json_object_get(job, "error"));
        over = status && !strcmp(status, "concluded");
        if (over && why) {
            log_error("%s: cannot make an overlay for '%s': %s", d->cfg.name, d->what, why);
            json_decref(jobs);
            return -EIO;
        }
        json_decref(jobs);
        if (!err && !over)
            err = qmp_wait(q, "JOB_STATUS_CHANGE", "id", "overlay");
    }
    return err ? image_fail(d, err)
               : image_do(d, "job-dismiss", json_pack("{s:s}", "id", "overlay"));
}

static int image_add_overlay(struct store *d)
{
    json_int_t bytes;
    int err = image_measure(d, &bytes);

    if (!err)
        err = image_do(d, "blockdev-add", file_node(d, "over", CHILD_OVERLAY_PATH, false));
    if (!err)
        err = image_do(d, "blockdev-create",
                       json_pack("{s:s, s:{s:s, s:s, s:I}}", "job-id", "overlay", "options",
                                 "driver", "qcow2", "file", "over", "size",
                                 (json_int_t)align_down((uint64_t)bytes, STORE_SECTOR_BYTES)));
    if (!err)
        err = image_wait_job(d);
    /* Nothing of it has to survive, so a flush is nothing. */
    if (!err)
        err = image_do(d, "blockdev-add",
                       json_pack("{s:s, s:s, s:s, s:s, s:s, s:{s:b}}", "node-name", "disk",
                                 "driver", "qcow2", "file", "over", "backing", "image", "discard",
                                 "unmap", "cache", "no-flush", true));
    return err;
}

/* ---- export ---- */

static int image_export(struct store *d)
{
    int fd, err = image_do(d, "block-export-add",
                           json_pack("{s:s, s:s, s:s, s:s, s:b}", "type", "nbd", "id", "disk",
                                     "node-name", disk_node(d), "name", "", "writable",
                                     !d->cfg.readonly));

    if (err)
        return err;
    fd = store_child_connect(d->child);
    if (fd < 0) {
        log_error("%s: cannot connect to the process that has '%s' open: %s", d->cfg.name, d->what,
                  strerror(-fd));
        return fd;
    }
    return store_nbd_connect(d, fd);
}

static int image_unexport(struct store *d)
{
    struct qmp *q = &d->child->qmp;
    bool gone = false;
    int err;

    store_nbd_disconnect(d);
    err = image_do(d, "block-export-del", json_pack("{s:s, s:s}", "id", "disk", "mode", "hard"));
    while (!err && !gone) {
        json_t *exports = NULL;

        err = qmp_do(q, "query-block-exports", NULL, &exports);
        gone = !json_array_size(exports);
        json_decref(exports);
        if (!err && !gone)
            err = qmp_wait(q, "BLOCK_EXPORT_DELETED", "id", "disk");
        if (err)
            err = image_fail(d, err);
    }
    return err;
}

/* ---- the kind ---- */

/*
 * Who uses the image may be about to leave: a VM was killed, and the process that it left behind is
 * writing its last.
 */
static int image_wait_free(struct store *d)
{
    uint64_t until = host_mono_ns() + FREE_NS;

    while (store_in_use(d)) {
        if (host_mono_ns() >= until)
            return store_say_in_use(d);
        (void)usleep(LOOK_MS * 1000);
    }
    return 0;
}

static int image_open(struct store *d)
{
    uint64_t bytes = 0;
    int err = image_wait_free(d);

    /* QEMU would fill it up to a sector. */
    if (!err && d->cfg.format == STORE_FORMAT_RAW && store_measure(d, &bytes) == 0)
        err = store_set_bytes(d, bytes);
    if (!err)
        err = store_child_start(d, d->cfg.snapshot);
    if (!err)
        err = image_add_nodes(d);
    if (!err && d->cfg.snapshot)
        err = image_add_overlay(d);
    if (!err)
        err = image_export(d);
    if (err) {
        store_nbd_free(d);
        store_child_end(d, CHILD_KILL);
    }
    return err;
}

static void image_close(struct store *d)
{
    bool writes = !d->cfg.readonly && !d->cfg.snapshot;
    int err = writes && !d->nbd->lost ? store_nbd_flush(d) : 0;

    if (err)
        log_error("%s: '%s': cannot flush: %s", d->cfg.name, d->what, strerror(-err));
    store_nbd_free(d);
    store_child_end(d, writes ? CHILD_QUIT : CHILD_KILL);
}

/* Nothing is out. QEMU gives an export the size that its node had at the beginning, so there is a
 * new one. */
static int image_resize_now(struct store *d, uint64_t bytes)
{
    int err, again;

    if (d->nbd->lost)
        return -EIO;
    err = image_unexport(d);
    if (!err)
        err =
            image_do(d, "block_resize",
                     json_pack("{s:s, s:I}", "node-name", disk_node(d), "size", (json_int_t)bytes));
    again = image_export(d);
    if (again < 0) {
        d->nbd->lost = true;
        log_error("%s: '%s' is lost: the guest gets I/O errors from now on", d->cfg.name, d->what);
        return again;
    }
    return err;
}

static int image_resize(struct store *d, uint64_t bytes)
{
    /* Nobody else can have made it larger: it is locked. */
    if (!bytes || bytes == store_bytes(d))
        return 0;
    return store_nbd_when_idle(d, image_resize_now, bytes);
}

static void image_lost(struct store *d, const char *why)
{
    char buf[512];

    (void)why;
    log_error("%s: the process that has '%s' open is lost (%s): the guest gets I/O errors from now "
              "on; what it had flushed is in the image. Start the VM again",
              d->cfg.name, d->what, store_child_why(d->child, buf, sizeof(buf)));
}

const struct store_kind store_image = {
    .open = image_open,
    .close = image_close,
    .resize = image_resize,
    .lost = image_lost,
};
