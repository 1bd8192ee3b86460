/* SPDX-License-Identifier: Apache-2.0 */
/* `doppel balloon`: how much memory a running VM keeps, through its control socket. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "lib/log.h"

static int balloon_help(void)
{
    (void)printf(
        "Usage: doppel balloon NAME SIZE\n"
        "\n"
        "  doppel balloon web 256M    the guest keeps 256 MiB of its memory; the rest\n"
        "                             goes back to the host as the guest gives it up\n"
        "  doppel balloon web 512M    ... and may have it again\n"
        "\n"
        "SIZE is at most the VM's --memory; it needs --device balloon. What the guest has\n"
        "given up by now, and what it says of its use of memory, is in `doppel stat NAME`.\n");
    return 0;
}

int cmd_balloon(int argc, char **argv)
{
    int nr = options_parse(NULL, 0, NULL, argc, argv);
    char line[96], *text;
    uint64_t bytes;

    if (nr == OPTIONS_HELP)
        return balloon_help();
    if (nr == OPTIONS_BAD)
        return EXIT_USAGE;
    if (nr != 2 || !ctl_name_ok(argv[1])) {
        log_error("balloon: a VM's NAME and a SIZE; `doppel balloon --help` tells more");
        return EXIT_USAGE;
    }
    if (!value_size(argv[2], &bytes) || bytes > INT64_MAX) {
        log_error("balloon: '%s' is not a size: a whole number with K, M, G or T, such as 256M",
                  argv[2]);
        return EXIT_USAGE;
    }
    (void)snprintf(line, sizeof(line), "{\"do\": \"balloon\", \"bytes\": %llu}\n",
                   (unsigned long long)bytes);
    text = ctl_request_line(argv[1], line);
    free(text);
    return text ? 0 : EXIT_VMM_ERROR;
}
