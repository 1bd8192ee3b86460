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
#include "engine/bt/direct/internal.h"

#define DATA_AT    0x10000000000ull /* where the first worker would have its home */
#define DATA_PAGES 64
#define CODE_LOW   0x400000ull
#define CODE_HIGH  0x555555554000ull
#define CODE_PAGES 4

/* ---- the programs ---- */

#define PROGRAM(name, text)                                                        \
    extern const uint8_t prog_##name[], prog_##name##_end[];                       \
    __asm__(".pushsection .rodata\n.intel_syntax noprefix\nprog_" #name ":\n" text \
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
/* The table's index is the low 16 bits: two targets that share them, called in turn. */
PROGRAM(conflict,
    "mov r12d, 3000\n lea r13, [rip + 3f]\n lea r14, [r13 + 0x10000]\n xor ebx, ebx\n xor edi, edi\n"
    "1: mov edx, r12d\n mov rax, rbx\n mov rcx, r12\n add edi, 0x7fffffff\n stc\n call r13\n"
    " adc rbx, rcx\n add rbx, rdx\n cmp r12d, 0x80000000\n call r14\n adc rbx, rax\n seto cl\n add bl, cl\n"
    " dec r12d\n jnz 1b\n jmp 9f\n3: ret\n9: mov ecx, 1\n");
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
#define ANY_VECTOR 100 /* processors differ */
#define ROW(n, vec)                       \
    {                                     \
#n, prog_##n, prog_##n##_end, vec \
    }

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
    if (p->vector == ANY_VECTOR)
        assert_true(want.vector >= 0);
    else if (want.vector != p->vector || got.vector != p->vector)
        print_error("%s at %#llx: interp ended with vector %d, direct with %d, should be %d\n",
                    p->name, (unsigned long long)at, want.vector, got.vector, p->vector);
    if (p->vector != ANY_VECTOR)
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

/* ---- code that changes ---- */

static void test_code_that_writes_itself_runs_as_written(void **state)
{
    static const struct program p = ROW(self, -1);
    struct fake *f = start();
    gpa_t pa;

    (void)state;
    assert_true(cpu_peek_walk(&f->v->cpu, GVA(CODE_LOW), &pa));
    *fake_pte(f, ROOT_AT, CODE_LOW) = pa.v | PTE_RWX;
    f->writes_code = pa;
    check_program(f, &p, CODE_LOW);
    /* It is refused after some stores, and interp (here) does the rest. */
    assert_in_range(direct_stats(f->d)->nr_result[DIRECT_INTERP], 2, 20);
    assert_true(direct_stats(f->d)->nr_result[DIRECT_REFUSED] > 0);
    /* The same page, writable by another address, while it is mapped there. */
    *fake_pte(f, ROOT_AT, DATA_AT + 65 * PAGE_BYTES) = pa.v | PTE_RW;
    fake_destroy(f);
}

/* mov rax, [DATA_AT]; mov rcx, rax; syscall */
PROGRAM(peek, "mov rdx, 0x10000000000\n mov rax, [rdx]\n mov ecx, 1\n");
PROGRAM(poke, "mov rdx, 0x10000000000\n mov ecx, 2\n mov [rdx], rcx\n");
PROGRAM(one, "mov eax, 1\n");
PROGRAM(two, "mov eax, 2\n");

static void run_at(struct fake *f, uint64_t rip)
{
    fake_user_state(f, rip);
    (void)fake_run_direct(f);
}

static void flush(struct fake *f, enum flush_kind kind, uint64_t at)
{
    direct_flush(f->d, &(struct tlb_flush){ .kind = kind, .at = GVA(at) });
}

static void test_flushed_page_is_seen_anew(void **state)
{
    static const struct program peek = ROW(peek, -1);
    static const enum flush_kind kinds[] = { FLUSH_PAGE, FLUSH_ALL, FLUSH_NONGLOBAL, FLUSH_PCID };
    struct fake *f = start();
    uint64_t *pte = fake_pte(f, ROOT_AT, DATA_AT), other = fake_map(f, DATA_AT + MIB(1), 1, PTE_RW);
    uint64_t old;

    (void)state;
    load(f, &peek, CODE_LOW);
    old = *pte & ~0xfffull & ~PTE_NX;
    *fake_entry(f, old) = 111;
    *fake_entry(f, other) = 222;
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        *pte = old | PTE_RW;
        flush(f, FLUSH_ALL, 0);
        run_at(f, CODE_LOW);
        assert_int_equal(f->v->cpu.gpr[RAX], 111);
        *pte = other | PTE_RW;
        flush(f, kinds[i], DATA_AT + 8);
        run_at(f, CODE_LOW);
        assert_int_equal(f->v->cpu.gpr[RAX], 222);
        assert_int_equal(*pte & PTE_A, PTE_A);
        *pte = 0;
        flush(f, kinds[i], DATA_AT + 8);
        run_at(f, CODE_LOW);
        assert_int_equal(f->vector, VEC_PF);
        assert_int_equal(f->v->cpu.cr2, DATA_AT);
    }
    fake_destroy(f);
}

static void test_write_sets_dirty_and_readonly_is_kept(void **state)
{
    static const struct program poke = ROW(poke, -1), peek = ROW(peek, -1);
    struct fake *f = start();
    uint64_t *pte = fake_pte(f, ROOT_AT, DATA_AT);

    (void)state;
    load(f, &poke, CODE_LOW);
    load(f, &peek, CODE_HIGH);
    *pte &= ~(PTE_A | PTE_D);
    flush(f, FLUSH_ALL, 0);
    run_at(f, CODE_HIGH);
    assert_int_equal(*pte & (PTE_A | PTE_D), PTE_A);
    run_at(f, CODE_LOW);
    assert_int_equal(f->vector, -1);
    assert_int_equal(*pte & (PTE_A | PTE_D), PTE_A | PTE_D);
    assert_int_equal(*fake_entry(f, *pte & ~0xfffull & ~PTE_NX), 2);
    /* Cleaned by the guest's kernel, as for write-back: the next write must set it again. */
    *pte &= ~PTE_D;
    flush(f, FLUSH_PAGE, DATA_AT);
    run_at(f, CODE_LOW);
    assert_int_equal(*pte & PTE_D, PTE_D);
    *pte &= ~PTE_W;
    flush(f, FLUSH_PAGE, DATA_AT);
    run_at(f, CODE_LOW);
    assert_int_equal(f->vector, VEC_PF);
    run_at(f, CODE_HIGH);
    assert_int_equal(f->vector, -1);
    fake_destroy(f);
}

static void test_code_of_a_remapped_page_is_translated_anew(void **state)
{
    static const struct program one = ROW(one, -1), two = ROW(two, -1);
    struct fake *f = start();
    uint64_t *low = fake_pte(f, ROOT_AT, CODE_LOW), *high = fake_pte(f, ROOT_AT, CODE_HIGH), was;

    (void)state;
    load(f, &one, CODE_LOW);
    load(f, &two, CODE_HIGH);
    run_at(f, CODE_LOW);
    assert_int_equal(f->v->cpu.gpr[RAX], 1);
    was = *low;
    *low = *high;
    flush(f, FLUSH_PAGE, CODE_LOW);
    run_at(f, CODE_LOW);
    assert_int_equal(f->v->cpu.gpr[RAX], 2);
    *low = was;
    flush(f, FLUSH_ALL, 0);
    run_at(f, CODE_LOW);
    assert_int_equal(f->v->cpu.gpr[RAX], 1);
    *low |= PTE_NX;
    flush(f, FLUSH_PAGE, CODE_LOW);
    run_at(f, CODE_LOW);
    assert_int_equal(f->vector, VEC_PF);
    fake_destroy(f);
}

/* The page with code is never writable by any address, also when it was before. */
static void test_page_becomes_code_while_mapped_writable(void **state)
{
    static const struct program poke = ROW(poke, -1), one = ROW(one, -1);
    struct fake *f = start();
    uint64_t pa = *fake_pte(f, ROOT_AT, DATA_AT) & ~0xfffull & ~PTE_NX;

    (void)state;
    load(f, &poke, CODE_LOW);
    run_at(f, CODE_LOW); /* now writable in the view */
    memcpy(fake_entry(f, pa), one.from, (size_t)(one.to - one.from));
    *fake_pte(f, ROOT_AT, CODE_HIGH) = pa | PTE_RX;
    run_at(f, CODE_HIGH);
    assert_int_equal(f->v->cpu.gpr[RAX], 1);
    assert_int_equal(f->ram->notes[pa >> PAGE_SHIFT] & PAGE_NOTE_CODE, PAGE_NOTE_CODE);
    f->writes_code = GPA(pa);
    memset(f->ram->hva + pa + 8, 0, 8);
    run_at(f, CODE_LOW); /* writes 02 00 00 00 00 00 00 00: add al, [rax] */
    assert_int_equal(*fake_entry(f, pa), 2);
    run_at(f, CODE_HIGH);
    assert_int_equal(f->vector, VEC_PF);
    fake_destroy(f);
}

static void test_two_address_spaces_do_not_see_each_other(void **state)
{
    static const struct program peek = ROW(peek, -1);
    struct fake *f = start();
    uint64_t root2 = f->next_table, pa = fake_map(f, DATA_AT + MIB(1), 1, PTE_RW);

    (void)state;
    f->next_table += PAGE_BYTES;
    load(f, &peek, CODE_LOW);
    *fake_entry(f, *fake_pte(f, ROOT_AT, DATA_AT) & ~0xfffull & ~PTE_NX) = 1;
    *fake_entry(f, pa) = 2;
    memcpy(fake_entry(f, root2 + 256 * 8), fake_entry(f, ROOT_AT + 256 * 8), 256 * 8);
    *fake_pte(f, root2, CODE_LOW) = *fake_pte(f, ROOT_AT, CODE_LOW);
    *fake_pte(f, root2, DATA_AT) = pa | PTE_RW;
    for (unsigned i = 0; i < 4; i++) {
        fake_user_state(f, CODE_LOW);
        f->v->cpu.cr3 = i & 1 ? root2 : ROOT_AT;
        (void)fake_run_direct(f);
        assert_int_equal(f->v->cpu.gpr[RAX], 1 + (i & 1));
    }
    assert_int_equal(direct_stats(f->d)->nr_workers, 2);
    /* More than there are workers. */
    for (unsigned i = 0; i < 40; i++) {
        uint64_t root = f->next_table;

        f->next_table += PAGE_BYTES;
        memcpy(fake_entry(f, root), fake_entry(f, i & 1 ? root2 : ROOT_AT), PAGE_BYTES);
        fake_user_state(f, CODE_LOW);
        f->v->cpu.cr3 = root;
        (void)fake_run_direct(f);
        assert_int_equal(f->v->cpu.gpr[RAX], 1 + (i & 1));
    }
    assert_true(direct_stats(f->d)->nr_workers <= 16);
    fake_destroy(f);
}

static void test_mmio_is_left_to_interp(void **state)
{
    static const struct program peek = ROW(peek, -1);
    struct fake *f = start();

    (void)state;
    load(f, &peek, CODE_LOW);
    *fake_pte(f, ROOT_AT, DATA_AT) = 0xe0000000ull | PTE_RW;
    flush(f, FLUSH_PAGE, DATA_AT);
    run_at(f, CODE_LOW);
    assert_int_equal(f->vector, -1);
    assert_int_equal(f->nr_mmio, 1);
    fake_destroy(f);
}

/* ---- the TSC ---- */

PROGRAM(rdtsc,
        "mov ebx, 1000\n stc\n1: rdtsc\n adc ebx, 0\n shl rdx, 32\n or rdx, rax\n mov rdi, rdx\n"
        " rdtscp\n mov esi, ecx\n shl rdx, 32\n or rax, rdx\n");

static void test_tsc_is_the_hosts_with_an_offset(void **state)
{
    static const struct program p = ROW(rdtsc, -1);
    struct fake *f = start();
    struct cpu *c = &f->v->cpu;
    uint64_t before, after;

    (void)state;
    load(f, &p, CODE_LOW);
    c->tsc_adjust = 1ull << 40;
    c->tsc_aux = 77;
    for (unsigned i = 0; i < 2; i++) { /* the second time without a stop in between */
        fake_user_state(f, CODE_LOW);
        before = cpu_read_tsc(c);
        (void)fake_run_direct(f);
        after = cpu_read_tsc(c);
        assert_int_equal(f->vector, -1);
        assert_in_range(c->gpr[RDI], before, after);
        assert_in_range(c->gpr[RAX], c->gpr[RDI], after);
        assert_int_equal(c->gpr[RSI], 77);
        assert_int_equal(c->gpr[RBX], 1001);
        assert_int_equal(direct_stats(f->d)->nr_result[DIRECT_INTERP], 0);
    }
    c->cr4 |= CR4_TSD;
    fake_user_state(f, CODE_LOW);
    c->cr4 |= CR4_TSD;
    (void)fake_run_direct(f);
    assert_int_equal(f->vector, VEC_GP);
    fake_destroy(f);
}

/* ---- attacks ---- */

/* R15 holds the address of the home. */
/* clang-format off */
PROGRAM(write_stub, "mov rdi, r15\n mov qword ptr [rdi], 0\n");
PROGRAM(write_in, "lea rdi, [r15 + 0x1000]\n mov qword ptr [rdi], 0\n");
PROGRAM(write_table, "lea rdi, [r15 + 0x10000]\n lea rax, [rip]\n mov [rdi], rax\n");
PROGRAM(write_code, "lea rdi, [r15 + 0x200000]\n mov dword ptr [rdi + 16], 0x050f9090\n");
PROGRAM(jump_home, "mov rdi, r15\n jmp rdi\n");
PROGRAM(jump_stub, "lea rdi, [r15 + 0x40]\n push rdi\n ret\n");
PROGRAM(jump_code, "lea rdi, [r15 + 0x200000]\n call rdi\n");
PROGRAM(ud_int80, "mov eax, 1\n int 0x80\n");
PROGRAM(sysenter, "mov eax, 1\n sysenter\n");
PROGRAM(hlt, "hlt\n");
/* All of the writable part is filled with rubbish, then used as a stack, then a fault comes. */
PROGRAM(forge,
    "lea rdi, [r15 + 0x4000]\n mov ecx, 0x1800\n mov rax, 0x4141414141414141\n rep stosq\n"
    "lea rsp, [r15 + 0xfff8]\n mov ebx, 1000\n 1: call 2f\n dec ebx\n jnz 1b\n"
    "mov rsp, 0x7fffff000000\n jmp 9f\n2: lea rdx, [rip + 3f]\n call rdx\n 3: pop rdx\n ret\n9: nop\n");
/* clang-format on */

static uint64_t home_of(struct fake *f)
{
    for (unsigned i = 0; i < NR_SPACES; i++)
        if (f->d->spaces[i])
            return f->d->spaces[i]->w.home;
    fail_msg("no worker");
    return 0;
}

static const struct program attacks[] = {
    ROW(write_stub, VEC_PF), ROW(write_in, VEC_PF),  ROW(write_table, VEC_PF),
    ROW(write_code, VEC_PF), ROW(jump_home, VEC_PF), ROW(jump_stub, VEC_PF),
    ROW(jump_code, VEC_PF),  ROW(ud_int80, VEC_GP),  ROW(sysenter, ANY_VECTOR),
    ROW(hlt, VEC_GP),
};

static void test_attacks_on_the_worker_fault_in_the_guest(void **state)
{
    static const struct program forge = ROW(forge, -1), loop = ROW(loop, -1);
    struct fake *f = start();

    (void)state;
    check_program(f, &loop, CODE_LOW);
    f->r15 = home_of(f);
    for (size_t i = 0; i < ARRAY_SIZE(attacks); i++)
        check_program(f, &attacks[i], CODE_LOW);
    load(f, &forge, CODE_LOW);
    (void)fake_run_direct(f);
    check_program(f, &loop, CODE_HIGH);
    assert_int_equal(direct_stats(f->d)->nr_workers, 1);
    assert_int_equal(direct_stats(f->d)->nr_result[DIRECT_LOST], 0);
    fake_destroy(f);
}

static void test_home_makes_way_for_the_guest(void **state)
{
    static const struct program loop = ROW(loop, -1);
    static const uint64_t at[] = { CODE_LOW, CODE_HIGH };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
        struct fake *f = start();
        uint64_t home;

        check_program(f, &loop, at[i]);
        home = home_of(f);
        (void)fake_map(f, home + MIB(1), 1, PTE_RW);
        check_program(f, &loop, at[i]);
        assert_int_not_equal(home_of(f), home);
        assert_int_equal(direct_stats(f->d)->nr_workers, 2);
        check_program(f, &loop, at[i]);
        assert_int_equal(direct_stats(f->d)->nr_workers, 2);
        fake_destroy(f);
    }
}

/* ---- somebody who kicks ---- */

struct kicker {
    struct fake *f;
    _Atomic bool stop;
    useconds_t every_us;
    pthread_t thread;
};

static void *kick_often(void *arg)
{
    struct kicker *k = arg;

    while (!k->stop) {
        (void)usleep(k->every_us);
        __atomic_fetch_or((uint32_t *)&k->f->v->cpu.req, REQ_IRQ, __ATOMIC_SEQ_CST);
        direct_kick(k->f->d);
    }
    return NULL;
}

static void start_kicking(struct kicker *k)
{
    k->stop = false;
    assert_int_equal(pthread_create(&k->thread, NULL, kick_often, k), 0);
}

static void stop_kicking(struct kicker *k)
{
    k->stop = true;
    (void)pthread_join(k->thread, NULL);
}

/* ---- indirect branches that share a place in the table ---- */

static void check_conflict(struct fake *f, const struct program *p, struct kicker *k)
{
    struct end want, got;

    load(f, p, CODE_HIGH);
    fake_run_interp(f);
    note_end(f, &want);
    load(f, p, CODE_HIGH);
    if (k)
        start_kicking(k);
    (void)fake_run_direct(f);
    if (k)
        stop_kicking(k);
    note_end(f, &got);
    compare(p, CODE_HIGH, &want, &got);
}

static void test_targets_that_share_a_table_entry_both_stay_fast(void **state)
{
    static const struct program p = ROW(conflict, -1);
    struct fake *f = start();
    struct kicker k = { .f = f, .every_us = 20 };
    uint64_t missed;

    (void)state;
    /* The same code 64 KB higher. */
    for (unsigned i = 0; i < CODE_PAGES; i++)
        *fake_pte(f, ROOT_AT, CODE_HIGH + 0x10000 + i * PAGE_BYTES) =
            *fake_pte(f, ROOT_AT, CODE_HIGH + i * PAGE_BYTES);
    check_conflict(f, &p, NULL);
    missed = direct_stats(f->d)->nr_misses;
    assert_in_range(missed, 2, 10);
    for (unsigned i = 0; i < 20; i++)
        check_conflict(f, &p, &k);
    assert_in_range(direct_stats(f->d)->nr_misses, missed, 21 * missed);
    fake_destroy(f);
}

/* ---- kicks ---- */

PROGRAM(long_run,
        "xor ebx, ebx\n mov r12d, 400000\n mov rbp, 0x10000000000\n"
        "1: mov rax, rbx\n mov rcx, r12\n stc\n call 2f\n lea rdx, [rip + 3f]\n call rdx\n"
        " adc rbx, rcx\n add rbx, rax\n mov rsi, [rip + 4f]\n add rbx, rsi\n xadd [rbp], rbx\n"
        " movq xmm5, rbx\n paddq xmm5, xmm5\n dec r12d\n jnz 1b\n jmp 9f\n"
        "2: ret\n3: rol rbx, 3\n ret\n.balign 8\n4: .quad 0x1234567\n9:\n");
PROGRAM(spin, "1: inc rax\n jmp 1b\n");

static void test_kicks_at_any_place_leave_the_state_precise(void **state)
{
    static const struct program p = ROW(long_run, -1);
    struct fake *f = start();
    const uint64_t *nr_kicked = &direct_stats(f->d)->nr_result[DIRECT_KICKED];
    struct kicker k = { .f = f, .every_us = 20 };
    struct end want, got;

    (void)state;
    /* Again, where the host has let the kicker sleep while the program ran. */
    for (unsigned i = 0; i < 2 || (*nr_kicked <= 5 && i < 2000); i++) {
        uint64_t at = i & 1 ? CODE_LOW : CODE_HIGH;

        load(f, &p, at);
        (void)fake_run_direct(f);
        note_end(f, &want);
        load(f, &p, at);
        start_kicking(&k);
        (void)fake_run_direct(f);
        stop_kicking(&k);
        note_end(f, &got);
        compare(&p, at, &want, &got);
    }
    assert_true(*nr_kicked > 5);
    fake_destroy(f);
}

static void *kick_once(void *arg)
{
    struct kicker *k = arg;

    (void)usleep(k->every_us);
    __atomic_fetch_or((uint32_t *)&k->f->v->cpu.req, REQ_STOP, __ATOMIC_SEQ_CST);
    direct_kick(k->f->d);
    return NULL;
}

static void test_kick_ends_a_loop_without_exits(void **state)
{
    static const struct program p = ROW(spin, -1);
    struct fake *f = start();
    struct kicker k = { .f = f };
    pthread_t t;

    (void)state;
    /* The kick may come before the program does, on a busy host. */
    for (k.every_us = 20000; k.every_us < 20000000; k.every_us *= 2) {
        load(f, &p, CODE_LOW);
        f->v->cpu.gpr[RAX] = 0;
        assert_int_equal(pthread_create(&t, NULL, kick_once, &k), 0);
        assert_int_equal(direct_run(f->d), DIRECT_KICKED);
        (void)pthread_join(t, NULL);
        assert_in_range(f->v->cpu.rip, CODE_LOW, CODE_LOW + 3);
        if (f->v->cpu.gpr[RAX] > 1000)
            break;
    }
    assert_true(f->v->cpu.gpr[RAX] > 1000);
    fake_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_programs_end_as_under_interp),
        cmocka_unit_test(test_code_that_writes_itself_runs_as_written),
        cmocka_unit_test(test_flushed_page_is_seen_anew),
        cmocka_unit_test(test_write_sets_dirty_and_readonly_is_kept),
        cmocka_unit_test(test_code_of_a_remapped_page_is_translated_anew),
        cmocka_unit_test(test_page_becomes_code_while_mapped_writable),
        cmocka_unit_test(test_two_address_spaces_do_not_see_each_other),
        cmocka_unit_test(test_tsc_is_the_hosts_with_an_offset),
        cmocka_unit_test(test_mmio_is_left_to_interp),
        cmocka_unit_test(test_attacks_on_the_worker_fault_in_the_guest),
        cmocka_unit_test(test_home_makes_way_for_the_guest),
        cmocka_unit_test(test_targets_that_share_a_table_entry_both_stay_fast),
        cmocka_unit_test(test_kicks_at_any_place_leave_the_state_precise),
        cmocka_unit_test(test_kick_ends_a_loop_without_exits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
