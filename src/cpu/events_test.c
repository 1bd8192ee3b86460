/* SPDX-License-Identifier: Apache-2.0 */
/* Between instructions: priorities, shadows, requests, waking, and no busy loops. */
#include "cpu/fake_cpu.h"

#define HANDLER 0x4000u
#define VECTOR  0x41u
#define PIC     0x30u

static struct cpu *make(void)
{
    struct cpu *c = fake_make(PM0);

    for (unsigned v = 0; v < 0x60; v++)
        idt_set(v, SYS_INT_GATE, 0, S_CODE0, HANDLER + v);
    return c;
}

static void irq(struct cpu *c)
{
    fake.apic_vector = VECTOR;
    cpu_post(c, REQ_IRQ);
}

/* Which vector was entered; -1: none. */
static int take(struct cpu *c)
{
    uint64_t rip = c->rip;

    assert_int_equal(cpu_take_events(c), STEP_NEXT);
    return c->rip == rip ? -1 : (int)(c->rip - HANDLER);
}

static void test_priorities(void **state)
{
    struct cpu *c = make();

    (void)state;
    irq(c);
    cpu_post(c, REQ_NMI);
    assert_int_equal(fake.nr_kicks, 2);
    c->pending_dbg = DR6_BS;
    fake.extint = fake.pic_line = true;
    fake.pic_vector = PIC;
    assert_int_equal(take(c), VEC_DB);
    assert_int_equal(c->pending_dbg, 0);
    assert_int_equal(take(c), VEC_NMI);
    assert_true(c->nmi_blocked);
    c->rflags |= RFLAGS_IF;
    assert_int_equal(take(c), PIC);
    c->rflags |= RFLAGS_IF;
    assert_int_equal(take(c), VECTOR);
    assert_int_equal(fake.nr_acks, 1);
    c->rflags |= RFLAGS_IF;
    assert_false(cpu_event_ready(c));
    assert_int_equal(take(c), -1);
}

static void test_interrupt_waits_for_if_without_looping(void **state)
{
    struct cpu *c = make();

    (void)state;
    c->rflags &= ~(uint64_t)RFLAGS_IF;
    irq(c);
    assert_true(cpu_event_ready(c)); /* the request itself */
    assert_int_equal(take(c), -1);
    assert_int_equal(c->req, 0);
    assert_false(cpu_event_ready(c));
    c->rflags |= RFLAGS_IF;
    assert_true(cpu_event_ready(c));
    assert_int_equal(take(c), VECTOR);
}

static void test_shadows_last_one_instruction(void **state)
{
    struct cpu *c = make();

    (void)state;
    c->rflags &= ~(uint64_t)RFLAGS_IF;
    irq(c);
    assert_int_equal(cpu_sti(c), STEP_NEXT);
    assert_int_equal(take(c), -1); /* before N + 1 */
    assert_true(cpu_event_ready(c));
    assert_int_equal(take(c), VECTOR); /* before N + 2 */
    /* STI's shadow stops neither NMIs nor debug traps, MOV SS's both. */
    c = make();
    c->shadow_sti = true;
    cpu_post(c, REQ_NMI);
    assert_int_equal(take(c), VEC_NMI);
    c = make();
    c->shadow_movss = true;
    c->pending_dbg = 1;
    cpu_post(c, REQ_NMI);
    irq(c);
    assert_int_equal(take(c), -1);
    assert_int_equal(take(c), VEC_DB);
    assert_int_equal(c->dr6, DR6_FIXED1 | 1);
}

static void test_nmi_is_blocked_until_iret(void **state)
{
    struct cpu *c = make();

    (void)state;
    cpu_post(c, REQ_NMI);
    assert_int_equal(take(c), VEC_NMI);
    cpu_post(c, REQ_NMI);
    assert_int_equal(take(c), -1);
    assert_false(cpu_event_ready(c));
    assert_int_equal(cpu_iret(c, 4), STEP_NEXT);
    assert_true(cpu_event_ready(c));
    assert_int_equal(take(c), VEC_NMI);
}

static void test_halt_ends_by_an_event_that_is_taken(void **state)
{
    struct cpu *c = make();

    (void)state;
    c->activity = CPU_HALTED;
    c->rflags &= ~(uint64_t)RFLAGS_IF;
    irq(c);
    assert_int_equal(take(c), -1);
    assert_int_equal(c->activity, CPU_HALTED);
    cpu_post(c, REQ_NMI);
    assert_int_equal(take(c), VEC_NMI);
    assert_int_equal(c->activity, CPU_RUNNING);
}

static void test_init_and_sipi(void **state)
{
    struct cpu *c = make();

    (void)state;
    c->apic.base_msr &= ~APIC_BASE_BSP;
    cpu_post(c, REQ_SIPI); /* not waiting: ignored */
    c->sipi_vector = 0x9a;
    assert_int_equal(take(c), -1);
    cpu_post(c, REQ_INIT);
    assert_int_equal(cpu_take_events(c), STEP_NEXT);
    assert_int_equal(c->activity, CPU_WAIT_SIPI);
    assert_int_equal(c->mode, 0);
    cpu_post(c, REQ_NMI);
    assert_int_equal(cpu_take_events(c), STEP_NEXT);
    assert_int_equal(c->activity, CPU_WAIT_SIPI);
    assert_false(cpu_event_ready(c));
    cpu_post(c, REQ_INIT | REQ_SIPI);
    assert_int_equal(cpu_take_events(c), STEP_NEXT);
    assert_int_equal(c->activity, CPU_RUNNING);
    assert_int_equal(c->seg[SEG_CS].sel, 0x9a00);
    assert_int_equal(c->seg[SEG_CS].base, 0x9a000);
    assert_int_equal(c->rip, 0);
    /* The BSP starts over at once. */
    c->apic.base_msr |= APIC_BASE_BSP;
    c->activity = CPU_SHUTDOWN;
    assert_int_equal(cpu_take_events(c), STEP_EXIT);
    cpu_post(c, REQ_INIT);
    assert_int_equal(cpu_take_events(c), STEP_NEXT);
    assert_int_equal(c->activity, CPU_RUNNING);
    assert_int_equal(c->rip, 0xfff0);
}

static void test_requests_of_the_engine_stay(void **state)
{
    struct cpu *c = make();

    (void)state;
    cpu_post(c, REQ_STOP | REQ_CODE | REQ_TIMER);
    assert_int_equal(take(c), -1);
    assert_true(fake.timer_expired);
    assert_int_equal(c->req, REQ_STOP | REQ_CODE);
    assert_false(cpu_event_ready(c));
}

static void test_vif_and_vip_raise_gp(void **state)
{
    struct cpu *c = fake_make(VM86);

    (void)state;
    idt_set(VEC_GP, SYS_INT_GATE, 0, S_CODE0, HANDLER + VEC_GP);
    c->rflags |= RFLAGS_VIF | RFLAGS_VIP;
    assert_false(cpu_event_ready(c));
    c->cr4 |= CR4_VME;
    assert_true(cpu_event_ready(c));
    assert_int_equal(take(c), VEC_GP);
    assert_false(cpu_event_ready(c));
}

static void test_fault_while_an_interrupt_is_delivered(void **state)
{
    struct cpu *c = make();

    (void)state;
    idt_set(VECTOR, SYS_INT_GATE, 0, S_CODE_NP, 0);
    irq(c);
    assert_int_equal(take(c), VEC_NP);
    assert_int_equal(peek(c->gpr[RSP], 4), S_CODE_NP | ERR_EXT);
    assert_int_equal(peek(c->gpr[RSP] + 4, 4), 0x1234);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_priorities),
        cmocka_unit_test(test_interrupt_waits_for_if_without_looping),
        cmocka_unit_test(test_shadows_last_one_instruction),
        cmocka_unit_test(test_nmi_is_blocked_until_iret),
        cmocka_unit_test(test_halt_ends_by_an_event_that_is_taken),
        cmocka_unit_test(test_init_and_sipi),
        cmocka_unit_test(test_requests_of_the_engine_stay),
        cmocka_unit_test(test_vif_and_vip_raise_gp),
        cmocka_unit_test(test_fault_while_an_interrupt_is_delivered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
