/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --share tag=NAME,path=DIR[,KEY[=VALUE]]...: each part is a row of keys[]. A comma in the folder's
 * name is written twice. A refusal names the part and what would be right.
 */
#include "cli/share_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

static bool share_set_tag(struct share_option *o, const char *val)
{
    o->tag = val;
    return *val && strlen(val) <= FS_TAG_MAX;
}

static bool share_set_path(struct share_option *o, const char *val)
{
    o->path = val;
    return *val;
}

static bool share_set_readonly(struct share_option *o, const char *val)
{
    o->readonly = strcmp(val, "off") != 0;
    return !*val || !strcmp(val, "on") || !strcmp(val, "off");
}

static bool share_set_cache(struct share_option *o, const char *val)
{
    static const char *const names[] = {
        [FS_CACHE_AUTO] = "auto", [FS_CACHE_NONE] = "none", [FS_CACHE_ALWAYS] = "always"
    };

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (!strcmp(val, names[i])) {
            o->cache = (enum fs_cache)i;
            return true;
        }
    return false;
}

static bool share_set_transport(struct share_option *o, const char *val)
{
    o->transport = strcmp(val, "mmio") ? VM_TRANSPORT_PCI : VM_TRANSPORT_MMIO;
    return !strcmp(val, "pci") || !strcmp(val, "mmio");
}

static const struct key {
    const char *name, *want;
    bool (*set)(struct share_option *o, const char *val);
} keys[] = {
    { "tag", "a name of 1 to 36 bytes", share_set_tag },
    { "path", "the name of a folder", share_set_path },
    { "readonly", "on or off", share_set_readonly },
    { "cache", "auto, none or always", share_set_cache },
    { "transport", "pci or mmio", share_set_transport },
};

static bool share_parse_part(struct share_option *o, char *part)
{
    char *val = strchr(part, '=');
    char have[128] = "";

    if (val)
        *val++ = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
        if (strcmp(part, keys[i].name) != 0) {
            (void)snprintf(have + strlen(have), sizeof(have) - strlen(have), " %s", keys[i].name);
            continue;
        }
        if (keys[i].set(o, val ? val : ""))
            return true;
        log_error("--share %s='%s' is not %s", part, val ? val : "", keys[i].want);
        return false;
    }
    log_error("--share tag=NAME,path=DIR: '%s' is unknown; there is%s", part, have);
    return false;
}

static bool share_check(const struct share_option *o, const struct share_option *others,
                        unsigned nr, const char *val)
{
    if (!o->tag || !o->path) {
        log_error("--share '%s' has no %s", val, o->tag ? "path=DIR" : "tag=NAME");
        return false;
    }
    for (unsigned i = 0; i < nr; i++)
        if (!strcmp(others[i].tag, o->tag)) {
            log_error("--share tag=%s: there is one with that tag already", o->tag);
            return false;
        }
    return true;
}

bool share_option_parse(struct share_option *o, const struct share_option *others, unsigned nr,
                        const char *val)
{
    char *rest, *part;
    bool ok = true;

    *o = (struct share_option){ .text = strdup(val) };
    if (!o->text) {
        log_error("out of memory");
        return false;
    }
    rest = o->text;
    while (ok && (part = value_next_part(&rest)))
        ok = share_parse_part(o, part);
    ok = ok && share_check(o, others, nr, val);
    if (!ok)
        share_option_free(o);
    return ok;
}

void share_option_free(struct share_option *o)
{
    free(o->text);
    *o = (struct share_option){ .text = NULL };
}

struct fs_share *share_option_open(const struct share_option *o, unsigned nr_shares)
{
    return fs_open(&(struct fs_config){ .tag = o->tag,
                                        .path = o->path,
                                        .readonly = o->readonly,
                                        .cache = o->cache,
                                        .nr_shares = nr_shares });
}
