// SPDX-License-Identifier: Apache-2.0
/* What gcc compiles and links in the work gcc-small. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        printf("%d: %s, %zu bytes, %ld\n", i, argv[i], strlen(argv[i]), strtol(argv[i], NULL, 0));
    return 0;
}
