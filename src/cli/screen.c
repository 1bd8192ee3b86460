/* SPDX-License-Identifier: Apache-2.0 */
/* `doppel screenshot` and `doppel sendkey`: a running VM's screen and keyboard. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "lib/log.h"

#define LIMIT_S      10
#define KEY_RETRY_US 20000
#define KEY_TRIES    500

static bool screen_name_ok(const char *cmd, int nr, char **argv)
{
    if (nr >= 1 && ctl_name_ok(argv[1]))
        return true;
    log_error("%s: %s; `doppel %s --help` tells more", cmd,
              nr ? "that cannot be the name of a VM" : "the NAME of a running VM is missing", cmd);
    return false;
}

/* For messages of the VM's process, which has another working directory. */
static bool screen_full_path(const char *file, char *path, size_t bytes)
{
    char dir[PATH_MAX];
    int n;

    if (*file == '/')
        n = snprintf(path, bytes, "%s", file);
    else
        n = getcwd(dir, sizeof(dir)) ? snprintf(path, bytes, "%s/%s", dir, file) : -1;
    return n > 0 && (size_t)n < bytes;
}

static int screen_print_text(const char *name)
{
    char *answer = ctl_request(name, "screen-text");
    json_t *j = answer ? json_loads(answer, 0, NULL) : NULL;
    const char *text = json_string_value(json_object_get(j, "text"));

    if (text)
        (void)fputs(text, stdout);
    free(answer);
    if (!text || fflush(stdout)) {
        json_decref(j);
        return EXIT_VMM_ERROR;
    }
    json_decref(j);
    return 0;
}

/* The VM's process writes to the file that is open here; what is there stays until there is a
 * picture. */
static int screen_save(const char *name, const char *path)
{
    int own = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    struct ctl_fds fds = { .nr = 1 };
    char *line, *answer = NULL;

    fds.fd[0] = own >= 0 ? own : open(path, O_WRONLY | O_CLOEXEC);
    if (fds.fd[0] < 0) {
        log_error("screenshot: cannot open '%s': %s", path, strerror(errno));
        return EXIT_VMM_ERROR;
    }
    line = ctl_line_arg("screenshot", path);
    if (line)
        answer = ctl_request_fds(name, line, LIMIT_S, &fds);
    if (!answer && own >= 0)
        (void)unlink(path);
    if (answer) /* an older one may have been longer; a pipe has no length */
        (void)!ftruncate(fds.fd[0], lseek(fds.fd[0], 0, SEEK_CUR));
    (void)close(fds.fd[0]);
    free(line);
    free(answer);
    return answer ? 0 : EXIT_VMM_ERROR;
}

int cmd_screenshot(int argc, char **argv)
{
    int nr = options_parse(NULL, 0, NULL, argc, argv);
    char path[PATH_MAX];

    if (nr == OPTIONS_HELP) {
        (void)printf("Usage: doppel screenshot NAME [FILE]\n\n"
                     "Writes what the VM's screen shows to FILE, as PNG; without FILE prints the "
                     "text on it,\nif it is in text mode. The VM runs with --display.\n");
        return 0;
    }
    if (nr == OPTIONS_BAD || !screen_name_ok("screenshot", nr, argv))
        return EXIT_USAGE;
    if (nr == 1)
        return screen_print_text(argv[1]);
    if (nr > 2 || !screen_full_path(argv[2], path, sizeof(path))) {
        log_error("screenshot: one FILE, not more, with a name that is not too long");
        return EXIT_USAGE;
    }
    return screen_save(argv[1], path);
}

/* Waits while the guest has not taken the keys before. False after a message. */
static bool sendkey_one(const char *name, const char *keys)
{
    for (unsigned i = 0; i < KEY_TRIES; i++) {
        char *answer = ctl_request_arg(name, "sendkey", keys);
        json_t *j = answer ? json_loads(answer, 0, NULL) : NULL;
        bool taken = json_is_true(json_object_get(j, "taken"));

        json_decref(j);
        free(answer);
        if (taken || !answer)
            return answer;
        (void)usleep(KEY_RETRY_US);
    }
    log_error("sendkey: the guest takes no keys");
    return false;
}

int cmd_sendkey(int argc, char **argv)
{
    int nr = options_parse(NULL, 0, NULL, argc, argv);

    if (nr == OPTIONS_HELP) {
        (void)printf("Usage: doppel sendkey NAME KEY...\n\n"
                     "  doppel sendkey web ctrl-alt-delete\n"
                     "  doppel sendkey web l s ret\n\n"
                     "Presses and releases keys, one after the other; those joined by '-' "
                     "together. A key is a letter,\na digit, f1 to f12, ret, esc, spc, tab, "
                     "backspace, up, down, left, right, home, end, pgup, pgdn,\ninsert, delete, "
                     "shift, ctrl, alt, altgr, minus, equal, comma, dot, slash, backslash, "
                     "semicolon,\napostrophe, grave, bracket_left or bracket_right.\n");
        return 0;
    }
    if (nr == OPTIONS_BAD || !screen_name_ok("sendkey", nr, argv))
        return EXIT_USAGE;
    if (nr < 2) {
        log_error("sendkey: no KEY; `doppel sendkey --help` lists them");
        return EXIT_USAGE;
    }
    for (int i = 2; i <= nr; i++)
        if (!sendkey_one(argv[1], argv[i]))
            return EXIT_VMM_ERROR;
    return 0;
}
