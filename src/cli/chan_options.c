/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --serial, --debugcon, --console and --port: where the guest's bytes go. What only some of them
 * can have (a pty, a socket, a transport) is said in their refusals.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

/* ---- where a channel leads ---- */

#define HAS(kind) BIT(CHAN_##kind)

static const struct {
    const char *text; /* ends with '=' if a path follows */
    enum chan_kind kind;
} chan_words[] = {
    { "stdio", CHAN_STDIO },    { "file=", CHAN_FILE }, { "pty", CHAN_PTY },
    { "socket=", CHAN_SOCKET }, { "none", CHAN_NONE },
};

static void chan_unknown(const char *opt, const char *val, unsigned kinds)
{
    char have[80] = "";

    for (unsigned i = 0; i < ARRAY_SIZE(chan_words); i++) {
        size_t nr = strlen(have);

        if (kinds & BIT(chan_words[i].kind))
            (void)snprintf(have + nr, sizeof(have) - nr, "%s%s%s", nr ? ", " : "",
                           chan_words[i].text, strchr(chan_words[i].text, '=') ? "NAME" : "");
    }
    log_error("--%s '%s' is unknown; it can be %s", opt, val, have);
}

static bool chan_path_ok(const char *opt, const struct chan_option *o)
{
    if (o->kind != CHAN_SOCKET || strlen(o->path) <= CHR_PATH_MAX)
        return true;
    log_error("--%s socket='%s': a path there has at most %d bytes", opt, o->path, CHR_PATH_MAX);
    return false;
}

/* where: in o->text. kinds: those that this option has. */
static bool chan_parse(struct chan_option *o, const char *opt, const char *where, unsigned kinds)
{
    for (unsigned i = 0; i < ARRAY_SIZE(chan_words); i++) {
        const char *word = chan_words[i].text;
        size_t len = strlen(word);
        bool path = word[len - 1] == '=';

        if (!(kinds & BIT(chan_words[i].kind)) || strncmp(where, word, len) != 0)
            continue;
        if (path != (where[len] != 0))
            continue;
        o->kind = chan_words[i].kind;
        o->path = where + len;
        return chan_path_ok(opt, o);
    }
    chan_unknown(opt, where, kinds);
    return false;
}

/* Given twice, the last counts. */
static bool chan_begin(struct chan_option *o, const char *val)
{
    free(o->text);
    *o = (struct chan_option){ .text = strdup(val) };
    if (!o->text)
        log_error("out of memory");
    return o->text;
}

bool option_serial(void *into, const char *val)
{
    struct chan_option *o = &((struct run_options *)into)->serial;

    return chan_begin(o, val) &&
           chan_parse(o, "serial", o->text,
                      HAS(STDIO) | HAS(FILE) | HAS(PTY) | HAS(SOCKET) | HAS(NONE));
}

bool option_debugcon(void *into, const char *val)
{
    struct chan_option *o = &((struct run_options *)into)->debugcon;

    return chan_begin(o, val) &&
           chan_parse(o, "debugcon", o->text, HAS(STDIO) | HAS(FILE) | HAS(NONE));
}

bool option_console(void *into, const char *val)
{
    struct run_options *ro = into;
    struct chan_option *o = &ro->console;

    if (!chan_begin(o, val))
        return false;
    option_take_transport(o->text, &ro->console_transport);
    return chan_parse(o, "console", o->text,
                      HAS(STDIO) | HAS(FILE) | HAS(PTY) | HAS(SOCKET) | HAS(NONE));
}

/* ---- ports ---- */

static bool port_name_ok(const struct run_options *o, const char *name)
{
    if (!*name || strlen(name) > VM_PORT_NAME_MAX || strpbrk(name, "/\n")) {
        log_error("--port name='%s': a name has 1 to %d bytes and no '/'", name, VM_PORT_NAME_MAX);
        return false;
    }
    for (unsigned i = 0; i < o->nr_ports; i++) {
        if (strcmp(o->ports[i].name, name) != 0)
            continue;
        log_error("--port name=%s: there is one of that name already", name);
        return false;
    }
    return true;
}

static bool port_parse(struct run_options *ro, struct chan_option *o)
{
    static const char key[] = "name=";
    char *comma = strchr(o->text, ',');

    if (strncmp(o->text, key, strlen(key)) != 0 || !comma) {
        log_error("--port '%s' is not name=NAME,socket=PATH (or ,pty or ,file=NAME)", o->text);
        return false;
    }
    *comma = 0;
    o->name = o->text + strlen(key);
    return port_name_ok(ro, o->name) &&
           chan_parse(o, "port", comma + 1, HAS(FILE) | HAS(PTY) | HAS(SOCKET));
}

bool option_port(void *into, const char *val)
{
    struct run_options *ro = into;
    struct chan_option *o = &ro->ports[ro->nr_ports];

    if (ro->nr_ports == VM_PORTS_MAX) {
        log_error("--port %s: a machine has at most %d of them", val, VM_PORTS_MAX);
        return false;
    }
    if (!chan_begin(o, val) || !port_parse(ro, o)) {
        free(o->text);
        *o = (struct chan_option){ .kind = CHAN_NONE };
        return false;
    }
    ro->nr_ports++;
    return true;
}

/* ---- all together ---- */

bool chan_options_check(struct run_options *o)
{
    bool stdio = o->console.kind == CHAN_STDIO;

    if (o->serial.kind == CHAN_DEFAULT)
        o->serial.kind = stdio ? CHAN_NONE : CHAN_STDIO;
    if (!stdio || o->serial.kind != CHAN_STDIO)
        return true;
    log_error("--serial stdio and --console stdio: standard input can only go to one of them; "
              "give one another place, such as --serial none or --console pty");
    return false;
}

void chan_options_free(struct run_options *o)
{
    free(o->serial.text);
    free(o->debugcon.text);
    free(o->console.text);
    for (unsigned i = 0; i < o->nr_ports; i++)
        free(o->ports[i].text);
}
