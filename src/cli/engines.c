/* SPDX-License-Identifier: Apache-2.0 */
/* `doppel engines`: which engines this build has, which this host can run, and why not. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

/* True: it can run here, and auto may take it. */
static bool engine_print(const struct engine_ops *e)
{
    char why[256] = "", line[256] = "";
    bool runs = e->probe(why, sizeof(why)) == 0;
    bool good = runs && (!e->recommend || e->recommend(why, sizeof(why)) == 0);

    (void)printf("%-8s %-4s %s\n", e->name,
                 good   ? "yes"
                 : runs ? "part"
                        : "no",
                 runs ? e->about : why);
    if (runs && !good)
        (void)snprintf(line, sizeof(line), "auto does not take it: %.200s", why);
    else if (good && e->describe)
        e->describe(line, sizeof(line));
    if (*line)
        (void)printf("%-8s %-4s %s\n", "", "", line);
    return good;
}

int cmd_engines(int argc, char **argv)
{
    int nr = options_parse(NULL, 0, NULL, argc, argv);
    bool found = false;

    if (nr == OPTIONS_HELP) {
        (void)printf(
            "Usage: doppel engines\n\n"
            "Lists the engines in the order in which --engine auto tries them: yes, no, or\n"
            "part, which runs some guests, and only when it is named.\n");
        return 0;
    }
    if (nr != 0) {
        if (nr > 0)
            log_error("engines: unexpected argument '%s'", argv[1]);
        return EXIT_USAGE;
    }
    for (unsigned i = 0; engines[i]; i++)
        found |= engine_print(engines[i]);
    if (fflush(stdout))
        return EXIT_VMM_ERROR;
    return found ? 0 : EXIT_VMM_ERROR;
}
