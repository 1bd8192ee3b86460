/* SPDX-License-Identifier: Apache-2.0 */
/* `doppel resize`: a running VM's disk becomes larger, through its control socket. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

static int resize_help(void)
{
    (void)printf("Usage: doppel resize NAME DISK [SIZE]\n"
                 "\n"
                 "  doppel resize web disk0 20G    the VM's first --disk has 20 GiB from now on\n"
                 "  doppel resize web disk1        ... its second as much as its image has now\n"
                 "\n"
                 "The guest sees the new size at once; its file system is its own affair.\n");
    return 0;
}

/* "disk0", or "0". */
static bool resize_disk(const char *text, uint64_t *idx)
{
    if (!strncmp(text, "disk", 4))
        text += 4;
    return value_uint(text, 0, VM_DISKS_MAX - 1, idx);
}

int cmd_resize(int argc, char **argv)
{
    int nr = options_parse(NULL, 0, NULL, argc, argv);
    uint64_t disk, bytes = 0;
    char line[96], *text;

    if (nr == OPTIONS_HELP)
        return resize_help();
    if (nr == OPTIONS_BAD)
        return EXIT_USAGE;
    if (nr < 2 || nr > 3 || !ctl_name_ok(argv[1])) {
        log_error("resize: a VM's NAME, a DISK and a SIZE; `doppel resize --help` tells more");
        return EXIT_USAGE;
    }
    if (!resize_disk(argv[2], &disk)) {
        log_error("resize: '%s' is not a disk; they are disk0 to disk%d", argv[2],
                  VM_DISKS_MAX - 1);
        return EXIT_USAGE;
    }
    if (nr == 3 && (!value_size(argv[3], &bytes) || !bytes || bytes > INT64_MAX)) {
        log_error("resize: '%s' is not a size: a whole number with K, M, G or T, such as 20G",
                  argv[3]);
        return EXIT_USAGE;
    }
    (void)snprintf(line, sizeof(line), "{\"do\": \"resize\", \"disk\": %llu, \"bytes\": %llu}\n",
                   (unsigned long long)disk, (unsigned long long)bytes);
    text = ctl_request_line(argv[1], line);
    free(text);
    return text ? 0 : EXIT_VMM_ERROR;
}
