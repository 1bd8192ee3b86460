/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Statistics in Prometheus' text format (version 0.0.4): families with their samples together, of
 * one VM or of several.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "ctl/ctl.h"

/* One label behind vm="...": its name, and where its value comes from. */
struct family {
    const char *name, *type, *help;
    /* Prints its samples of one VM. */
    void (*samples)(FILE *f, const struct family *m, const json_t *vm);
    const char *key, *sub;
    double scale;
};

/* Values of labels: backslash, quote and newline escaped. */
static void put_label(FILE *f, const char *name, const char *val)
{
    (void)fprintf(f, "%s=\"", name);
    for (const char *c = val ? val : ""; *c; c++) {
        if (*c == '\n')
            (void)fputs("\\n", f);
        else if (*c == '\\' || *c == '"')
            (void)fprintf(f, "\\%c", *c);
        else
            (void)fputc(*c, f);
    }
    (void)fputc('"', f);
}

static void put_name(FILE *f, const struct family *m, const json_t *vm)
{
    (void)fprintf(f, "doppel_%s{", m->name);
    put_label(f, "vm", json_string_value(json_object_get(vm, "name")));
}

static void put_value(FILE *f, const struct family *m, const json_t *val)
{
    if (json_is_integer(val) && m->scale == 1)
        (void)fprintf(f, "} %lld\n", (long long)json_integer_value(val));
    else
        (void)fprintf(f, "} %.9g\n", json_number_value(val) * m->scale);
}

static void samples_vm(FILE *f, const struct family *m, const json_t *vm)
{
    const json_t *val = json_object_get(m->sub ? json_object_get(vm, m->sub) : vm, m->key);

    if (!json_is_number(val))
        return;
    put_name(f, m, vm);
    put_value(f, m, val);
}

static void samples_info(FILE *f, const struct family *m, const json_t *vm)
{
    static const char *const keys[] = { "engine", "cpu", "state" };

    put_name(f, m, vm);
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
        (void)fputc(',', f);
        put_label(f, keys[i], json_string_value(json_object_get(vm, keys[i])));
    }
    (void)fputs("} 1\n", f);
}

static void samples_vcpus(FILE *f, const struct family *m, const json_t *vm)
{
    json_t *v;
    size_t i;

    json_array_foreach(json_object_get(vm, "vcpus"), i, v)
    {
        put_name(f, m, vm);
        (void)fprintf(f, ",vcpu=\"%zu\"", i);
        put_value(f, m, json_object_get(v, m->key));
    }
}

static void samples_exits(FILE *f, const struct family *m, const json_t *vm)
{
    const char *reason;
    json_t *v, *e;
    size_t i;

    json_array_foreach(json_object_get(vm, "vcpus"), i, v)
    {
        json_object_foreach(json_object_get(v, "exits"), reason, e)
        {
            put_name(f, m, vm);
            (void)fprintf(f, ",vcpu=\"%zu\",", i);
            put_label(f, "reason", reason);
            put_value(f, m, json_object_get(e, m->key));
        }
    }
}

/* Of "disks" and "nets", which have names. */
static void samples_devices(FILE *f, const struct family *m, const json_t *vm)
{
    json_t *d;
    size_t i;

    json_array_foreach(json_object_get(vm, m->sub), i, d)
    {
        put_name(f, m, vm);
        (void)fputc(',', f);
        put_label(f, "device", json_string_value(json_object_get(d, "name")));
        put_value(f, m, json_object_get(d, m->key));
    }
}

#define COUNTER "counter"
#define GAUGE   "gauge"

static const struct family families[] = {
    { "vm_info", GAUGE, "The machine; always 1.", samples_info, NULL, NULL, 1 },
    { "uptime_seconds", GAUGE, "Time since the start.", samples_vm, "seconds", NULL, 1 },
    { "guest_seconds", COUNTER, "Time that the guest has seen pass.", samples_vm, "guest_seconds",
      NULL, 1 },
    { "memory_bytes", GAUGE, "The guest's memory.", samples_vm, "memory_bytes", NULL, 1 },
    { "cpu_seconds_total", COUNTER, "Processor time of the VM's process and its workers.",
      samples_vm, "cpu_ns", NULL, 1e-9 },
    { "vcpu_busy_seconds_total", COUNTER, "Time in which the vCPU was not halted.", samples_vcpus,
      "busy_ns", NULL, 1e-9 },
    { "vcpu_instructions_total", COUNTER, "Guest instructions interpreted.", samples_vcpus,
      "instructions", NULL, 1 },
    { "exits_total", COUNTER, "Times the vCPU left its guest, by reason.", samples_exits, "count",
      NULL, 1 },
    { "exit_seconds_total", COUNTER, "Time that exits took, where it is measured.", samples_exits,
      "total_ns", NULL, 1e-9 },
    { "disk_reads_total", COUNTER, "Requests to read.", samples_devices, "reads", "disks", 1 },
    { "disk_read_bytes_total", COUNTER, "Bytes read.", samples_devices, "read_bytes", "disks", 1 },
    { "disk_writes_total", COUNTER, "Requests to write.", samples_devices, "writes", "disks", 1 },
    { "disk_written_bytes_total", COUNTER, "Bytes written.", samples_devices, "written_bytes",
      "disks", 1 },
    { "disk_flushes_total", COUNTER, "Requests to flush.", samples_devices, "flushes", "disks", 1 },
    { "net_sent_bytes_total", COUNTER, "Bytes that the guest sent.", samples_devices, "sent_bytes",
      "nets", 1 },
    { "net_sent_frames_total", COUNTER, "Frames that the guest sent.", samples_devices,
      "sent_frames", "nets", 1 },
    { "net_received_bytes_total", COUNTER, "Bytes for the guest.", samples_devices,
      "received_bytes", "nets", 1 },
    { "net_received_frames_total", COUNTER, "Frames for the guest.", samples_devices,
      "received_frames", "nets", 1 },
    { "balloon_actual_bytes", GAUGE, "Memory that the guest keeps.", samples_vm, "actual_bytes",
      "balloon", 1 },
};

char *ctl_prometheus(const json_t *vms)
{
    char *text = NULL;
    size_t bytes, i;
    FILE *f = open_memstream(&text, &bytes);
    json_t *vm;

    if (!f)
        return NULL;
    for (unsigned n = 0; n < ARRAY_SIZE(families); n++) {
        const struct family *m = &families[n];

        (void)fprintf(f, "# HELP doppel_%s %s\n# TYPE doppel_%s %s\n", m->name, m->help, m->name,
                      m->type);
        json_array_foreach((json_t *)vms, i, vm)
        {
            m->samples(f, m, vm);
        }
    }
    if (fclose(f)) {
        free(text);
        return NULL;
    }
    return text;
}
