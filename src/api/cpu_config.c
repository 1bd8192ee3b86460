/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /cpu-config and machine-config's cpu_template: what a guest finds by CPUID. Both become a CPU
 * model as `--cpu` takes it, with features added and taken away, and possibly another signature.
 *
 * A bit of CPUID can be changed where it is a feature that doppel knows (cpu/features.def); one
 * that is to be 0 and is not known is 0 anyway. All else of CPUID, and most MSRs (cpu_msr.c),
 * follow from the features and cannot be changed: who asks for it is told so.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/priv.h"
#include "cpu/cpu.h"

static const char *const registers[] = { "eax", "ebx", "ecx", "edx", NULL };
static const struct field register_list[] = {
    { .name = "register", .type = FIELD_STRING, .flags = FIELD_REQUIRED, .words = registers },
    { .name = "bitmap", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
};
static const struct fields register_fields = FIELDS(register_list);

static const struct field leaf_list[] = {
    { .name = "leaf", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "subleaf", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "flags", .type = FIELD_UINT, .flags = FIELD_REQUIRED, .max = UINT32_MAX },
    { .name = "modifiers",
      .type = FIELD_OBJECTS,
      .flags = FIELD_REQUIRED,
      .sub = &register_fields },
};
static const struct fields leaf_fields = FIELDS(leaf_list);

static const struct field msr_list[] = {
    { .name = "addr", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "bitmap", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
};
static const struct fields msr_fields = FIELDS(msr_list);

static const struct field cpu_list[] = {
    { .name = "kvm_capabilities", .type = FIELD_STRINGS },
    { .name = "cpuid_modifiers", .type = FIELD_OBJECTS, .sub = &leaf_fields },
    { .name = "msr_modifiers", .type = FIELD_OBJECTS, .sub = &msr_fields },
    { .name = "reg_modifiers", .type = FIELD_LIST },
    { .name = "vcpu_features", .type = FIELD_LIST },
};
const struct fields cpu_config_fields = FIELDS(cpu_list);

/* What cpu_template's names stand for: instances of EC2 whose processors are Intel's Haswell and
 * Ivy Bridge, made alike by taking away what came later. */
#define LATER_THAN_HASWELL                                                                    \
    "host,-rdseed,-adx,-clflushopt,-clwb,-sha_ni,-umip,-vaes,-vpclmulqdq,-la57,-rdpid,-fsrm," \
    "-xsavec,-xgetbv1,-3dnowprefetch,-pdpe1gb,-clzero,-sse4a"
#define LATER_THAN_IVY_BRIDGE \
    LATER_THAN_HASWELL ",-avx2,-bmi1,-bmi2,-fma,-movbe,-abm,-invpcid,-smap"

static const struct {
    const char *name, *model;
} templates[] = {
    { "C3", LATER_THAN_IVY_BRIDGE }, { "T2", LATER_THAN_HASWELL },  { "T2S", LATER_THAN_HASWELL },
    { "T2CL", LATER_THAN_HASWELL },  { "T2A", LATER_THAN_HASWELL }, { "None", NULL },
};

/* ---- numbers and bitmaps ---- */

/* "0x1f", "0b101" or "17". */
static bool parse_u32(const char *text, uint32_t *val)
{
    int base = !strncmp(text, "0x", 2) ? 16 : !strncmp(text, "0b", 2) ? 2 : 10;
    const char *digits = base == 10 ? text : text + 2;
    char *end;
    unsigned long long n;

    if (!strchr(base == 16 ? "0123456789abcdefABCDEF" : "0123456789", *digits) || !*digits)
        return false;
    n = strtoull(digits, &end, base);
    *val = (uint32_t)n;
    return !*end && n <= UINT32_MAX;
}

/* "0b", then from the highest bit on 0, 1, or x for "as it is"; underscores do not count. */
static bool parse_bitmap(const char *text, unsigned bits, struct bitmap *map)
{
    unsigned nr = 0;

    *map = (struct bitmap){ 0 };
    if (strncmp(text, "0b", 2) != 0 || !text[2])
        return false;
    for (const char *c = text + 2; *c; c++) {
        if (*c == '_')
            continue;
        if (!strchr("01x", *c) || nr++ == bits)
            return false;
        map->mask = map->mask << 1 | (*c != 'x');
        map->val = map->val << 1 | (*c == '1');
    }
    return nr > 0;
}

bool cpu_msr_parse(const json_t *item, uint32_t *msr, struct bitmap *map)
{
    return parse_u32(field_string(item, "addr"), msr) &&
           parse_bitmap(field_string(item, "bitmap"), 64, map);
}

/* ---- to a model ---- */

static bool add(struct api_cpu *cpu, char sign, const char *feature)
{
    size_t n = strlen(cpu->model);

    return snprintf(cpu->model + n, sizeof(cpu->model) - n, ",%c%s", sign, feature) <
           (int)(sizeof(cpu->model) - n);
}

/* Bits of a word of features. False, and a fault: one cannot be set. */
static bool change_word(struct api_cpu *cpu, unsigned word, const struct bitmap *map,
                        const char *where, struct reply *r)
{
    for (unsigned bit = 0; bit < 32; bit++) {
        const char *feature = cpu_feature_at(word, bit);
        bool on = map->val >> bit & 1;

        if (!(map->mask >> bit & 1) || (!feature && !on))
            continue;
        if (!feature) {
            reply_fault(r, "Configure CPU error: bit %u of %s is none that doppel can set.", bit,
                        where);
            return false;
        }
        if (!add(cpu, on ? '+' : '-', feature)) {
            reply_fault(r, "Configure CPU error: too many modifiers.");
            return false;
        }
    }
    return true;
}

/* XCR0's components: x87 is always there, SSE's with the features; AVX's is AVX itself. */
static bool change_xcr0(struct api_cpu *cpu, const struct bitmap *map, struct reply *r)
{
    const uint64_t always = XCR0_X87 | XCR0_SSE;

    if ((map->mask & ~map->val & always) || (map->val & ~(always | XCR0_AVX))) {
        reply_fault(r, "Configure CPU error: leaf 0xd, subleaf 0x0, eax: doppel's guests have the "
                       "components x87, SSE and, if there is AVX, AVX.");
        return false;
    }
    return !(map->mask & XCR0_AVX) || add(cpu, map->val & XCR0_AVX ? '+' : '-', "avx");
}

static bool change_register(struct api_cpu *cpu, uint32_t leaf, uint32_t subleaf, const json_t *reg,
                            struct reply *r)
{
    const char *name = field_string(reg, "register"), *text = field_string(reg, "bitmap");
    struct bitmap map;
    char where[64];
    int word;

    (void)snprintf(where, sizeof(where), "leaf %#x, subleaf %#x, %s", leaf, subleaf, name);
    if (!parse_bitmap(text, 32, &map)) {
        reply_fault(r, "Configure CPU error: %s: `%.64s` is no bitmap of up to 32 bits.", where,
                    text);
        return false;
    }
    if (!map.mask)
        return true;
    if (leaf == 1 && !strcmp(name, "eax")) {
        cpu->signature_mask = (uint32_t)map.mask;
        cpu->signature = (uint32_t)map.val;
        return true;
    }
    if (leaf == 0xd && !subleaf && !strcmp(name, "eax"))
        return change_xcr0(cpu, &map, r);
    word = cpu_feature_word(leaf, subleaf, name[1]);
    if (word >= 0)
        return change_word(cpu, (unsigned)word, &map, where, r);
    reply_fault(r,
                "Configure CPU error: %s cannot be changed: in doppel it follows from the machine "
                "and its features.",
                where);
    return false;
}

static bool change_leaf(struct api_cpu *cpu, const json_t *leaf, struct reply *r)
{
    uint32_t nr, subleaf;
    json_t *reg;
    size_t i;

    if (!parse_u32(field_string(leaf, "leaf"), &nr) ||
        !parse_u32(field_string(leaf, "subleaf"), &subleaf)) {
        reply_fault(r, "Configure CPU error: `leaf` and `subleaf` have to be numbers of 32 bits.");
        return false;
    }
    json_array_foreach(json_object_get(leaf, "modifiers"), i, reg)
    {
        if (!change_register(cpu, nr, subleaf, reg, r))
            return false;
    }
    return true;
}

/* What cannot be honoured, unless it asks for nothing. */
static bool rest_ok(const json_t *config, struct reply *r)
{
    json_t *item;
    size_t i;

    json_array_foreach(json_object_get(config, "kvm_capabilities"), i, item)
    {
        /* "!" takes away a capability that would be checked for; none is. */
        if (*json_string_value(item) == '!')
            continue;
        reply_fault(r, "Configure CPU error: `kvm_capabilities`: doppel does not check for any.");
        return false;
    }
    json_array_foreach(json_object_get(config, "msr_modifiers"), i, item)
    {
        struct bitmap map;
        uint32_t addr;

        if (!cpu_msr_parse(item, &addr, &map)) {
            reply_fault(r, "Configure CPU error: `msr_modifiers` have a number of 32 bits and a "
                           "bitmap of up to 64.");
            return false;
        }
        if (!map.mask || cpu_msr_settable(addr))
            continue;
        reply_fault(r,
                    "Configure CPU error: MSR %#x cannot be changed: in doppel most MSRs follow "
                    "from the features of CPUID.",
                    addr);
        return false;
    }
    if (!json_array_size(json_object_get(config, "reg_modifiers")) &&
        !json_array_size(json_object_get(config, "vcpu_features")))
        return true;
    reply_fault(r, "Configure CPU error: `reg_modifiers` and `vcpu_features` are for another "
                   "architecture.");
    return false;
}

/* False, and a fault. */
static bool cpu_of_config(const json_t *config, struct api_cpu *cpu, struct reply *r)
{
    struct cpu_model model;
    char why[256];
    json_t *leaf;
    size_t i;

    *cpu = (struct api_cpu){ .model = "host" };
    json_array_foreach(json_object_get(config, "cpuid_modifiers"), i, leaf)
    {
        if (!change_leaf(cpu, leaf, r))
            return false;
    }
    if (!rest_ok(config, r))
        return false;
    if (cpu_model_init(&model, cpu->model, why, sizeof(why)))
        return true;
    reply_fault(r, "Configure CPU error: %s.", why);
    return false;
}

void api_cpu(const struct api *a, struct api_cpu *cpu)
{
    const char *name = field_string(a->machine, "cpu_template");
    struct reply r = { .status = 0 };

    *cpu = (struct api_cpu){ .model = "" };
    for (unsigned i = 0; i < ARRAY_SIZE(templates) && name; i++)
        if (!strcmp(templates[i].name, name) && templates[i].model)
            (void)snprintf(cpu->model, sizeof(cpu->model), "%s", templates[i].model);
    if (a->cpu_config)
        BUG_ON(!cpu_of_config(a->cpu_config, cpu, &r)); /* it was good when it was set */
}

/* The last of the two ways to say it counts. */
void cpu_config_put(struct api *a, const struct request *rq, struct reply *r)
{
    struct api_cpu cpu;

    if (!cpu_of_config(rq->body, &cpu, r))
        return;
    if (keep(a, &a->cpu_config, rq->body, r) && a->machine)
        (void)json_object_del(a->machine, "cpu_template");
}

void cpu_config_forget(struct api *a)
{
    json_decref(a->cpu_config);
    a->cpu_config = NULL;
}
