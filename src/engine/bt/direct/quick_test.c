/* SPDX-License-Identifier: Apache-2.0 */
/* What quick.c knows against the decoder and the allow-lists, for all first bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/bt/direct/allow.h"
#include "engine/bt/direct/direct_fake.h"
#include "engine/bt/direct/quick.h"

#define OFF 0x123

/* As xlate.c has it for instructions that are not known quickly. */
static bool may_copy(const struct insn *in)
{
    if (dinsn_is_odd_branch(in) || dinsn_is_rip_relative(in))
        return false;
    switch (in->cls) {
    case INSN_INTERP:
        return in->op.fn != op_ud && dinsn_may_copy(in);
    case INSN_NOP:
    case INSN_JMP:
    case INSN_JCC:
    case INSN_CALL:
    case INSN_JMP_IND:
    case INSN_CALL_IND:
    case INSN_RET:
        return false;
    default:
        return true;
    }
}

static bool agrees(struct fake *f, const uint8_t *b, unsigned avail, const struct quick *q)
{
    struct insn in;
    unsigned len = insn_decode(container_of(f->v, struct ivcpu, vc), block_key(&f->v->cpu), b,
                               avail, OFF, &in);
    static const enum insn_class classes[] = { [QUICK_JCC] = INSN_JCC,
                                               [QUICK_JMP] = INSN_JMP,
                                               [QUICK_CALL] = INSN_CALL,
                                               [QUICK_RET] = INSN_RET };

    if (len != q->len || in.unit != UNIT_GPR)
        return false;
    if (q->kind == QUICK_COPY)
        return may_copy(&in);
    if (in.cls != classes[q->kind])
        return false;
    if (q->kind == QUICK_RET)
        return !in.imm;
    return (q->kind != QUICK_JCC || in.cc == q->cc) && in.target == OFF + len + (int64_t)q->rel;
}

/* Counts those known, and fails at the first that is not what the decoder says. */
static unsigned compare(struct fake *f, const uint8_t *b, unsigned avail)
{
    struct quick q;

    if (!quick_decode(b, avail, &q))
        return 0;
    if (!agrees(f, b, avail, &q))
        fail_msg("%02x %02x %02x %02x %02x: not of kind %d and %u bytes", b[0], b[1], b[2], b[3],
                 b[4], q.kind, q.len);
    return 1;
}

/* Three bytes of prefix, opcode, ModRM and SIB, all values; behind them others. */
static void test_agrees_with_the_decoder(void **state)
{
    struct fake *f = fake_create();
    unsigned nr = 0;

    (void)state;
    for (uint32_t x = 0; x < 1u << 24; x += x >> 16 == 0x0f || x >> 20 == 4 ? 1 : 5) {
        const uint8_t b[15] = { (uint8_t)(x >> 16),
                                (uint8_t)(x >> 8),
                                (uint8_t)x,
                                (uint8_t)(x * 7),
                                0x91,
                                0x82,
                                0x73,
                                0x64,
                                0x55,
                                0x46,
                                0x37,
                                0x28,
                                0x19,
                                0x0a,
                                0xfb };

        nr += compare(f, b, sizeof(b));
    }
    assert_true(nr > 1000000);
    fake_destroy(f);
}

/* Fewer bytes than it has: not known, or known by the decoder as well. */
static void test_knows_no_more_than_there_is(void **state)
{
    struct fake *f = fake_create();

    (void)state;
    for (uint32_t x = 0; x < 1u << 24; x += 97)
        for (unsigned avail = 0; avail < 12; avail++) {
            const uint8_t b[15] = { (uint8_t)(x >> 16), (uint8_t)(x >> 8), (uint8_t)x,
                                    (uint8_t)(x * 3) };
            struct quick q;

            if (quick_decode(b, avail, &q))
                assert_in_range(q.len, 1, avail);
            (void)compare(f, b, avail);
        }
    fake_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_agrees_with_the_decoder),
        cmocka_unit_test(test_knows_no_more_than_there_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
