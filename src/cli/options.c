/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The option parser of all subcommands: long options with their value as the next argument or
 * behind '='. An option given twice counts the last time, unless it collects.
 */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

#define WORD_MAX 32

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    return MIN(MIN(a, b), c);
}

/* How many letters to insert, delete or change to make one of the other. */
static unsigned edits(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    unsigned row[WORD_MAX + 1];

    if (na > WORD_MAX || nb > WORD_MAX)
        return WORD_MAX;
    for (unsigned j = 0; j <= nb; j++)
        row[j] = j;
    for (unsigned i = 1; i <= na; i++) {
        unsigned diagonal = row[0];

        row[0] = i;
        for (unsigned j = 1; j <= nb; j++) {
            unsigned above = row[j];

            row[j] = min3(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[nb];
}

const char *options_closest(const char *word, const char *(*candidate)(const void *ctx, unsigned i),
                            const void *ctx)
{
    const char *best = NULL, *c;
    unsigned best_edits = 3;

    for (unsigned i = 0; (c = candidate(ctx, i)); i++) {
        unsigned n = edits(word, c);

        if (n >= best_edits || n >= strlen(c))
            continue;
        best = c;
        best_edits = n;
    }
    return best;
}

struct table {
    const struct opt *opts;
    unsigned nr;
};

static const char *option_name(const void *ctx, unsigned i)
{
    const struct table *t = ctx;

    if (i < t->nr)
        return t->opts[i].name;
    return i == t->nr ? "help" : NULL;
}

static const struct opt *option_find(const struct table *t, const char *name, size_t len)
{
    for (unsigned i = 0; i < t->nr; i++)
        if (strlen(t->opts[i].name) == len && !strncmp(t->opts[i].name, name, len))
            return &t->opts[i];
    return NULL;
}

static const struct opt *option_letter(const struct table *t, char letter)
{
    for (unsigned i = 0; i < t->nr; i++)
        if (t->opts[i].letter == letter)
            return &t->opts[i];
    return NULL;
}

static int option_unknown(const struct table *t, const char *cmd, const char *arg)
{
    /* A command is a word; the program under another name is called by its path, or by that. */
    const bool own = strchr(cmd, '/') || !strcmp(cmd, "firecracker");
    char word[WORD_MAX + 1] = "";
    const char *name = arg + strspn(arg, "-"), *like;
    size_t len = strcspn(name, "=");

    if (len <= WORD_MAX)
        memcpy(word, name, len);
    like = options_closest(word, option_name, t);
    if (like)
        log_error("%s: unknown option '%s'; did you mean '--%s'?", cmd, arg, like);
    else
        log_error("%s: unknown option '%s'; `%s%s --help` lists them", cmd, arg,
                  own ? "" : "doppel ", cmd);
    return OPTIONS_BAD;
}

/* One option at argv[*i]; *i ends at its last argument. 0 or OPTIONS_*. */
static int option_take(const struct table *t, void *into, int argc, char **argv, int *i)
{
    const char *arg = argv[*i], *val = NULL;
    const struct opt *o;

    if (arg[1] == '-') {
        size_t len = strcspn(arg + 2, "=");

        o = option_find(t, arg + 2, len);
        if (arg[2 + len])
            val = arg + 2 + len + 1;
    } else {
        o = arg[2] ? NULL : option_letter(t, arg[1]);
    }
    if (!o) {
        if (!strcmp(arg, "--help") || !strcmp(arg, "-h"))
            return OPTIONS_HELP;
        return option_unknown(t, argv[0], arg);
    }
    if (!o->arg && val) {
        log_error("--%s takes no value, but got '%s'", o->name, val);
        return OPTIONS_BAD;
    }
    if (o->arg && !val) {
        if (*i + 1 >= argc) {
            log_error("--%s needs a value: --%s %s", o->name, o->name, o->arg);
            return OPTIONS_BAD;
        }
        val = argv[++*i];
    }
    return o->set(into, val) ? 0 : OPTIONS_BAD;
}

int options_parse(const struct opt *opts, unsigned nr, void *into, int argc, char **argv)
{
    const struct table t = { opts, nr };
    int nr_args = 0, err;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--")) {
            while (++i < argc)
                argv[1 + nr_args++] = argv[i];
            break;
        }
        if (argv[i][0] != '-' || !argv[i][1]) {
            argv[1 + nr_args++] = argv[i];
            continue;
        }
        err = option_take(&t, into, argc, argv, &i);
        if (err)
            return err;
    }
    return nr_args;
}

void options_help(const struct opt *opts, unsigned nr)
{
    for (unsigned i = 0; i < nr; i++) {
        const struct opt *o = &opts[i];
        char head[64];

        (void)snprintf(head, sizeof(head), "--%s%s%s", o->name, o->arg ? " " : "",
                       o->arg ? o->arg : "");
        if (o->letter)
            (void)snprintf(head, sizeof(head), "-%c, --%s", o->letter, o->name);
        for (const char *line = o->help; *line;) {
            size_t len = strcspn(line, "\n");

            (void)printf("  %-26s %.*s\n", head, (int)len, line);
            head[0] = 0;
            line += len + (line[len] == '\n');
        }
    }
}
