/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a VM with guests of a few instructions: how it ends, pausing, reset, several at once.
 * The engine is the reference one.
 */
#include "vm/vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOAD_AT 0x100000u

/* Multiboot 1 header with addresses, then 32-bit code. */
struct image {
    uint32_t magic, flags, checksum, header_at, load_at, load_end, bss_end, entry;
    uint8_t code[64];
};

static char image_path[] = "/tmp/doppel-vm-test-XXXXXX";

static int setup(void **state)
{
    int fd = mkstemp(image_path);

    (void)state;
    return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
    (void)state;
    return unlink(image_path);
}

static struct vm *make(const uint8_t *code, size_t bytes, const struct vm_config *more)
{
    struct image img = { .magic = 0x1badb002,
                         .flags = 0x10000,
                         .checksum = -(0x1badb002u + 0x10000u),
                         .header_at = LOAD_AT,
                         .load_at = LOAD_AT,
                         .entry = LOAD_AT + offsetof(struct image, code) };
    struct vm_config cfg = *more;
    FILE *f = fopen(image_path, "wb");

    assert_non_null(f);
    memcpy(img.code, code, bytes);
    assert_int_equal(fwrite(&img, sizeof(img), 1, f), 1);
    assert_int_equal(fclose(f), 0);
    cfg.engine = &interp_engine;
    cfg.boot.kernel = image_path;
    cfg.boot.ram_bytes = MIB(16);
    return vm_create(&cfg);
}

#define MAKE(code, ...) make(code, sizeof(code), &(struct vm_config){ __VA_ARGS__ })

static const uint8_t code_exit[] = {
    0xb0, 0x15, /* mov $0x15, %al */
    0xe6, 0xf4, /* out %al, $0xf4 */
    0xeb, 0xfe, /* jmp . */
};
static const uint8_t code_spin[] = { 0xeb, 0xfe };
static const uint8_t code_halt[] = { 0xfa, 0xf4, 0xeb, 0xfd }; /* cli; hlt; jmp hlt */
static const uint8_t code_triple[] = { 0x0f, 0x0b };           /* ud2, without an IDT */
static const uint8_t code_poweroff[] = {
    0x66, 0xba, 0x04, 0x06, /* mov $0x604, %dx: PM1a control */
    0x66, 0xb8, 0x00, 0x34, /* mov $0x3400, %ax: SLP_EN, SLP_TYP 5 */
    0x66, 0xef,             /* out %ax, %dx */
    0xeb, 0xfe,             /* jmp . */
};
/* Resets the first time, exits the second: RAM tells which it is. */
static const uint8_t code_reset[] = {
    0x80, 0x3d, 0x00, 0x00, 0x20, 0x00, 0x01, /* cmpb $1, 0x200000 */
    0x74, 0x10,                               /* je 1f */
    0xc6, 0x05, 0x00, 0x00, 0x20, 0x00, 0x01, /* movb $1, 0x200000 */
    0x66, 0xba, 0xf9, 0x0c,                   /* mov $0xcf9, %dx */
    0xb0, 0x06,                               /* mov $6, %al */
    0xee,                                     /* out %al, %dx */
    0xeb, 0xfe,                               /* jmp . */
    0xb0, 0x11,                               /* 1: mov $0x11, %al */
    0xe6, 0xf4,                               /* out %al, $0xf4 */
    0xeb, 0xfe,                               /* jmp . */
};

/* Runs it to its end; the process's exit status is the result. */
static int run(struct vm *vm, enum stop_reason *why)
{
    int status;

    assert_non_null(vm);
    assert_int_equal(vm_state(vm), VM_CREATED);
    assert_int_equal(vm_start(vm), 0);
    *why = vm_wait(vm, &status);
    assert_int_equal(vm_state(vm), VM_STOPPED);
    status = vm_exit_status(*why, status);
    vm_destroy(vm);
    return status;
}

static void test_debug_exit_gives_its_status(void **state)
{
    enum stop_reason why;

    (void)state;
    assert_int_equal(run(MAKE(code_exit, .debug_exit = true), &why), 0x15 << 1 | 1);
    assert_int_equal(why, STOP_EXIT);
}

static void test_debug_exit_only_on_request(void **state)
{
    enum stop_reason why;

    (void)state;
    assert_int_equal(run(MAKE(code_exit, .timeout_ns = 100000000), &why), 124);
}

static void test_poweroff_ends_with_0(void **state)
{
    enum stop_reason why;

    (void)state;
    assert_int_equal(run(MAKE(code_poweroff, .timeout_ns = 100000000000), &why), 0);
    assert_int_equal(why, STOP_POWEROFF);
}

static void test_triple_fault_ends_with_3(void **state)
{
    enum stop_reason why;

    (void)state;
    assert_int_equal(run(MAKE(code_triple, .timeout_ns = 100000000000), &why), 3);
    assert_int_equal(why, STOP_TRIPLE);
}

static void test_reset_loads_the_kernel_again_and_keeps_ram(void **state)
{
    enum stop_reason why;

    (void)state;
    assert_int_equal(run(MAKE(code_reset, .debug_exit = true, .timeout_ns = 100000000000), &why),
                     0x11 << 1 | 1);
}

static void test_reset_ends_when_told_so(void **state)
{
    enum stop_reason why;

    (void)state;
    assert_int_equal(run(MAKE(code_reset, .debug_exit = true, .no_reboot = true), &why), 0);
    assert_int_equal(why, STOP_RESET);
}

static void test_timeout_ends_running_and_halted(void **state)
{
    enum stop_reason why;

    (void)state;
    assert_int_equal(run(MAKE(code_spin, .timeout_ns = 50000000), &why), 124);
    assert_int_equal(why, STOP_TIMEOUT);
    assert_int_equal(run(MAKE(code_halt, .timeout_ns = 50000000), &why), 124);
}

static uint64_t insns(struct vm *vm)
{
    return __atomic_load_n(&vm_vcpu(vm, 0)->nr_insns, __ATOMIC_RELAXED);
}

static void wait_for_insns(struct vm *vm, uint64_t more_than)
{
    for (unsigned ms = 0; ms < 60000 && insns(vm) <= more_than; ms++)
        (void)usleep(1000);
    assert_true(insns(vm) > more_than);
}

static void test_pause_stops_vcpus_and_the_clock(void **state)
{
    struct vm *vm = MAKE(code_spin);
    struct clock *c = bus_clock(vm_bus(vm));
    uint64_t nr, ns, host;

    (void)state;
    assert_int_equal(vm_start(vm), 0);
    wait_for_insns(vm, 0);
    vm_pause(vm);
    vm_pause(vm); /* they nest */
    vm_resume(vm);
    assert_int_equal(vm_state(vm), VM_PAUSED);
    nr = insns(vm);
    ns = clock_now_ns(c);
    (void)usleep(20000);
    assert_int_equal(insns(vm), nr);
    assert_int_equal(clock_now_ns(c), ns);
    host = host_mono_ns();
    vm_resume(vm);
    assert_int_equal(vm_state(vm), VM_RUNNING);
    wait_for_insns(vm, nr);
    ns = clock_now_ns(c) - ns;
    host = host_mono_ns() - host;
    assert_in_range(ns, 1, host + host / 50 + 1000000); /* the pause did not count */
    vm_destroy(vm);
}

/* The reference engine, but slow to come back: long after it was told to stop. */
static _Atomic bool in_engine;

static enum run_result slow_run(struct vcpu *v)
{
    enum run_result why;

    in_engine = true;
    why = interp_engine.run(v);
    (void)usleep(20000);
    in_engine = false;
    return why;
}

static void test_pause_returns_only_when_all_stand(void **state)
{
    struct vm *vm = MAKE(code_spin);
    struct engine_ops slow = interp_engine;

    (void)state;
    slow.run = slow_run;
    vm_vcpu(vm, 0)->engine = &slow;
    assert_int_equal(vm_start(vm), 0);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t nr;

        wait_for_insns(vm, insns(vm));
        while (!in_engine)
            (void)usleep(100);
        vm_pause(vm);
        assert_false(in_engine);
        nr = insns(vm);
        (void)usleep(1000);
        assert_int_equal(insns(vm), nr);
        vm_resume(vm);
    }
    vm_destroy(vm);
}

static void test_pause_before_start_holds_the_first_instruction(void **state)
{
    struct vm *vm = MAKE(code_spin);
    uint64_t ns = clock_now_ns(bus_clock(vm_bus(vm)));

    (void)state;
    vm_pause(vm);
    assert_int_equal(vm_start(vm), 0);
    (void)usleep(20000);
    assert_int_equal(insns(vm), 0);
    assert_int_equal(clock_now_ns(bus_clock(vm_bus(vm))), ns);
    vm_resume(vm);
    wait_for_insns(vm, 0);
    vm_destroy(vm);
}

static void test_stop_ends_a_paused_and_a_halted_vm(void **state)
{
    struct vm *vm = MAKE(code_spin);
    int status;

    (void)state;
    assert_int_equal(vm_start(vm), 0);
    vm_pause(vm);
    vm_stop(vm, STOP_USER, 0);
    assert_int_equal(vm_wait(vm, &status), STOP_USER);
    vm_destroy(vm);
    vm = MAKE(code_halt);
    assert_int_equal(vm_start(vm), 0);
    (void)usleep(20000);
    vm_stop(vm, STOP_USER, 0);
    vm_stop(vm, STOP_EXIT, 7); /* the first one counts */
    assert_int_equal(vm_wait(vm, &status), STOP_USER);
    vm_destroy(vm);
}

static void test_several_vms_in_one_process(void **state)
{
    struct vm *spin = MAKE(code_spin, .name = "spin"), *halt = MAKE(code_halt, .name = "halt");
    enum stop_reason why;

    (void)state;
    assert_int_equal(vm_start(spin), 0);
    assert_int_equal(vm_start(halt), 0);
    assert_int_equal(run(MAKE(code_exit, .debug_exit = true), &why), 0x15 << 1 | 1);
    assert_int_equal(vm_state(spin), VM_RUNNING);
    assert_int_equal(vm_state(halt), VM_RUNNING);
    vm_destroy(halt);
    wait_for_insns(spin, insns(spin));
    vm_destroy(spin);
}

static void test_vm_that_cannot_be_is_refused(void **state)
{
    struct vm_config cfg = { .engine = &interp_engine,
                             .boot = { .kernel = "/nonexistent", .ram_bytes = MIB(16) } };

    (void)state;
    assert_null(vm_create(&cfg));
    cfg.boot.kernel = image_path;
    cfg.boot.ram_bytes = 4097;
    assert_null(vm_create(&cfg));
    cfg.boot.ram_bytes = MIB(16);
    cfg.cpu_model = "z80";
    assert_null(vm_create(&cfg));
}

static void test_stats_are_json(void **state)
{
    struct vm *vm = MAKE(code_exit, .debug_exit = true, .name = "counted", .time_exits = true);
    json_t *top, *v;
    char *text;
    int status;

    (void)state;
    assert_int_equal(vm_start(vm), 0);
    (void)vm_wait(vm, &status);
    text = vm_stats_json(vm);
    top = json_loads(text, 0, NULL);
    assert_non_null(top);
    assert_string_equal(json_string_value(json_object_get(top, "name")), "counted");
    assert_string_equal(json_string_value(json_object_get(top, "reason")), "debug exit");
    assert_int_equal(json_integer_value(json_object_get(top, "status")), 0x2b);
    v = json_array_get(json_object_get(top, "vcpus"), 0);
    assert_true(json_integer_value(json_object_get(v, "instructions")) >= 2);
    v = json_object_get(json_object_get(v, "exits"), "PIO");
    assert_int_equal(json_integer_value(json_object_get(v, "count")), 1);
    assert_true(json_integer_value(json_object_get(v, "total_ns")) > 0);
    json_decref(top);
    free(text);
    vm_destroy(vm);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_debug_exit_gives_its_status),
        cmocka_unit_test(test_debug_exit_only_on_request),
        cmocka_unit_test(test_poweroff_ends_with_0),
        cmocka_unit_test(test_triple_fault_ends_with_3),
        cmocka_unit_test(test_reset_loads_the_kernel_again_and_keeps_ram),
        cmocka_unit_test(test_reset_ends_when_told_so),
        cmocka_unit_test(test_timeout_ends_running_and_halted),
        cmocka_unit_test(test_pause_stops_vcpus_and_the_clock),
        cmocka_unit_test(test_pause_returns_only_when_all_stand),
        cmocka_unit_test(test_pause_before_start_holds_the_first_instruction),
        cmocka_unit_test(test_stop_ends_a_paused_and_a_halted_vm),
        cmocka_unit_test(test_several_vms_in_one_process),
        cmocka_unit_test(test_vm_that_cannot_be_is_refused),
        cmocka_unit_test(test_stats_are_json),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
