/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gdb's q and Q packets (gdb manual, "General Query Packets"): what the stub can do, the register
 * description, the list of vCPUs, and `monitor` commands.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/gdb_priv.h"
#include "ctl/gdb_regs.h"

static bool query_supported(struct gdb *g, const char *p)
{
    /* Is "feature+" among them? Not worth more than a search: nothing else has these names. */
    g->says_swbreak = strstr(p, "swbreak+");
    g->says_hwbreak = strstr(p, "hwbreak+");
    gdb_tx_fmt(&g->tx,
               "PacketSize=%x;qXfer:features:read+;vContSupported+;QStartNoAckMode+;swbreak+;"
               "hwbreak+",
               GDB_PACKET_BYTES);
    return true;
}

/* "target.xml:offset,length" */
static bool query_features(struct gdb *g, const char *p)
{
    uint64_t off, bytes, total;
    char *xml;

    if (!gdb_take_word(&p, "target.xml:") || !gdb_take_hex(&p, &off) || !gdb_take_char(&p, ',') ||
        !gdb_take_hex(&p, &bytes) || *p) {
        gdb_error(g, 0);
        return true;
    }
    xml = gdb_target_xml();
    if (!xml) {
        gdb_error(g, ENOMEM);
        return true;
    }
    total = strlen(xml);
    off = MIN(off, total);
    bytes = MIN(MIN(bytes, total - off), GDB_PACKET_BYTES / 2);
    gdb_tx_text(&g->tx, off + bytes < total ? "m" : "l");
    gdb_tx_raw(&g->tx, xml + off, bytes);
    free(xml);
    return true;
}

static bool query_first_threads(struct gdb *g, const char *p)
{
    (void)p;
    for (unsigned i = 0; i < vm_nr_vcpus(g->vm); i++)
        gdb_tx_fmt(&g->tx, "%s%x", i ? "," : "m", gdb_tid(i));
    return true;
}

static bool query_next_threads(struct gdb *g, const char *p)
{
    (void)p;
    gdb_tx_text(&g->tx, "l");
    return true;
}

static bool query_thread_text(struct gdb *g, const char *p)
{
    static const char *const doing[] = { [CPU_RUNNING] = "running",
                                         [CPU_HALTED] = "halted",
                                         [CPU_WAIT_SIPI] = "waits for SIPI",
                                         [CPU_SHUTDOWN] = "shut down" };
    unsigned cpu;
    char text[48];

    if (!gdb_take_thread(g, &p, 0, &cpu) || *p) {
        gdb_error(g, ESRCH);
        return true;
    }
    (void)snprintf(text, sizeof(text), "vCPU %u, %s", cpu,
                   doing[vm_vcpu(g->vm, cpu)->cpu.activity]);
    gdb_tx_hex(&g->tx, text, strlen(text));
    return true;
}

static bool query_current_thread(struct gdb *g, const char *p)
{
    (void)p;
    gdb_tx_fmt(&g->tx, "QC%x", gdb_tid(g->cpu_g));
    return true;
}

static bool query_attached(struct gdb *g, const char *p)
{
    (void)p;
    gdb_tx_text(&g->tx, "1"); /* to detach, not to kill, when gdb quits */
    return true;
}

/* ---- monitor ---- */

/* Text for gdb's console, in as many packets as it takes. */
static void console(struct gdb *g, const char *text)
{
    static const size_t chunk = GDB_PACKET_BYTES / 2 - 8;

    for (size_t left = strlen(text); left; left -= MIN(left, chunk), text += chunk) {
        g->tx.nr = 0;
        gdb_tx_text(&g->tx, "O");
        gdb_tx_hex(&g->tx, text, MIN(left, chunk));
        gdb_send(g, g->tx.buf, g->tx.nr);
        if (left <= chunk)
            break;
    }
    g->tx.nr = 0;
}

static void monitor_stats(struct gdb *g, char *(*render)(const char *json))
{
    char *json = vm_stats_json(g->vm), *text = render(json);

    console(g, text ? text : "out of memory\n");
    free(text);
    free(json);
}

static bool query_monitor(struct gdb *g, const char *p)
{
    char cmd[32] = "";
    size_t bytes = strlen(p) / 2;

    if (bytes >= sizeof(cmd) || !gdb_take_bytes(&p, cmd, bytes) || *p)
        cmd[0] = 0;
    if (!strcmp(cmd, "info"))
        monitor_stats(g, ctl_info_text);
    else if (!strcmp(cmd, "stat"))
        monitor_stats(g, ctl_stat_text);
    else if (!strcmp(cmd, "quit"))
        vm_stop(g->vm, STOP_USER, 0);
    else
        console(g, "monitor info   what this VM is\n"
                   "monitor stat   exits by reason and guest instructions\n"
                   "monitor quit   end the VM\n");
    gdb_tx_text(&g->tx, "OK");
    return true;
}

static const struct {
    const char *name;
    bool (*run)(struct gdb *g, const char *p);
} queries[] = {
    { "Supported", query_supported },
    { "Xfer:features:read:", query_features },
    { "fThreadInfo", query_first_threads },
    { "sThreadInfo", query_next_threads },
    { "ThreadExtraInfo,", query_thread_text },
    { "Attached", query_attached },
    { "Rcmd,", query_monitor },
    { "C", query_current_thread }, /* last: others begin with C */
};

bool gdb_query(struct gdb *g, const char *p)
{
    for (unsigned i = 0; i < ARRAY_SIZE(queries); i++) {
        const char *rest = p;

        if (!gdb_take_word(&rest, queries[i].name))
            continue;
        if (!strcmp(queries[i].name, "C") && *rest)
            continue; /* qCRC and whatever comes */
        return queries[i].run(g, rest);
    }
    return true;
}

bool gdb_set(struct gdb *g, const char *p)
{
    if (!strcmp(p, "StartNoAckMode")) {
        g->no_ack_next = true;
        gdb_tx_text(&g->tx, "OK");
    }
    return true;
}
