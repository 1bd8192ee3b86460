/* SPDX-License-Identifier: Apache-2.0 */
/* What of two vCPUs has to be the same, by name. */
#include <string.h>

#include "vm/lockstep.h"

struct part {
    const char *name;
    size_t off_bytes, bytes;
};

#define PART(member) NAMED(#member, member)
#define NAMED(name, member)                                                     \
    {                                                                           \
        (name), offsetof(struct cpu, member), sizeof(((struct cpu *)0)->member) \
    }
#define PART_SEG(n, member)                                          \
    NAMED(n " selector", member.sel), NAMED(n " base", member.base), \
        NAMED(n " limit", member.limit), NAMED(n " attributes", member.attr)
#define PART_TABLE(n, member) NAMED(n " base", member.base), NAMED(n " limit", member.limit)
/* The ten bytes that are used. */
#define PART_ST(i)                                   \
    {                                                \
        "st" #i, offsetof(struct cpu, fpu.st[i]), 10 \
    }
#define PART_VEC(i) NAMED("xmm" #i, fpu.xmm[i]), NAMED("ymm" #i " upper half", fpu.ymmh[i])

static const struct part parts[] = {
    NAMED("rax", gpr[RAX]),
    NAMED("rbx", gpr[RBX]),
    NAMED("rcx", gpr[RCX]),
    NAMED("rdx", gpr[RDX]),
    NAMED("rsi", gpr[RSI]),
    NAMED("rdi", gpr[RDI]),
    NAMED("rbp", gpr[RBP]),
    NAMED("rsp", gpr[RSP]),
    NAMED("r8", gpr[R8]),
    NAMED("r9", gpr[R9]),
    NAMED("r10", gpr[R10]),
    NAMED("r11", gpr[R11]),
    NAMED("r12", gpr[R12]),
    NAMED("r13", gpr[R13]),
    NAMED("r14", gpr[R14]),
    NAMED("r15", gpr[R15]),
    PART(rip),
    PART(rflags),
    PART_SEG("cs", seg[SEG_CS]),
    PART_SEG("ss", seg[SEG_SS]),
    PART_SEG("ds", seg[SEG_DS]),
    PART_SEG("es", seg[SEG_ES]),
    PART_SEG("fs", seg[SEG_FS]),
    PART_SEG("gs", seg[SEG_GS]),
    PART_SEG("ldtr", ldtr),
    PART_SEG("tr", tr),
    PART_TABLE("gdtr", gdtr),
    PART_TABLE("idtr", idtr),
    PART(mode),
    PART(cpl),
    PART(cr0),
    PART(cr2),
    PART(cr3),
    PART(cr4),
    NAMED("cr8", apic.tpr),
    PART(xcr0),
    PART(efer),
    NAMED("pdpte0", pdpte[0]),
    NAMED("pdpte1", pdpte[1]),
    NAMED("pdpte2", pdpte[2]),
    NAMED("pdpte3", pdpte[3]),
    NAMED("dr0", dr[0]),
    NAMED("dr1", dr[1]),
    NAMED("dr2", dr[2]),
    NAMED("dr3", dr[3]),
    PART(dr6),
    PART(dr7),
    PART(star),
    PART(lstar),
    PART(cstar),
    PART(sfmask),
    PART(kernel_gs_base),
    PART(tsc_aux),
    PART(sysenter_cs),
    PART(sysenter_esp),
    PART(sysenter_eip),
    PART(pat),
    PART(tsc_adjust),
    PART(spec_ctrl),
    PART(misc_enable),
    PART(mtrr_def_type),
    PART(mtrr_physbase),
    PART(mtrr_physmask),
    PART(mtrr_fixed),
    PART(mcg_status),
    NAMED("KVM clock", pv.clock),
    NAMED("KVM wall clock", pv.wall),
    NAMED("KVM steal time", pv.steal),
    NAMED("KVM PV EOI", pv.eoi),
    NAMED("PV EOI offered", pv.eoi_offered),
    NAMED("kicked", pv.kicked),
    NAMED("fcw", fpu.fcw),
    NAMED("fsw", fpu.fsw),
    NAMED("ftw (abridged)", fpu.ftw),
    NAMED("fop", fpu.fop),
    NAMED("fip", fpu.fip),
    NAMED("fdp", fpu.fdp),
    NAMED("fcs", fpu_cs),
    NAMED("fds", fpu_ds),
    NAMED("mxcsr", fpu.mxcsr),
    PART_ST(0),
    PART_ST(1),
    PART_ST(2),
    PART_ST(3),
    PART_ST(4),
    PART_ST(5),
    PART_ST(6),
    PART_ST(7),
    PART_VEC(0),
    PART_VEC(1),
    PART_VEC(2),
    PART_VEC(3),
    PART_VEC(4),
    PART_VEC(5),
    PART_VEC(6),
    PART_VEC(7),
    PART_VEC(8),
    PART_VEC(9),
    PART_VEC(10),
    PART_VEC(11),
    PART_VEC(12),
    PART_VEC(13),
    PART_VEC(14),
    PART_VEC(15),
    PART(activity),
    NAMED("pending debug traps", pending_dbg),
    NAMED("shadow of STI", shadow_sti),
    NAMED("shadow of MOV SS", shadow_movss),
    NAMED("NMI blocked", nmi_blocked),
    NAMED("NMI pending", nmi_pending),
    NAMED("SIPI vector", sipi_vector),
    NAMED("IA32_APIC_BASE", apic.base_msr),
    NAMED("APIC id", apic.id),
    NAMED("APIC ldr", apic.ldr),
    NAMED("APIC dfr", apic.dfr),
    NAMED("APIC svr", apic.svr),
    NAMED("APIC esr", apic.esr),
    NAMED("APIC esr (pending)", apic.esr_pending),
    NAMED("APIC icr", apic.icr),
    NAMED("APIC isr", apic.isr),
    NAMED("APIC irr", apic.irr),
    NAMED("APIC tmr", apic.tmr),
    NAMED("APIC lvt", apic.lvt),
    NAMED("APIC timer count", apic.timer_init),
    NAMED("APIC timer divider", apic.timer_div),
    NAMED("APIC timer start", apic.timer_start_ns),
    NAMED("APIC timer deadline", apic.timer_deadline_ns),
    NAMED("APIC TSC deadline", apic.tsc_deadline),
    NAMED("APIC posted vectors", apic.pir),
};

void ls_state_each(const struct cpu *a, const struct cpu *b, bool only_different,
                   void (*fn)(void *arg, const char *name, const void *a, const void *b,
                              size_t bytes),
                   void *arg)
{
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        const struct part *p = &parts[i];
        const char *at_a = (const char *)a + p->off_bytes, *at_b = (const char *)b + p->off_bytes;

        if (!only_different || memcmp(at_a, at_b, p->bytes) != 0)
            fn(arg, p->name, at_a, at_b, p->bytes);
    }
}

/* From one member up to another. */
#define SPAN(from, to)                                                                          \
    {                                                                                           \
        NULL, offsetof(struct cpu, from), offsetof(struct cpu, to) - offsetof(struct cpu, from) \
    }

/* The same parts and what lies between them, for a quick look. */
static const struct part spans[] = {
    SPAN(gpr[0], gpr[NR_GPRS]), SPAN(rip, next_rip),      SPAN(rflags, req), SPAN(ldtr, exc),
    SPAN(pending_dbg, id),      SPAN(apic, apic.pir_tmr),
};

static void count(void *arg, const char *name, const void *a, const void *b, size_t bytes)
{
    (void)name, (void)a, (void)b, (void)bytes;
    ++*(unsigned *)arg;
}

bool ls_state_same(const struct cpu *a, const struct cpu *b)
{
    unsigned nr = 0;
    bool same = true;

    for (unsigned i = 0; i < ARRAY_SIZE(spans) && same; i++)
        same = !memcmp((const char *)a + spans[i].off_bytes, (const char *)b + spans[i].off_bytes,
                       spans[i].bytes);
    if (likely(same))
        return true;
    /* Or is it only what nobody looks at: padding, reserved bytes? */
    ls_state_each(a, b, true, count, &nr);
    return !nr;
}

void ls_state_copy(struct cpu *to, const struct cpu *from)
{
    static const struct part copied[] = { SPAN(gpr[0], gpr[NR_GPRS]), SPAN(rip, req),
                                          SPAN(ldtr, sipi_vector), SPAN(apic, apic.pir) };

    for (unsigned i = 0; i < ARRAY_SIZE(copied); i++)
        memcpy((char *)to + copied[i].off_bytes, (const char *)from + copied[i].off_bytes,
               copied[i].bytes);
}
