// SPDX-License-Identifier: Apache-2.0
/*
 * 32-bit code under a 64-bit kernel (compatibility mode): by far calls, so that it needs no 32-bit
 * program. Code, data and stack lie in the low 4 GB because the program is linked there.
 */
#include "bench.h"

#define TABLE 4096

static uint32_t table[TABLE] __attribute__((used));
static uint32_t stack32[1024] __attribute__((used));
static uint64_t rsp64 __attribute__((used));

/* run32: calls the 32-bit code at RDI, ECX = RSI, and returns its EAX. Linux' selectors. */
__asm__(".text\n"
        "run32: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n\t"
        "mov %rsp, rsp64(%rip)\n\t"
        "mov $0x2b, %eax; mov %eax, %ds; mov %eax, %es\n\t"
        "mov %edi, target32(%rip); mov %esi, %ecx\n\t"
        "mov $stack32 + 4096, %esp\n\t"
        "lcall *target32(%rip)\n\t"
        "mov %eax, %eax\n\t"
        "mov rsp64(%rip), %rsp\n\t"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
        ".data\n"
        "target32: .long 0; .word 0x23\n"
        ".text\n"
        ".code32\n"
        /* Eight ALU instructions on registers and a loop branch, as "alu". */
        "alu32_code: mov $1, %eax; mov $2, %edx; mov $3, %ebx\n\t"
        "1: add %edx, %eax; xor %ebx, %edx; lea 7(%eax,%edx), %ebx; shr $3, %eax\n\t"
        "or %edx, %eax; sub %ebx, %edx; and $0x7fffffff, %ebx; dec %ecx; jnz 1b\n\t"
        "xor %edx, %eax; lret\n"
        /* Arguments on the stack, a frame, loads and stores: what compilers make for the i386. */
        "table32_code: xor %eax, %eax; mov %ecx, %edi; mov $1, %esi\n\t"
        "1: push %edi; push %esi; call 2f; add $8, %esp; add %eax, %esi; dec %edi; jnz 1b\n\t"
        "mov %esi, %eax; lret\n"
        "2: push %ebp; mov %esp, %ebp; push %ebx\n\t"
        "mov 8(%ebp), %ebx; shr $5, %ebx; and $4095, %ebx\n\t"
        "mov table(,%ebx,4), %eax; add 12(%ebp), %eax; test $1, %al; jz 3f\n\t"
        "imul $0x9e3779b1, %eax, %eax; mov %eax, table(,%ebx,4)\n"
        "3: pop %ebx; leave; ret\n"
        ".code64\n");
uint64_t run32(const char *code, uint64_t count);
extern const char alu32_code[], table32_code[];

static uint64_t alu32(void)
{
    return run32(alu32_code, 300000);
}

static uint64_t table32(void)
{
    for (uint32_t i = 0; i < TABLE; i++)
        table[i] = i * 2654435761u;
    return run32(table32_code, 100000);
}

const struct work ia32_works[] = {
    { "alu32", "ia32", 300000, alu32, 0, 0 },
    { "table32", "ia32", 100000, table32, 0, 0 },
    { 0 },
};
