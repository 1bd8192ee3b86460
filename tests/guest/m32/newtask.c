/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a task switch finds in the new TSS: a task of virtual-8086 mode, and segments that cannot be
 * loaded. The faults of the new task's own CS, SS and LDT leave no stack to handle them on, so all
 * of them go through task gates to a third task. SDM 3, "Task Switching", "Exception Conditions
 * Checked During a Task Switch"; "Entering Virtual-8086 Mode", "Leaving Virtual-8086 Mode".
 */
#include "guest.h"

#define S(n)       (SEL_FREE + 8 * (n))
#define TASK       S(0)
#define HANDLER(i) S(1 + (i)) /* one of handled[] */
#define BAD        S(5)       /* what a case puts in the GDT */
#define BEYOND     0xfff8u    /* no descriptor: beyond the GDT's end */
#define TSS_BYTES  104u
#define ACC_TSS    0x89u
#define TASK_GATE  0x85u
#define STACK_SLOT 64u

/* Real-mode style addresses of the task in virtual-8086 mode. */
#define V_CODE  (LOW_AT >> 4)
#define V_STACK 0x300u
#define V_DATA  0x400u
#define V_SP    0x800u

static const uint8_t handled[] = { VEC_TS, VEC_NP, VEC_SS, VEC_GP };

static struct tss task, handler[ARRAY_SIZE(handled)];
static uint8_t task_stack[4096] __attribute__((aligned(16)));
static uint8_t handler_stack[4096] __attribute__((aligned(16)));

/* What the handler's task saw when it ran last. */
static struct {
    unsigned nr, vec;
    word_t err;
    uint32_t link;
    struct tss task; /* as the switch to the handler saved it */
} seen;
static volatile unsigned task_ran;
static const struct tss *good; /* what the handler repairs the task's TSS with; NULL: v8086 */

/*
 * Each handler's task has its vector in EBX; the error code is on top of its stack. After IRET the
 * next switch goes on behind it. EBX survives C.
 */
asm("handler_entry:\n"
    " pushl (%esp)\n push %ebx\n call handle\n add $12, %esp\n iret\n jmp handler_entry\n"
    "task_entry:\n incl task_ran\n iret\n jmp task_entry\n"
    "  .code16\n"
    "v_code:  mov %ds:2, %ax\n mov $0x1111, %bx\n"
    "v_hlt1:  hlt\n"
    "         mov %cs, %dx\n push %dx\n"
    "v_hlt2:  hlt\n"
    "v_code_end:\n"
    "  .code32\n");
extern uint8_t handler_entry[], task_entry[];
extern const uint8_t v_code[], v_hlt1[], v_hlt2[], v_code_end[];
void handle(unsigned vec, word_t err);

static struct tss *handler_of(unsigned vec)
{
    for (unsigned i = 0; i < ARRAY_SIZE(handled); i++)
        if (handled[i] == vec)
            return &handler[i];
    return NULL;
}

void handle(unsigned vec, word_t err)
{
    struct tss *own = handler_of(vec);

    seen.nr++;
    seen.vec = vec;
    seen.err = err;
    seen.link = own->link;
    seen.task = task;
    if (good) {
        const uint32_t link = task.link;

        task = *good;
        task.link = link;
        task.eflags |= FLAG_NT;
    } else if (seen.nr == 1) {
        task.eip++; /* behind HLT */
    } else {
        own->link = SEL_TSS; /* straight home: IRET in virtual-8086 mode would not */
    }
}

static void tss_init(struct tss *t, const uint8_t *entry, const uint8_t *stack_end)
{
    memset(t, 0, sizeof(*t));
    t->eip = (uint32_t)entry;
    t->eflags = 2;
    t->esp = t->esp0 = (uint32_t)stack_end - STACK_SLOT;
    t->cs = SEL_KCODE;
    t->ss = t->ds = t->es = t->fs = t->gs = t->ss0 = SEL_KDATA;
    t->iomap = TSS_BYTES;
}

static void tasks_init(void)
{
    tss_init(&task, task_entry, task_stack + sizeof(task_stack));
    GDT(TASK) = descriptor((uint32_t)&task, TSS_BYTES - 1, ACC_TSS);
    for (unsigned i = 0; i < ARRAY_SIZE(handled); i++) {
        tss_init(&handler[i], handler_entry, handler_stack + sizeof(handler_stack));
        handler[i].ebx = handled[i];
        GDT(HANDLER(i)) = descriptor((uint32_t)&handler[i], TSS_BYTES - 1, ACC_TSS);
        idt[handled[i]].lo = gate(HANDLER(i), 0, TASK_GATE, 0);
    }
    memset(&seen, 0, sizeof(seen));
    task_ran = 0;
    clts();
}

static void handlers_remove(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(handled); i++)
        idt_set(handled[i], trap_stub(handled[i]), GATE_INT, 0);
}

static word_t call_task(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("push %%ebp\n\tlcall %0, $0\n\tpop %%ebp"
                 :
                 : "i"(TASK)
                 : "eax", "ebx", "ecx", "edx", "esi", "edi", "memory", "cc");
    return 0;
}

static bool is_busy(unsigned sel)
{
    return GDT(sel) >> 41 & 1;
}

static word_t str(void)
{
    word_t v = 0;

    asm volatile("str %0" : "=r"(v));
    return v;
}

/* ---- segments that cannot be loaded ---- */

struct fault_case {
    const char *what;
    size_t field;   /* of struct tss */
    uint32_t value; /* put there */
    unsigned access;
    unsigned vec;
    word_t err;
};
#define FIELD(f) offsetof(struct tss, f)

static const struct fault_case fault_cases[] = {
    { "CS beyond the GDT", FIELD(cs), BEYOND, 0, VEC_TS, BEYOND },
    { "a null CS", FIELD(cs), 0, 0, VEC_TS, 0 },
    { "CS that is data", FIELD(cs), BAD, ACC_DATA | DESC_D | DESC_G, VEC_TS, BAD },
    { "CS of DPL 3 with RPL 0", FIELD(cs), SEL_UCODE32, 0, VEC_TS, SEL_UCODE32 },
    { "CS not present", FIELD(cs), BAD, 0x1a | DESC_D | DESC_G, VEC_NP, BAD },
    { "SS beyond the GDT", FIELD(ss), BEYOND, 0, VEC_TS, BEYOND },
    { "a null SS", FIELD(ss), 0, 0, VEC_TS, 0 },
    { "SS read-only", FIELD(ss), BAD, 0x90 | DESC_D | DESC_G, VEC_TS, BAD },
    { "SS of DPL 3", FIELD(ss), SEL_UDATA, 0, VEC_TS, SEL_UDATA },
    { "SS of RPL 3", FIELD(ss), SEL_KDATA | 3, 0, VEC_TS, SEL_KDATA },
    { "SS not present", FIELD(ss), BAD, 0x12 | DESC_D | DESC_G, VEC_SS, BAD },
    { "LDT beyond the GDT", FIELD(ldt), BEYOND, 0, VEC_TS, BEYOND },
    { "LDT that is none", FIELD(ldt), SEL_KDATA, 0, VEC_TS, SEL_KDATA },
    { "LDT not present", FIELD(ldt), BAD, 0x02, VEC_TS, BAD },
    { "LDT in an LDT", FIELD(ldt), SEL_KDATA | 4, 0, VEC_TS, SEL_KDATA | 4 },
    { "DS of execute-only code", FIELD(ds), BAD, 0x98 | DESC_D | DESC_G, VEC_TS, BAD },
    { "GS not present", FIELD(gs), BAD, 0x12 | DESC_D | DESC_G, VEC_NP, BAD },
    { "EIP beyond the limit of CS", FIELD(cs), BAD, ACC_CODE | DESC_D, VEC_GP, 0 },
};

static void fault(const struct fault_case *c)
{
    struct tss repaired;
    struct trap t;

    tasks_init();
    repaired = task;
    good = &repaired;
    GDT(BAD) = descriptor(0, c->access & DESC_G ? 0xfffff : 0xff, c->access);
    *(uint32_t *)((uint8_t *)&task + c->field) = c->value;
    t = try(call_task, 0, 0);
    handlers_remove();
    EXPECT_TRAP(&t, VEC_NONE, 0, "%s: repaired by the handler's task", c->what);
    EXPECT_EQ(seen.nr, 1, "%s: one fault", c->what);
    if (c->vec == VEC_SS)
        tcg_deviates("raises #NP");
    EXPECT_EQ(seen.vec, c->vec, "%s: vector", c->what);
    EXPECT_EQ(seen.err, c->err, "%s: error code", c->what);
    EXPECT_EQ(seen.link, TASK, "%s: is the new task's", c->what);
    tcg_deviates("raises it with the old EIP");
    EXPECT_EQ(seen.task.eip, (uint32_t)task_entry, "%s: before its first instruction", c->what);
    EXPECT_EQ(task_ran, 1, "%s: then it runs", c->what);
    EXPECT(str() == SEL_TSS && !is_busy(TASK) && !is_busy(HANDLER(0)), "%s: and all return",
           c->what);
}

/* ---- virtual-8086 mode ---- */

static void to_v8086(void)
{
    volatile uint16_t *data = (uint16_t *)(V_DATA << 4);
    struct trap t;

    low_install(v_code, v_code_end);
    tasks_init();
    good = NULL;
    data[1] = 0xabcd;
    *(volatile uint16_t *)((V_STACK << 4) + V_SP - 2) = 0;
    task.eip = 0;
    task.eflags = FLAG_VM | 2;
    task.eax = task.ebx = task.edx = 0x5a5a5a5a;
    task.esp = V_SP;
    task.cs = V_CODE;
    task.ss = V_STACK;
    task.ds = V_DATA;
    task.es = task.fs = 0xffff; /* no descriptor is looked for */
    task.gs = 0;
    t = try(call_task, 0, 0);
    handlers_remove();
    EXPECT_TRAP(&t, VEC_NONE, 0, "CALL to a task in v8086 mode");
    EXPECT_EQ(seen.nr, 2, "its HLT raises #GP, and after IRET to it the next one too");
    EXPECT_EQ(seen.vec, VEC_GP, "#GP through a task gate");
    EXPECT_EQ(seen.err, 0, "error code");
    EXPECT_EQ(seen.link, TASK, "the link is the v8086 task");
    EXPECT_EQ(seen.task.eflags & (FLAG_VM | FLAG_NT), FLAG_VM | FLAG_NT,
              "the saved flags have VM, and NT of the CALL");
    EXPECT_EQ(seen.task.link, SEL_TSS, "whose link is the caller");
    EXPECT_EQ(seen.task.eip, (uint32_t)(v_hlt2 - v_code), "EIP is at the second HLT");
    EXPECT_EQ(seen.task.cs, V_CODE, "CS as it was");
    EXPECT_EQ(seen.task.es, 0xffff, "ES as it was");
    EXPECT_EQ(seen.task.eax, 0x5a5aabcd, "DS was 16 times its selector");
    EXPECT_EQ(seen.task.ebx, 0x5a5a1111, "BX was set before the first HLT");
    EXPECT_EQ(seen.task.edx, 0x5a5a0000u | V_CODE, "DX after it");
    EXPECT_EQ(seen.task.esp, V_SP - 2, "SP after a push");
    EXPECT_EQ(*(volatile uint16_t *)((V_STACK << 4) + V_SP - 2), V_CODE, "which landed on SS:SP");
    EXPECT_EQ(str(), SEL_TSS, "IRET with the link changed goes home");
    EXPECT_EQ(read_flags() & (FLAG_VM | FLAG_NT), 0, "and leaves v8086 mode");
    EXPECT_EQ(tss.link, 0, "our TSS was not linked");
}

int main(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(fault_cases); i++)
        fault(&fault_cases[i]);
    to_v8086();
    return 0;
}
