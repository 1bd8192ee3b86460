/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The probe: a guest of some 200 bytes in long mode, which does what the first lines of any kernel
 * do (descriptor tables, control registers, an MSR, a page fault and back, user mode and back),
 * then a loop of plain supervisor code and a row of port writes, both timed.
 *
 * A /dev/kvm that has VT-x or AMD-V behind it runs all this at the processor's speed. One that has
 * not fails, or emulates the loop.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/kvm/kvm.h"

/* The guest's memory: what is where. All of it is mapped at its own address, in 4 KB pages. */
#define MEMORY_BYTES MIB(1)
#define PML4_AT      0x1000u
#define PDPT_AT      0x2000u
#define PD_AT        0x3000u
#define PT_AT        0x4000u
#define GDT_AT       0x5000u
#define IDT_AT       0x6000u
#define TSS_AT       0x7000u
#define CODE_AT      0x8000u
#define STACK_AT     0xa000u
#define HOLE_AT      0xb000u /* not present, until the page fault's handler has come by */

#define PORT_STEP 0x80u  /* AL: which step is done */
#define PORT_END  0x500u /* the guest is through */

#define NR_OUTS       64u
#define NR_LOOPS      4000u
#define NR_ROUNDS     3u /* the shortest of so many counts: the host may be busy */
#define LIMIT_NS      400000000ull
#define KICK_EVERY_NS 50000000ull

enum probe_step {
    STEP_START,
    STEP_TABLES,
    STEP_CONTROL,
    STEP_FAULT_TAKEN,
    STEP_USER_MODE,
    STEP_LOOP,
    STEP_LOOPED,
};
static const char *const step_texts[] = {
    [STEP_START] = "loading descriptor tables",
    [STEP_TABLES] = "control registers, MSRs and CPUID",
    [STEP_CONTROL] = "a page fault and INVLPG",
    [STEP_FAULT_TAKEN] = "user mode and back",
    [STEP_USER_MODE] = "user mode and back",
    [STEP_LOOP] = "a loop of supervisor code",
    [STEP_LOOPED] = "port writes",
};

/* User code is behind user data, as SYSRET wants them. */
#define SEL_CODE 0x08u
#define SEL_DATA 0x10u
#define SEL_TSS  0x28u
static const uint64_t gdt[] = {
    0,
    0x00af9b000000ffff, /* 64-bit code */
    0x00cf93000000ffff, /* data */
    0x00cff3000000ffff, /* user data */
    0x00affb000000ffff, /* user 64-bit code */
    0x0000890000000067 | (uint64_t)TSS_AT << 16,
    0,
};
#define STAR_VALUE ((uint64_t)SEL_DATA << 48 | (uint64_t)SEL_CODE << 32)

#define B16(x)  (x) & 0xff, (x) >> 8 & 0xff
#define B32(x)  B16(x), (x) >> 16 & 0xff, (x) >> 24 & 0xff
#define B64(x)  B32(x), 0, 0, 0, 0
#define STEP(n) 0xb0, (n), 0xe6, PORT_STEP /* mov al, n; out PORT_STEP, al */

#define USER_AT    0x80
#define SYSCALL_AT 0x90
#define AGAIN_AT   0x94
#define GDTR_AT    0xc0
#define IDTR_AT    0xca
#define HANDLER_AT 0xe0

/* clang-format off */
static const uint8_t code[] = {
    0x0f, 0x01, 0x15, B32(GDTR_AT - 0x07),               /* 00: lgdt [rip + ..] */
    0x0f, 0x01, 0x1d, B32(IDTR_AT - 0x0e),               /* 07: lidt [rip + ..] */
    0xb8, B32(SEL_TSS),                                  /* 0e: mov eax, SEL_TSS */
    0x0f, 0x00, 0xd8,                                    /* 13: ltr ax */
    STEP(STEP_TABLES),                                   /* 16 */
    0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8,                  /* 1a: mov rax, cr3; mov cr3, rax */
    0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0,                  /* 20: mov rax, cr0; mov cr0, rax */
    0xb9, B32(MSR_LSTAR),                                /* 26: mov ecx, LSTAR */
    0xb8, B32(CODE_AT + SYSCALL_AT),                     /* 2b: mov eax, .. */
    0x31, 0xd2, 0x0f, 0x30,                              /* 30: xor edx, edx; wrmsr */
    0x31, 0xc0, 0x0f, 0xa2,                              /* 34: xor eax, eax; cpuid */
    STEP(STEP_CONTROL),                                  /* 38 */
    0xa1, B64(HOLE_AT),                                  /* 3c: mov eax, [HOLE_AT] */
    0x0f, 0x01, 0x3c, 0x25, B32(HOLE_AT),                /* 45: invlpg [HOLE_AT] */
    STEP(STEP_FAULT_TAKEN),                              /* 4d */
    0x48, 0xb9, B64(CODE_AT + USER_AT),                  /* 51: mov rcx, .. */
    0x41, 0xbb, B32(RFLAGS_FIXED1),                      /* 5b: mov r11d, .. */
    0x48, 0x0f, 0x07,                                    /* 61: sysretq */
    [USER_AT] = 0x0f, 0x05,                              /* 80: syscall, from user mode */
    [SYSCALL_AT] = STEP(STEP_USER_MODE),                 /* 90 */
    0xb9, B32(NR_LOOPS),                                 /* 94: mov ecx, NR_LOOPS */
    STEP(STEP_LOOP),                                     /* 99 */
    0x48, 0x01, 0xc8, 0x50, 0x5b,                        /* 9d: add rax, rcx; push rax; pop rbx */
    0xff, 0xc9, 0x75, 0xf7,                              /* a2: dec ecx; jnz 9d */
    STEP(STEP_LOOPED),                                   /* a6 */
    0xb9, B32(NR_OUTS),                                  /* aa: mov ecx, NR_OUTS */
    0xe6, PORT_STEP, 0xff, 0xc9, 0x75, 0xfa,             /* af: out; dec ecx; jnz af */
    0x66, 0xba, B16(PORT_END), 0xee, 0xf4,               /* b5: mov dx, PORT_END; out dx, al; hlt */
    [GDTR_AT] = B16(sizeof(gdt) - 1), B64(GDT_AT),
    [IDTR_AT] = B16(16 * 16 - 1), B64(IDT_AT),
    /* The page fault's handler: or byte [its page table entry], P; add rsp, 8; iretq */
    [HANDLER_AT] = 0x80, 0x0c, 0x25, B32(PT_AT + (HOLE_AT >> PAGE_SHIFT) * 8), 0x01,
    0x48, 0x83, 0xc4, 0x08, 0x48, 0xcf,
};
/* clang-format on */

struct probe {
    int sys, vm, vcpu, timer;
    uint32_t run_bytes;
    struct kvm_run *run;
    uint8_t *memory;
    struct host_kick thread;
    uint64_t until_ns;
    unsigned step;
    uint64_t step_ns, loop_ns, outs_ns; /* when the last step was told; the shortest times */
    struct kvm_cpuid_table cpuid;
};

/* ---- making it ---- */

static void put64(uint8_t *memory, uint64_t at, uint64_t val)
{
    memcpy(memory + at, &val, sizeof(val));
}

static void fill_memory(uint8_t *m)
{
    const uint64_t rights = 7; /* present, writable, user */
    uint64_t handler = CODE_AT + HANDLER_AT;

    put64(m, PML4_AT, PDPT_AT | rights);
    put64(m, PDPT_AT, PD_AT | rights);
    put64(m, PD_AT, PT_AT | rights);
    for (uint64_t page = 0; page < MEMORY_BYTES >> PAGE_SHIFT; page++)
        put64(m, PT_AT + 8 * page, page << PAGE_SHIFT | rights);
    put64(m, PT_AT + 8 * (HOLE_AT >> PAGE_SHIFT), HOLE_AT | (rights & ~1ull));
    memcpy(m + GDT_AT, gdt, sizeof(gdt));
    memcpy(m + CODE_AT, code, sizeof(code));
    /* An interrupt gate (SDM 3, "64-Bit Mode IDT"). */
    put64(m, IDT_AT + 16 * VEC_PF,
          (handler & 0xffff) | SEL_CODE << 16 | 0x8e00ull << 32 | handler >> 16 << 48);
}

static int make_vcpu(struct probe *p)
{
    void *run;
    int bytes = kvm_ioctl_num(p->sys, KVM_GET_VCPU_MMAP_SIZE, 0);

    if (bytes < (int)sizeof(struct kvm_run))
        return bytes < 0 ? bytes : -EINVAL;
    p->vcpu = kvm_ioctl_num(p->vm, KVM_CREATE_VCPU, 0);
    if (p->vcpu < 0)
        return p->vcpu;
    run = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
    if (run == MAP_FAILED)
        return -errno;
    p->run = run;
    p->run_bytes = (uint32_t)bytes;
    bytes = kvm_get_supported(p->sys, &p->cpuid);
    return bytes < 0 ? bytes : kvm_ioctl(p->vcpu, KVM_SET_CPUID2, &p->cpuid);
}

static int set_registers(struct probe *p)
{
    struct kvm_segment cs = {
        .limit = UINT32_MAX, .selector = SEL_CODE, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
    };
    struct kvm_segment ds = {
        .limit = UINT32_MAX, .selector = SEL_DATA, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
    };
    struct kvm_regs regs = { .rip = CODE_AT, .rsp = STACK_AT, .rflags = RFLAGS_FIXED1 };
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry star;
    } msrs = { .head = { .nmsrs = 1 }, .star = { .index = MSR_STAR, .data = STAR_VALUE } };
    struct kvm_sregs s;
    int err = kvm_ioctl(p->vcpu, KVM_GET_SREGS, &s);

    if (err)
        return err;
    s.cs = cs;
    s.ds = s.es = s.ss = s.fs = s.gs = ds;
    s.cr0 = CR0_PE | CR0_NE | CR0_ET | CR0_WP | CR0_PG;
    s.cr3 = PML4_AT;
    s.cr4 = CR4_PAE;
    s.efer = EFER_SCE | EFER_LME | EFER_LMA;
    err = kvm_ioctl(p->vcpu, KVM_SET_SREGS, &s);
    if (!err)
        err = kvm_ioctl(p->vcpu, KVM_SET_REGS, &regs);
    if (!err)
        err = MIN(kvm_ioctl(p->vcpu, KVM_SET_MSRS, &msrs), 0);
    return err;
}

static int probe_make(struct probe *p)
{
    struct kvm_userspace_memory_region region = { .memory_size = MEMORY_BYTES };
    char why[128];
    int err;

    p->vm = p->vcpu = p->timer = -1;
    p->sys = kvm_open(why, sizeof(why));
    if (p->sys < 0)
        return p->sys;
    p->memory = host_pages(MEMORY_BYTES);
    if (!p->memory)
        return -ENOMEM;
    fill_memory(p->memory);
    p->vm = kvm_ioctl_num(p->sys, KVM_CREATE_VM, 0);
    if (p->vm < 0)
        return p->vm;
    region.userspace_addr = (uintptr_t)p->memory;
    err = kvm_ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region);
    if (!err)
        err = make_vcpu(p);
    if (!err)
        err = set_registers(p);
    if (!err)
        err = host_kick_accept(&p->thread);
    if (err)
        return err;
    p->timer = host_kick_timer_start(&p->thread, KICK_EVERY_NS);
    return MIN(p->timer, 0);
}

static void probe_end(struct probe *p)
{
    if (p->timer >= 0)
        host_kick_timer_stop(p->timer);
    if (p->run)
        (void)munmap(p->run, p->run_bytes);
    if (p->vcpu >= 0)
        host_close(p->vcpu);
    if (p->vm >= 0)
        host_close(p->vm);
    if (p->memory)
        host_unmap(p->memory, MEMORY_BYTES);
    if (p->sys >= 0)
        host_close(p->sys);
}

/* ---- running it ---- */

/* The guest's loop on the host. */
static uint64_t host_loop_ns(void)
{
    uint64_t best = UINT64_MAX;

    for (unsigned i = 0; i < NR_ROUNDS; i++) {
        uint64_t from = host_mono_ns(), a = 0, n = NR_LOOPS;

        __asm__ volatile("1: add %1, %0\n\tpush %0\n\tpop %%rcx\n\tdec %k1\n\tjnz 1b"
                         : "+r"(a), "+r"(n)
                         :
                         : "rcx", "cc", "memory");
        best = MIN(best, host_mono_ns() - from);
    }
    return MAX(best, 1);
}

static void took(struct probe *p)
{
    uint64_t now = host_mono_ns(), ns = now - p->step_ns;
    uint8_t al = *((uint8_t *)p->run + p->run->io.data_offset);

    if (p->run->io.port == PORT_END)
        p->outs_ns = MIN(p->outs_ns, ns);
    else if (al == STEP_LOOPED && p->step == STEP_LOOP)
        p->loop_ns = MIN(p->loop_ns, ns);
    /* The row of port writes repeats the last step. */
    if (p->run->io.port != PORT_STEP || al != p->step) {
        p->step = MIN(al, STEP_LOOPED);
        p->step_ns = now;
    }
}

/* To PORT_END: true; or what came instead. */
static bool probe_run(struct probe *p, char *failed, size_t bytes)
{
    for (;;) {
        int err = kvm_ioctl_num(p->vcpu, KVM_RUN, 0);
        uint32_t why = p->run->exit_reason;

        if (host_mono_ns() > p->until_ns) {
            (void)snprintf(failed, bytes, "too slow (%s)", step_texts[p->step]);
            return false;
        }
        if (err == -EINTR || err == -EAGAIN)
            continue;
        if (err || why != KVM_EXIT_IO) {
            (void)snprintf(failed, bytes, "%s: %s%u%s", step_texts[p->step],
                           err ? "KVM_RUN gives error " : "KVM exit ", err ? (unsigned)-err : why,
                           !err && why == KVM_EXIT_SHUTDOWN         ? " (shutdown)"
                           : !err && why == KVM_EXIT_INTERNAL_ERROR ? " (cannot emulate)"
                                                                    : "");
            return false;
        }
        took(p);
        if (p->run->io.port == PORT_END)
            return true;
    }
}

/* Another round of what is timed. */
static int probe_again(struct probe *p)
{
    struct kvm_regs regs;
    int err;

    /* The port write is complete once the kernel was entered again. */
    __atomic_store_n(&p->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    err = kvm_ioctl_num(p->vcpu, KVM_RUN, 0);
    __atomic_store_n(&p->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    if (err != -EINTR)
        return err < 0 ? err : -EIO;
    err = kvm_ioctl(p->vcpu, KVM_GET_REGS, &regs);
    if (err)
        return err;
    regs.rip = CODE_AT + AGAIN_AT;
    return kvm_ioctl(p->vcpu, KVM_SET_REGS, &regs);
}

int kvm_try(struct kvm_verdict *out)
{
    struct probe p = { .loop_ns = UINT64_MAX, .outs_ns = UINT64_MAX };
    int err;

    *out = (struct kvm_verdict){ .runs = false };
    err = probe_make(&p);
    p.until_ns = host_mono_ns() + LIMIT_NS;
    for (unsigned i = 0; !err && i < NR_ROUNDS; i++) {
        out->runs = probe_run(&p, out->failed, sizeof(out->failed));
        if (!out->runs)
            break;
        p.step = STEP_USER_MODE;
        err = probe_again(&p);
    }
    probe_end(&p);
    if (err || !out->runs)
        return err;
    out->exit_ns = p.outs_ns / NR_OUTS;
    out->slow_times = p.loop_ns / host_loop_ns();
    return 0;
}
