/* SPDX-License-Identifier: Apache-2.0 */
/* The doppel command. Kept apart from the library, which tests link. */
#include "cli/cli.h"

int main(int argc, char **argv)
{
    return cli_main(argc, argv);
}
