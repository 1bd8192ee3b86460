/* SPDX-License-Identifier: Apache-2.0 */
/* `doppel engines`: which engines this build has, which this host can run, and why not. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

int cmd_engines(int argc, char **argv)
{
    int nr = options_parse(NULL, 0, NULL, argc, argv);
    bool found = false;

    if (nr == OPTIONS_HELP) {
        (void)printf("Usage: doppel engines\n\n"
                     "Lists the engines in the order in which --engine auto tries them.\n");
        return 0;
    }
    if (nr != 0) {
        if (nr > 0)
            log_error("engines: unexpected argument '%s'", argv[1]);
        return EXIT_USAGE;
    }
    for (unsigned i = 0; engines[i]; i++) {
        char why[256] = "";
        bool ok = engines[i]->probe(why, sizeof(why)) == 0;

        (void)printf("%-8s %-4s %s\n", engines[i]->name, ok ? "yes" : "no",
                     ok ? engines[i]->about : why);
        if (ok && engines[i]->describe) {
            char line[256] = "";

            engines[i]->describe(line, sizeof(line));
            (void)printf("%-8s %-4s %s\n", "", "", line);
        }
        found |= ok;
    }
    if (fflush(stdout))
        return EXIT_VMM_ERROR;
    return found ? 0 : EXIT_VMM_ERROR;
}
