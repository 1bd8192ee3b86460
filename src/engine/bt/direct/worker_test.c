/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker is made of and what it cannot do, even where its code cache holds the worst. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/bt/direct/internal.h"
#include "engine/bt/direct/layout.h"
#include "engine/bt/direct/stub.h"
#include "host/host.h"

static int start(struct worker *w, int *ram)
{
    struct worker_desc desc = { .fds = ram, .nr_fds = 1 };
    char why[160] = "";
    int rc;

    for (unsigned n = 0; n < SPACE_NR_SLOTS; n++) {
        desc.home = SPACE_SLOT(n);
        if (worker_place_free(desc.home))
            break;
    }
    *ram = host_memfd("test", MIB(1));
    rc = worker_create(w, &desc, why, sizeof(why));
    if (rc < 0)
        print_message("no worker: %s\n", why);
    return rc;
}

/* Runs code from the start of the code cache until it stops. */
static int run(struct worker *w, const char *code, unsigned bytes)
{
    memcpy(w->hva + HOME_CODE, code, bytes);
    w->hva[HOME_CODE + bytes] = 0xcc;
    worker_set_pc(w, w->home + HOME_CODE);
    return worker_go(w);
}
#define RUN(w, code) run(w, code, sizeof(code) - 1)

static void test_worker_holds_its_home_and_nothing_else(void **state)
{
    char name[64], line[256];
    struct worker w;
    uint64_t from, to;
    FILE *maps;
    int ram;

    (void)state;
    if (start(&w, &ram) < 0)
        skip();
    (void)snprintf(name, sizeof(name), "/proc/%d/maps", w.pid);
    maps = fopen(name, "r");
    if (maps) { /* a process that may not be dumped hides it from all but root */
        while (fgets(line, sizeof(line), maps)) {
            char rights[8];

            assert_int_equal(sscanf(line, "%lx-%lx %7s", &from, &to, rights), 3);
            if (strstr(line, "[vsyscall]"))
                continue;
            assert_in_range(from, w.home, w.home + HOME_BYTES - 1);
            assert_in_range(to, w.home, w.home + HOME_BYTES);
            assert_false(strchr(rights, 'w') && strchr(rights, 'x'));
        }
        (void)fclose(maps);
    }
    worker_destroy(&w);
    host_close(ram);
}

static void test_system_calls_outside_the_stub_end_the_worker(void **state)
{
    static const struct {
        const char *code;
        unsigned bytes;
    } cases[] = {
        { "\xb8\x27\0\0\0\x0f\x05", 7 },         /* mov eax, SYS_getpid; syscall */
        { "\xb8\x14\0\0\0\xcd\x80", 7 },         /* int 80h */
        { "\x31\xc0\x0f\x05", 4 },               /* read */
        { "\xb8\x0f\0\0\0\x0f\x05", 7 },         /* rt_sigreturn */
        { "\x31\xed\xb8\x14\0\0\0\x0f\x34", 9 }, /* sysenter */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct worker w;
        int ram, rc;

        if (start(&w, &ram) < 0)
            skip();
        rc = run(&w, cases[i].code, cases[i].bytes);
        /* SYSENTER does not exist in 64-bit mode of AMD's processors. On Intel's the kernel finds
         * no sixth argument at EBP, makes no call, and returns to the 32-bit vdso, which is
         * unmapped. */
        if (rc != -EPIPE && !(i == 4 && rc == 0 && (w.signal == SIGILL || w.signal == SIGSEGV)))
            fail_msg("case %zu: result %d, signal %d", i, rc, w.signal);
        worker_destroy(&w);
        host_close(ram);
    }
}

static void test_stub_maps_nothing_private_or_executable(void **state)
{
    static const uint64_t cases[][2] = {
        { PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED },
        { PROT_READ, MAP_PRIVATE | MAP_FIXED },
        { PROT_READ, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct worker w;
        int ram;

        if (start(&w, &ram) < 0)
            skip();
        assert_int_equal(worker_cmd(&w, &(struct worker_call){ SYS_mmap,
                                                               { 0x400000, PAGE_BYTES, cases[i][0],
                                                                 cases[i][1], (uint64_t)ram, 0 } }),
                         0);
        assert_int_equal(worker_sync(&w), -EPIPE);
        worker_destroy(&w);
        host_close(ram);
    }
}

static void test_failed_command_is_told_and_guest_code_is_not_entered(void **state)
{
    struct worker w;
    int ram;

    (void)state;
    if (start(&w, &ram) < 0)
        skip();
    assert_int_equal(RUN(&w, "\x90"), 0);
    assert_int_equal(w.signal, SIGTRAP);
    assert_int_equal(worker_cmd(&w, &(struct worker_call){ SYS_mmap,
                                                           { 0x400000, PAGE_BYTES, PROT_READ,
                                                             MAP_SHARED | MAP_FIXED, 1000, 0 } }),
                     0);
    w.hva[HOME_CODE] = 0x0f; /* ud2 */
    w.hva[HOME_CODE + 1] = 0x0b;
    worker_set_pc(&w, w.home + HOME_CODE);
    assert_int_equal(worker_go(&w), -EBADF);
    assert_int_equal(worker_go(&w), 0);
    assert_int_equal(w.signal, SIGILL);
    worker_destroy(&w);
    host_close(ram);
}

static void test_stack_pointer_may_be_anything_when_a_signal_comes(void **state)
{
    static const uint64_t rsp[] = { 0, 1, 8, UINT64_MAX, 1ull << 63, 0xffff800000000000ull };
    struct worker w;
    int ram;

    (void)state;
    if (start(&w, &ram) < 0)
        skip();
    for (size_t i = 0; i < ARRAY_SIZE(rsp) + 2; i++) {
        uint64_t x = i < ARRAY_SIZE(rsp)
                         ? rsp[i]
                         : w.home + HOME_OUT + (i & 1 ? OUT_STACK + 64 : HOME_OUT_BYTES);

        w.uc->uc_mcontext.gregs[REG_RSP] = (greg_t)x;
        assert_int_equal(RUN(&w, "\x90"), 0);
        assert_int_equal(w.signal, SIGTRAP);
        assert_int_equal(w.uc->uc_mcontext.gregs[REG_RSP], x);
    }
    worker_destroy(&w);
    host_close(ram);
}

static bool has_byte(const uint8_t *p, size_t bytes, uint8_t what)
{
    return memchr(p, what, bytes) != NULL;
}

/* Code that leaves by the stub's exit. */
static int run_exit(struct worker *w)
{
    uint64_t exit = w->home + HOME_STUB + direct_stub_offset(direct_stub_exit);
    char code[] = "\x48\xb8\0\0\0\0\0\0\0\0\xff\xe0"; /* mov rax, exit ; jmp rax */

    memcpy(code + 2, &exit, sizeof(exit));
    return run(w, code, sizeof(code) - 1);
}

/* So many kicks as fast as can be; then the worker is let go. */
struct kicker {
    int pid;
    _Atomic bool over;
};

static void *kick_on(void *arg)
{
    struct kicker *k = arg;

    while (!k->over)
        worker_kick(k->pid);
    return NULL;
}

static void test_kicks_at_any_time_do_no_harm(void **state)
{
    struct kicker k = { 0 };
    struct worker w;
    unsigned exits = 0, signals = 0;
    pthread_t t;
    int ram;

    (void)state;
    if (start(&w, &ram) < 0)
        skip();
    k.pid = w.pid;
    assert_int_equal(pthread_create(&t, NULL, kick_on, &k), 0);
    for (unsigned n = 0; n < 100000; n++) {
        worker_scrub(&w);
        if (w.rest == REST_EXIT)
            w.to_regs->flags = 2;
        assert_int_equal(n & 1 ? run_exit(&w) : RUN(&w, "\x90"), 0);
        exits += w.entered && w.rest == REST_EXIT;
        signals += w.entered && w.rest == REST_SIGNAL;
    }
    k.over = true;
    (void)pthread_join(t, NULL);
    for (unsigned n = 0; n < 100 && !(exits && signals); n++) { /* kicks left no time for them */
        worker_scrub(&w);
        if (w.rest == REST_EXIT)
            w.to_regs->flags = 2;
        assert_int_equal(n & 1 ? run_exit(&w) : RUN(&w, "\x90"), 0);
        exits += w.entered && w.rest == REST_EXIT;
        signals += w.entered && w.rest == REST_SIGNAL;
    }
    assert_true(exits && signals);
    worker_destroy(&w);
    host_close(ram);
}

static void test_scrubbed_home_has_nothing_of_the_last_program(void **state)
{
    struct worker w;
    int ram;

    (void)state;
    if (start(&w, &ram) < 0)
        skip();
    for (unsigned i = 0; i < 2; i++) {
        if (i)
            assert_int_equal(run_exit(&w), 0);
        assert_int_equal(w.rest, i ? REST_EXIT : REST_SIGNAL);
        memset(w.hva + HOME_OUT + OUT_REGS, 0xa5, sizeof(struct door_regs));
        memset(w.hva + HOME_OUT + OUT_XSAVE, 0xa5, sizeof(struct xsave_area));
        memset(w.hva + HOME_OUT + OUT_SCRATCH, 0xa5, 64);
        memset(w.uc->uc_mcontext.gregs, 0xa5, sizeof(uint64_t));
        if (!i)
            memset(w.hva + HOME_IN + IN_REGS, 0xa5, sizeof(struct door_regs));
        worker_scrub(&w);
        assert_false(has_byte(w.hva + HOME_OUT + OUT_SCRATCH, OUT_STACK - OUT_SCRATCH, 0xa5));
        if (!i) /* the frame it rests in stays, and is loaded with the next registers */
            assert_false(has_byte(w.hva + HOME_IN + IN_REGS, HOME_IN_BYTES - IN_REGS, 0xa5));
        else
            w.to_regs->flags = 2;
        if (i) { /* the signal stack: as guest code is entered */
            assert_int_equal(run_exit(&w), 0);
            assert_false(
                has_byte(w.hva + HOME_OUT + OUT_SCRATCH, HOME_OUT_BYTES - OUT_SCRATCH, 0xa5));
        }
    }
    worker_destroy(&w);
    host_close(ram);
}

static void test_time_of_guest_code_is_told(void **state)
{
    /* Until 10 million ticks are over; says that it began long ago. */
    static const char spin[] = "\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\x48\x8d\x98\x80\x96\x98\x00"
                               "\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\x48\x39\xd8\x72\xf2";
    struct __attribute__((packed)) {
        uint8_t mov[3]; /* mov qword ptr [rip + at], 0 */
        int32_t at, value;
    } lie = { .mov = { 0x48, 0xc7, 0x05 },
              .at = HOME_OUT + OUT_BEGAN - HOME_CODE - (int)sizeof(lie) };
    uint64_t ran[2] = { UINT64_MAX, UINT64_MAX }, took[2] = { UINT64_MAX, UINT64_MAX };
    struct worker w;
    int ram;

    (void)state;
    if (start(&w, &ram) < 0)
        skip();
    assert_int_equal(RUN(&w, spin), 0);
    assert_true(w.ran >= 10000000);
    for (unsigned i = 0; i < 60; i++) { /* the host may take the processor away */
        uint64_t before = host_tsc(), all;

        if (w.rest == REST_EXIT)
            w.to_regs->flags = 2;
        if (i < 40)
            assert_int_equal(i & 1 ? run_exit(&w) : RUN(&w, "\x90"), 0);
        else
            assert_int_equal(run(&w, (const char *)&lie, sizeof(lie)), 0);
        all = host_tsc() - before;
        assert_true(w.ran > 0 && w.ran < all);
        if (i < 40) {
            ran[i & 1] = MIN(ran[i & 1], w.ran);
            took[i & 1] = MIN(took[i & 1], all);
        }
    }
    for (unsigned way = 0; way < 2; way++)
        assert_true(ran[way] < took[way] / 2);
    worker_destroy(&w);
    host_close(ram);
}

static void test_death_is_noticed(void **state)
{
    struct worker w;
    int ram;

    (void)state;
    if (start(&w, &ram) < 0)
        skip();
    (void)kill(w.pid, SIGKILL);
    assert_int_equal(RUN(&w, "\x90"), -EPIPE);
    worker_destroy(&w);
    host_close(ram);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worker_holds_its_home_and_nothing_else),
        cmocka_unit_test(test_system_calls_outside_the_stub_end_the_worker),
        cmocka_unit_test(test_stub_maps_nothing_private_or_executable),
        cmocka_unit_test(test_failed_command_is_told_and_guest_code_is_not_entered),
        cmocka_unit_test(test_stack_pointer_may_be_anything_when_a_signal_comes),
        cmocka_unit_test(test_kicks_at_any_time_do_no_harm),
        cmocka_unit_test(test_scrubbed_home_has_nothing_of_the_last_program),
        cmocka_unit_test(test_time_of_guest_code_is_told),
        cmocka_unit_test(test_death_is_noticed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
