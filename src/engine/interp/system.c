/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions: privilege checks and operands here, the meaning in the semantic core.
 *
 * Whatever may change modes, interrupt flags or translations ends its block by leave_step() or
 * leave_jump().
 */
#include "engine/interp/tlb.h"

#include "lib/trace.h"

#define HANDLER(name) static const struct op *name(struct ivcpu *v, const struct op *op)
/* SDM 2: "#GP(0) If the current privilege level is not 0." */
#define NEED_CPL0(v, op)                \
    do {                                \
        if (unlikely(CPU(v)->cpl != 0)) \
            return leave_gp0(v, op);    \
    } while (0)
/* UMIP: SGDT, SIDT, SLDT, SMSW and STR at CPL > 0. */
#define NEED_UMIP(v, op)                                            \
    do {                                                            \
        if (unlikely(CPU(v)->cpl != 0 && (CPU(v)->cr4 & CR4_UMIP))) \
            return leave_gp0(v, op);                                \
    } while (0)
/* Not recognised in real and v8086 mode. */
#define NEED_PROTECTED(v, op)                  \
    do {                                       \
        if (unlikely(!in_protected(CPU(v))))   \
            return leave_raise(v, op, VEC_UD); \
    } while (0)

/* ---- x87, SSE, AVX and what else the host executes ---- */

HANDLER(native)
{
    struct cpu *c = CPU(v);
    enum step st;

    sync_rip(v, op);
    st = native_exec(c, op->stub, op->seg, op->prefix & OP_MEM ? effective(v, op) : 0);
    NEXT_OR_LEAVE(v, op, st);
}

/* There was no room for a stub: step() makes some and decodes the instruction again. */
HANDLER(native_full)
{
    v->leave = LEAVE_STEP;
    return leave_here(v, op);
}

/* ---- ports ---- */

uint64_t io_read(struct ivcpu *v, uint16_t port, unsigned bytes)
{
    const struct engine_config *cfg = &v->vm->evm.cfg;
    uint64_t t = vcpu_exit_begin(&v->vc, EXIT_PIO), x;

    CPU(v)->pending_dbg |= cpu_match_io_bp(CPU(v), port, bytes);
    go_outside(v);
    x = cfg->ops->port_read(cfg->ctx, port, bytes);
    vcpu_exit_end(&v->vc, EXIT_PIO, t);
    return x;
}

void io_write(struct ivcpu *v, uint16_t port, unsigned bytes, uint64_t val)
{
    const struct engine_config *cfg = &v->vm->evm.cfg;
    uint64_t t = vcpu_exit_begin(&v->vc, EXIT_PIO);

    CPU(v)->pending_dbg |= cpu_match_io_bp(CPU(v), port, bytes);
    go_outside(v);
    cfg->ops->port_write(cfg->ctx, port, bytes, val);
    vcpu_exit_end(&v->vc, EXIT_PIO, t);
}

static uint16_t io_port(const struct ivcpu *v, const struct op *op)
{
    return op->prefix & OP_SRC_IMM ? (uint8_t)op->imm : (uint16_t)v->vc.cpu.gpr[RDX];
}

HANDLER(in)
{
    uint16_t port = io_port(v, op);
    enum step st;

    sync_rip(v, op);
    st = cpu_check_io(CPU(v), port, op->bytes);
    if (st == STEP_NEXT)
        set_reg(v, RAX * 8, op->bytes, io_read(v, port, op->bytes));
    return leave_step(v, op, st);
}

HANDLER(out)
{
    uint16_t port = io_port(v, op);
    enum step st;

    sync_rip(v, op);
    st = cpu_check_io(CPU(v), port, op->bytes);
    if (st == STEP_NEXT)
        io_write(v, port, op->bytes, get_reg(v, RAX * 8, op->bytes));
    return leave_step(v, op, st);
}

/* ---- flags and halting ---- */

HANDLER(hlt)
{
    NEED_CPL0(v, op);
    if (!cpu_pv_take_kick(CPU(v)))
        CPU(v)->activity = CPU_HALTED;
    sync_rip(v, op);
    return leave_step(v, op, STEP_NEXT);
}

HANDLER(cli)
{
    sync_rip(v, op);
    NEXT_OR_LEAVE(v, op, cpu_cli(CPU(v)));
}

HANDLER(sti)
{
    sync_rip(v, op);
    return leave_step(v, op, cpu_sti(CPU(v)));
}

static const struct op *set_ac(struct ivcpu *v, const struct op *op, bool on)
{
    struct cpu *c = CPU(v);

    if (c->cpl != 0)
        return leave_raise(v, op, VEC_UD);
    c->rflags = on ? c->rflags | RFLAGS_AC : c->rflags & ~(uint64_t)RFLAGS_AC;
    cpu_update_mode(c);
    tlb_set_view(v);
    NEXT(v, op);
}

HANDLER(clac)
{
    return set_ac(v, op, false);
}

HANDLER(stac)
{
    return set_ac(v, op, true);
}

/* ---- identification, time, MSRs ---- */

HANDLER(cpuid)
{
    struct cpu *c = CPU(v);
    uint64_t t = vcpu_exit_begin(&v->vc, EXIT_CPUID);
    struct cpuid_regs r;

    serialize(v);
    cpu_cpuid(c, (uint32_t)c->gpr[RAX], (uint32_t)c->gpr[RCX], &r);
    trace(v->vm->evm.cfg.trace, CPUID, "vcpu%u leaf %#x.%#x -> %08x %08x %08x %08x", c->id,
          (uint32_t)c->gpr[RAX], (uint32_t)c->gpr[RCX], r.eax, r.ebx, r.ecx, r.edx);
    c->gpr[RAX] = r.eax;
    c->gpr[RBX] = r.ebx;
    c->gpr[RCX] = r.ecx;
    c->gpr[RDX] = r.edx;
    vcpu_exit_end(&v->vc, EXIT_CPUID, t);
    NEXT(v, op);
}

static bool tsc_allowed(const struct cpu *c)
{
    return !(c->cr4 & CR4_TSD) || c->cpl == 0 || !(c->mode & MODE_PE);
}

static void set_edx_eax(struct cpu *c, uint64_t x)
{
    c->gpr[RAX] = (uint32_t)x;
    c->gpr[RDX] = x >> 32;
}

static uint64_t edx_eax(const struct cpu *c)
{
    return c->gpr[RDX] << 32 | (uint32_t)c->gpr[RAX];
}

HANDLER(rdtsc)
{
    if (!tsc_allowed(CPU(v)))
        return leave_gp0(v, op);
    set_edx_eax(CPU(v), cpu_read_tsc(CPU(v)));
    NEXT(v, op);
}

HANDLER(rdtscp)
{
    if (!tsc_allowed(CPU(v)))
        return leave_gp0(v, op);
    set_edx_eax(CPU(v), cpu_read_tsc(CPU(v)));
    CPU(v)->gpr[RCX] = (uint32_t)CPU(v)->tsc_aux;
    NEXT(v, op);
}

HANDLER(rdpid)
{
    set_reg(v, op->dst, CPU(v)->mode & MODE_CS64 ? 8 : 4, (uint32_t)CPU(v)->tsc_aux);
    NEXT(v, op);
}

/* No performance counters are offered: every index is invalid (SDM 2, RDPMC). */
HANDLER(rdpmc)
{
    if (log_first(CPU(v)->seen, 0x0f33ull << 32))
        log_warn("guest: RDPMC of counter %#x raises #GP: no performance counters are offered",
                 (uint32_t)CPU(v)->gpr[RCX]);
    return leave_gp0(v, op);
}

HANDLER(rdmsr)
{
    struct cpu *c = CPU(v);
    uint64_t t = vcpu_exit_begin(&v->vc, EXIT_MSR), x;
    enum step st;

    sync_rip(v, op);
    st = cpu_rdmsr(c, (uint32_t)c->gpr[RCX], &x);
    if (st == STEP_NEXT)
        trace(v->vm->evm.cfg.trace, MSR, "vcpu%u rdmsr %#x -> %#llx", c->id, (uint32_t)c->gpr[RCX],
              (unsigned long long)x);
    else
        trace(v->vm->evm.cfg.trace, MSR, "vcpu%u rdmsr %#x faults", c->id, (uint32_t)c->gpr[RCX]);
    if (st == STEP_NEXT)
        set_edx_eax(c, x);
    vcpu_exit_end(&v->vc, EXIT_MSR, t);
    return leave_step(v, op, st);
}

HANDLER(wrmsr)
{
    struct cpu *c = CPU(v);
    uint64_t t = vcpu_exit_begin(&v->vc, EXIT_MSR);
    enum step st;

    serialize(v);
    sync_rip(v, op);
    st = cpu_wrmsr(c, (uint32_t)c->gpr[RCX], edx_eax(c));
    trace(v->vm->evm.cfg.trace, MSR, "vcpu%u wrmsr %#x <- %#llx%s", c->id, (uint32_t)c->gpr[RCX],
          (unsigned long long)edx_eax(c), st == STEP_FAULT ? " faults" : "");
    vcpu_exit_end(&v->vc, EXIT_MSR, t);
    return leave_step(v, op, st);
}

HANDLER(xgetbv)
{
    struct cpu *c = CPU(v);
    enum step st;
    uint64_t x;

    sync_rip(v, op);
    st = cpu_xgetbv(c, (uint32_t)c->gpr[RCX], &x);
    if (st == STEP_NEXT)
        set_edx_eax(c, x);
    NEXT_OR_LEAVE(v, op, st);
}

HANDLER(xsetbv)
{
    struct cpu *c = CPU(v);

    sync_rip(v, op);
    return leave_step(v, op, cpu_xsetbv(c, (uint32_t)c->gpr[RCX], edx_eax(c)));
}

/* ---- control and debug registers: aux is the register ---- */

HANDLER(mov_cr)
{
    struct cpu *c = CPU(v);
    bool switches = op->aux == 3 && (c->cr4 & CR4_PCIDE);
    enum step st;

    serialize(v);
    sync_rip(v, op);
    if (switches)
        pcid_leave(v);
    st = cpu_mov_to_cr(c, op->aux, get_reg(v, op->src, op->bytes));
    if (switches) {
        pcid_enter(v);
        if (v->hooks)
            v->hooks->switched(v);
    }
    return leave_step(v, op, st);
}

HANDLER(mov_from_cr)
{
    uint64_t x;
    enum step st;

    sync_rip(v, op);
    st = cpu_mov_from_cr(CPU(v), op->aux, &x);
    if (st == STEP_NEXT)
        set_reg(v, op->dst, op->bytes, x);
    NEXT_OR_LEAVE(v, op, st);
}

HANDLER(mov_dr)
{
    serialize(v);
    sync_rip(v, op);
    return leave_step(v, op, cpu_mov_to_dr(CPU(v), op->aux, get_reg(v, op->src, op->bytes)));
}

HANDLER(mov_from_dr)
{
    uint64_t x;
    enum step st;

    sync_rip(v, op);
    st = cpu_mov_from_dr(CPU(v), op->aux, &x);
    if (st == STEP_NEXT)
        set_reg(v, op->dst, op->bytes, x);
    NEXT_OR_LEAVE(v, op, st);
}

HANDLER(lmsw)
{
    uint64_t x;

    NEED_CPL0(v, op);
    if (!get_dst(v, op, ACC_READ, &x))
        return leave_here(v, op);
    sync_rip(v, op);
    return leave_step(v, op, cpu_lmsw(CPU(v), (uint16_t)x));
}

/* To memory always 16 bits (decoded so); to a register as wide as it is. */
HANDLER(smsw)
{
    NEED_UMIP(v, op);
    if (!put_dst(v, op, CPU(v)->cr0))
        return leave_here(v, op);
    NEXT(v, op);
}

HANDLER(clts)
{
    sync_rip(v, op);
    return leave_step(v, op, cpu_clts(CPU(v)));
}

HANDLER(invlpg)
{
    NEED_CPL0(v, op);
    serialize(v);
    sync_rip(v, op);
    {
        struct cpu *c = CPU(v);
        uint64_t off = effective(v, op);

        /* The operand is an address, not an access: only the segment base is added. */
        if (!(c->mode & MODE_CS64))
            off = (uint32_t)(off + c->seg[op->seg].base);
        else if (op->seg == SEG_FS || op->seg == SEG_GS)
            off += c->seg[op->seg].base;
        return leave_step(v, op, cpu_invlpg(c, GVA(off)));
    }
}

HANDLER(invpcid)
{
    uint64_t lin, pcid, at;

    if (CPU(v)->mode & MODE_VM86)
        return leave_gp0(v, op);
    NEED_CPL0(v, op);
    serialize(v);
    if (!get_linear(v, op, 16, ACC_READ, &lin) || !load_n(v, op, lin, 8, &pcid) ||
        !load_n(v, op, lin + 8, 8, &at))
        return leave_here(v, op);
    sync_rip(v, op);
    return leave_step(v, op, cpu_invpcid(CPU(v), get_reg(v, op->dst, op->bytes), pcid, GVA(at)));
}

/* INVD, WBINVD: there is no cache to lose or write back. */
HANDLER(invd)
{
    NEED_CPL0(v, op);
    serialize(v);
    NEXT(v, op);
}

/* CLFLUSH, CLFLUSHOPT, CLWB: a byte load's checks, but they may look into execute-only segments
 * (SDM 2, CLFLUSH); no effect. */
HANDLER(clflush)
{
    uint64_t lin, x;

    if (!get_linear(v, op, 1, ACC_EXEC, &lin) || !load_n(v, op, lin, 1, &x))
        return leave_here(v, op);
    NEXT(v, op);
}

/* CLZERO (APM 3): zeroes the 64-byte line at rAX. With F2 or F3 the opcode is reserved. */
HANDLER(clzero)
{
    unsigned n = op->prefix & OP_A16 ? 2 : op->prefix & OP_A32 ? 4 : 8;
    uint64_t off = low_bytes(CPU(v)->gpr[RAX], n), lin;
    bool flat = CPU(v)->mode & MODE_CS64 && op->seg < SEG_FS;

    if (op->prefix & (OP_REP | OP_REPNE))
        return leave_raise(v, op, VEC_UD);
    /* The line, whatever the segment's base; all of it has to be in the segment. */
    off -= ((flat ? 0 : CPU(v)->seg[op->seg].base) + off) & 63;
    if (!addr_of(v, op, off, 64, ACC_WRITE))
        return leave_here(v, op);
    lin = v->lin;
    for (unsigned i = 0; i < 64; i += 8)
        if (!store_slow(v, op, lin + i, 8, 0))
            return leave_here(v, op);
    NEXT(v, op);
}

/* ---- descriptor tables ---- */

/* Base: 24 bits with a 16-bit operand size, 32 without, 64 in 64-bit code (aux: base bytes). */
static const struct op *load_table(struct ivcpu *v, const struct op *op, struct dtable *t)
{
    struct cpu *c = CPU(v);
    unsigned base_bytes = c->mode & MODE_CS64 ? 8 : 4;
    uint64_t lin, limit, base;

    NEED_CPL0(v, op);
    if (!get_linear(v, op, 2 + base_bytes, ACC_READ, &lin) || !load_n(v, op, lin, 2, &limit) ||
        !load_n(v, op, lin + 2, base_bytes, &base))
        return leave_here(v, op);
    if (base_bytes == 4 && op->bytes == 2)
        base &= 0xffffff;
    if (base_bytes == 8 && !is_canonical(c, base))
        return leave_gp0(v, op);
    *t = (struct dtable){ .base = base, .limit = (uint16_t)limit };
    NEXT(v, op);
}

static const struct op *store_table(struct ivcpu *v, const struct op *op, const struct dtable *t)
{
    unsigned base_bytes = CPU(v)->mode & MODE_CS64 ? 8 : 4;
    uint64_t lin;

    NEED_UMIP(v, op);
    if (!get_linear(v, op, 2 + base_bytes, ACC_WRITE, &lin) ||
        !rmw_slow(v, op, lin + 2, base_bytes) || !store_slow(v, op, lin, 2, t->limit) ||
        !store_slow(v, op, lin + 2, base_bytes, t->base))
        return leave_here(v, op);
    NEXT(v, op);
}

HANDLER(lgdt)
{
    return load_table(v, op, &CPU(v)->gdtr);
}

HANDLER(lidt)
{
    return load_table(v, op, &CPU(v)->idtr);
}

HANDLER(sgdt)
{
    return store_table(v, op, &CPU(v)->gdtr);
}

HANDLER(sidt)
{
    return store_table(v, op, &CPU(v)->idtr);
}

HANDLER(lldt)
{
    uint64_t sel;

    NEED_PROTECTED(v, op);
    NEED_CPL0(v, op);
    if (!get_dst(v, op, ACC_READ, &sel))
        return leave_here(v, op);
    serialize(v);
    serialize(v);
    sync_rip(v, op);
    return leave_step(v, op, cpu_lldt(CPU(v), (uint16_t)sel));
}

HANDLER(ltr)
{
    uint64_t sel;

    NEED_PROTECTED(v, op);
    NEED_CPL0(v, op);
    if (!get_dst(v, op, ACC_READ, &sel))
        return leave_here(v, op);
    serialize(v);
    sync_rip(v, op);
    return leave_step(v, op, cpu_ltr(CPU(v), (uint16_t)sel));
}

HANDLER(sldt)
{
    NEED_PROTECTED(v, op);
    NEED_UMIP(v, op);
    if (!put_dst(v, op, CPU(v)->ldtr.sel))
        return leave_here(v, op);
    NEXT(v, op);
}

HANDLER(str)
{
    NEED_PROTECTED(v, op);
    NEED_UMIP(v, op);
    if (!put_dst(v, op, CPU(v)->tr.sel))
        return leave_here(v, op);
    NEXT(v, op);
}

static void set_zf(struct cpu *c, bool on)
{
    c->rflags = on ? c->rflags | RFLAGS_ZF : c->rflags & ~(uint64_t)RFLAGS_ZF;
}

/* The source is a selector: 16 bits, whatever the operand size (aux2: its size as a register
 * operand). */
static const struct op *load_access(struct ivcpu *v, const struct op *op,
                                    enum step (*look)(struct cpu *, uint16_t, uint32_t *, bool *))
{
    struct cpu *c = CPU(v);
    uint32_t x = 0;
    uint64_t sel, lin;
    bool ok = false;
    enum step st;

    NEED_PROTECTED(v, op);
    if (op->src != NOT_A_REG)
        sel = get_reg(v, op->src, 2);
    else if (!get_linear(v, op, 2, ACC_READ, &lin) || !load_n(v, op, lin, 2, &sel))
        return leave_here(v, op);
    sync_rip(v, op);
    st = look(c, (uint16_t)sel, &x, &ok);
    if (st != STEP_NEXT)
        return leave_step(v, op, st);
    if (ok)
        set_reg(v, op->dst, op->bytes, x);
    set_zf(c, ok);
    NEXT(v, op);
}

HANDLER(lar)
{
    return load_access(v, op, cpu_lar);
}

HANDLER(lsl)
{
    return load_access(v, op, cpu_lsl);
}

static const struct op *verify(struct ivcpu *v, const struct op *op, unsigned acc)
{
    uint64_t sel;
    bool ok = false;
    enum step st;

    NEED_PROTECTED(v, op);
    if (!get_dst(v, op, ACC_READ, &sel))
        return leave_here(v, op);
    sync_rip(v, op);
    st = cpu_verify(CPU(v), (uint16_t)sel, acc, &ok);
    if (st != STEP_NEXT)
        return leave_step(v, op, st);
    set_zf(CPU(v), ok);
    NEXT(v, op);
}

HANDLER(verr)
{
    return verify(v, op, ACC_READ);
}

HANDLER(verw)
{
    return verify(v, op, ACC_WRITE);
}

/* ---- segment registers: aux is the register ---- */

HANDLER(mov_to_seg)
{
    uint64_t sel;
    enum step st;

    if (!get_src(v, op, &sel))
        return leave_here(v, op);
    sync_rip(v, op);
    st = cpu_load_seg(CPU(v), op->aux, (uint16_t)sel);
    if (st == STEP_NEXT && op->aux == SEG_SS)
        CPU(v)->shadow_movss = true;
    return leave_step(v, op, st);
}

HANDLER(mov_from_seg)
{
    if (!put_dst(v, op, CPU(v)->seg[op->aux].sel))
        return leave_here(v, op);
    NEXT(v, op);
}

/* LDS, LES, LFS, LGS, LSS */
HANDLER(load_far_ptr)
{
    uint64_t off, sel;
    enum step st;

    /* Two accesses: the segment's limit is looked at for each. */
    if (!get_linear(v, op, op->bytes, ACC_READ, &off) || !load_n(v, op, off, op->bytes, &off) ||
        !addr_of(v, op, effective(v, op) + op->bytes, 2, ACC_READ) ||
        !load_n(v, op, v->lin, 2, &sel))
        return leave_here(v, op);
    sync_rip(v, op);
    st = cpu_load_seg(CPU(v), op->aux, (uint16_t)sel);
    if (st == STEP_NEXT)
        set_reg(v, op->dst, op->bytes, off);
    return leave_step(v, op, st);
}

/* ---- system calls ---- */

HANDLER(syscall_)
{
    sync_rip(v, op);
    return leave_jump(v, op, cpu_syscall(CPU(v)));
}

HANDLER(sysret)
{
    sync_rip(v, op);
    return leave_jump(v, op, cpu_sysret(CPU(v), op->bytes));
}

HANDLER(sysenter)
{
    sync_rip(v, op);
    return leave_jump(v, op, cpu_sysenter(CPU(v)));
}

HANDLER(sysexit)
{
    sync_rip(v, op);
    return leave_jump(v, op, cpu_sysexit(CPU(v), op->bytes));
}

HANDLER(swapgs)
{
    sync_rip(v, op);
    NEXT_OR_LEAVE(v, op, cpu_swapgs(CPU(v)));
}

/* RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE; aux: segment, aux2: write. dst is the register. */
HANDLER(fsgsbase)
{
    struct cpu *c = CPU(v);

    if (!(c->cr4 & CR4_FSGSBASE) || !(c->mode & MODE_CS64))
        return leave_raise(v, op, VEC_UD);
    if (op->aux2) {
        uint64_t x = get_reg(v, op->dst, op->bytes);

        if (!is_canonical(c, x))
            return leave_gp0(v, op);
        c->seg[op->aux].base = x;
    } else {
        set_reg(v, op->dst, op->bytes, c->seg[op->aux].base);
    }
    NEXT(v, op);
}

/* MONITOR watches nothing; MWAIT then waits for the next interrupt like HLT, which the manual
 * allows. */
HANDLER(monitor)
{
    uint64_t x;

    if (CPU(v)->cpl != 0)
        return leave_raise(v, op, VEC_UD);
    if (CPU(v)->gpr[RCX])
        return leave_gp0(v, op);
    if (!addr_of(v, op,
                 low_bytes(CPU(v)->gpr[RAX], op->prefix & OP_A16   ? 2
                                             : op->prefix & OP_A32 ? 4
                                                                   : 8),
                 1, ACC_READ) ||
        !load_n(v, op, v->lin, 1, &x))
        return leave_here(v, op);
    NEXT(v, op);
}

/* A store to the monitored line must end MWAIT, and stores are not watched: so it ends at once,
 * which the manual allows. */
HANDLER(mwait)
{
    if (CPU(v)->cpl != 0)
        return leave_raise(v, op, VEC_UD);
    sync_rip(v, op);
    return leave_step(v, op, STEP_NEXT);
}

HANDLER(vmcall)
{
    const struct engine_config *cfg = &v->vm->evm.cfg;
    uint64_t t = vcpu_exit_begin(&v->vc, EXIT_HYPERCALL);

    sync_rip(v, op);
    go_outside(v);
    cfg->ops->hypercall(cfg->ctx, CPU(v));
    vcpu_exit_end(&v->vc, EXIT_HYPERCALL, t);
    return leave_step(v, op, STEP_NEXT);
}

const op_fn op_native_full = native_full;
const op_fn op_native = native, op_in = in, op_out = out, op_hlt = hlt, op_cli = cli, op_sti = sti,
            op_clac = clac;
const op_fn op_stac = stac, op_cpuid = cpuid, op_rdtsc = rdtsc, op_rdtscp = rdtscp,
            op_rdpmc = rdpmc;
const op_fn op_rdmsr = rdmsr, op_wrmsr = wrmsr, op_mov_cr = mov_cr, op_mov_dr = mov_dr;
const op_fn op_mov_from_cr = mov_from_cr, op_mov_from_dr = mov_from_dr, op_lmsw = lmsw,
            op_smsw = smsw;
const op_fn op_clts = clts, op_lgdt = lgdt, op_lidt = lidt, op_sgdt = sgdt, op_sidt = sidt,
            op_lldt = lldt;
const op_fn op_ltr = ltr, op_sldt = sldt, op_str = str, op_lar = lar, op_lsl = lsl, op_verr = verr,
            op_verw = verw;
const op_fn op_invlpg = invlpg, op_invpcid = invpcid, op_invd = invd, op_mov_to_seg = mov_to_seg;
const op_fn op_mov_from_seg = mov_from_seg, op_load_far_ptr = load_far_ptr, op_syscall = syscall_;
const op_fn op_sysret = sysret, op_sysenter = sysenter, op_sysexit = sysexit, op_swapgs = swapgs;
const op_fn op_fsgsbase = fsgsbase, op_rdpid = rdpid, op_monitor = monitor, op_mwait = mwait,
            op_vmcall = vmcall;
const op_fn op_xgetbv = xgetbv;
const op_fn op_xsetbv = xsetbv, op_clflush = clflush, op_clzero = clzero;
