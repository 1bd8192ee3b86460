/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hardware task switches: by JMP, CALL, IRET, task gates, interrupts and exceptions, to 32-bit and
 * 16-bit tasks, and their refusals. SDM 3, "Task Management": "Task Switching", "Task Linking",
 * "16-Bit Task-State Segment".
 */
#include "guest.h"

#define S(n)      (SEL_FREE + 8 * (n))
#define TASK      S(0) /* the other task's TSS */
#define GATE      S(1) /* a task gate to it */
#define TASK16    S(2)
#define CODE_AT   S(3) /* code segment whose base is the code, for a 16-bit IP */
#define TSS32     0x89u
#define TSS16     0x81u
#define TSS_BYTES 104u

static struct tss task;
static struct {
    uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs,
        ss, ds, ldt;
} task16;
static uint8_t task_stack[4096] __attribute__((aligned(16)));

/* What the task saw, in the order it stores it. */
struct task_seen {
    word_t nr, tr, flags, cr0, ax, bx, bp, sp, stack0, es, fs;
} task_seen;

/*
 * The task: notes what it sees, adds one to EBX, goes back as `task_back` says, and starts anew at
 * the next switch. A task that was entered with an error code drops it before IRET.
 */
word_t task_drop;
asm("task_note:\n"
    " mov %eax, task_seen+16\n mov %ebx, task_seen+20\n mov %ebp, task_seen+24\n mov %esp, "
    "task_seen+28\n"
    " pushf\n pop task_seen+8\n"
    " xor %eax, %eax\n str %ax\n mov %eax, task_seen+4\n"
    " mov %cr0, %eax\n mov %eax, task_seen+12\n"
    " mov (%esp), %eax\n mov %eax, task_seen+32\n"
    " mov %es, %eax\n mov %eax, task_seen+36\n mov %fs, %eax\n mov %eax, task_seen+40\n"
    " incl task_seen\n incl %ebx\n"
    " add task_drop, %esp\n"
    " iret\n jmp task_note\n"
    "task_jump:\n incl task_seen\n incl %ebx\n ljmp $0x50, $0\n jmp task_jump\n"
    "task16_note:\n incl task_seen\n xor %eax, %eax\n str %ax\n mov %eax, task_seen+4\n mov %esp, "
    "task_seen+28\n"
    " mov %ebx, task_seen+20\n iret\n jmp task16_note\n");
extern uint8_t task_note[], task_jump[], task16_note[];

static void task_init(const uint8_t *entry)
{
    memset(&task, 0, sizeof(task));
    task.eip = (uint32_t)entry;
    task.eflags = 2;
    task.eax = 0xa0a0a0a0;
    task.ebx = 0xb0b0b0b0;
    task.ebp = 0xe0e0e0e0;
    task.esp = (uint32_t)(task_stack + sizeof(task_stack) - 64);
    task.cs = SEL_KCODE;
    task.ss = task.ds = task.es = SEL_KDATA;
    task.fs = SEL_UDATA | 3;
    task.iomap = TSS_BYTES;
    GDT(TASK) = descriptor((uint32_t)&task, TSS_BYTES - 1, TSS32);
    GDT(GATE) = gate(TASK, 0, 0x85 | ACC_DPL(3), 0);
    memset(&task_seen, 0, sizeof(task_seen));
    task_drop = 0;
    asm volatile("clts");
}

static bool is_busy(unsigned sel)
{
    return GDT(sel) >> 41 & 1;
}

static word_t go(word_t sel, word_t is_call)
{
    struct {
        uint32_t off;
        uint16_t sel;
    } __attribute__((packed)) p = { 0, (uint16_t)sel };
    word_t ok;

    /* Values that must survive, in every register that the switch saves. */
    if (is_call)
        asm volatile("push %%ebp\n\tmov $0x1234, %%esi\n\tmov $0x5678, %%ebp\n\tlcall *(%1)\n\tcmp "
                     "$0x1234, %%esi\n\t"
                     "sete %%al\n\tcmp $0x5678, %%ebp\n\tsete %%cl\n\tand %%cl, %%al\n\tmovzbl "
                     "%%al, %0\n\tpop %%ebp"
                     : "=a"(ok)
                     : "d"(&p), "m"(p)
                     : "ecx", "esi", "memory", "cc");
    else
        asm volatile("push %%ebp\n\tmov $0x1234, %%esi\n\tmov $0x5678, %%ebp\n\tljmp *(%1)\n\tcmp "
                     "$0x1234, %%esi\n\t"
                     "sete %%al\n\tcmp $0x5678, %%ebp\n\tsete %%cl\n\tand %%cl, %%al\n\tmovzbl "
                     "%%al, %0\n\tpop %%ebp"
                     : "=a"(ok)
                     : "d"(&p), "m"(p)
                     : "ecx", "esi", "memory", "cc");
    return ok;
}

static word_t int_82(word_t a, word_t b)
{
    (void)b;
    asm volatile("int $0x82");
    return a;
}

static word_t load_bad_fs(word_t sel, word_t b)
{
    (void)b;
    asm volatile("mov %w0, %%fs" : : "r"(sel));
    return 0;
}

static word_t str(void)
{
    word_t v = 0;

    asm volatile("str %0" : "=r"(v));
    return v;
}

static void by_call(void)
{
    struct trap t;

    task_init(task_note);
    t = try(go, TASK, true);
    EXPECT_TRAP(&t, VEC_NONE, 0, "CALL to a TSS and IRET");
    EXPECT_EQ(t.f.ax, 1, "registers survive");
    EXPECT_EQ(task_seen.nr, 1, "the task ran");
    EXPECT_EQ(task_seen.tr, TASK, "TR in the task");
    EXPECT_EQ(task_seen.flags & FLAG_NT, FLAG_NT, "NT in the task");
    EXPECT_EQ(task_seen.cr0 & CR0_TS, CR0_TS, "CR0.TS is set");
    EXPECT_EQ(task_seen.bx, 0xb0b0b0b0, "EBX comes from the TSS");
    EXPECT_EQ(task_seen.bp, 0xe0e0e0e0, "EBP too");
    EXPECT_EQ(task_seen.es, SEL_KDATA, "ES too");
    EXPECT_EQ(task_seen.fs, SEL_UDATA | 3, "FS too");
    EXPECT_EQ(task.link, SEL_TSS, "the link is the caller's selector");
    EXPECT_EQ(task.ebx, 0xb0b0b0b1, "IRET saves EBX");
    EXPECT_EQ(task.eip, (uint32_t)task_note + (uint32_t)(task_jump - task_note) - 2,
              "and EIP behind it");
    EXPECT_EQ(task.eflags & FLAG_NT, 0, "and flags without NT");
    EXPECT(!is_busy(TASK), "the task is not busy any more");
    EXPECT(is_busy(SEL_TSS), "we are");
    EXPECT_EQ(str(), SEL_TSS, "TR after the return");
    EXPECT_EQ(read_flags() & FLAG_NT, 0, "NT after the return");
    t = try(go, TASK, true);
    EXPECT_EQ(task_seen.nr, 2, "the next CALL goes on behind the IRET");
    EXPECT_EQ(task_seen.bx, 0xb0b0b0b1, "with the state left there");
    EXPECT_EQ(tss.esp0 != 0 && tss.ss0 == SEL_KDATA, 1,
              "the static fields of our TSS are untouched");
}

static void by_jump(void)
{
    struct trap t;

    task_init(task_jump);
    t = try(go, TASK, false);
    EXPECT_TRAP(&t, VEC_NONE, 0, "JMP to a TSS and back");
    EXPECT_EQ(t.f.ax, 1, "registers survive");
    EXPECT_EQ(task_seen.nr, 1, "the task ran");
    EXPECT_EQ(task.link, 0, "JMP leaves no link");
    EXPECT_EQ(task.ebx, 0xb0b0b0b1, "the task's state was saved");
    EXPECT_EQ(task.eflags & FLAG_NT, 0, "without NT");
    EXPECT(!is_busy(TASK) && is_busy(SEL_TSS), "the one that was left is not busy");
    EXPECT_EQ(tss.esi, 0x1234, "our TSS had our registers");
    EXPECT_EQ(tss.cs, SEL_KCODE, "and CS");
}

static void by_gate(void)
{
    struct trap t;

    task_init(task_note);
    t = try(go, GATE, true);
    EXPECT_TRAP(&t, VEC_NONE, 0, "CALL to a task gate");
    EXPECT_EQ(task_seen.tr, TASK, "names the TSS");
    t = try_user(go, GATE, true);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "from CPL 3");
    EXPECT_EQ(task_seen.nr, 2, "the task ran at CPL 0");
    EXPECT_EQ(tss.cs, SEL_UCODE32 | 3, "our TSS has ring 3's CS");
    t = try_user(go, TASK, true);
    EXPECT_TRAP(&t, VEC_GP, TASK, "a TSS of DPL 0 from CPL 3");
    GDT(GATE) = gate(TASK, 0, 0x85, 0);
    t = try_user(go, GATE, true);
    EXPECT_TRAP(&t, VEC_GP, GATE, "a task gate of DPL 0 from CPL 3");

    idt[0x82].lo = gate(TASK, 0, 0x85 | ACC_DPL(3), 0);
    task_init(task_note);
    t = try(int_82, 0, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "INT n through a task gate");
    EXPECT_EQ(task_seen.sp, (uint32_t)(task_stack + sizeof(task_stack) - 64), "pushes nothing");
    t = try_user(int_82, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "from CPL 3");
    EXPECT_EQ(task_seen.nr, 2, "the task ran");
}

/* The handler of #GP as a task: it finds the error code on its own stack, repairs the cause, and
 * the instruction is tried again. */
asm("repair_task:\n"
    " mov (%esp), %eax\n mov %eax, task_seen+32\n pop %eax\n incl task_seen\n"
    " mov $0x0000ffff, %eax\n mov %eax, gdt+0x60+0x20\n" /* S(4): flat data of DPL 3 */
    " mov $0x00cff300, %eax\n mov %eax, gdt+0x60+0x24\n"
    " iret\n jmp repair_task\n");
extern uint8_t repair_task[];

static void repair_by_task(void)
{
    uint64_t was = idt[VEC_GP].lo;
    struct trap t;

    task_init(repair_task);
    GDT(S(4)) = 0;
    idt[VEC_GP].lo = gate(TASK, 0, 0x85, 0);
    t = try_user(load_bad_fs, S(4) | 3, 0);
    idt[VEC_GP].lo = was;
    EXPECT_TRAP(&t, VEC_USER_END, 0, "#GP through a task gate that repairs the cause");
    EXPECT_EQ(task_seen.nr, 1, "the task ran once");
    EXPECT_EQ(task_seen.stack0, S(4), "with the error code on its stack");
}

/* After a switch that failed half-way TR may be the other task's. */
static void back_to_our_tss(void)
{
    GDT(SEL_TSS) &= ~(2ull << 40);
    write_flags(read_flags() & ~(word_t)FLAG_NT);
    load_tss(SEL_TSS);
}

static void refusals(void)
{
    struct trap t;

    task_init(task_note);
    GDT(TASK) |= 2ull << 40;
    t = try(go, TASK, true);
    EXPECT_TRAP(&t, VEC_GP, TASK, "CALL to a busy TSS");
    t = try(go, SEL_TSS, false);
    EXPECT_TRAP(&t, VEC_GP, SEL_TSS, "JMP to the task itself");
    t = try(go, GATE, true);
    EXPECT_TRAP(&t, VEC_GP, TASK, "CALL through a gate to a busy TSS");

    task_init(task_note);
    GDT(TASK) = descriptor((uint32_t)&task, TSS_BYTES - 1, 0x09);
    t = try(go, TASK, true);
    EXPECT_TRAP(&t, VEC_NP, TASK, "a TSS not present");
    GDT(TASK) = descriptor((uint32_t)&task, TSS_BYTES - 2, TSS32);
    t = try(go, TASK, true);
    EXPECT_TRAP(&t, VEC_TS, TASK, "a TSS one byte too short");
    EXPECT(!is_busy(TASK), "is not busy afterwards");
    EXPECT_EQ(str(), SEL_TSS, "we are still in our task");

    task_init(task_note);
    task.ds = 0xfff8;
    t = try(go, TASK, true);
    back_to_our_tss();
    EXPECT_TRAP(&t, VEC_TS, 0xfff8, "DS in the new TSS beyond the GDT");
    tcg_deviates("raises it with the old EIP");
    EXPECT_EQ(t.f.ip, (uint32_t)task_note, "comes in the new task, before its first instruction");

    task_init(task_note);
    GDT(S(5)) = descriptor(0, 0xfffff, 0x12 | DESC_D | DESC_G);
    task.ds = S(5);
    t = try(go, TASK, true);
    back_to_our_tss();
    EXPECT_TRAP(&t, VEC_NP, S(5), "DS in the new TSS not present");
}

static word_t iret_nested(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("pushf\n\torl $0x4000, (%%esp)\n\tpopf\n\tiret" : : : "memory", "cc");
    return 0;
}

static void bad_links(void)
{
    struct trap t;

    task_init(task_note);
    tss.link = TASK;
    t = try(iret_nested, 0, 0);
    EXPECT_TRAP(&t, VEC_TS, TASK, "IRET with NT to a TSS that is not busy");
    tss.link = SEL_KDATA;
    t = try(iret_nested, 0, 0);
    EXPECT_TRAP(&t, VEC_TS, SEL_KDATA, "IRET with NT to what is no TSS");
    tss.link = 0;
}

static unsigned nr_db;
static word_t db_dr6, db_ip;
static void count_db(struct frame *f)
{
    nr_db++;
    db_dr6 = read_dr6();
    db_ip = f->ip;
    write_dr6(0);
}

static void debug_trap(void)
{
    struct trap t;

    task_init(task_note);
    task.trap = 1;
    trap_handle(VEC_DB, count_db);
    write_dr6(0);
    t = try(go, TASK, true);
    trap_handle(VEC_DB, NULL);
    EXPECT_TRAP(&t, VEC_NONE, 0, "a task with the T flag");
    tcg_deviates("has no T flag");
    EXPECT_EQ(nr_db, 1, "raises #DB once");
    tcg_deviates("has no T flag");
    EXPECT_EQ(db_dr6 & 0xe00f, 0x8000, "with DR6.BT");
    tcg_deviates("has no T flag");
    EXPECT_EQ(db_ip, (uint32_t)task_note, "before the task's first instruction");
}

static void tasks_of_16_bits(void)
{
    struct trap t;

    memset(&task_seen, 0, sizeof(task_seen));
    memset(&task16, 0, sizeof(task16));
    GDT(CODE_AT) = descriptor((uint32_t)task16_note, 0xfffff, ACC_CODE | DESC_D);
    task16.ip = 0;
    task16.flags = 2;
    task16.bx = 0xbbbb;
    task16.cs = CODE_AT;
    task16.ss = S(6);
    task16.ds = task16.es = SEL_KDATA;
    task16.sp = sizeof(task_stack);
    GDT(S(6)) = descriptor((uint32_t)task_stack, 0xffff, ACC_DATA);
    GDT(TASK16) = descriptor((uint32_t)&task16, sizeof(task16) - 1, TSS16);
    t = try(go, TASK16, true);
    EXPECT_TRAP(&t, VEC_NONE, 0, "CALL to a 16-bit TSS and IRET");
    EXPECT_EQ(task_seen.nr, 1, "the task ran");
    EXPECT_EQ(task_seen.tr, TASK16, "TR in the task");
    EXPECT_EQ(task_seen.bx & 0xffff, 0xbbbb, "BX comes from the TSS");
    EXPECT_EQ(task_seen.sp & 0xffff, sizeof(task_stack), "SP too");
    EXPECT_EQ(task16.link, SEL_TSS, "the link");
    EXPECT_EQ(t.f.ax, 1, "our 32-bit registers survive");
    GDT(TASK16) = descriptor((uint32_t)&task16, 0x2a, TSS16);
    t = try(go, TASK16, true);
    EXPECT_TRAP(&t, VEC_TS, TASK16, "a 16-bit TSS one byte too short");
}

int main(void)
{
    by_call();
    by_jump();
    by_gate();
    repair_by_task();
    refusals();
    bad_links();
    debug_trap();
    tasks_of_16_bits();
    return 0;
}
