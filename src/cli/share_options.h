/* SPDX-License-Identifier: Apache-2.0 */
/* The value of --share, parsed, and the folder it names. */
#ifndef CLI_SHARE_OPTIONS_H
#define CLI_SHARE_OPTIONS_H

#include "backend/fs.h"
#include "vm/vm.h"

struct share_option {
    char *text; /* malloc'ed: the other strings are in it */
    const char *tag, *path;
    bool readonly;
    enum fs_cache cache;
    enum vm_transport transport;
};

/* tag=NAME,path=DIR[,KEY[=VALUE]]...; others: those that there are already, with other tags. False
 * after a message. */
bool share_option_parse(struct share_option *o, const struct share_option *others, unsigned nr,
                        const char *val);
void share_option_free(struct share_option *o);
/* One of nr_shares. NULL after a message. */
struct fs_share *share_option_open(const struct share_option *o, unsigned nr_shares);

#endif
