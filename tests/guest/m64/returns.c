/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls and returns that do not pair: return addresses that were written over or taken
 * again; pages that are remapped or rewritten between a call and its return; returns of user code
 * where the kernel called. A translator that remembers where a return goes must not be seen doing
 * so.
 */
#include "guest.h"

static uint8_t page_a[PAGE_BYTES] PAGE_ALIGNED, page_b[PAGE_BYTES] PAGE_ALIGNED;
#define VA     TEST_VA
#define X      (PTE_P | PTE_W)
#define ROUNDS 40u /* so many that code is translated, and its calls have been seen */

/* ---- one page ---- */

/* Each call's return goes elsewhere than behind it: by so many bytes of the four INCs there. */
static word_t moved(word_t by, word_t unused)
{
    word_t sum = 0, at = 0;

    (void)unused;
    asm volatile("jmp 2f\n"
                 "1:\tmov (%%rsp), %1\n\t"
                 "add %2, %1\n\t"
                 "mov %1, (%%rsp)\n\t"
                 "ret\n"
                 "2:\tsub $128, %%rsp\n\t"
                 "call 1b\n\t"
                 "inc %0\n\tinc %0\n\tinc %0\n\tinc %0\n\t"
                 "add $128, %%rsp"
                 : "+r"(sum), "+r"(at)
                 : "r"(by)
                 : "memory", "cc");
    return sum;
}

/* The same word is returned to three times. */
static word_t again(word_t a, word_t b)
{
    word_t nr = 0;

    (void)a, (void)b;
    asm volatile("sub $128, %%rsp\n\t"
                 "call 1f\n\t"
                 "inc %0\n\t"
                 "cmp $3, %0\n\t"
                 "je 2f\n\t"
                 "sub $8, %%rsp\n"
                 "1:\tret\n"
                 "2:\tadd $128, %%rsp"
                 : "+r"(nr)
                 :
                 : "memory", "cc");
    return nr;
}

static void in_one_page(void)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < ROUNDS; i++) {
        word_t by = i % 5 < 4 ? 3 * (i % 5) : 0;

        wrong += moved(by, 0) != 4 - by / 3;
    }
    EXPECT_EQ(wrong, 0, "a return address that the callee has moved");
    wrong = 0;
    for (unsigned i = 0; i < ROUNDS; i++)
        wrong += again(0, 0) != 3;
    EXPECT_EQ(wrong, 0, "one return address taken three times");
}

/* ---- pages that change ---- */

static word_t change; /* 0: leave it */
enum { CHANGE_NONE, CHANGE_INVLPG, CHANGE_CR3, CHANGE_CR3_GLOBAL, CHANGE_BYTES, CHANGE_ABSENT };

/* call *%rdi ; mov $result, %eax ; ret */
static void write_code(uint8_t *p, uint32_t result)
{
    static const uint8_t code[] = { 0x48, 0x83, 0xec, 0x08, 0xff, 0xd7, 0x48, 0x83,
                                    0xc4, 0x08, 0xb8, 0,    0,    0,    0,    0xc3 };

    memcpy(p, code, sizeof(code));
    memcpy(p + 11, &result, 4);
}

static void callee(void)
{
    uint64_t *pte = page_entry(VA, 1);

    switch (change) {
    case CHANGE_INVLPG:
        *pte = (word_t)page_b | X;
        asm volatile("invlpg (%0)" : : "r"(VA) : "memory");
        break;
    case CHANGE_CR3:
    case CHANGE_CR3_GLOBAL: /* what is global stays */
        *pte = (word_t)page_b | X;
        write_cr3(read_cr3());
        break;
    case CHANGE_BYTES:
        write_code(page_a, 3);
        break;
    case CHANGE_ABSENT:
        *pte = 0;
        asm volatile("invlpg (%0)" : : "r"(VA) : "memory");
        break;
    default:
        break;
    }
}

static struct trap run_in_page(word_t what, word_t bits)
{
    struct trap t;

    write_code(page_a, 1);
    write_code(page_b, 2);
    page_set(VA, 1, (word_t)page_a | bits);
    change = CHANGE_NONE;
    for (unsigned i = 0; i < ROUNDS; i++)
        t = try((guest_fn *)VA, (word_t)callee, 0);
    if (t.vec != VEC_NONE || t.f.ax != 1)
        return t;
    change = what;
    return try((guest_fn *)VA, (word_t)callee, 0);
}

static void changed_pages(void)
{
    for (unsigned round = 0; round < 3; round++) {
        struct trap t = run_in_page(CHANGE_INVLPG, X);

        EXPECT(t.vec == VEC_NONE && t.f.ax == 2, "the caller's page is another: INVLPG");
        EXPECT(t.vec == VEC_NONE && t.f.ax == 2, "the caller's page is another: INVLPG");
        t = run_in_page(CHANGE_CR3, X);
        EXPECT(t.vec == VEC_NONE && t.f.ax == 2, "the caller's page is another: MOV to CR3");
        t = run_in_page(CHANGE_BYTES, X);
        EXPECT(t.vec == VEC_NONE && t.f.ax == 3, "the caller's code is written over");
        t = run_in_page(CHANGE_ABSENT, X);
        EXPECT(t.vec == VEC_PF && (t.cr2 & ~(word_t)(PAGE_BYTES - 1)) == VA && t.f.ip == t.cr2,
               "the caller's page is gone");
    }
    write_cr4(read_cr4() | CR4_PGE);
    for (unsigned round = 0; round < 3; round++) {
        struct trap t = run_in_page(CHANGE_INVLPG, X | PTE_G);

        EXPECT(t.vec == VEC_NONE && t.f.ax == 2, "a global one: INVLPG");
        t = run_in_page(CHANGE_CR3_GLOBAL, X | PTE_G);
        EXPECT(t.vec == VEC_NONE && (t.f.ax == 1 || t.f.ax == 2), "a global one: MOV to CR3");
    }
    write_cr4(read_cr4() & ~(word_t)CR4_PGE);
    page_set(VA, 1, 0);
}

/* ---- privilege ---- */

static word_t kernel_ip, kernel_sp;

/* Calls at the stack pointer that user code will use, and notes what it left there. */
static void call_at(word_t sp)
{
    asm volatile("mov %%rsp, %%r12\n\t"
                 "mov %2, %%rsp\n\t"
                 "call 1f\n\t"
                 "jmp 2f\n"
                 "1:\tmov (%%rsp), %0\n\t"
                 "mov %%rsp, %1\n\t"
                 "ret\n"
                 "2:\tmov %%r12, %%rsp"
                 : "=&r"(kernel_ip), "=&r"(kernel_sp)
                 : "r"(sp)
                 : "r12", "memory", "cc");
}

/* Returns to ip, the word of it at sp. */
static word_t user_return(word_t ip, word_t sp)
{
    asm volatile("mov %1, %%rsp\n\tmov %0, (%%rsp)\n\tret" : : "r"(ip), "r"(sp) : "memory");
    __builtin_unreachable();
}

static uint8_t user_stack[PAGE_BYTES] PAGE_ALIGNED;

static void privilege(void)
{
    word_t sp = VA + PAGE_BYTES - 64;
    unsigned wrong = 0;
    struct trap t;

    page_set(VA, 1, (word_t)user_stack | PTE_P | PTE_W | PTE_U);
    for (unsigned i = 0; i < ROUNDS; i++) {
        call_at(sp);
        t = try_user(user_return, kernel_ip, kernel_sp);
        wrong += t.vec != VEC_PF || t.cr2 != kernel_ip || (t.err & (PF_U | PF_P)) != (PF_U | PF_P);
    }
    EXPECT_EQ(wrong, 0, "user code does not return where the kernel called");
    page_set(VA, 1, 0);
}

int main(void)
{
    in_one_page();
    changed_pages();
    privilege();
    return 0;
}
