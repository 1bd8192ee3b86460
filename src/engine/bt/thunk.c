/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The door between C and translated code, written at the start of the code cache. Entering saves
 * what the host's ABI wants kept and loads the guest's registers; leaving stores them and returns
 * to C. The guest's vector registers stay in the processor: see bt_vectors_out().
 */
#include "engine/bt/bt.h"

static const uint8_t kept[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

static void emit_push_pop(struct emit *e, uint8_t opcode, unsigned reg)
{
    if (reg >= H_R8)
        emit8(e, 0x41);
    emit8(e, (uint8_t)(opcode | (reg & 7)));
}

/* MOV dword [m], imm */
static void emit_store_imm32(struct emit *e, struct hmem m, uint32_t imm)
{
    emit_op_rm(e, 0, 0xc7, 0, m);
    emit32(e, imm);
}

/* Jumps over what follows if the 32-bit word is not `val`... returns the rel32 to mend. */
static uint8_t *emit_skip_unless(struct emit *e, struct hmem m, uint8_t val)
{
    emit_op_rm(e, 0, 0x83, 7, m); /* CMP dword, imm8 */
    emit8(e, val);
    return emit_jcc_later(e, 5);
}

static void land(struct emit *e, uint8_t *rel32)
{
    if (!e->full)
        emit_fix32(rel32, e->delta, emit_pc(e));
}

static void emit_enter(struct emit *e)
{
    uint8_t *skip;

    for (unsigned i = 0; i < ARRAY_SIZE(kept); i++)
        emit_push_pop(e, 0x50, kept[i]);
    emit_store(e, HMEM_GS(BT_OFF(host_rsp)), H_RSP);
    skip = emit_skip_unless(e, HMEM_GS(BT_OFF(vec_want)), 1);
    emit_op_rm(e, EMIT_W, 0xc7, 0, HMEM_GS(CPU_OFF(fpu.xstate_bv)));
    emit32(e, XSTATE_ALL);
    emit_mov_imm(e, H_RAX, XSTATE_ALL);
    emit_mov_imm(e, H_RDX, 0);
    emit_op_rm(e, EMIT_W | EMIT_0F, 0xae, 5, HMEM_GS(CPU_OFF(fpu))); /* XRSTOR64 */
    emit_store_imm32(e, HMEM_GS(BT_OFF(vec_want)), 0);
    emit_store_imm32(e, HMEM_GS(BT_OFF(vec_here)), 1);
    land(e, skip);
    emit_load(e, H_RAX, HMEM_GS(BT_OFF(flags)));
    emit8(e, 0x04); /* ADD AL, 7Fh: overflows if AL is 1 */
    emit8(e, 0x7f);
    emit8(e, 0x9e); /* SAHF */
    for (unsigned r = 0; r < NR_GPRS; r++)
        if (bt_home(r) != H_NONE)
            emit_load(e, bt_home(r), HMEM_GS(GPR_OFF(r)));
    emit_load(e, H_PTR, HMEM_GS(CPU_OFF(rip))); /* for a block's far entry */
    emit_jmp_mem(e, HMEM_GS(BT_OFF(pc)));
}

static void emit_leave(struct emit *e)
{
    static const uint8_t flags[] = { 0x9f,               /* LAHF */
                                     0x0f, 0x90, 0xc0,   /* SETO AL */
                                     0x0f, 0xb7, 0xc0 }; /* MOVZX EAX, AX */

    for (unsigned r = 0; r < NR_GPRS; r++)
        if (bt_home(r) != H_NONE)
            emit_store(e, HMEM_GS(GPR_OFF(r)), bt_home(r));
    emit_bytes(e, flags, sizeof(flags));
    emit_store(e, HMEM_GS(BT_OFF(flags)), H_RAX);
    emit_load(e, H_RSP, HMEM_GS(BT_OFF(host_rsp)));
    for (unsigned i = ARRAY_SIZE(kept); i-- > 0;)
        emit_push_pop(e, 0x58, kept[i]);
    emit8(e, 0xc3);
}

uint8_t *bt_emit_table(struct emit *e, enum jc_class class, bool slow_pext)
{
    size_t jc = BT_OFF(jc) + (size_t) class * sizeof(struct jc);
    uint8_t *miss;

    emit_rorx(e, H_AUX, H_PTR, JC_BITS);
    emit_lea(e, H_AUX, (struct hmem){ .base = H_AUX, .index = H_PTR });
    if (slow_pext)
        emit_op_rr(e, EMIT_0F, 0xb7, H_AUX, H_AUX); /* MOVZX of the low 16 bits */
    else
        emit_pext(e, H_AUX, H_AUX, HMEM_GS(BT_OFF(mask_jc)));
    emit_lea(e, H_AUX, (struct hmem){ .base = H_AUX, .index = H_AUX });
    emit_load(e, H_TMP, HMEM_GS_INDEX(H_AUX, 3, jc + offsetof(struct jc_entry, neg_rip)));
    emit_lea(e, H_TMP, (struct hmem){ .base = H_TMP, .index = H_PTR, .disp = emit_hit(e) - 1 });
    miss = emit_unless_same_later(e);
    emit_jmp_mem(e, HMEM_GS_INDEX(H_AUX, 3, jc + offsetof(struct jc_entry, far)));
    return miss;
}

static void emit_branch(struct emit *e, enum jc_class class, bool slow_pext, const uint8_t *leave)
{
    uint8_t *miss;

    emit_store(e, HMEM_GS(BT_OFF(site)), H_TMP);
    miss = bt_emit_table(e, class, slow_pext);
    land(e, miss);
    emit_load(e, H_TMP, HMEM_GS(BT_OFF(site)));
    emit_jmp(e, leave);
}

bool bt_make_thunks(struct bt_cache *bc, bool slow_pext)
{
    struct emit *e = &bc->code;
    const uint8_t *leave;

    bc->enter = (void (*)(struct bt_vcpu *))(uintptr_t)emit_pc(e);
    emit_enter(e);
    leave = emit_pc(e);
    emit_leave(e);
    for (unsigned why = 0; why < NR_WHYS; why++) {
        bc->leave[why] = emit_pc(e);
        emit_store_imm32(e, HMEM_GS(BT_OFF(why)), why);
        if (why == WHY_EXIT || why == WHY_FAR)
            emit_store(e, HMEM_GS(BT_OFF(exit)), H_TMP);
        else if (why != WHY_TRAP)
            emit_store(e, HMEM_GS(BT_OFF(site)), H_TMP);
        if (why == WHY_MISS || why == WHY_LOST || why == WHY_FAR)
            emit_store(e, HMEM_GS(CPU_OFF(rip)), H_PTR);
        else if (why == WHY_SLOW)
            emit_store(e, HMEM_GS(BT_OFF(ea)), H_PTR);
        emit_jmp(e, leave);
    }
    for (unsigned class = 0; class < NR_JCS; class ++) {
        bc->branch[class] = emit_pc(e);
        emit_branch(e, (enum jc_class) class, slow_pext, bc->leave[WHY_MISS]);
    }
    if (!slow_pext)
        bt_make_calls(bc);
    bc->start = e->p;
    return !e->full;
}
