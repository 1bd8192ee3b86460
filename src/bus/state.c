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

static uint8_t *field_at(const struct device *dev, const struct state_field *f)
{
    return (uint8_t *)dev->state_base + f->off_bytes;
}

static size_t bytes_of_version(const struct device *dev, unsigned version)
{
    size_t n = 0;

    for (unsigned i = 0; i < dev->type->nr_state; i++)
        if (dev->type->state[i].since <= version)
            n += dev->type->state[i].bytes;
    return n;
}

size_t state_bytes(const struct device *dev)
{
    return bytes_of_version(dev, UINT32_MAX);
}

void state_save(const struct device *dev, void *buf)
{
    uint8_t *to = buf;

    for (unsigned i = 0; i < dev->type->nr_state; i++) {
        const struct state_field *f = &dev->type->state[i];

        memcpy(to, field_at(dev, f), f->bytes);
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

int state_load(struct device *dev, const void *buf, size_t bytes, unsigned version)
{
    const struct device_type *t = dev->type;
    const uint8_t *from = buf;

    if (version > t->version) {
        log_error("%s: saved state has version %u, this doppel knows up to %u", t->name, version,
                  t->version);
        return -EINVAL;
    }
    if (bytes != bytes_of_version(dev, version)) {
        log_error("%s: saved state has %zu bytes, version %u has %zu", t->name, bytes, version,
                  bytes_of_version(dev, version));
        return -EINVAL;
    }
    for (unsigned i = 0; i < t->nr_state; i++) {
        const struct state_field *f = &t->state[i];

        if (f->since > version)
            continue;
        if (f->type == BOOL)
            load_bools((bool *)field_at(dev, f), from, f->bytes);
        else
            memcpy(field_at(dev, f), from, f->bytes);
        from += f->bytes;
    }
    if (t->loaded)
        t->loaded(dev);
    return 0;
}
