/* SPDX-License-Identifier: Apache-2.0 */
/* The metadata service's tree and its configuration: see mmds.h. */
#include "api/mmds.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/mmds_priv.h"
#include "lib/log.h"

struct mmds *mmds_create(uint64_t max_bytes)
{
    struct mmds *m = calloc(1, sizeof(*m));

    if (!m) {
        log_error("out of memory");
        return NULL;
    }
    m->max_bytes = max_bytes;
    m->cfg.addr = MMDS_DEFAULT_ADDR;
    lock_init(&m->lock, LOCK_LEAF);
    return m;
}

void mmds_destroy(struct mmds *m)
{
    if (!m)
        return;
    json_decref(m->data);
    lock_destroy(&m->lock);
    free(m);
}

void mmds_configure(struct mmds *m, const struct mmds_config *cfg)
{
    lock_take(&m->lock);
    m->cfg = *cfg;
    lock_drop(&m->lock);
}

struct mmds_config mmds_config_of(struct mmds *m)
{
    struct mmds_config cfg;

    lock_take(&m->lock);
    cfg = m->cfg;
    lock_drop(&m->lock);
    return cfg;
}

/* Takes the object, if it returns 0. */
static int mmds_take(struct mmds *m, json_t *data)
{
    if (!data)
        return -ENOMEM;
    if (json_dumpb(data, NULL, 0, JSON_COMPACT) > m->max_bytes) {
        json_decref(data);
        return -E2BIG;
    }
    lock_take(&m->lock);
    json_decref(m->data);
    m->data = data;
    lock_drop(&m->lock);
    return 0;
}

int mmds_put_data(struct mmds *m, const json_t *data)
{
    return json_is_object(data) ? mmds_take(m, json_deep_copy(data)) : -EINVAL;
}

/* Depth is that of JSON the library has parsed. False: out of memory. */
static bool merge(json_t *into, const json_t *patch)
{
    const char *name;
    json_t *val;

    json_object_foreach((json_t *)patch, name, val)
    {
        json_t *old = json_object_get(into, name), *copy;

        if (json_is_null(val)) {
            (void)json_object_del(into, name); /* it need not be there */
            continue;
        }
        if (!json_is_object(val)) {
            if (json_object_set_new(into, name, json_deep_copy(val)) < 0)
                return false;
            continue;
        }
        if (!json_is_object(old)) {
            copy = json_object();
            if (json_object_set_new(into, name, copy) < 0)
                return false;
            old = copy;
        }
        if (!merge(old, val))
            return false;
    }
    return true;
}

int mmds_patch_data(struct mmds *m, const json_t *patch)
{
    json_t *all;

    if (!json_is_object(patch))
        return -EINVAL;
    if (!m->data) /* only this thread changes it */
        return -ENOENT;
    all = json_deep_copy(m->data);
    if (all && !merge(all, patch)) {
        json_decref(all);
        all = NULL;
    }
    return mmds_take(m, all);
}

json_t *mmds_get_data(struct mmds *m)
{
    return m->data ? json_deep_copy(m->data) : json_null();
}
