/* SPDX-License-Identifier: Apache-2.0 */
/* Which subcommands there are, and those that are a line or two. A command is one row. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "lib/log.h"

static const struct command table[] = {
    { "run", "run a virtual machine", cmd_run },
    { "api", "a virtual machine that Firecracker's clients drive, over a socket", cmd_api },
    { "stat", "where a running VM's time goes", cmd_stat },
    { "top", "what the running VMs do, as a live table", cmd_top },
    { "ps", "which VMs are running", cmd_ps },
    { "console", "this terminal on a running VM's console", cmd_console },
    { "pause", "let a running VM stand still", cmd_pause },
    { "resume", "let a paused VM go on", cmd_resume },
    { "snapshot", "keep a running VM's state, for `doppel run --restore`", cmd_snapshot },
    { "stop", "shut down a running VM, or end it by force", cmd_stop },
    { "balloon", "take memory from a running VM, or give it back", cmd_balloon },
    { "screenshot", "a running VM's screen as a picture or as text", cmd_screenshot },
    { "sendkey", "press keys on a running VM's keyboard", cmd_sendkey },
    { "resize", "make a disk of a running VM larger", cmd_resize },
    { "engines", "which engines this host can run", cmd_engines },
    { "version", "print the version", cmd_version },
    { "help", "this, or `doppel help COMMAND`", cmd_help },
    { NULL, NULL, NULL },
};
const struct command *const cli_commands = table;

static const struct command *command_find(const char *name)
{
    for (const struct command *c = table; c->name; c++)
        if (!strcmp(c->name, name))
            return c;
    return NULL;
}

static const char *command_name(const void *ctx, unsigned i)
{
    (void)ctx;
    return table[i].name;
}

int cmd_version(int argc, char **argv)
{
    (void)argc, (void)argv;
    return printf("doppel %s\n", DOPPEL_VERSION) < 0 || fflush(stdout) ? EXIT_VMM_ERROR : 0;
}

static void print_overview(FILE *f)
{
    (void)fprintf(f,
                  "doppel runs virtual machines, with or without hardware virtualization.\n"
                  "\n"
                  "  doppel run --kernel vmlinuz --initrd initramfs.cpio --append console=ttyS0\n"
                  "      boots a Linux kernel with its console on this terminal; Ctrl-A x ends it\n"
                  "  doppel run --kernel vmlinuz --name web --memory 2G --serial file=web.log\n"
                  "  doppel ps\n"
                  "      lists the VMs that run\n"
                  "  doppel stat web\n"
                  "      shows what the VM named \"web\" spends its time on\n"
                  "\n"
                  "Commands:\n");
    for (const struct command *c = table; c->name; c++)
        (void)fprintf(f, "  %-10s %s\n", c->name, c->about);
    (void)fprintf(f, "\n`doppel COMMAND --help` tells a command's options; doppel(1) tells all.\n");
}

static int command_unknown(const char *name)
{
    const char *like = options_closest(name, command_name, NULL);

    if (like)
        log_error("unknown command '%s'; did you mean '%s'?", name, like);
    else
        log_error("unknown command '%s'; `doppel help` lists them", name);
    return EXIT_USAGE;
}

int cmd_help(int argc, char **argv)
{
    const struct command *c;
    char *help[] = { NULL, (char[]){ "--help" }, NULL };

    if (argc < 2 || argv[1][0] == '-') {
        print_overview(stdout);
        return 0;
    }
    c = command_find(argv[1]);
    if (!c)
        return command_unknown(argv[1]);
    if (c->run == cmd_help || c->run == cmd_version) {
        print_overview(stdout);
        return 0;
    }
    help[0] = argv[1];
    return c->run(2, help);
}

/* By a link of that name? */
static bool is_called(const char *arg0, const char *name)
{
    const char *slash = strrchr(arg0, '/');

    return !strcmp(slash ? slash + 1 : arg0, name);
}

int cli_main(int argc, char **argv)
{
    const struct command *c;

    host_heap_setup();
    log_set_terminal(isatty(STDERR_FILENO));
    if (argc && is_called(argv[0], "firecracker"))
        return cmd_firecracker(argc, argv);
    if (argc < 2) {
        print_overview(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
        return cmd_help(argc - 1, argv + 1);
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V"))
        return cmd_version(argc - 1, argv + 1);
    c = command_find(argv[1]);
    return c ? c->run(argc - 1, argv + 1) : command_unknown(argv[1]);
}
