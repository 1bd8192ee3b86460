/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is the state precise at every host instruction? Guest programs run with the trap flag set in the
 * worker, and after each of its instructions the guest's registers are taken out as for a kick:
 * they must be those interp has before or after one instruction of the guest.
 *
 * Takes the run loop's parts as they are in direct.c, which is why that is included.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/bt/direct/direct.c"
#include "engine/bt/direct/direct_fake.h"
#include "engine/bt/direct/stub.h"

#define CODE_LOW  0x400000ull
#define CODE_HIGH 0x555555554000ull
#define DATA_AT   0x7e0000000000ull

/* clang-format off */
extern const uint8_t program[], program_end[], program_ret[], program_pointer[];
__asm__(
    ".pushsection .rodata\n.intel_syntax noprefix\nprogram:\n"
    "mov r12d, 3\n lea r13, [rip + 30f]\n lea r14, [r13 + 0x10000]\n xor ebx, ebx\n"
    /* RIP-relative operands with every kind of scratch register */
    "1: mov rax, [rip + 20f]\n add [rip + 21f], rax\n cmp rcx, [rip + 20f]\n movdqu xmm3, [rip + 20f]\n"
    "mov eax, 5\n mov ecx, 6\n mov edx, 7\n lock cmpxchg16b [rip + 22f]\n push [rip + 20f]\n pop rsi\n"
    "imul rdi, [rip + 20f], 1000\n mov byte ptr [rip + 21f + 7], 9\n vpaddd ymm1, ymm3, [rip + 20f]\n"
    /* branches */
    "stc\n call r13\n adc rbx, 1\n call r14\n adc rbx, 2\n call r13\n mov edi, 0x7fffffff\n add edi, r12d\n call r14\n"
    "jo 3f\n nop\n3: call 30f\n push r13\n call [rsp]\n pop rax\n call [rip + 23f]\n"
    "mov eax, 1\n lea rdx, [rip + 24f]\n movsxd rcx, dword ptr [rdx + rax*4]\n add rcx, rdx\n jmp rcx\n"
    "4: ud2\n5: mov ecx, 2\n6: loop 6b\n jrcxz 7f\n ud2\n7: push 5\n push rax\n call 8f\n jmp 9f\n8: ret 16\n"
    "9: mov rdi, 0x7e0000000000\n mov ecx, 4\n rep stosq\n enter 16, 0\n leave\n rdtsc\n xor eax, eax\n xor edx, edx\n"
    "dec r12d\n jnz 1b\n jmp 40f\n"
    "program_ret: 30: ret\n 40: syscall\n"
    ".skip 4096 - (. - program)\n20: .quad 0x1122334455667788, 2, 3, 4\n21: .quad 5, 6\n22: .quad 5, 7\nprogram_pointer: 23: .quad 0\n"
    "24: .long 4b-24b, 5b-24b\n"
    "program_end:\n.att_syntax prefix\n.popsection\n");
/* clang-format on */

struct lockstep {
    struct fake *ref, *f;
    struct cpu before, after; /* interp's, around the instruction at hand */
    uint64_t nr_steps, nr_insns;
    bool after_known;
};

static bool same(const struct cpu *a, const struct cpu *b)
{
    return !memcmp(a->gpr, b->gpr, sizeof(uint64_t) * NR_GPRS) && a->rip == b->rip &&
           a->rflags == b->rflags && !memcmp(a->fpu.xmm, b->fpu.xmm, sizeof(a->fpu.xmm)) &&
           !memcmp(a->fpu.ymmh, b->fpu.ymmh, sizeof(a->fpu.ymmh)) && a->fpu.mxcsr == b->fpu.mxcsr;
}

/* NOPs have no host code: interp may be some of them ahead. RDTSC's results are the program's own
 * secret, so those two registers are ignored right behind it. */
static bool matches(struct lockstep *l, const struct cpu *c)
{
    for (unsigned tries = 0; tries < 4; tries++) {
        uint8_t b[2] = { 0 };

        if (same(&l->before, c))
            return true;
        if (!l->after_known) {
            (void)l->ref->evm->ops->peek(l->ref->v, GVA(l->ref->v->cpu.rip), b, 2);
            if (b[0] == 0x0f && b[1] == 0x05)
                return false;
            fake_step(l->ref);
            l->after = l->ref->v->cpu;
            if (b[0] == 0x0f && b[1] == 0x31 && c->rip == l->after.rip) {
                l->ref->v->cpu.gpr[RAX] = l->after.gpr[RAX] = c->gpr[RAX];
                l->ref->v->cpu.gpr[RDX] = l->after.gpr[RDX] = c->gpr[RDX];
            }
            l->after_known = true;
        }
        if (!same(&l->after, c) && l->after.rip == c->rip)
            return false;
        if (same(&l->after, c) || tries < 3) {
            bool hit = same(&l->after, c);

            if (!hit && c->rip == l->before.rip)
                return false;
            l->before = l->after;
            l->after_known = false;
            l->nr_insns++;
            if (hit)
                return true;
        }
    }
    return false;
}

static void check_step(struct lockstep *l, struct run *r)
{
    struct cpu saved = *r->c;

    if (!regs_save(r->s, r->c))
        fail_msg("no guest state at host pc %#llx",
                 (unsigned long long)r->s->w.uc->uc_mcontext.gregs[REG_RIP]);
    if (!matches(l, r->c)) {
        for (unsigned i = 0; i < NR_GPRS; i++)
            if (r->c->gpr[i] != l->before.gpr[i] || r->c->gpr[i] != l->after.gpr[i])
                print_error("register %u: %#llx, before %#llx, after %#llx\n", i,
                            (unsigned long long)r->c->gpr[i], (unsigned long long)l->before.gpr[i],
                            (unsigned long long)l->after.gpr[i]);
        fail_msg("step %llu, host pc %#x: rip %#llx flags %#llx, before %#llx %#llx, after %#llx "
                 "%#llx",
                 (unsigned long long)l->nr_steps, regs_host_pc(r->s), (unsigned long long)r->c->rip,
                 (unsigned long long)r->c->rflags, (unsigned long long)l->before.rip,
                 (unsigned long long)l->before.rflags, (unsigned long long)l->after.rip,
                 (unsigned long long)l->after.rflags);
    }
    *r->c = saved;
    l->nr_steps++;
}

static void set_trap_flag(struct worker *w)
{
    if (w->rest == REST_SIGNAL)
        w->uc->uc_mcontext.gregs[REG_EFL] |= RFLAGS_TF;
    else
        w->to_regs->flags |= RFLAGS_TF;
}

/* In the stub only the loading of registers is walked through; on the way out it has to be left
 * alone, because it uses the door itself. */
static bool in_stub(const struct worker *w)
{
    uint64_t off = (uint64_t)w->uc->uc_mcontext.gregs[REG_RIP] - w->home;

    if (off < HOME_STUB_BYTES && off >= direct_stub_offset(direct_stub_exit))
        w->uc->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)RFLAGS_TF;
    return off < HOME_STUB_BYTES;
}

/* Like run(), step by step. */
static enum direct_result run_steps(struct lockstep *l, bool plain)
{
    struct direct *d = l->f->d;
    struct run r = { .d = d, .c = &l->f->v->cpu, .s = space_enter(d) };

    bool leaving = false;

    assert_non_null(r.s);
    r.s->code.fast_loop = plain;
    r.s->code.scratch_only = !plain;
    (void)enter(&r, false);
    while (r.go_on) {
        if (!leaving)
            set_trap_flag(&r.s->w);
        assert_int_equal(worker_go(&r.s->w), 0);
        r.loaded = false;
        if (r.s->w.rest == REST_SIGNAL && r.s->w.signal == SIGTRAP &&
            r.s->w.uc->uc_mcontext.gregs[REG_TRAPNO] == VEC_DB) {
            leaving = in_stub(&r.s->w) && !(r.s->w.uc->uc_mcontext.gregs[REG_EFL] & RFLAGS_TF);
            if (!in_stub(&r.s->w))
                check_step(l, &r);
            continue;
        }
        leaving = false;
        stop(&r);
    }
    return r.result;
}

static void start(struct fake *f, uint64_t at)
{
    uint64_t pa = fake_map(f, at, 2, PTE_RWX);

    for (unsigned i = 0; i < 2; i++)
        *fake_pte(f, ROOT_AT, at + 0x10000 + i * PAGE_BYTES) = (pa + i * PAGE_BYTES) | PTE_RWX;
    (void)fake_map(f, DATA_AT, 1, PTE_RW);
    memcpy(f->ram->hva + pa, program, (size_t)(program_end - program));
    *fake_entry(f, pa + (uint64_t)(program_pointer - program)) =
        at + (uint64_t)(program_ret - program);
    fake_user_state(f, at);
}

static void check_at(uint64_t at, bool plain)
{
    struct lockstep l = { .ref = fake_create(), .f = fake_create() };

    start(l.ref, at);
    start(l.f, at);
    l.before = l.ref->v->cpu;
    for (;;) {
        enum direct_result res = run_steps(&l, plain);

        if (res == DIRECT_SYSCALL)
            break;
        assert_int_equal(res, DIRECT_INTERP); /* ENTER */
        assert_true(matches(&l, &l.f->v->cpu));
        fake_step(l.f);
    }
    assert_true(l.nr_steps > 100);
    assert_true(l.nr_insns > 60);
    fake_destroy(l.ref);
    fake_destroy(l.f);
}

static void test_every_host_instruction_has_a_precise_state(void **state)
{
    (void)state;
    check_at(CODE_LOW, true);
    check_at(CODE_HIGH, true);
    check_at(CODE_LOW, false);
    check_at(CODE_HIGH, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_host_instruction_has_a_precise_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
