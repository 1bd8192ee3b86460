/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, FS and GS bases, UMIP, the I/O permission map,
 * privileged instructions at CPL 3.
 */
#include "guest.h"

extern uint8_t syscall_entry[], sysenter_entry[], sysret32_entry[];
struct syscall_seen {
    word_t cx, r11, flags, cs, ss, sp;
} syscall_seen;

/* Entries note what they see and go back. They run on the user's stack (SYSCALL) or the one of the
 * MSR (SYSENTER). */
asm(".macro SEEN\n mov %rcx, syscall_seen(%rip)\n mov %r11, syscall_seen+8(%rip)\n mov %cs, %eax\n "
    "mov %rax, syscall_seen+24(%rip)\n"
    " mov %ss, %eax\n mov %rax, syscall_seen+32(%rip)\n mov %rsp, syscall_seen+40(%rip)\n .endm\n"
    "syscall_entry: SEEN\n mov %rsp, %rbx\n lea entry_stack_top(%rip), %rsp\n pushf\n pop %rax\n"
    " mov %rax, syscall_seen+16(%rip)\n mov %rbx, %rsp\n sysretq\n"
    "sysenter_entry: SEEN\n pushf\n pop %rax\n mov %rax, syscall_seen+16(%rip)\n sysexitq\n"
    " .bss\n .balign 16\n .skip 256\n entry_stack_top:\n .text\n");
extern uint8_t entry_stack_top[];

static word_t do_syscall(word_t a, word_t b)
{
    word_t cx, r11;

    (void)a, (void)b;
    asm volatile("syscall" : "=c"(cx) : : "rax", "rbx", "r11", "memory");
    asm volatile("mov %%r11, %0" : "=r"(r11));
    (void)r11;
    return cx;
}

static void syscalls(void)
{
    struct trap t = try_user(do_syscall, 0, 0);

    EXPECT_TRAP(&t, VEC_UD, 0, "SYSCALL without EFER.SCE");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (uint64_t)(SEL_UCODE32 | 3) << 48 | (uint64_t)SEL_KCODE << 32);
    wrmsr(MSR_LSTAR, (word_t)syscall_entry);
    wrmsr(MSR_SFMASK, FLAG_IF | FLAG_DF);
    user_flags = 2 | FLAG_DF | FLAG_CF;
    t = try_user(do_syscall, 0, 0);
    user_flags = 2;
    EXPECT_TRAP(&t, VEC_USER_END, 0, "SYSCALL and SYSRET");
    EXPECT_EQ(syscall_seen.cx, t.f.ax, "RCX is the return address");
    EXPECT_EQ(syscall_seen.r11 & (FLAG_DF | FLAG_CF), FLAG_DF | FLAG_CF, "R11 has the flags");
    tcg_deviates("loses the arithmetic flags");
    EXPECT_EQ(syscall_seen.flags & (FLAG_DF | FLAG_CF), FLAG_CF, "SFMASK clears its bits only");
    EXPECT_EQ(syscall_seen.cs, SEL_KCODE, "CS from STAR");
    EXPECT_EQ(syscall_seen.ss, SEL_KDATA, "SS from STAR");
    EXPECT(syscall_seen.sp > USER_ALIAS, "RSP stays the user's");
    EXPECT_EQ(t.f.cs, SEL_UCODE64 | 3, "CS after SYSRET");
    EXPECT_EQ(t.f.ss, SEL_UDATA | 3, "SS after SYSRET");
    EXPECT_EQ(t.f.flags & FLAG_DF, FLAG_DF, "flags after SYSRET");
}

/*
 * From 32-bit code, as every program for i386 does it under a 64-bit kernel on AMD. It runs below 4
 * GB with a stack there; what it returns is the CS after SYSRET.
 */
extern uint8_t cstar_entry[], compat_after[];
guest_fn call_compat;
asm("cstar_entry: SEEN\n sysretl\n"
    "call_compat: mov %rsp, compat_sp(%rip)\n lea compat_stack_top(%rip), %rsp\n mov %esp, %esp\n"
    " sub $8, %rsp\n lea compat_code(%rip), %eax\n mov %eax, (%rsp)\n movl $0x1b, 4(%rsp)\n"
    " lcall *(%rsp)\n mov compat_sp(%rip), %rsp\n ret\n"
    " .code32\n"
    "compat_code: mov $7, %ecx\n syscall\n"
    "compat_after: mov %cs, %eax\n lret\n"
    " .code64\n"
    " .bss\n .balign 16\n .skip 256\n compat_stack_top:\n compat_sp: .skip 8\n .text\n");

static void compat_syscalls(void)
{
    struct trap t;

    /* Its far return leads to where the code runs one to one. */
    pml4[0] |= PTE_U;
    flush_tlb();
    wrmsr(MSR_CSTAR, (word_t)cstar_entry);
    t = try_user(call_compat, 0, 0);
    if (!is_amd()) {
        EXPECT_TRAP(&t, VEC_UD, 0, "SYSCALL in compatibility mode on Intel");
    } else {
        EXPECT_TRAP(&t, VEC_USER_END, 0, "SYSCALL and SYSRET in compatibility mode");
        EXPECT_EQ(t.f.ax, SEL_UCODE32 | 3, "CS after SYSRET");
        EXPECT_EQ(syscall_seen.cx, (word_t)compat_after, "RCX is the return address");
        EXPECT_EQ(syscall_seen.cs, SEL_KCODE, "CS from STAR");
        EXPECT_EQ(syscall_seen.ss, SEL_KDATA, "SS from STAR");
        EXPECT(syscall_seen.sp < 1ull << 32, "RSP stays the user's");
    }
    pml4[0] &= ~(uint64_t)PTE_U;
    flush_tlb();
}

static word_t do_sysenter(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("lea 1f(%%rip), %%rdx\n\tmov %%rsp, %%rcx\n\tsysenter\n1:"
                 :
                 :
                 : "rax", "rcx", "rdx", "memory");
    return 0x55;
}

static word_t sysexit_at_3(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("sysexitq");
    return 0;
}

static void sysenters(void)
{
    struct trap t;

    if (is_amd()) {
        /* AMD has neither in long mode (APM 3, SYSENTER). */
        t = try_user(do_sysenter, 0, 0);
        EXPECT_TRAP(&t, VEC_UD, 0, "SYSENTER in long mode on AMD");
        /* The processor looks at CPL before it looks at the mode (seen on one). */
        t = try_user(sysexit_at_3, 0, 0);
        tcg_deviates("looks at the mode first");
        EXPECT_TRAP(&t, VEC_GP, 0, "SYSEXIT at CPL 3 in long mode on AMD");
        return;
    }
    t = try_user(sysexit_at_3, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "SYSEXIT at CPL 3");
    wrmsr(MSR_SYSENTER_CS, 0);
    t = try_user(do_sysenter, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "SYSENTER with a null SYSENTER_CS");
    wrmsr(MSR_SYSENTER_CS, SEL_KCODE);
    wrmsr(MSR_SYSENTER_EIP, (word_t)sysenter_entry);
    wrmsr(MSR_SYSENTER_ESP, (word_t)entry_stack_top);
    t = try_user(do_sysenter, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "SYSENTER and SYSEXIT in 64-bit mode");
    EXPECT_EQ(t.f.ax, 0x55, "come back");
    EXPECT_EQ(syscall_seen.cs, SEL_KCODE, "CS");
    EXPECT_EQ(syscall_seen.ss, SEL_KDATA, "SS");
    EXPECT_EQ(syscall_seen.sp, (word_t)entry_stack_top, "RSP");
    EXPECT_EQ(syscall_seen.flags & FLAG_IF, 0, "IF is clear");
    EXPECT_EQ(t.f.cs, SEL_UCODE64 | 3, "CS after SYSEXIT");
    EXPECT_EQ(t.f.ss, SEL_UDATA2 | 3, "SS after SYSEXIT");
}

static word_t sysret_at_3(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("sysretq");
    return 0;
}

static word_t sysret_noncanonical(word_t a, word_t b)
{
    (void)b;
    asm volatile("mov $2, %%r11d\n\tsysretq" : : "c"(a) : "r11", "memory");
    return 0;
}

static word_t write_msr(word_t msr, word_t v)
{
    wrmsr((uint32_t)msr, v);
    return 0;
}

static void refusals(void)
{
    struct trap t = try_user(sysret_at_3, 0, 0);

    EXPECT_TRAP(&t, VEC_GP, 0, "SYSRET at CPL 3");
    t = try(write_msr, MSR_LSTAR, 0x800000000000);
    tcg_deviates("takes any value");
    EXPECT_TRAP(&t, VEC_GP, 0, "LSTAR takes canonical addresses only");
    t = try(write_msr, MSR_KERNEL_GS_BASE, 0x800000000000);
    tcg_deviates("takes any value");
    EXPECT_TRAP(&t, VEC_GP, 0, "KERNEL_GS_BASE too");
    t = try(sysret_noncanonical, 0x800000000000, 0);
    EXPECT(t.vec == VEC_GP, "SYSRET to a non-canonical address: #GP");
}

static word_t swapgs(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("swapgs" : : : "memory");
    return 0;
}

static word_t rdfsbase(word_t a, word_t b)
{
    word_t v;

    (void)a, (void)b;
    asm volatile("rdfsbase %0" : "=r"(v));
    return v;
}

static word_t wrgsbase(word_t a, word_t b)
{
    (void)b;
    asm volatile("wrgsbase %0" : : "r"(a));
    return 0;
}

static word_t rdgsbase(word_t a, word_t b)
{
    word_t v;

    (void)a, (void)b;
    asm volatile("rdgsbase %0" : "=r"(v));
    return v;
}

static void bases(void)
{
    static uint64_t words[4] = { 0x1111, 0x2222, 0x3333, 0x4444 };
    word_t v;
    struct trap t;

    wrmsr(MSR_GS_BASE, (word_t)&words[0]);
    wrmsr(MSR_KERNEL_GS_BASE, (word_t)&words[2]);
    asm volatile("mov %%gs:8, %0" : "=r"(v));
    EXPECT_EQ(v, 0x2222, "an access through GS");
    asm volatile("swapgs\n\tmov %%gs:8, %0" : "=r"(v));
    EXPECT_EQ(v, 0x4444, "after SWAPGS");
    EXPECT_EQ(rdmsr(MSR_KERNEL_GS_BASE), (word_t)&words[0], "KERNEL_GS_BASE after SWAPGS");
    asm volatile("swapgs");
    t = try_user(swapgs, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "SWAPGS at CPL 3");
    wrmsr(MSR_FS_BASE, (word_t)&words[3]);
    asm volatile("mov %%fs:0, %0" : "=r"(v));
    EXPECT_EQ(v, 0x4444, "an access through FS");
    asm volatile("mov %w0, %%fs" : : "r"(SEL_KDATA));
    EXPECT_EQ(rdmsr(MSR_FS_BASE), 0, "a selector load sets the base from the descriptor");

    if (!has_fsgsbase()) {
        skip("not in this CPU model", "FSGSBASE");
        return;
    }
    t = try(rdfsbase, 0, 0);
    EXPECT_TRAP(&t, VEC_UD, 0, "RDFSBASE without CR4.FSGSBASE");
    write_cr4(read_cr4() | CR4_FSGSBASE);
    wrmsr(MSR_FS_BASE, 0x123456789);
    t = try_user(rdfsbase, 0, 0);
    EXPECT_EQ(t.f.ax, 0x123456789, "RDFSBASE at CPL 3");
    t = try(wrgsbase, 0x7fff00001234, 0);
    EXPECT_EQ(rdgsbase(0, 0), 0x7fff00001234, "WRGSBASE, RDGSBASE");
    EXPECT_EQ(rdmsr(MSR_GS_BASE), 0x7fff00001234, "the MSR shows it");
    t = try(wrgsbase, 0x800000000000, 0);
    tcg_deviates("takes any value");
    EXPECT_TRAP(&t, VEC_GP, 0, "WRGSBASE of a non-canonical address");
    write_cr4(read_cr4() & ~(word_t)CR4_FSGSBASE);
}

#define ONE(name, insn)                                                     \
    static word_t name(word_t a, word_t b)                                  \
    {                                                                       \
        uint64_t mem[2] = { 0, 0 };                                         \
        (void)b;                                                            \
        asm volatile(insn : "+a"(a), "+m"(mem) : : "rcx", "rdx", "memory"); \
        return a;                                                           \
    }
ONE(i_sgdt, "sgdt %1")
ONE(i_sidt, "sidt %1")
ONE(i_sldt, "sldt %0")
ONE(i_str, "str %0")
ONE(i_smsw, "smsw %0")
ONE(i_cli, "cli")
ONE(i_hlt, "hlt")
ONE(i_cr, "mov %%cr0, %0")
ONE(i_cr8, "mov %%cr8, %0")
ONE(i_lidt, "lidt %1")
ONE(i_wbinvd, "wbinvd")
ONE(i_invd, "invd")
ONE(i_rdmsr, "mov $0x10, %%ecx\n\trdmsr")
ONE(i_clts, "clts")
ONE(i_rdtsc, "rdtsc")
ONE(i_in, "in $0x61, %%al")
ONE(i_inl, "mov $0x60, %%edx\n\tin %%dx, %%eax")
ONE(i_xsetbv, "xor %%ecx, %%ecx\n\txor %%edx, %%edx\n\tmov $1, %%eax\n\txsetbv")
ONE(i_rdtscp, "rdtscp")

static void umip(void)
{
    static const struct {
        const char *what;
        guest_fn *fn;
    } insns[] = { { "SGDT", i_sgdt },
                  { "SIDT", i_sidt },
                  { "SLDT", i_sldt },
                  { "STR", i_str },
                  { "SMSW", i_smsw } };

    for (unsigned i = 0; i < ARRAY_SIZE(insns); i++) {
        struct trap t = try_user(insns[i].fn, 0, 0);

        EXPECT_TRAP(&t, VEC_USER_END, 0, "%s at CPL 3", insns[i].what);
        if (!has_umip()) {
            skip("not in this CPU model", "UMIP");
            continue;
        }
        write_cr4(read_cr4() | CR4_UMIP);
        t = try_user(insns[i].fn, 0, 0);
        EXPECT_TRAP(&t, VEC_GP, 0, "%s at CPL 3 with UMIP", insns[i].what);
        t = try(insns[i].fn, 0, 0);
        EXPECT_TRAP(&t, VEC_NONE, 0, "%s at CPL 0 with UMIP", insns[i].what);
        write_cr4(read_cr4() & ~(word_t)CR4_UMIP);
    }
}

static void privileged(void)
{
    static const struct {
        const char *what;
        guest_fn *fn;
        unsigned vec;
    } insns[] = { { "CLI", i_cli, VEC_GP },    { "HLT", i_hlt, VEC_GP },
                  { "MOV CR0", i_cr, VEC_GP }, { "MOV CR8", i_cr8, VEC_GP },
                  { "LIDT", i_lidt, VEC_GP },  { "WBINVD", i_wbinvd, VEC_GP },
                  { "INVD", i_invd, VEC_GP },  { "RDMSR", i_rdmsr, VEC_GP },
                  { "CLTS", i_clts, VEC_GP } };
    struct trap t;

    for (unsigned i = 0; i < ARRAY_SIZE(insns); i++) {
        t = try_user(insns[i].fn, 0, 0);
        EXPECT_TRAP(&t, insns[i].vec, 0, "%s at CPL 3", insns[i].what);
    }
    if (has_xsave()) {
        write_cr4(read_cr4() | CR4_OSXSAVE);
        t = try_user(i_xsetbv, 0, 0);
        EXPECT_TRAP(&t, VEC_GP, 0, "XSETBV at CPL 3");
        t = try(i_xsetbv, 0, 0);
        EXPECT_TRAP(&t, VEC_NONE, 0, "XSETBV at CPL 0");
    } else {
        skip("not in this CPU model", "XSETBV");
    }
    t = try_user(i_rdtsc, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "RDTSC at CPL 3");
    write_cr4(read_cr4() | CR4_TSD);
    t = try_user(i_rdtsc, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "RDTSC at CPL 3 with TSD");
    t = try_user(i_rdtscp, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "RDTSCP at CPL 3 with TSD");
    t = try(i_rdtsc, 0, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "RDTSC at CPL 0 with TSD");
    write_cr4(read_cr4() & ~(word_t)CR4_TSD);
}

static void io_map(void)
{
    struct trap t = try_user(i_in, 0, 0);

    EXPECT_TRAP(&t, VEC_GP, 0, "IN of a port whose bit is set");
    tss.bitmap[0x61 / 8] &= (uint8_t) ~(1u << (0x61 & 7));
    t = try_user(i_in, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "IN of a port whose bit is clear");
    t = try_user(i_inl, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "a double word needs all four");
    user_flags = 2 | FLAG_IOPL3;
    tss.bitmap[0x61 / 8] = 0xff;
    t = try_user(i_in, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "IOPL 3 needs no bits");
    t = try_user(i_cli, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "IOPL 3 allows CLI");
    user_flags = 2;
    tss.bitmap[0x61 / 8] = 0;
    /* The map ends before the port's byte. */
    GDT(SEL_TSS) =
        descriptor((uint32_t)(word_t)&tss, offsetof(struct tss, bitmap) + 0x61 / 8 - 1, 0x89);
    load_tss(SEL_TSS);
    t = try_user(i_in, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "a port beyond the map's end");
    tss.bitmap[0x61 / 8] = 0xff;
}

int main(void)
{
    syscalls();
    compat_syscalls();
    sysenters();
    refusals();
    bases();
    umip();
    privileged();
    io_map();
    return 0;
}
