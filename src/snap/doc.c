/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state file: a head with checksums, a JSON text, and the bytes that it describes. Reading it
 * is reading a stranger's: nothing is believed before it was checked.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snap/crc.h"
#include "snap/priv.h"

#define JSON_MAX     MIB(16)
#define SECTIONS_MAX 65536u

static const char doc_magic[16] = DOC_MAGIC;

/* Little endian, as all of it. */
struct doc_head {
    char magic[16];
    uint32_t format;
    uint32_t json_bytes;
    uint64_t state_bytes;
    uint32_t json_crc, state_crc;
    uint8_t zero[20];
    uint32_t head_crc; /* of what is before */
};
_Static_assert(sizeof(struct doc_head) == 64, "docs/snapshot.md, The state file");

int snap_fail(const struct snap_why *why, int err, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    log_error("%s", text);
    if (why && why->text && why->bytes)
        (void)snprintf(why->text, why->bytes, "%s", text);
    return err;
}

/* ---- making ---- */

bool doc_add(struct snap_doc *d, const char *name, unsigned version, const void *data, size_t bytes)
{
    json_t *list = json_object_get(d->json, "state");
    json_t *entry = json_pack("{s:s, s:i, s:I}", "name", name, "version", (int)version, "bytes",
                              (json_int_t)bytes);
    uint8_t *state = realloc(d->state, d->state_bytes + bytes + !bytes);

    if (state)
        d->state = state;
    if (!state || json_array_append_new(list, entry) < 0)
        return false;
    memcpy(d->state + d->state_bytes, data, bytes);
    d->state_bytes += bytes;
    return true;
}

/* Who does not know of compressed memory does not know the format. */
static uint32_t doc_format(const json_t *json)
{
    return json_object_get(json_object_get(json, "memory"), "compression") ? SNAP_FORMAT_ZSTD
                                                                           : SNAP_FORMAT;
}

uint8_t *doc_make(const struct snap_doc *d, size_t *bytes)
{
    char *json = json_dumps(d->json, JSON_INDENT(1));
    size_t json_bytes = json ? strlen(json) + 1 : 0; /* and a newline */
    struct doc_head h = { .format = doc_format(d->json),
                          .json_bytes = (uint32_t)json_bytes,
                          .state_bytes = d->state_bytes };
    uint8_t *file;

    *bytes = sizeof(h) + json_bytes + d->state_bytes;
    file = json && json_bytes <= JSON_MAX ? malloc(*bytes) : NULL;
    if (file) {
        json[json_bytes - 1] = '\n';
        memcpy(h.magic, doc_magic, sizeof(h.magic));
        h.json_crc = crc32c(0, json, json_bytes);
        h.state_crc = crc32c(0, d->state, d->state_bytes);
        h.head_crc = crc32c(0, &h, offsetof(struct doc_head, head_crc));
        memcpy(file, &h, sizeof(h));
        memcpy(file + sizeof(h), json, json_bytes);
        memcpy(file + sizeof(h) + json_bytes, d->state, d->state_bytes);
    }
    free(json);
    return file;
}

/* ---- reading ---- */

static int doc_check_head(const uint8_t *file, size_t bytes, struct doc_head *h,
                          const struct snap_why *why)
{
    if (bytes < sizeof(*h))
        return snap_fail(why, -EINVAL, "the snapshot's state file has only %zu bytes", bytes);
    memcpy(h, file, sizeof(*h));
    if (memcmp(h->magic, doc_magic, sizeof(h->magic)) != 0)
        return snap_fail(why, -EINVAL, "that is no state file of a snapshot of doppel");
    if (h->format != SNAP_FORMAT && h->format != SNAP_FORMAT_ZSTD)
        return snap_fail(why, -EINVAL,
                         "the snapshot has format %u; this doppel (%s) knows formats %u and %u",
                         h->format, DOPPEL_VERSION, SNAP_FORMAT, SNAP_FORMAT_ZSTD);
    if (crc32c(0, h, offsetof(struct doc_head, head_crc)) != h->head_crc)
        return snap_fail(why, -EINVAL, "the snapshot's state file is damaged: its head");
    if (h->json_bytes > JSON_MAX || h->json_bytes > bytes - sizeof(*h) ||
        h->state_bytes != bytes - sizeof(*h) - h->json_bytes)
        return snap_fail(why, -EINVAL, "the snapshot's state file is cut off or too long");
    if (crc32c(0, file + sizeof(*h), h->json_bytes) != h->json_crc ||
        crc32c(0, file + sizeof(*h) + h->json_bytes, h->state_bytes) != h->state_crc)
        return snap_fail(why, -EINVAL, "the snapshot's state file is damaged: a checksum is wrong");
    return 0;
}

static int doc_read_section(struct snap_doc *d, const json_t *entry, size_t *at)
{
    const char *name = json_string_value(json_object_get(entry, "name"));
    json_int_t version = json_integer_value(json_object_get(entry, "version"));
    json_int_t bytes = json_integer_value(json_object_get(entry, "bytes"));

    if (!name || version < 0 || version > INT32_MAX || bytes < 0 ||
        (uint64_t)bytes > d->state_bytes - *at)
        return -EINVAL;
    d->sections[d->nr_sections++] = (struct snap_section){
        .name = name, .version = (unsigned)version, .data = d->state + *at, .bytes = (size_t)bytes
    };
    *at += (size_t)bytes;
    return 0;
}

static int doc_read_sections(struct snap_doc *d, const struct snap_why *why)
{
    const json_t *list = json_object_get(d->json, "state");
    size_t nr = json_array_size(list), at = 0;

    if (!json_is_array(list) || nr > SECTIONS_MAX)
        return snap_fail(why, -EINVAL, "the snapshot's JSON has no list of its state");
    d->sections = calloc(nr + 1, sizeof(*d->sections));
    if (!d->sections)
        return snap_fail(why, -ENOMEM, "out of memory");
    for (size_t i = 0; i < nr; i++)
        if (doc_read_section(d, json_array_get(list, i), &at) < 0)
            return snap_fail(why, -EINVAL, "the snapshot's JSON and its state do not fit (%zu)", i);
    if (at != d->state_bytes)
        return snap_fail(why, -EINVAL, "the snapshot has more state than its JSON tells of");
    return 0;
}

int doc_parse(struct snap_doc *d, uint8_t *file, size_t bytes, const struct snap_why *why)
{
    struct doc_head h = { 0 };
    json_error_t error;
    int err;

    *d = (struct snap_doc){ .file = file };
    err = doc_check_head(file, bytes, &h, why);
    if (err)
        goto fail;
    d->json =
        json_loadb((const char *)file + sizeof(h), h.json_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(d->json)) {
        err = snap_fail(why, -EINVAL, "the snapshot's JSON: line %d: %s", error.line,
                        d->json ? "no object" : error.text);
        goto fail;
    }
    d->state = file + sizeof(h) + h.json_bytes;
    d->state_bytes = h.state_bytes;
    err = doc_read_sections(d, why);
    if (err)
        goto fail;
    return 0;

fail:
    doc_free(d);
    return err;
}

void doc_free(struct snap_doc *d)
{
    json_decref(d->json);
    free(d->sections);
    if (!d->file)
        free(d->state);
    free(d->file);
    *d = (struct snap_doc){ 0 };
}
