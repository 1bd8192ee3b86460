/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine as the two engines of a lock-step see it: the tested engine calls the real one, and
 * the tape is a list of its calls and their results; the reference must make the same calls in the
 * same order, and gets the same results.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/lockstep.h"

/* ---- the tape ---- */

void ls_tape_clear(struct ls_tape *t)
{
    t->nr = t->next = t->data_bytes = 0;
    t->wrong[0] = 0;
}

void ls_tape_free(struct ls_tape *t)
{
    free(t->ev);
    free(t->data);
    *t = (struct ls_tape){ 0 };
}

static const char *const ls_call_texts[] = {
#define LS_CALL(id, text) text,
#include "vm/lockstep_calls.def"
#undef LS_CALL
};

void ls_event_text(const struct ls_event *e, char *buf, size_t bytes)
{
    unsigned long long a = e->arg[0], b = e->arg[1], c = e->arg[2], r = e->result;

    (void)snprintf(buf, bytes, ls_call_texts[e->what], a, b, c, r);
}

static bool tape_room(struct ls_tape *t, size_t data_bytes)
{
    if (t->nr == t->max) {
        size_t max = t->max ? 2 * t->max : 64;
        struct ls_event *ev = reallocarray(t->ev, max, sizeof(*ev));

        if (!ev)
            return false;
        t->ev = ev;
        t->max = max;
    }
    if (data_bytes > t->data_max - t->data_bytes) {
        size_t max = 2 * (t->data_bytes + data_bytes);
        uint8_t *data = realloc(t->data, max);

        if (!data)
            return false;
        t->data = data;
        t->data_max = max;
    }
    return true;
}

void ls_tape_put(struct ls_tape *t, struct ls_event e, const void *data, size_t bytes)
{
    if (!tape_room(t, bytes)) {
        t->no_memory = true;
        return;
    }
    e.data_off = t->data_bytes;
    e.data_bytes = bytes;
    if (bytes)
        memcpy(t->data + t->data_bytes, data, bytes);
    t->data_bytes += bytes;
    t->ev[t->nr++] = e;
}

/* ---- the tested engine's side ---- */

#define RECORD(ls, id, res, ...) \
    record(ls, &(struct ls_event){ .what = LS_##id, .arg = { __VA_ARGS__ }, .result = (res) })

static void record(struct lockstep *ls, const struct ls_event *e)
{
    if (!ls->together)
        return;
    ls_tape_put(&ls->tape, *e, NULL, 0);
    ls_memory_record(ls); /* what the device wrote meanwhile */
}

static uint64_t record_port_read(void *ctx, uint16_t port, unsigned bytes)
{
    struct lockstep *ls = ctx;
    uint64_t x = vm_platform_ops.port_read(ls->vm, port, bytes);

    RECORD(ls, PORT_READ, x, port, bytes);
    return x;
}

static void record_port_write(void *ctx, uint16_t port, unsigned bytes, uint64_t val)
{
    struct lockstep *ls = ctx;

    vm_platform_ops.port_write(ls->vm, port, bytes, val);
    RECORD(ls, PORT_WRITE, 0, port, bytes, val);
}

static uint64_t record_mmio_read(void *ctx, gpa_t at, unsigned bytes)
{
    struct lockstep *ls = ctx;
    uint64_t x = vm_platform_ops.mmio_read(ls->vm, at, bytes);

    RECORD(ls, MMIO_READ, x, at.v, bytes);
    return x;
}

static void record_mmio_write(void *ctx, gpa_t at, unsigned bytes, uint64_t val)
{
    struct lockstep *ls = ctx;

    vm_platform_ops.mmio_write(ls->vm, at, bytes, val);
    RECORD(ls, MMIO_WRITE, 0, at.v, bytes, val);
}

/* Its results are in the registers: they are the event's data. */
static void record_hypercall(void *ctx, struct cpu *c)
{
    struct lockstep *ls = ctx;
    struct ls_event e = { .what = LS_HYPERCALL, .arg = { c->gpr[RAX], c->gpr[RBX], c->gpr[RCX] } };

    vm_platform_ops.hypercall(ls->vm, c);
    e.result = c->gpr[RAX];
    if (!ls->together)
        return;
    ls_tape_put(&ls->tape, e, c->gpr, NR_GPRS * sizeof(c->gpr[0]));
    ls_memory_record(ls);
}

const struct platform_ops ls_record_ops = {
    .port_read = record_port_read,
    .port_write = record_port_write,
    .mmio_read = record_mmio_read,
    .mmio_write = record_mmio_write,
    .hypercall = record_hypercall,
};

static uint64_t record_tsc(void *ctx)
{
    struct lockstep *ls = ctx;
    uint64_t x = vm_platform_time_ops.tsc(ls->vm);

    RECORD(ls, TSC, x, 0);
    return x;
}

/* RDTSC without a call would give each engine another time. */
static bool held_tsc_offset(void *ctx, uint64_t *offset)
{
    (void)ctx, (void)offset;
    return false;
}

static uint64_t record_now_ns(void *ctx)
{
    struct lockstep *ls = ctx;
    uint64_t x = vm_platform_time_ops.now_ns(ls->vm);

    RECORD(ls, NOW, x, 0);
    return x;
}

static uint64_t record_tsc_to_ns(void *ctx, uint64_t tsc)
{
    struct lockstep *ls = ctx;
    uint64_t x = vm_platform_time_ops.tsc_to_ns(ls->vm, tsc);

    RECORD(ls, TSC_TO_NS, x, tsc);
    return x;
}

static uint64_t record_real_ns(void *ctx)
{
    struct lockstep *ls = ctx;
    uint64_t x = vm_platform_time_ops.real_ns(ls->vm);

    RECORD(ls, REAL, x, 0);
    return x;
}

/* Steal time is not offered (lockstep_trim_model()). */
static uint64_t no_steal_ns(void *ctx, uint32_t cpu_id)
{
    (void)ctx, (void)cpu_id;
    return 0;
}

static void record_apic_timer(void *ctx, uint32_t cpu_id, uint64_t deadline_ns)
{
    struct lockstep *ls = ctx;

    vm_platform_time_ops.apic_timer(ls->vm, cpu_id, deadline_ns);
    RECORD(ls, APIC_TIMER, 0, cpu_id, deadline_ns);
}

static uint64_t msg_bits(const struct apic_msg *m)
{
    return m->vector | (uint64_t)m->mode << 8 | (uint64_t)m->logical << 11 |
           (uint64_t)m->level << 12 | (uint64_t)m->deassert << 13 | (uint64_t)m->to_self << 14 |
           (uint64_t)m->to_all << 15 | (uint64_t)m->not_self << 16 | (uint64_t)m->wide_dest << 17;
}

static void record_apic_send(void *ctx, uint32_t cpu_id, const struct apic_msg *msg)
{
    struct lockstep *ls = ctx;

    vm_platform_time_ops.apic_send(ls->vm, cpu_id, msg);
    RECORD(ls, APIC_SEND, 0, cpu_id, msg->dest, msg_bits(msg));
}

static void record_apic_eoi(void *ctx, uint32_t cpu_id, uint8_t vector)
{
    struct lockstep *ls = ctx;

    vm_platform_time_ops.apic_eoi(ls->vm, cpu_id, vector);
    RECORD(ls, APIC_EOI, 0, cpu_id, vector);
}

/* The line of any moment would be seen by one engine and not by the other. */
static bool held_pic_pending(void *ctx)
{
    return ((struct lockstep *)ctx)->pic_up;
}

static uint8_t record_pic_ack(void *ctx)
{
    struct lockstep *ls = ctx;
    uint8_t x = vm_platform_time_ops.pic_ack(ls->vm);

    RECORD(ls, PIC_ACK, x, 0);
    return x;
}

static void record_ferr(void *ctx)
{
    struct lockstep *ls = ctx;

    vm_platform_time_ops.ferr(ls->vm);
    RECORD(ls, FERR, 0, 0);
}

const struct platform_time_ops ls_record_time_ops = {
    .tsc = record_tsc,
    .tsc_offset = held_tsc_offset,
    .now_ns = record_now_ns,
    .tsc_to_ns = record_tsc_to_ns,
    .real_ns = record_real_ns,
    .steal_ns = no_steal_ns,
    .apic_timer = record_apic_timer,
    .apic_send = record_apic_send,
    .apic_eoi = record_apic_eoi,
    .pic_pending = held_pic_pending,
    .pic_ack = record_pic_ack,
    .ferr = record_ferr,
};

/* ---- the reference's side ---- */

static void complain(struct lockstep *ls, const struct ls_event *asked, const struct ls_event *tape)
{
    struct ls_tape *t = &ls->tape;
    char a[120], b[120] = "does not call any more";

    if (t->wrong[0])
        return; /* the first one counts */
    ls_event_text(asked, a, sizeof(a));
    if (tape)
        ls_event_text(tape, b, sizeof(b));
    (void)snprintf(t->wrong, sizeof(t->wrong), "%s %s, %s %s", ls->side[LS_REFERENCE].ops->name, a,
                   ls->side[LS_TESTED].ops->name, b);
}

/* The event of the tape that this call is, or NULL after a complaint. Device writes behind it are
 * made. */
static const struct ls_event *replay(struct lockstep *ls, const struct ls_event *asked)
{
    struct ls_tape *t = &ls->tape;
    const struct ls_event *e = t->next < t->nr ? &t->ev[t->next] : NULL;

    if (!e || e->what != asked->what || memcmp(e->arg, asked->arg, sizeof(e->arg)) != 0) {
        complain(ls, asked, e);
        return NULL;
    }
    for (t->next++; t->next < t->nr && t->ev[t->next].what == LS_DMA; t->next++) {
        const struct ls_event *dma = &t->ev[t->next];

        (void)mmu_write(ls->copy, GPA(dma->arg[0]), t->data + dma->data_off, dma->data_bytes);
    }
    return e;
}

#define REPLAY(ctx, id, ...) \
    replay(ctx, &(struct ls_event){ .what = LS_##id, .arg = { __VA_ARGS__ } })

static uint64_t result_of(const struct ls_event *e)
{
    return e ? e->result : UINT64_MAX;
}

static uint64_t replay_port_read(void *ctx, uint16_t port, unsigned bytes)
{
    return result_of(REPLAY(ctx, PORT_READ, port, bytes));
}

static void replay_port_write(void *ctx, uint16_t port, unsigned bytes, uint64_t val)
{
    (void)REPLAY(ctx, PORT_WRITE, port, bytes, val);
}

static uint64_t replay_mmio_read(void *ctx, gpa_t at, unsigned bytes)
{
    return result_of(REPLAY(ctx, MMIO_READ, at.v, bytes));
}

static void replay_mmio_write(void *ctx, gpa_t at, unsigned bytes, uint64_t val)
{
    (void)REPLAY(ctx, MMIO_WRITE, at.v, bytes, val);
}

static void replay_hypercall(void *ctx, struct cpu *c)
{
    struct lockstep *ls = ctx;
    const struct ls_event *e = REPLAY(ls, HYPERCALL, c->gpr[RAX], c->gpr[RBX], c->gpr[RCX]);

    if (e)
        memcpy(c->gpr, ls->tape.data + e->data_off, e->data_bytes);
}

const struct platform_ops ls_replay_ops = {
    .port_read = replay_port_read,
    .port_write = replay_port_write,
    .mmio_read = replay_mmio_read,
    .mmio_write = replay_mmio_write,
    .hypercall = replay_hypercall,
};

static uint64_t replay_tsc(void *ctx)
{
    return result_of(REPLAY(ctx, TSC, 0));
}

static uint64_t replay_now_ns(void *ctx)
{
    return result_of(REPLAY(ctx, NOW, 0));
}

static uint64_t replay_tsc_to_ns(void *ctx, uint64_t tsc)
{
    return result_of(REPLAY(ctx, TSC_TO_NS, tsc));
}

static uint64_t replay_real_ns(void *ctx)
{
    return result_of(REPLAY(ctx, REAL, 0));
}

static void replay_apic_timer(void *ctx, uint32_t cpu_id, uint64_t deadline_ns)
{
    (void)REPLAY(ctx, APIC_TIMER, cpu_id, deadline_ns);
}

static void replay_apic_send(void *ctx, uint32_t cpu_id, const struct apic_msg *msg)
{
    (void)REPLAY(ctx, APIC_SEND, cpu_id, msg->dest, msg_bits(msg));
}

static void replay_apic_eoi(void *ctx, uint32_t cpu_id, uint8_t vector)
{
    (void)REPLAY(ctx, APIC_EOI, cpu_id, vector);
}

static uint8_t replay_pic_ack(void *ctx)
{
    return (uint8_t)result_of(REPLAY(ctx, PIC_ACK, 0));
}

static void replay_ferr(void *ctx)
{
    (void)REPLAY(ctx, FERR, 0);
}

const struct platform_time_ops ls_replay_time_ops = {
    .tsc = replay_tsc,
    .tsc_offset = held_tsc_offset,
    .now_ns = replay_now_ns,
    .tsc_to_ns = replay_tsc_to_ns,
    .real_ns = replay_real_ns,
    .steal_ns = no_steal_ns,
    .apic_timer = replay_apic_timer,
    .apic_send = replay_apic_send,
    .apic_eoi = replay_apic_eoi,
    .pic_pending = held_pic_pending,
    .pic_ack = replay_pic_ack,
    .ferr = replay_ferr,
};
