/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions that are short enough to be translated in line: what kernels run most. Any
 * doubt (another privilege, an interrupt that waits, a host where PEXT is slow) leaves them to
 * interp.
 */
#include "engine/bt/bt.h"

/* RCX = RFLAGS in memory with IF clear; none of the host's flags change. */
static void load_flags_without_if(struct trans *t)
{
    emit_load(t->e, H_TMP, HMEM_GS(CPU_OFF(rflags)));
    emit_pext(t->e, H_TMP, H_TMP, HMEM_GS(BT_OFF(mask_not_if)));
    emit_pdep(t->e, H_TMP, H_TMP, HMEM_GS(BT_OFF(mask_not_if)));
}

/* Leaves for interp unless the 32-bit word is 0. */
static void leave_unless_zero(struct trans *t, size_t word)
{
    uint8_t *ok;

    emit_op_rm(t->e, 0, 0x8b, H_TMP, HMEM_GS(word));
    ok = emit_jrcxz_later(t->e);
    bt_emit_leave(t, WHY_INTERP);
    emit_fix8(t->e, ok);
}

static void emit_cli(struct trans *t)
{
    load_flags_without_if(t);
    emit_store(t->e, HMEM_GS(CPU_OFF(rflags)), H_TMP);
}

/* Where no interrupt waits there is nothing for STI's shadow to hold back. */
static void emit_sti(struct trans *t)
{
    leave_unless_zero(t, CPU_OFF(req));
    leave_unless_zero(t, BT_OFF(masked));
    load_flags_without_if(t);
    emit_lea(t->e, H_TMP, HMEM_BASE(H_TMP, RFLAGS_IF));
    emit_store(t->e, HMEM_GS(CPU_OFF(rflags)), H_TMP);
}

static void emit_swapgs(struct trans *t)
{
    emit_load(t->e, H_TMP, HMEM_GS(CPU_OFF(seg[SEG_GS].base)));
    emit_load(t->e, H_PTR, HMEM_GS(CPU_OFF(kernel_gs_base)));
    emit_store(t->e, HMEM_GS(CPU_OFF(kernel_gs_base)), H_TMP);
    emit_store(t->e, HMEM_GS(CPU_OFF(seg[SEG_GS].base)), H_PTR);
}

/* EDX:EAX = the host's TSC plus the guest's offset. */
static void emit_rdtsc(struct trans *t)
{
    emit8(t->e, 0x0f);
    emit8(t->e, 0x31);
    emit_rorx(t->e, H_RDX, H_RDX, 32);
    emit_load(t->e, H_TMP, HMEM_GS(BT_OFF(tsc_offset)));
    emit_lea(t->e, H_RAX, (struct hmem){ .base = H_RAX, .index = H_RDX });
    emit_lea(t->e, H_RAX, (struct hmem){ .base = H_RAX, .index = H_TMP });
    emit_rorx(t->e, H_RDX, H_RAX, 32);
    emit_mov32_rr(t->e, H_RDX, H_RDX);
    emit_mov32_rr(t->e, H_RAX, H_RAX);
}

bool bt_is_inline_system(const struct trans *t, const struct insn *in)
{
    const op_fn fn = in->op.fn;
    bool user = t->key & KEY_USER;

    if ((t->key & KEY_COUNT) || t->b->vm->slow_pext)
        return false;
    if (fn == op_rdtsc)
        return t->b->tsc_inline && !(user && (t->key & KEY_TSD));
    return !user && (fn == op_cli || fn == op_sti || fn == op_swapgs);
}

bool bt_emit_system(struct trans *t)
{
    const op_fn fn = t->in.op.fn;

    if (!bt_is_inline_system(t, &t->in))
        return false;
    if (fn == op_rdtsc)
        emit_rdtsc(t);
    else if (fn == op_cli)
        emit_cli(t);
    else if (fn == op_sti)
        emit_sti(t);
    else
        emit_swapgs(t);
    t->in.ends = false;
    return true;
}
