/* SPDX-License-Identifier: Apache-2.0 */
/* The direct tier against interp: the same program in the same machine must end in the same state.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/bt/direct/direct_fake.h"

#define DATA_AT    0x10000000000ull /* where the first worker would have its home */
#define DATA_PAGES 64
#define CODE_LOW   0x400000ull
#define CODE_HIGH  0x555555554000ull
#define CODE_PAGES 4

/* ---- the programs ---- */

#define PROGRAM(name, text)                                                             \
    extern const uint8_t prog_##name[], prog_##name##_end[];                            \
    __asm__(".pushsection .rodata\n.intel_syntax noprefix\nprog_" #name ":\n" text      \
            "\nsyscall\nprog_" #name "_end:\n.att_syntax prefix\n.popsection\n")

/* clang-format off */
PROGRAM(loop, "mov ecx, 1000\n xor eax, eax\n1: add rax, rcx\n imul rax, rax, 3\n dec ecx\n jnz 1b\n");
PROGRAM(calls,
    "mov edi, 15\n call 2f\n jmp 9f\n"
    "2: cmp edi, 2\n jb 3f\n push rdi\n dec edi\n call 2b\n pop rdi\n push rax\n"
    " sub edi, 2\n call 2b\n pop rdx\n add rax, rdx\n ret\n"
    "3: mov eax, edi\n ret 0\n9:\n");
PROGRAM(indirect,
    "xor ebx, ebx\n xor r12d, r12d\n"
    "1: mov eax, r12d\n and eax, 3\n lea rdx, [rip + 5f]\n movsxd rcx, dword ptr [rdx + rax*4]\n"
    " add rcx, rdx\n stc\n jmp rcx\n"
    "2: adc rbx, 1\n jmp 8f\n3: adc rbx, 100\n jmp 8f\n4: lea r10, [rip + 6f]\n call r10\n jmp 8f\n"
    "7: lea rax, [rip + 6f]\n push rax\n push rax\n call [rsp]\n pop rax\n pop rax\n jmp 8f\n"
    "6: lea rbx, [rbx + rbx*2]\n ret\n"
    ".balign 4\n5: .long 2b-5b, 3b-5b, 4b-5b, 7b-5b\n"
    "8: inc r12d\n cmp r12d, 300\n jb 1b\n pushfq\n pop r13\n and r13, 0x8d5\n");
PROGRAM(ripmem,
    "lea rax, [rip + 3f]\n mov rbx, [rip + 3f]\n mov ecx, [rip + 3f]\n movdqu xmm0, [rip + 3f]\n"
    " vaddps ymm1, ymm0, [rip + 3f]\n cmp qword ptr [rip + 3f], 17\n sete dl\n"
    " add rbx, [rip + 4f]\n movzx r9d, byte ptr [rip + 3f + 1]\n push [rip + 4f]\n pop r8\n"
    " call [rip + 6f]\n jmp 9f\n"
    ".balign 16\n3: .quad 17, 0x4048f5c3, 3, 4\n4: .quad 0x123456789abcdef0\n6: .quad 0x10000000100\n"
    "9:\n");
PROGRAM(data,
    "mov rdi, 0x10000000000\n mov ecx, 5000\n mov eax, 0x5a\n rep stosb\n"
    " mov rsi, 0x10000000010\n mov rdi, 0x10000008003\n mov ecx, 9000\n rep movsb\n"
    " mov rsi, 0x10000000010\n mov rdi, 0x10000008003\n mov ecx, 2000\n repe cmpsb\n"
    " mov rdi, 0x10000010000\n mov ecx, 1000\n1: mov [rdi + rcx*8], rcx\n xadd [rdi + rcx*8], rcx\n"
    " lock inc qword ptr [rdi + 8]\n loop 1b\n mov esi, 777\n bts qword ptr [rdi], rsi\n mov rsi, 0x10000000100\n"
    " std\n mov ecx, 7\n lodsq\n cld\n");
PROGRAM(vectors,
    "mov eax, 7\n cvtsi2sd xmm1, eax\n sqrtsd xmm2, xmm1\n divsd xmm1, xmm2\n vmovaps ymm3, ymm2\n"
    " vperm2f128 ymm4, ymm3, ymm2, 1\n fld1\n fldpi\n fmul st(1), st\n fsqrt\n fnstcw [rsp - 8]\n"
    " stmxcsr [rsp - 16]\n paddq mm3, mm4\n emms\n fldpi\n");
PROGRAM(self,
    "mov ebx, 50\n lea rdi, [rip + 2f + 1]\n xor eax, eax\n xor edx, edx\n"
    "1: mov [rdi], ebx\n nop\n2: mov ecx, 0x11223344\n add rax, rcx\n dec ebx\n jnz 1b\n");
PROGRAM(flags,
    "xor ebx, ebx\n mov ebp, 64\n1: mov eax, ebp\n shl eax, 26\n add eax, 0x7fffffff\n call 2f\n"
    " adc rbx, 3\n seto cl\n movzx ecx, cl\n add rbx, rcx\n dec ebp\n jnz 1b\n jmp 9f\n2: ret\n9:\n");
PROGRAM(stack, "enter 32, 0\n mov qword ptr [rbp - 8], 5\n push 7\n push rsp\n pop rax\n sub rax, rsp\n"
    " pop qword ptr [rbp - 16]\n leave\n lea rbx, [rsp - 64]\n mov eax, 3\n xlatb\n");
PROGRAM(jrcxz, "mov ecx, 3\n xor eax, eax\n1: inc eax\n loop 1b\n jrcxz 2f\n mov eax, 99\n2: jecxz 3f\n ud2\n"
    "3: mov ecx, 5\n cmp eax, eax\n4: loope 4b\n");
PROGRAM(cpuid, "xor eax, eax\n cpuid\n mov eax, 1\n xor ecx, ecx\n cpuid\n rdfsbase r8\n mov eax, cs\n pushfq\n popfq\n");
PROGRAM(div0, "xor ecx, ecx\n mov eax, 5\n cdq\n div ecx\n");
PROGRAM(ud, "mov eax, 1\n ud2\n");
PROGRAM(int3, "mov eax, 1\n int3\n");
PROGRAM(gp, "mov rax, 0x8000000000000000\n mov rbx, [rax]\n");
PROGRAM(kernel, "mov rax, 0xffff800000001000\n mov rbx, [rax]\n");
PROGRAM(absent, "mov rax, 0x123456789000\n mov [rax + 8], rbx\n");
PROGRAM(null, "xor eax, eax\n call rax\n");
PROGRAM(readonly, "lea rax, [rip]\n mov rcx, rax\n mov [rax], rbx\n");
PROGRAM(noexec, "mov rax, 0x10000000000\n jmp rax\n");
PROGRAM(noncanonical, "mov rax, 0x123400000000000\n push rax\n ret\n");
PROGRAM(ripfault, "mov rcx, 77\n mov rax, 88\n call [rip + 0x7000000]\n");
PROGRAM(xm, "mov dword ptr [rsp - 8], 0x1f00\n ldmxcsr [rsp - 8]\n pxor xmm0, xmm0\n divss xmm1, xmm0\n mulss xmm0, xmm1\n sqrtss xmm2, xmm1\n");
PROGRAM(stack_fault, "xor esp, esp\n mov rcx, 5\n push rcx\n");
PROGRAM(ret_fault, "mov rsp, 0x123456789000\n mov rcx, 5\n mov rax, 6\n ret\n");
/* clang-format on */

struct program {
    const char *name;
    const uint8_t *from, *to;
    int vector;
};
#define ROW(n, vec) { #n, prog_##n, prog_##n##_end, vec }

static const struct program programs[] = {
    ROW(loop, -1),
    ROW(calls, -1),
    ROW(indirect, -1),
    ROW(data, -1),
    ROW(vectors, -1),
    ROW(flags, -1),
    ROW(stack, -1),
    ROW(jrcxz, -1),
    ROW(cpuid, -1),
    ROW(ripmem, VEC_PF),
    ROW(div0, VEC_DE),
    ROW(ud, VEC_UD),
    ROW(int3, VEC_BP),
    ROW(gp, VEC_GP),
    ROW(kernel, VEC_PF),
    ROW(absent, VEC_PF),
    ROW(null, VEC_PF),
    ROW(readonly, VEC_PF),
    ROW(noexec, VEC_PF),
    ROW(noncanonical, VEC_GP),
    ROW(ripfault, VEC_PF),
    ROW(xm, VEC_XM),
    ROW(stack_fault, VEC_PF),
    ROW(ret_fault, VEC_PF),
};

/* ---- the machine ---- */

struct end {
    uint64_t gpr[NR_GPRS], rip, rflags, cr2;
    struct xsave_area fpu;
    int vector;
    uint64_t frame[6]; /* what an exception pushed */
};

static void load(struct fake *f, const struct program *p, uint64_t at)
{
    gpa_t pa;

    fake_user_state(f, at);
    assert_true(cpu_peek_walk(&f->v->cpu, GVA(at), &pa));
    direct_code_written(f->d, pa, CODE_PAGES * PAGE_BYTES);
    assert_int_equal(mmu_write(f->mmu, pa, p->from, (uint64_t)(p->to - p->from)), p->to - p->from);
    assert_true(cpu_peek_walk(&f->v->cpu, GVA(DATA_AT), &pa));
    memset(slot_hva(f->ram, pa), 0, DATA_PAGES * PAGE_BYTES);
    assert_true(cpu_peek_walk(&f->v->cpu, GVA(USER_STACK - PAGE_BYTES), &pa));
    memset(slot_hva(f->ram, pa), 0, PAGE_BYTES);
    memset(slot_hva(f->ram, GPA(STACK_AT - 64)), 0, 64);
    f->v->cpu.cr2 = 0;
    /* What the loader wrote to code is worked off. */
    f->v->cpu.req = 0;
    code_drop_all(container_of(f->v, struct ivcpu, vc));
    block_bury(container_of(f->v, struct ivcpu, vc));
}

static void note_end(struct fake *f, struct end *e)
{
    const struct cpu *c = &f->v->cpu;

    memset(e, 0, sizeof(*e));
    memcpy(e->gpr, c->gpr, sizeof(e->gpr));
    e->rip = c->rip;
    e->rflags = c->rflags;
    e->cr2 = c->cr2;
    e->fpu = c->fpu;
    e->fpu.mxcsr_mask = 0;
    /* AMD's XSAVE leaves these out while no exception is pending. */
    e->fpu.fop = 0;
    e->fpu.fip = e->fpu.fdp = 0;
    e->vector = f->vector;
    memcpy(e->frame, slot_hva(f->ram, GPA(STACK_AT - sizeof(e->frame))), sizeof(e->frame));
}

static uint64_t checksum(struct fake *f)
{
    uint64_t sum = 0;
    gpa_t pa;

    assert_true(cpu_peek_walk(&f->v->cpu, GVA(DATA_AT), &pa));
    for (unsigned i = 0; i < DATA_PAGES * PAGE_BYTES; i += 8)
        sum = sum * 31 + *(const uint64_t *)(const void *)slot_hva(f->ram, gpa_add(pa, i));
    return sum;
}

static void compare(const struct program *p, uint64_t at, const struct end *want,
                    const struct end *got)
{
    for (unsigned i = 0; i < NR_GPRS; i++)
        if (want->gpr[i] != got->gpr[i])
            print_error("%s at %#llx: register %u is %#llx, should be %#llx\n", p->name,
                        (unsigned long long)at, i, (unsigned long long)got->gpr[i],
                        (unsigned long long)want->gpr[i]);
    assert_memory_equal(want->gpr, got->gpr, sizeof(want->gpr));
    assert_int_equal(want->vector, got->vector);
    assert_int_equal(want->rip, got->rip);
    assert_int_equal(want->rflags, got->rflags);
    assert_int_equal(want->cr2, got->cr2);
    if (memcmp(want->frame, got->frame, sizeof(want->frame)) ||
        memcmp(&want->fpu, &got->fpu, sizeof(want->fpu)))
        print_error("%s at %#llx: frames or vectors differ\n", p->name, (unsigned long long)at);
    assert_memory_equal(want->frame, got->frame, sizeof(want->frame));
    assert_memory_equal(&want->fpu, &got->fpu, sizeof(want->fpu));
}

/* Made inside each test: cmocka puts its own signal handlers in place before, interp needs its. */
static struct fake *start(void)
{
    struct fake *f = fake_create();

    assert_non_null(f);
    (void)fake_map(f, CODE_LOW, CODE_PAGES, PTE_RX);
    (void)fake_map(f, CODE_HIGH, CODE_PAGES, PTE_RX);
    (void)fake_map(f, DATA_AT, DATA_PAGES, PTE_RW);
    return f;
}

static void check_program(struct fake *f, const struct program *p, uint64_t at)
{
    struct end want, got;
    uint64_t sum;

    load(f, p, at);
    fake_run_interp(f);
    note_end(f, &want);
    sum = checksum(f);
    load(f, p, at);
    (void)fake_run_direct(f);
    note_end(f, &got);
    if (want.vector != p->vector || got.vector != p->vector)
        print_error("%s at %#llx: interp ended with vector %d, direct with %d, should be %d\n",
                    p->name, (unsigned long long)at, want.vector, got.vector, p->vector);
    assert_int_equal(want.vector, p->vector);
    compare(p, at, &want, &got);
    assert_int_equal(sum, checksum(f));
}

static void test_programs_end_as_under_interp(void **state)
{
    struct fake *f = start();

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
        check_program(f, &programs[i], CODE_LOW);
        check_program(f, &programs[i], CODE_HIGH);
        check_program(f, &programs[i], CODE_HIGH + PAGE_BYTES - 21); /* over a page's end */
    }
    fake_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_programs_end_as_under_interp),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
