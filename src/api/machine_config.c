/* SPDX-License-Identifier: Apache-2.0 */
/* /machine-config and /boot-source: processors, memory, and what is booted. */
#include <string.h>
#include <unistd.h>

#include "api/priv.h"

#define VCPUS_MAX   32u
#define MEM_MIB_MAX (1u << 24) /* 16 TiB: more than any host's */

/* "None", and names of sets of CPU features: cpu_config.c says what they are here. */
static const char *const cpu_templates[] = {
    "C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None", NULL
};
static const char *const huge_pages[] = { "None", "Transparent", "2M", NULL };

#define MACHINE_FIELDS(required)                                                                \
    { .name = "vcpu_count", .type = FIELD_UINT, .flags = (required), .max = UINT8_MAX },        \
        { .name = "mem_size_mib", .type = FIELD_UINT, .flags = (required), .max = UINT32_MAX }, \
        { .name = "smt", .type = FIELD_BOOL },                                                  \
        { .name = "cpu_template", .type = FIELD_STRING, .words = cpu_templates },               \
        { .name = "track_dirty_pages", .type = FIELD_BOOL },                                    \
    {                                                                                           \
        .name = "huge_pages", .type = FIELD_STRING, .words = huge_pages                         \
    }

static const struct field put_list[] = { MACHINE_FIELDS(FIELD_REQUIRED) };
static const struct field patch_list[] = { MACHINE_FIELDS(0) };
const struct fields machine_config_fields = FIELDS(put_list);
const struct fields machine_config_patch_fields = FIELDS(patch_list);

static bool machine_config_ok(const struct api *a, const json_t *m, struct reply *r)
{
    uint64_t nr = field_uint(m, "vcpu_count", 1), mib = field_uint(m, "mem_size_mib", 128);
    const char *huge = field_string(m, "huge_pages"), *cpu = field_string(m, "cpu_template");

    if (nr < 1 || nr > VCPUS_MAX || (field_bool(m, "smt", false) && nr > 1 && nr % 2))
        reply_fault(r,
                    "Machine config error: The vCPU number is invalid! The vCPU number can only "
                    "be 1 or an even number when SMT is enabled, and at most %u.",
                    VCPUS_MAX);
    else if (mib < 1 || mib > MEM_MIB_MAX)
        reply_fault(r, "Machine config error: The memory size (MiB) is invalid.");
    else if (mib < field_uint(a->balloon, "amount_mib", 0))
        reply_fault(r, "Machine config error: The memory size (MiB) is smaller than the previously "
                       "set balloon device target size.");
    else if (huge && !strcmp(huge, "2M"))
        reply_fault(r, "Machine config error: huge_pages `2M` is not supported by doppel; "
                       "transparent huge pages are always used.");
    else if (cpu && !strcmp(cpu, "V1N1"))
        reply_fault(r, "Machine config error: cpu_template `V1N1` is for another architecture.");
    else
        return true;
    return false;
}

void machine_config_put(struct api *a, const struct request *rq, struct reply *r)
{
    if (machine_config_ok(a, rq->body, r) && keep(a, &a->machine, rq->body, r) &&
        field_string(rq->body, "cpu_template"))
        cpu_config_forget(a);
}

/* What is not named stays. */
void machine_config_patch(struct api *a, const struct request *rq, struct reply *r)
{
    json_t *all = a->machine ? json_deep_copy(a->machine) : json_object();

    if (!json_object_size(rq->body))
        reply_fault(r, "Empty PATCH request.");
    else if (!all || json_object_update(all, rq->body) < 0)
        reply_json(r, NULL);
    else if (machine_config_ok(a, all, r) && keep(a, &a->machine, all, r) &&
             field_string(rq->body, "cpu_template"))
        cpu_config_forget(a);
    json_decref(all);
}

void machine_config_get(struct api *a, const struct request *rq, struct reply *r)
{
    json_t *j =
        json_pack("{s:i, s:i, s:b, s:s, s:b, s:s}", "vcpu_count", 1, "mem_size_mib", 128, "smt", 0,
                  "cpu_template", "None", "track_dirty_pages", 0, "huge_pages", "None");

    (void)rq;
    if (j && a->machine && json_object_update(j, a->machine) < 0) {
        json_decref(j);
        j = NULL;
    }
    reply_json(r, j);
}

/* ---- /boot-source ---- */

static const struct field boot_list[] = {
    { .name = "kernel_image_path", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "initrd_path", .type = FIELD_STRING },
    { .name = "boot_args", .type = FIELD_STRING },
};
const struct fields boot_source_fields = FIELDS(boot_list);

#define ARGS_MAX 2047u /* as there, and what a bzImage takes */

static bool is_printable(const char *s)
{
    while (*s >= ' ' && *s <= '~')
        s++;
    return !*s;
}

void boot_source_put(struct api *a, const struct request *rq, struct reply *r)
{
    const char *kernel = field_string(rq->body, "kernel_image_path"),
               *initrd = field_string(rq->body, "initrd_path"),
               *args = field_string(rq->body, "boot_args");

    if (access(kernel, R_OK) < 0)
        reply_fault(r, "Boot source error: The kernel file cannot be opened: %s: %m", kernel);
    else if (initrd && access(initrd, R_OK) < 0)
        reply_fault(r, "Boot source error: The initrd file cannot be opened: %s: %m", initrd);
    else if (args && strlen(args) > ARGS_MAX)
        reply_fault(r,
                    "Boot source error: The kernel command line is invalid: it is longer than "
                    "%u bytes.",
                    ARGS_MAX);
    else if (args && !is_printable(args))
        reply_fault(r, "Boot source error: The kernel command line is invalid: it has bytes that "
                       "are no printable ASCII.");
    else
        (void)keep(a, &a->boot, rq->body, r);
}
