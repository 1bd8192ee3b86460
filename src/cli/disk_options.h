/* SPDX-License-Identifier: Apache-2.0 */
/* The value of --disk, parsed, and the image it names. */
#ifndef CLI_DISK_OPTIONS_H
#define CLI_DISK_OPTIONS_H

#include "vm/vm.h"

struct disk_option {
    char name[16];             /* "disk0": for messages */
    char *text;                /* malloc'ed: the other strings are in it */
    struct store_config store; /* its name is set when it is opened */
    struct vm_disk vm;         /* without its store */
};

/* path=FILE[,KEY=VALUE]...: false after a message. */
bool disk_option_parse(struct disk_option *o, unsigned idx, const char *val);
/* --cdrom: a CD-ROM drive with that image. False after a message. */
bool disk_option_cdrom(struct disk_option *o, unsigned idx, const char *path);
void disk_option_free(struct disk_option *o);
/* NULL after a message. */
struct store *disk_option_open(const struct disk_option *o);

#endif
