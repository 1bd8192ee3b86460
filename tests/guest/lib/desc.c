/* SPDX-License-Identifier: Apache-2.0 */
/* GDT, IDT, TSS. */
#include "guest.h"

extern uint8_t trap_stubs[];

/* The layout that SEL_* in guest.h names. Accessed bits are set: the tables could be read-only. */
uint64_t gdt[NR_GDT] = {
    0,
#ifdef __x86_64__
    0x00af9b000000ffff,
#else
    0x00cf9b000000ffff,
#endif
    0x00cf93000000ffff,
    0x00cffb000000ffff,
    0x00cff3000000ffff,
    0x00affb000000ffff,
    0x00cff3000000ffff,
    0x00cf9b000000ffff,
    0x00009b000000ffff,
    0x000093000000ffff,
};
struct table_ptr gdt_ptr = { sizeof(gdt) - 1, (word_t)gdt };
struct idt_entry idt[256];
struct tss tss;
static uint8_t trap_stack[16384] __attribute__((aligned(16)));

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(access & 0xff) << 40 |
           (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)(access >> 12 & 0xf) << 52 |
           (uint64_t)(base >> 24) << 56;
}

uint64_t gate(unsigned sel, uint32_t offset, unsigned access, unsigned nr_params)
{
    return (offset & 0xffff) | (uint64_t)sel << 16 | (uint64_t)nr_params << 32 |
           (uint64_t)access << 40 | (uint64_t)(offset >> 16) << 48;
}

word_t trap_stub(unsigned vec)
{
    return (word_t)trap_stubs + vec * 16;
}

void idt_set(unsigned vec, word_t handler, unsigned access, unsigned ist)
{
    idt[vec].lo = gate(SEL_KCODE, (uint32_t)handler, access, ist);
#ifdef __x86_64__
    idt[vec].hi = handler >> 32;
#endif
}

void load_tss(unsigned sel)
{
    asm volatile("ltr %w0" : : "r"(sel) : "memory");
}

static void tss_init(void)
{
#ifdef __x86_64__
    tss.rsp[0] = (word_t)(trap_stack + sizeof(trap_stack));
    GDT(SEL_TSS + 8) = (word_t)&tss >> 32;
#else
    tss.esp0 = (word_t)(trap_stack + sizeof(trap_stack));
    tss.ss0 = SEL_KDATA;
#endif
    tss.iomap = offsetof(struct tss, bitmap);
    memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
    GDT(SEL_TSS) = descriptor((uint32_t)(word_t)&tss, sizeof(tss) - 1, 0x89);
    load_tss(SEL_TSS);
}

void desc_init(void);
void desc_init(void)
{
    struct table_ptr idt_ptr = { sizeof(idt) - 1, (word_t)idt };

    for (unsigned vec = 0; vec < 256; vec++)
        idt_set(vec, trap_stub(vec), GATE_INT, 0);
    idt_set(VEC_BP, trap_stub(VEC_BP), GATE_INT | ACC_DPL(3), 0);
    idt_set(VEC_OF, trap_stub(VEC_OF), GATE_INT | ACC_DPL(3), 0);
    idt_set(VEC_USER_END, trap_stub(VEC_USER_END), GATE_INT | ACC_DPL(3), 0);
    lidt(&idt_ptr);
    tss_init();
}
