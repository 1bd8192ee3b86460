/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Statistics for people. Made from the JSON text that programs get, so that `doppel stat`, the
 * monitors and a saved --stats file show the same.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"

struct row {
    const char *text;
    uint64_t count, ns;
};

static const char *stat_string(const json_t *j, const char *key)
{
    const char *s = json_string_value(json_object_get(j, key));

    return s ? s : "?";
}

static double stat_number(const json_t *j, const char *key)
{
    return json_number_value(json_object_get(j, key));
}

static void stat_head(FILE *f, const json_t *top)
{
    (void)fprintf(f, "%s: %s, engine %s, CPU %s, %.0f MiB, up %.1f s\n", stat_string(top, "name"),
                  stat_string(top, "state"), stat_string(top, "engine"), stat_string(top, "cpu"),
                  stat_number(top, "memory_bytes") / (1 << 20), stat_number(top, "seconds"));
}

static int row_more(const void *a, const void *b)
{
    const struct row *x = a, *y = b;

    if (x->ns != y->ns)
        return x->ns < y->ns ? 1 : -1;
    return (x->count < y->count) - (x->count > y->count);
}

/* The exits of one vCPU, the most expensive reason first. */
static void stat_exits(FILE *f, const json_t *exits, double seconds)
{
    struct row rows[NR_EXITS];
    unsigned nr = 0;
    int width = 28;
    const char *key;
    json_t *e;

    json_object_foreach((json_t *)exits, key, e)
    {
        if (nr < NR_EXITS)
            rows[nr++] = (struct row){
                .text = stat_string(e, "text"),
                .count = (uint64_t)json_integer_value(json_object_get(e, "count")),
                .ns = (uint64_t)json_integer_value(json_object_get(e, "total_ns")),
            };
    }
    qsort(rows, nr, sizeof(rows[0]), row_more);
    for (unsigned i = 0; i < nr; i++)
        width = MAX(width, (int)strlen(rows[i].text));
    (void)fprintf(f, "  %-*s %12s %12s %10s %7s\n", width, "exits by reason", "count", "total ms",
                  "mean us", "share");
    for (unsigned i = 0; i < nr; i++) {
        double ms = (double)rows[i].ns / 1e6;

        (void)fprintf(f, "  %-*s %12llu", width, rows[i].text, (unsigned long long)rows[i].count);
        if (rows[i].ns)
            (void)fprintf(f, " %12.1f %10.2f %6.1f%%\n", ms, ms * 1e3 / (double)rows[i].count,
                          seconds > 0 ? ms / 10 / seconds : 0);
        else
            (void)fprintf(f, " %12s %10s %7s\n", "-", "-", "-"); /* counted, not timed */
    }
}

/* Engines that run the guest's instructions themselves count only those they hand to interp. */
static void stat_insns(FILE *f, const json_t *v, bool all, double seconds)
{
    double insns = stat_number(v, "instructions");
    double halted =
        stat_number(json_object_get(json_object_get(v, "exits"), "HLT"), "total_ns") / 1e9;
    double busy = seconds - halted;

    if (!all) {
        (void)fprintf(f, "vcpu%.0f: %.0f guest instructions interpreted, halted %.1f s\n",
                      stat_number(v, "id"), insns, halted);
        return;
    }
    (void)fprintf(f, "vcpu%.0f: %.0f guest instructions, %.1f MIPS (%.1f while not halted)\n",
                  stat_number(v, "id"), insns, seconds > 0 ? insns / seconds / 1e6 : 0,
                  busy > 0 ? insns / busy / 1e6 : 0);
}

static void stat_vcpu(FILE *f, const json_t *top, const json_t *v)
{
    double seconds = stat_number(top, "guest_seconds"); /* pauses do not count */

    stat_insns(f, v, !strcmp(stat_string(top, "engine"), "interp"), seconds);
    stat_exits(f, json_object_get(v, "exits"), seconds);
}

static char *stat_render(const char *stats_json, bool all)
{
    json_t *top = stats_json ? json_loads(stats_json, 0, NULL) : NULL, *v;
    char *text = NULL;
    size_t bytes, i;
    FILE *f;

    f = top ? open_memstream(&text, &bytes) : NULL;
    if (f) {
        stat_head(f, top);
        json_array_foreach(json_object_get(top, "vcpus"), i, v)
        {
            if (all)
                stat_vcpu(f, top, v);
        }
        (void)fclose(f);
    }
    json_decref(top);
    return text;
}

char *ctl_stat_text(const char *stats_json)
{
    return stat_render(stats_json, true);
}

char *ctl_info_text(const char *stats_json)
{
    return stat_render(stats_json, false);
}
