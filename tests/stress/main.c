// SPDX-License-Identifier: Apache-2.0
/*
 * stress NAME SEED SIZE: runs one work and prints "NAME SEED SIZE: RESULT". stress list: the names.
 */
#include "stress.h"

#include <string.h>
#include <sys/time.h>

static const struct work *const all[] = { process_works, memory_works, code_works, signal_works,
                                          thread_works };

void alarm_every_us(unsigned us)
{
    struct itimerval t = { { 0, us }, { 0, us } };

    MUST(!setitimer(ITIMER_REAL, &t, NULL));
}

int main(int argc, char **argv)
{
    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        for (const struct work *w = all[i]; w->name; w++) {
            struct rng r;

            if (argc == 2 && !strcmp(argv[1], "list")) {
                printf("%s\n", w->name);
                continue;
            }
            if (argc != 4 || strcmp(argv[1], w->name) != 0)
                continue;
            r = rng_of(strtoull(argv[2], NULL, 0));
            printf("%s %s %s: %016lx\n", argv[1], argv[2], argv[3],
                   w->run(&r, (unsigned)strtoul(argv[3], NULL, 0)));
            return 0;
        }
    if (argc == 2)
        return 0;
    (void)fprintf(stderr, "usage: stress list | stress NAME SEED SIZE\n");
    return 2;
}
