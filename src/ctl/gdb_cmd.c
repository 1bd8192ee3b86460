/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gdb's packets that are about registers, memory, breakpoints and going on (gdb manual, "Packets").
 * The VM stands still while these run. An unknown packet has an empty answer.
 */
#include <errno.h>
#include <string.h>

#include "ctl/gdb_priv.h"
#include "ctl/gdb_regs.h"

#define WATCH_BYTES_MAX 4096
#define NR_ACTIONS      64

void gdb_error(struct gdb *g, unsigned nr)
{
    g->tx.nr = 0;
    g->tx.too_long = false;
    gdb_tx_fmt(&g->tx, "E%02x", nr & 0xff);
}

static void gdb_ok(struct gdb *g)
{
    gdb_tx_text(&g->tx, "OK");
}

bool gdb_take_thread(struct gdb *g, const char **p, unsigned any, unsigned *cpu)
{
    uint64_t tid;

    *cpu = any;
    if (gdb_take_word(p, "-1"))
        return true;
    if (!gdb_take_hex(p, &tid))
        return false;
    if (tid == 0)
        return true;
    if (tid > vm_nr_vcpus(g->vm))
        return false;
    *cpu = (unsigned)tid - 1;
    return true;
}

/* ---- registers ---- */

static bool cmd_read_regs(struct gdb *g, const char *p, const char *end)
{
    const struct cpu *c = &vm_vcpu(g->vm, g->cpu_g)->cpu;
    uint8_t val[GDB_REG_BYTES_MAX];

    (void)p, (void)end;
    for (unsigned i = 0; i < gdb_nr_regs(); i++) {
        gdb_reg_get(c, i, val);
        gdb_tx_hex(&g->tx, val, gdb_reg_bytes(i));
    }
    return true;
}

/* Writes the register if the packet has another value than it has. */
static bool change_reg(struct cpu *c, unsigned nr, const uint8_t *val)
{
    uint8_t old[GDB_REG_BYTES_MAX];

    gdb_reg_get(c, nr, old);
    return !memcmp(old, val, gdb_reg_bytes(nr)) || gdb_reg_set(c, nr, val);
}

static bool cmd_write_regs(struct gdb *g, const char *p, const char *end)
{
    struct vcpu *v = vm_vcpu(g->vm, g->cpu_g);
    uint8_t val[GDB_REG_BYTES_MAX];
    bool ok = true;

    (void)end;
    for (unsigned i = 0; i < gdb_nr_regs() && ok && *p; i++)
        ok = gdb_take_bytes(&p, val, gdb_reg_bytes(i)) && change_reg(&v->cpu, i, val);
    v->engine->state_changed(v);
    if (ok && !*p)
        gdb_ok(g);
    else
        gdb_error(g, EINVAL);
    return true;
}

static bool cmd_read_reg(struct gdb *g, const char *p, const char *end)
{
    uint8_t val[GDB_REG_BYTES_MAX];
    uint64_t nr;

    (void)end;
    if (!gdb_take_hex(&p, &nr) || *p || nr >= gdb_nr_regs()) {
        gdb_error(g, EINVAL);
        return true;
    }
    gdb_reg_get(&vm_vcpu(g->vm, g->cpu_g)->cpu, (unsigned)nr, val);
    gdb_tx_hex(&g->tx, val, gdb_reg_bytes((unsigned)nr));
    return true;
}

static bool cmd_write_reg(struct gdb *g, const char *p, const char *end)
{
    struct vcpu *v = vm_vcpu(g->vm, g->cpu_g);
    uint8_t val[GDB_REG_BYTES_MAX];
    uint64_t nr;

    (void)end;
    if (!gdb_take_hex(&p, &nr) || !gdb_take_char(&p, '=') || nr >= gdb_nr_regs() ||
        !gdb_take_bytes(&p, val, gdb_reg_bytes((unsigned)nr)) || *p ||
        !change_reg(&v->cpu, (unsigned)nr, val)) {
        gdb_error(g, EINVAL);
        return true;
    }
    v->engine->state_changed(v);
    gdb_ok(g);
    return true;
}

/* ---- memory ---- */

/* "addr,length" */
static bool take_range(const char **p, uint64_t *at, uint64_t *bytes)
{
    return gdb_take_hex(p, at) && gdb_take_char(p, ',') && gdb_take_hex(p, bytes);
}

static bool cmd_read_mem(struct gdb *g, const char *p, const char *end)
{
    struct vcpu *v = vm_vcpu(g->vm, g->cpu_g);
    uint8_t buf[GDB_PACKET_BYTES / 2];
    uint64_t at, bytes, got;

    (void)end;
    if (!take_range(&p, &at, &bytes) || *p) {
        gdb_error(g, EINVAL);
        return true;
    }
    bytes = MIN(bytes, sizeof(buf));
    got = v->engine->peek(v, GVA(at), buf, bytes);
    if (got || !bytes)
        gdb_tx_hex(&g->tx, buf, got);
    else
        gdb_error(g, EFAULT);
    return true;
}

static bool write_mem(struct gdb *g, uint64_t at, const void *buf, uint64_t bytes)
{
    struct vcpu *v = vm_vcpu(g->vm, g->cpu_g);

    if (v->engine->poke(v, GVA(at), buf, bytes) == bytes)
        gdb_ok(g);
    else
        gdb_error(g, EFAULT);
    return true;
}

static bool cmd_write_mem(struct gdb *g, const char *p, const char *end)
{
    uint8_t buf[GDB_PACKET_BYTES / 2];
    uint64_t at, bytes;

    (void)end;
    if (!take_range(&p, &at, &bytes) || !gdb_take_char(&p, ':') || bytes > sizeof(buf) ||
        !gdb_take_bytes(&p, buf, bytes) || *p) {
        gdb_error(g, EINVAL);
        return true;
    }
    return write_mem(g, at, buf, bytes);
}

static bool cmd_write_binary(struct gdb *g, const char *p, const char *end)
{
    uint64_t at, bytes;

    if (!take_range(&p, &at, &bytes) || !gdb_take_char(&p, ':') || bytes != (uint64_t)(end - p)) {
        gdb_error(g, EINVAL);
        return true;
    }
    return write_mem(g, at, p, bytes);
}

/* ---- breakpoints ---- */

/* "type,addr,kind"; kind is the length of what is watched. False: answered. */
static bool take_bp(struct gdb *g, const char *p, struct gdb_bp *bp)
{
    uint64_t type, at, kind;

    if (!gdb_take_hex(&p, &type) || !gdb_take_char(&p, ',') || !take_range(&p, &at, &kind)) {
        gdb_error(g, EINVAL);
        return false;
    }
    if (type >= NR_BP_TYPES)
        return false; /* empty answer: not supported */
    *bp = (struct gdb_bp){ .type = (enum gdb_bp_type)type, .at = GVA(at), .bytes = 1 };
    if (bp->type < BP_WRITE)
        return true;
    if (!kind || kind > WATCH_BYTES_MAX || at + (kind - 1) < at) {
        gdb_error(g, EINVAL);
        return false;
    }
    bp->bytes = (uint32_t)kind;
    return true;
}

static unsigned find_bp(const struct gdb *g, const struct gdb_bp *bp)
{
    unsigned i;

    for (i = 0; i < g->nr_bps; i++)
        if (g->bps[i].type == bp->type && g->bps[i].at.v == bp->at.v &&
            g->bps[i].bytes == bp->bytes)
            break;
    return i;
}

static bool cmd_insert_bp(struct gdb *g, const char *p, const char *end)
{
    struct gdb_bp bp;

    (void)end;
    if (!take_bp(g, p, &bp))
        return true;
    if (find_bp(g, &bp) == g->nr_bps) {
        if (g->nr_bps == GDB_BPS_MAX) {
            gdb_error(g, ENOSPC);
            return true;
        }
        g->bps[g->nr_bps++] = bp;
        gdb_update_bps(g);
    }
    gdb_ok(g);
    return true;
}

static bool cmd_remove_bp(struct gdb *g, const char *p, const char *end)
{
    struct gdb_bp bp;
    unsigned i;

    (void)end;
    if (!take_bp(g, p, &bp))
        return true;
    i = find_bp(g, &bp);
    if (i < g->nr_bps) {
        g->bps[i] = g->bps[--g->nr_bps];
        gdb_update_bps(g);
    }
    gdb_ok(g);
    return true;
}

/* ---- going on ---- */

static void set_step(struct gdb *g, unsigned cpu, bool step)
{
    struct vcpu *v = vm_vcpu(g->vm, cpu);

    v->dbg.step = step;
    v->engine->debug_update(v);
}

/* c [addr], s [addr] of the vCPU chosen by Hc; all others go on. */
static bool go_on(struct gdb *g, const char *p, bool step)
{
    struct vcpu *v = vm_vcpu(g->vm, g->cpu_c);
    uint64_t at;

    if (*p) {
        if (!gdb_take_hex(&p, &at) || *p || !is_canonical(&v->cpu, at)) {
            gdb_error(g, EINVAL);
            return true;
        }
        v->cpu.rip = at;
        v->engine->state_changed(v);
    }
    if (step)
        set_step(g, g->cpu_c, true);
    gdb_run(g);
    return false;
}

static bool cmd_continue(struct gdb *g, const char *p, const char *end)
{
    (void)end;
    return go_on(g, p, false);
}

static bool cmd_step(struct gdb *g, const char *p, const char *end)
{
    (void)end;
    return go_on(g, p, true);
}

/* C sig[;addr], S sig[;addr]: a machine takes no signals. */
static bool cmd_signal(struct gdb *g, const char *p, const char *end)
{
    bool step = p[-1] == 'S';
    uint64_t sig;

    (void)end;
    if (!gdb_take_hex(&p, &sig) || (*p && !gdb_take_char(&p, ';'))) {
        gdb_error(g, EINVAL);
        return true;
    }
    return go_on(g, p, step);
}

/* vCont;action[:thread]...: for each vCPU the first action that names it, or names all. A vCPU that
 * none names goes on: all stand still or none does. */
static bool cmd_vcont(struct gdb *g, const char *p)
{
    unsigned nr = vm_nr_vcpus(g->vm);
    bool given[NR_ACTIONS] = { false }, step[NR_ACTIONS] = { false }, any = false;

    while (gdb_take_char(&p, ';')) {
        char action = *p ? *p++ : 0;
        unsigned cpu = nr; /* all */
        uint64_t sig;

        if (!action || !strchr("cCsS", action) ||
            ((action == 'C' || action == 'S') && !gdb_take_hex(&p, &sig)) ||
            (gdb_take_char(&p, ':') && !gdb_take_thread(g, &p, nr, &cpu))) {
            gdb_error(g, EINVAL);
            return true;
        }
        for (unsigned i = 0; i < MIN(nr, NR_ACTIONS); i++) {
            if (given[i] || (cpu != nr && cpu != i))
                continue;
            given[i] = any = true;
            step[i] = action == 's' || action == 'S';
        }
    }
    if (*p || !any) {
        gdb_error(g, EINVAL);
        return true;
    }
    for (unsigned i = 0; i < MIN(nr, NR_ACTIONS); i++)
        set_step(g, i, step[i]);
    gdb_run(g);
    return false;
}

static bool cmd_v(struct gdb *g, const char *p, const char *end)
{
    (void)end;
    if (gdb_take_word(&p, "Cont?")) {
        gdb_tx_text(&g->tx, "vCont;c;C;s;S");
        return true;
    }
    if (gdb_take_word(&p, "Cont"))
        return cmd_vcont(g, p);
    if (gdb_take_word(&p, "Kill")) {
        vm_stop(g->vm, STOP_USER, 0);
        gdb_ok(g);
    }
    return true;
}

static bool cmd_kill(struct gdb *g, const char *p, const char *end)
{
    (void)p, (void)end;
    vm_stop(g->vm, STOP_USER, 0);
    return false; /* no answer is expected */
}

static bool cmd_detach(struct gdb *g, const char *p, const char *end)
{
    (void)p, (void)end;
    gdb_detach(g);
    gdb_ok(g);
    return true;
}

/* ---- threads ---- */

static bool cmd_why(struct gdb *g, const char *p, const char *end)
{
    (void)p, (void)end;
    gdb_tx_fmt(&g->tx, "T05thread:%x;", gdb_tid(g->cpu_g));
    return true;
}

static bool cmd_thread(struct gdb *g, const char *p, const char *end)
{
    char what = *p ? *p++ : 0;
    unsigned cpu;

    (void)end;
    if ((what != 'g' && what != 'c') || !gdb_take_thread(g, &p, g->cpu_g, &cpu) || *p) {
        gdb_error(g, EINVAL);
        return true;
    }
    *(what == 'g' ? &g->cpu_g : &g->cpu_c) = cpu;
    gdb_ok(g);
    return true;
}

static bool cmd_alive(struct gdb *g, const char *p, const char *end)
{
    unsigned cpu;

    (void)end;
    if (gdb_take_thread(g, &p, 0, &cpu) && !*p)
        gdb_ok(g);
    else
        gdb_error(g, ESRCH);
    return true;
}

static bool cmd_query(struct gdb *g, const char *p, const char *end)
{
    (void)end;
    return gdb_query(g, p);
}

static bool cmd_set(struct gdb *g, const char *p, const char *end)
{
    (void)end;
    return gdb_set(g, p);
}

static const struct {
    char letter;
    bool (*run)(struct gdb *g, const char *p, const char *end);
} commands[] = {
    { '?', cmd_why },          { 'C', cmd_signal },
    { 'D', cmd_detach },       { 'G', cmd_write_regs },
    { 'H', cmd_thread },       { 'M', cmd_write_mem },
    { 'P', cmd_write_reg },    { 'Q', cmd_set },
    { 'S', cmd_signal },       { 'T', cmd_alive },
    { 'X', cmd_write_binary }, { 'Z', cmd_insert_bp },
    { 'c', cmd_continue },     { 'g', cmd_read_regs },
    { 'k', cmd_kill },         { 'm', cmd_read_mem },
    { 'p', cmd_read_reg },     { 'q', cmd_query },
    { 's', cmd_step },         { 'v', cmd_v },
    { 'z', cmd_remove_bp },
};

bool gdb_command(struct gdb *g, const char *p, const char *end)
{
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
        if (commands[i].letter == *p)
            return commands[i].run(g, p + 1, end);
    return true;
}
