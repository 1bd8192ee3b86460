/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device's state as a flat buffer: its fields in the order of its table, little endian, no
 * padding. Host and guest are both little endian, so a field's bytes are its encoding.
 *
 * A table only grows: a field says with which version it came, and a buffer of version n holds
 * those of version n and before. Loading an older one leaves newer fields as they are after reset.
 */
#include "bus/bus.h"

#include <errno.h>
#include <string.h>

static size_t bytes_of_version(const struct state_table *t, unsigned version)
{
    size_t n = 0;

    for (unsigned i = 0; i < t->nr; i++)
        if (t->fields[i].since <= version)
            n += t->fields[i].bytes;
    return n;
}

size_t state_table_bytes(const struct state_table *t)
{
    return bytes_of_version(t, UINT32_MAX);
}

void state_table_save(const struct state_table *t, const void *base, void *buf)
{
    uint8_t *to = buf;

    for (unsigned i = 0; i < t->nr; i++) {
        const struct state_field *f = &t->fields[i];

        memcpy(to, (const uint8_t *)base + f->off_bytes, f->bytes);
        to += f->bytes;
    }
}

/* Other bytes than 0 and 1 in a bool are undefined behaviour, and the buffer may come from
 * anywhere. */
static void load_bools(bool *to, const uint8_t *from, uint32_t nr)
{
    for (uint32_t i = 0; i < nr; i++)
        to[i] = from[i] != 0;
}

int state_table_load(const struct state_table *t, void *base, const void *buf, size_t bytes,
                     unsigned version)
{
    const uint8_t *from = buf;

    if (version > t->version) {
        log_error("%s: saved state has version %u, this doppel knows up to %u", t->name, version,
                  t->version);
        return -EINVAL;
    }
    if (bytes != bytes_of_version(t, version)) {
        log_error("%s: saved state has %zu bytes, version %u has %zu", t->name, bytes, version,
                  bytes_of_version(t, version));
        return -EINVAL;
    }
    for (unsigned i = 0; i < t->nr; i++) {
        const struct state_field *f = &t->fields[i];
        uint8_t *to = (uint8_t *)base + f->off_bytes;

        if (f->since > version)
            continue;
        if (f->type == BOOL)
            load_bools((bool *)to, from, f->bytes);
        else
            memcpy(to, from, f->bytes);
        from += f->bytes;
    }
    return 0;
}

/* ---- devices ---- */

struct state_table state_table_of(const struct device *dev)
{
    const struct device_type *t = dev->type;

    return (struct state_table){
        .name = t->name, .fields = t->state, .nr = t->nr_state, .version = t->version
    };
}

size_t state_bytes(const struct device *dev)
{
    struct state_table t = state_table_of(dev);

    return state_table_bytes(&t);
}

void state_save(const struct device *dev, void *buf)
{
    struct state_table t = state_table_of(dev);

    state_table_save(&t, dev->state_base, buf);
}

int state_loaded(struct device *dev)
{
    int err = dev->type->check ? dev->type->check(dev) : 0;

    if (!err && dev->type->loaded)
        dev->type->loaded(dev);
    return err;
}

int state_load(struct device *dev, const void *buf, size_t bytes, unsigned version)
{
    struct state_table t = state_table_of(dev);
    int err = state_table_load(&t, dev->state_base, buf, bytes, version);

    return err ? err : state_loaded(dev);
}
