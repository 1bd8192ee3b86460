/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lock-step must find what is wrong: engines that are interp but for one mistake, made once, after
 * some steps. And it must find nothing where there is nothing.
 */
#include "vm/lockstep.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOAD_AT  0x100000u
#define TABLE_AT 0x200000u
#define LOOPS    0x4000u

/* Multiboot 1 header with addresses, then 32-bit code. */
struct image {
    uint32_t magic, flags, checksum, header_at, load_at, load_end, bss_end, entry;
    uint8_t code[64];
};

/* Fills a table, reads the RTC's port in between, then leaves by debug-exit. */
static const uint8_t code[] = {
    0x31, 0xc9,                               /* xor %ecx, %ecx */
    0x41,                                     /* 1: inc %ecx */
    0x89, 0x0c, 0x8d, 0x00, 0x00, 0x20, 0x00, /* mov %ecx, 0x200000(,%ecx,4) */
    0xe4, 0x71,                               /* in $0x71, %al */
    0x81, 0xf9, 0x00, 0x40, 0x00, 0x00,       /* cmp $0x4000, %ecx */
    0x72, 0xee,                               /* jb 1b */
    0xb0, 0x15,                               /* mov $0x15, %al */
    0xe6, 0xf4,                               /* out %al, $0xf4 */
    0xeb, 0xfe,                               /* jmp . */
};

enum mistake {
    NO_MISTAKE,
    WRONG_REGISTER,
    WRONG_VECTOR,
    WRONG_STORE,
    CALL_TOO_MUCH,
    CALL_TOO_FEW,
    STEP_TOO_MUCH
};

/* The engine under test, and what was reported. One at a time. */
static struct {
    enum mistake mistake;
    uint64_t after;
    char report[65536];
    size_t nr;
} test;

static void make_mistake(struct vcpu *v)
{
    const struct engine_config *cfg = &v->evm->cfg;

    switch (test.mistake) {
    case WRONG_REGISTER:
        v->cpu.gpr[RBX] ^= 0x40;
        break;
    case WRONG_VECTOR:
        v->cpu.fpu.xmm[3][15] ^= 1;
        break;
    case WRONG_STORE:
        *slot_hva(mmu_slot_find(cfg->mmu, GPA(TABLE_AT)), GPA(TABLE_AT + 0x123)) ^= 8;
        break;
    case CALL_TOO_MUCH:
        (void)cfg->ops->port_read(cfg->ctx, 0x80, 1);
        break;
    case CALL_TOO_FEW: /* the IN that would come next */
        if (v->cpu.rip == LOAD_AT + offsetof(struct image, code) + 10)
            v->cpu.rip += 2;
        else
            return;
        v->nr_insns++;
        break;
    case STEP_TOO_MUCH:
        v->nr_insns++;
        break;
    default:
        break;
    }
    test.mistake = NO_MISTAKE;
}

static enum run_result mutant_run(struct vcpu *v)
{
    enum run_result res = interp_engine.run(v);

    if (vcpu_steps(v) >= test.after)
        make_mistake(v);
    return res;
}

static void take_line(void *arg, const char *text)
{
    (void)arg;
    test.nr += (size_t)snprintf(test.report + test.nr, sizeof(test.report) - test.nr, "%s\n", text);
}

static char image_path[] = "/tmp/doppel-lockstep-test-XXXXXX";

static int setup(void **state)
{
    struct image img = { .magic = 0x1badb002,
                         .flags = 0x10000,
                         .checksum = -(0x1badb002u + 0x10000u),
                         .header_at = LOAD_AT,
                         .load_at = LOAD_AT,
                         .entry = LOAD_AT + offsetof(struct image, code) };
    int fd = mkstemp(image_path);
    ssize_t nr;

    (void)state;
    if (fd < 0)
        return -1;
    memcpy(img.code, code, sizeof(code));
    nr = write(fd, &img, sizeof(img));
    return close(fd) || nr != sizeof(img) ? -1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    return unlink(image_path);
}

static enum stop_reason run(enum mistake mistake, uint64_t after, struct lockstep_config cfg)
{
    struct engine_ops mutant = interp_engine;
    enum stop_reason why;
    struct vm *vm;
    int status;

    mutant.name = "mutant";
    mutant.run = mutant_run;
    test.mistake = mistake;
    test.after = after;
    test.nr = 0;
    test.report[0] = 0;
    cfg.reference = &interp_engine;
    cfg.tested = &mutant;
    cfg.line = take_line;
    if (!cfg.chunk)
        cfg.chunk = 16;
    vm = vm_create(&(struct vm_config){
        .lockstep = cfg,
        .debug_exit = true,
        .timeout_ns = 100000000000,
        .boot = { .kernel = image_path, .ram_bytes = MIB(16) },
    });
    assert_non_null(vm);
    assert_int_equal(vm_start(vm), 0);
    why = vm_wait(vm, &status);
    vm_destroy(vm);
    return why;
}

static void assert_said(const char *text)
{
    if (!strstr(test.report, text))
        fail_msg("'%s' is not in the report:\n%s", text, test.report);
}

static void test_equal_engines_run_to_the_end(void **state)
{
    static const uint64_t chunks[] = { 1, 2, 7, 1000 };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(chunks); i++) {
        assert_int_equal(run(NO_MISTAKE, 0, (struct lockstep_config){ .chunk = chunks[i] }),
                         STOP_EXIT);
        assert_said("lockstep: interp and mutant agree in ");
    }
}

static void test_equal_engines_may_meet_later(void **state)
{
    (void)state;
    assert_int_equal(run(NO_MISTAKE, 0, (struct lockstep_config){ .from = 30001 }), STOP_EXIT);
    assert_said("agree in ");
    assert_said("memory 1 times");
}

static void test_wrong_register_is_found_in_its_chunk(void **state)
{
    (void)state;
    assert_int_equal(run(WRONG_REGISTER, 1000, (struct lockstep_config){ .chunk = 1 }), STOP_ERROR);
    assert_said("mutant differs from interp: the vCPU's state\nbetween steps 999 and 1000:");
    assert_said("  rbx                  0000");
    assert_said("inc %ecx");
}

static void test_wrong_vector_register_is_found(void **state)
{
    (void)state;
    assert_int_equal(run(WRONG_VECTOR, 1000, (struct lockstep_config){ 0 }), STOP_ERROR);
    assert_said("  xmm3 ");
}

static void test_wrong_store_is_found_at_the_next_comparison_of_memory(void **state)
{
    (void)state;
    assert_int_equal(run(WRONG_STORE, 1000, (struct lockstep_config){ .memory_every = 500 }),
                     STOP_ERROR);
    assert_said("mutant differs from interp: memory\nat guest-physical 0x200123, ");
    assert_said("guest-physical 0x200120, mutant ");
}

static void test_wrong_store_is_found_at_the_end_at_the_latest(void **state)
{
    (void)state;
    assert_int_equal(run(WRONG_STORE, 1000, (struct lockstep_config){ 0 }), STOP_ERROR);
    assert_said("mutant differs from interp: memory\nat guest-physical 0x200123, ");
}

static void test_call_too_much_is_found(void **state)
{
    (void)state;
    assert_int_equal(run(CALL_TOO_MUCH, 1000, (struct lockstep_config){ 0 }), STOP_ERROR);
    assert_said("differs from interp: a call to the machine that only the tested engine makes");
    assert_said("reads port 0x80, 1 bytes");
}

static void test_call_too_few_is_found(void **state)
{
    (void)state;
    assert_int_equal(run(CALL_TOO_FEW, 1000, (struct lockstep_config){ .chunk = 1 }), STOP_ERROR);
    assert_said("interp reads port 0x71, 1 bytes");
}

static void test_wrong_number_of_steps_is_found(void **state)
{
    (void)state;
    assert_int_equal(run(STEP_TOO_MUCH, 1000, (struct lockstep_config){ 0 }), STOP_ERROR);
    assert_said("differs from interp: the vCPU's state");
}

/* ---- the list of parts ---- */

static void test_every_part_of_the_state_is_compared(void **state)
{
    static const size_t offs[] = {
        offsetof(struct cpu, gpr[RAX]),
        offsetof(struct cpu, gpr[R15]) + 7,
        offsetof(struct cpu, rip),
        offsetof(struct cpu, rflags),
        offsetof(struct cpu, seg[5].sel),
        offsetof(struct cpu, ldtr.base),
        offsetof(struct cpu, idtr.limit),
        offsetof(struct cpu, cr2),
        offsetof(struct cpu, pdpte[3]),
        offsetof(struct cpu, dr7),
        offsetof(struct cpu, lstar),
        offsetof(struct cpu, mtrr_fixed[10]),
        offsetof(struct cpu, fpu.fcw),
        offsetof(struct cpu, fpu.st[7]) + 9,
        offsetof(struct cpu, fpu.ymmh[15]) + 15,
        offsetof(struct cpu, fpu_cs),
        offsetof(struct cpu, activity),
        offsetof(struct cpu, pending_dbg),
        offsetof(struct cpu, shadow_sti),
        offsetof(struct cpu, nmi_pending),
        offsetof(struct cpu, apic.tpr),
        offsetof(struct cpu, apic.lvt[6]),
        offsetof(struct cpu, apic.tsc_deadline),
    };
    /* What belongs to an engine, or nobody can see. */
    static const size_t free_offs[] = {
        offsetof(struct cpu, gpr[NR_GPRS + 1]),
        offsetof(struct cpu, next_rip),
        offsetof(struct cpu, req),
        offsetof(struct cpu, exc.vector),
        offsetof(struct cpu, fpu.rsvd1),
        offsetof(struct cpu, fpu.st[0]) + 10,
    };
    static struct cpu a, b;

    (void)state;
    assert_true(ls_state_same(&a, &b));
    for (unsigned i = 0; i < ARRAY_SIZE(offs); i++) {
        ((uint8_t *)&b)[offs[i]] ^= 1;
        assert_false(ls_state_same(&a, &b));
        ((uint8_t *)&b)[offs[i]] ^= 1;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(free_offs); i++) {
        ((uint8_t *)&b)[free_offs[i]] ^= 1;
        assert_true(ls_state_same(&a, &b));
        ((uint8_t *)&b)[free_offs[i]] ^= 1;
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_engines_run_to_the_end),
        cmocka_unit_test(test_equal_engines_may_meet_later),
        cmocka_unit_test(test_wrong_register_is_found_in_its_chunk),
        cmocka_unit_test(test_wrong_vector_register_is_found),
        cmocka_unit_test(test_wrong_store_is_found_at_the_next_comparison_of_memory),
        cmocka_unit_test(test_wrong_store_is_found_at_the_end_at_the_latest),
        cmocka_unit_test(test_call_too_much_is_found),
        cmocka_unit_test(test_call_too_few_is_found),
        cmocka_unit_test(test_wrong_number_of_steps_is_found),
        cmocka_unit_test(test_every_part_of_the_state_is_compared),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
