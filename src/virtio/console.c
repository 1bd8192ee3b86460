/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio console: a terminal (port 0), and with the multiport feature further ports, which have
 * names and are for programs. Behind each is a byte channel. All is done with the machine lock
 * held, in the thread of the vCPU that notifies or in the channel's; nothing waits, and what is
 * done in one go is bounded.
 *
 * When the channel takes no more, a port holds its guest up: the buffer stays out until there is
 * room. The console does not: Linux spins until its buffer is back, so a terminal that nobody reads
 * would stop the guest. What it cannot take is lost, as at a serial port. What is written to a port
 * while nobody is at its other end is dropped.
 *
 * Manual: Virtual I/O Device 1.2, "Console Device".
 */
#include "virtio/console.h"

#include <string.h>

#include "lib/log.h"

#define PCI_CLASS_OTHER 0x078000u /* communication controller, other */
#define BURST           64        /* buffers of a queue in a row */

#define F_SIZE            0u
#define F_MULTIPORT       1u
#define F_EMERGENCY_WRITE 2u

/* "Device Operation", "Multiport Device Operation" */
enum {
    EVENT_DEVICE_READY = 0,
    EVENT_DEVICE_ADD = 1,
    EVENT_DEVICE_REMOVE = 2,
    EVENT_PORT_READY = 3,
    EVENT_CONSOLE_PORT = 4,
    EVENT_RESIZE = 5,
    EVENT_PORT_OPEN = 6,
    EVENT_PORT_NAME = 7,
};

struct vcon_control {
    uint32_t id;
    uint16_t event, value;
};
_Static_assert(sizeof(struct vcon_control) == 8, "struct virtio_console_control");

struct vcon_message {
    struct vcon_control c;
    uint8_t more[VCON_NAME_MAX]; /* a name, or a size */
};

/* "Virtqueues": two for port 0, two for control, two for each further port. */
enum { Q_CONTROL_RX = 2, Q_CONTROL_TX = 3 };

enum { SEEN_EVENT, SEEN_PORT, SEEN_SHORT, SEEN_REFUSED };

static struct virtio_console *vcon_of(struct virtio *vd)
{
    return container_of(vd, struct virtio_console, vd);
}

static unsigned vcon_port_id(const struct vcon_port *p)
{
    return (unsigned)(p - p->con->ports);
}

static struct virtq *vcon_rx_queue(struct vcon_port *p)
{
    unsigned id = vcon_port_id(p);

    return &p->con->vd.queues[id ? 2 * id + 2 : 0];
}

static struct virtq *vcon_tx_queue(struct vcon_port *p)
{
    return vcon_rx_queue(p) + 1;
}

/* NULL: a queue of no port. */
static struct vcon_port *vcon_port_of(struct virtio_console *con, unsigned queue)
{
    unsigned id = queue < 2 ? 0 : queue / 2 - 1;
    struct vcon_port *p = &con->ports[id];

    return queue / 2 == Q_CONTROL_RX / 2 || !p->chr ? NULL : p;
}

/* ---- from the guest ---- */

static void vcon_give_back(struct vcon_port *p)
{
    assert_held(&p->con->vd.lock);
    p->holds = false;
    virtq_push(vcon_tx_queue(p), &p->held, 0);
}

/* Writes the buffer that is held, or as much of it as there is room for. True: all. */
static bool vcon_write_held(struct vcon_port *p)
{
    bool waits = vcon_port_id(p);
    uint32_t skip = p->done_bytes;

    for (unsigned i = 0; i < p->held.nr_out; i++) {
        const uint8_t *base = p->iov[i].base;
        size_t bytes = p->iov[i].bytes, took;

        if (skip >= bytes) {
            skip -= (uint32_t)bytes;
            continue;
        }
        base += skip;
        bytes -= skip;
        skip = 0;
        took = bytes;
        if (waits)
            took = chr_offer(p->chr, base, bytes);
        else
            chr_write(p->chr, base, bytes);
        p->done_bytes += (uint32_t)took;
        if (took < bytes)
            return false;
    }
    return true;
}

static bool vcon_hold_next(struct vcon_port *p)
{
    p->held = (struct virtq_chain){ .iov = p->iov, .at = p->at, .max = VCON_IOV };
    p->done_bytes = 0;
    p->holds = virtq_pop(vcon_tx_queue(p), &p->held);
    return p->holds;
}

/* Device's lock not held. */
static void vcon_transmit(struct vcon_port *p)
{
    struct virtio *vd = &p->con->vd;
    unsigned nr = 0;

    virtio_lock(vd);
    /* While the machine stands still a chain that is held stays so: a snapshot may count on it. */
    for (; nr < BURST && !vd->paused && (p->holds || vcon_hold_next(p)); nr++) {
        if (!vcon_write_held(p))
            break; /* the channel tells when there is room */
        vcon_give_back(p);
    }
    virtq_publish(vcon_tx_queue(p));
    virtio_unlock(vd);
    virtio_signal_locked(vd);
    if (nr == BURST)
        chr_again(p->chr);
}

/* ---- to the guest ---- */

/* What a program has not opened would be lost in the driver. */
static bool vcon_may_receive(const struct vcon_port *p)
{
    return !virtio_has(&p->con->vd, F_MULTIPORT) ? vcon_port_id(p) == 0 : p->ready && p->open;
}

/* The channel's rx. */
static size_t vcon_receive(void *arg, const uint8_t *buf, size_t bytes)
{
    struct vcon_port *p = arg;
    struct virtio *vd = &p->con->vd;
    struct virtq *q = vcon_rx_queue(p);
    struct host_iov iov[VCON_IOV];
    gpa_t at[VCON_IOV];
    struct virtq_chain c = { .iov = iov, .at = at, .max = VCON_IOV };
    size_t done = 0;
    unsigned nr = 0;

    virtio_lock(vd);
    for (; vcon_may_receive(p) && done < bytes && nr < BURST && virtq_pop(q, &c); nr++) {
        uint32_t n = virtq_write(&c, 0, buf + done, (uint32_t)(bytes - done));

        virtq_push(q, &c, n);
        done += n;
    }
    virtq_publish(q);
    virtio_unlock(vd);
    virtio_signal_locked(vd);
    if (nr == BURST)
        chr_accept(p->chr); /* buffers without room; there may be others */
    return done;
}

/* ---- control messages to the driver: "Multiport Device Operation" ---- */

static uint32_t vcon_compose(const struct vcon_port *p, unsigned event, struct vcon_message *m)
{
    const struct vcon_config *config = &p->con->config;
    uint32_t bytes = sizeof(m->c);

    m->c = (struct vcon_control){ .id = vcon_port_id(p), .event = (uint16_t)event, .value = 1 };
    if (event == EVENT_PORT_OPEN)
        m->c.value = p->attended;
    if (event == EVENT_PORT_NAME) {
        bytes += (uint32_t)strlen(p->name);
        memcpy(m->more, p->name, strlen(p->name));
    }
    if (event == EVENT_RESIZE) {
        memcpy(m->more, &config->cols, sizeof(config->cols));
        memcpy(m->more + sizeof(config->cols), &config->rows, sizeof(config->rows));
        bytes += sizeof(config->cols) + sizeof(config->rows);
    }
    return bytes;
}

/* False: there is no buffer now. Device's lock held. */
static bool vcon_tell_one(struct vcon_port *p, unsigned event)
{
    struct virtio *vd = &p->con->vd;
    struct virtq *q = &vd->queues[Q_CONTROL_RX];
    struct host_iov iov[VCON_IOV];
    gpa_t at[VCON_IOV];
    struct virtq_chain c = { .iov = iov, .at = at, .max = VCON_IOV };
    struct vcon_message m;
    uint32_t bytes = vcon_compose(p, event, &m);

    if (!virtq_pop(q, &c))
        return false;
    if (c.in_bytes < bytes) {
        virtq_push(q, &c, 0);
        virtio_broken(vd, "a control buffer too small for a message");
        return false;
    }
    virtq_push(q, &c, virtq_write(&c, 0, &m, bytes));
    p->due &= ~BIT(event);
    return true;
}

/* In this order: the driver makes a console of a port before it is opened or has a size. Device's
 * lock held. */
static bool vcon_tell_port(struct vcon_port *p)
{
    static const unsigned order[] = { EVENT_DEVICE_ADD, EVENT_CONSOLE_PORT, EVENT_PORT_NAME,
                                      EVENT_PORT_OPEN, EVENT_RESIZE };

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        if ((p->due & BIT(order[i])) && !vcon_tell_one(p, order[i]))
            return false;
    return true;
}

/* All that is due, as far as there are buffers. Device's lock not held. */
static void vcon_tell(struct virtio_console *con)
{
    bool more = virtio_has(&con->vd, F_MULTIPORT);

    virtio_lock(&con->vd);
    for (unsigned i = 0; more && i < VCON_PORTS_MAX; i++)
        more = vcon_tell_port(&con->ports[i]);
    if (virtio_has(&con->vd, F_MULTIPORT))
        virtq_publish(&con->vd.queues[Q_CONTROL_RX]);
    virtio_unlock(&con->vd);
    virtio_signal_locked(&con->vd);
}

/* ---- control messages from the driver ---- */

static void vcon_driver_ready(struct virtio_console *con)
{
    for (unsigned i = 0; i < VCON_PORTS_MAX; i++)
        if (con->ports[i].chr)
            con->ports[i].due |= BIT(EVENT_DEVICE_ADD);
}

static void vcon_port_ready(struct vcon_port *p)
{
    p->ready = true;
    if (p->name)
        p->due |= BIT(EVENT_PORT_NAME);
    else
        p->due |= BIT(EVENT_CONSOLE_PORT) | (p->con->sized ? BIT(EVENT_RESIZE) : 0);
    if (p->attended)
        p->due |= BIT(EVENT_PORT_OPEN);
}

static void vcon_port_event(struct vcon_port *p, const struct vcon_control *c)
{
    switch (c->event) {
    case EVENT_PORT_READY:
        if (c->value)
            vcon_port_ready(p);
        else if (log_first(&p->con->vd.seen, SEEN_REFUSED + ((uint64_t)c->id << 8)))
            log_warn("console: the guest's driver could not set up port %u", c->id);
        break;
    case EVENT_PORT_OPEN:
        p->open = c->value;
        if (p->open)
            chr_accept(p->chr);
        break;
    default:
        if (log_first(&p->con->vd.seen, SEEN_EVENT + ((uint64_t)c->event << 8)))
            log_warn("console: the guest's driver sends event %u, which is unknown; ignored",
                     c->event);
        break;
    }
}

static void vcon_control(struct virtio_console *con, const struct vcon_control *c)
{
    if (c->event == EVENT_DEVICE_READY) {
        if (c->value)
            vcon_driver_ready(con);
        else if (log_first(&con->vd.seen, SEEN_REFUSED))
            log_warn("console: the guest's driver could not set up the device");
        return;
    }
    if (c->id < VCON_PORTS_MAX && con->ports[c->id].chr)
        vcon_port_event(&con->ports[c->id], c);
    else if (log_first(&con->vd.seen, SEEN_PORT))
        log_warn("console: the guest's driver speaks of port %u, which there is not; ignored",
                 c->id);
}

/* Device's lock not held. */
static void vcon_hear(struct virtio_console *con)
{
    struct virtq *q = &con->vd.queues[Q_CONTROL_TX];
    struct host_iov iov[VCON_IOV];
    gpa_t at[VCON_IOV];
    struct virtq_chain c = { .iov = iov, .at = at, .max = VCON_IOV };
    struct vcon_control msg;
    unsigned nr = 0;

    virtio_lock(&con->vd);
    for (; nr < BURST && virtq_pop(q, &c); nr++) {
        uint32_t got = virtq_read(&c, 0, &msg, sizeof(msg));

        virtq_push(q, &c, 0);
        if (got == sizeof(msg))
            vcon_control(con, &msg);
        else if (log_first(&con->vd.seen, SEEN_SHORT))
            log_warn("console: the guest sends a control message of %u bytes; ignored", got);
    }
    virtq_publish(q);
    virtio_unlock(&con->vd);
    virtio_signal_locked(&con->vd);
    vcon_tell(con);
    for (unsigned i = 0; nr == BURST && i < VCON_PORTS_MAX; i++)
        if (con->ports[i].chr) {
            chr_again(con->ports[i].chr);
            break;
        }
}

/* ---- the channel ---- */

static void vcon_changed(void *arg)
{
    struct vcon_port *p = arg;
    struct virtio_console *con = p->con;
    bool attended = chr_attended(p->chr);

    if (attended != p->attended) {
        p->attended = attended;
        p->due |= p->ready ? BIT(EVENT_PORT_OPEN) : 0;
    }
    vcon_transmit(p);
    if (virtio_has(&con->vd, F_MULTIPORT))
        vcon_hear(con);
}

/* ---- the device ---- */

static void vcon_notify(struct virtio *vd, struct virtq *q)
{
    struct virtio_console *con = vcon_of(vd);
    struct vcon_port *p;

    if (virtio_has(vd, F_MULTIPORT) && q->idx == Q_CONTROL_RX)
        vcon_tell(con);
    if (virtio_has(vd, F_MULTIPORT) && q->idx == Q_CONTROL_TX)
        vcon_hear(con);
    p = vcon_port_of(con, q->idx);
    if (p && q->idx % 2)
        vcon_transmit(p);
    else if (p)
        chr_accept(p->chr);
}

/* What was there before counts, too. */
static void vcon_start(struct virtio *vd)
{
    struct virtio_console *con = vcon_of(vd);

    for (unsigned i = 0; i < VCON_PORTS_MAX; i++) {
        chr_accept(con->ports[i].chr);
        chr_again(con->ports[i].chr);
    }
}

/* "Device configuration layout", "Emergency write": a character, whatever the driver's state. */
static void vcon_config_write(struct virtio *vd, uint32_t off_bytes, const void *buf,
                              uint32_t bytes)
{
    struct virtio_console *con = vcon_of(vd);

    if (bytes && off_bytes == offsetof(struct vcon_config, emergency))
        chr_write(con->ports[0].chr, buf, 1);
}

static void vcon_reset(struct virtio *vd)
{
    struct virtio_console *con = vcon_of(vd);

    virtio_lock(vd);
    for (unsigned i = 0; i < VCON_PORTS_MAX; i++) {
        struct vcon_port *p = &con->ports[i];

        if (p->holds)
            vcon_give_back(p);
        p->ready = p->open = false;
        p->due = 0;
    }
    virtio_unlock(vd);
}

static void vcon_queue_reset(struct virtio *vd, struct virtq *q)
{
    struct vcon_port *p = vcon_port_of(vcon_of(vd), q->idx);

    virtio_lock(vd);
    if (p && p->holds && q == vcon_tx_queue(p))
        vcon_give_back(p);
    virtio_unlock(vd);
}

/* ---- snapshots ---- */

static unsigned vcon_keeps(struct virtio *vd)
{
    struct virtio_console *con = vcon_of(vd);
    unsigned nr = 0;

    for (unsigned i = 0; i < VCON_PORTS_MAX; i++)
        nr += con->ports[i].holds;
    return nr;
}

/* A buffer that was partly written then is popped again, and written from its start: whoever is at
 * the other end now has not seen any of it. */
static void vcon_port_loaded(struct vcon_port *p)
{
    bool sized = !vcon_port_id(p) && p->con->sized;
    uint32_t may = BIT(EVENT_DEVICE_ADD) | BIT(EVENT_PORT_OPEN) |
                   BIT(p->name ? EVENT_PORT_NAME : EVENT_CONSOLE_PORT);

    if (!p->chr) {
        p->ready = p->open = p->attended = false;
        p->due = 0;
        return;
    }
    p->due &= may;
    /* The terminal may be another one. */
    if (p->ready && sized)
        p->due |= BIT(EVENT_RESIZE);
    chr_accept(p->chr);
    chr_again(p->chr); /* tells whether somebody is there, too */
}

static void vcon_loaded(struct virtio *vd, bool running)
{
    struct virtio_console *con = vcon_of(vd);

    for (unsigned i = 0; i < VCON_PORTS_MAX; i++)
        vcon_port_loaded(&con->ports[i]);
    if (running && con->sized)
        virtio_config_changed(vd);
}

#define PORT_FIELDS(i)                                         \
    FIELD(struct virtio_console, ports[i].due, U32, 1),        \
        FIELD(struct virtio_console, ports[i].ready, BOOL, 1), \
        FIELD(struct virtio_console, ports[i].open, BOOL, 1),  \
        FIELD(struct virtio_console, ports[i].attended, BOOL, 1)

static const struct state_field vcon_state[] = {
    PORT_FIELDS(0),  PORT_FIELDS(1),  PORT_FIELDS(2),  PORT_FIELDS(3),
    PORT_FIELDS(4),  PORT_FIELDS(5),  PORT_FIELDS(6),  PORT_FIELDS(7),
    PORT_FIELDS(8),  PORT_FIELDS(9),  PORT_FIELDS(10), PORT_FIELDS(11),
    PORT_FIELDS(12), PORT_FIELDS(13), PORT_FIELDS(14), PORT_FIELDS(15),
};
_Static_assert(VCON_PORTS_MAX == 16, "a row for each port");

static const struct virtio_type vcon_type = {
    .name = "virtio-console",
    .id = VIRTIO_ID_CONSOLE,
    .pci_class = PCI_CLASS_OTHER,
    .start = vcon_start,
    .notify = vcon_notify,
    .config_write = vcon_config_write,
    .reset = vcon_reset,
    .queue_reset = vcon_queue_reset,
    .state = STATE_TABLE("virtio-console", vcon_state, 1),
    .vd_off_bytes = offsetof(struct virtio_console, vd),
    .keeps = vcon_keeps,
    .loaded = vcon_loaded,
};

void virtio_console_resize(struct virtio_console *con, uint16_t cols, uint16_t rows)
{
    if (con->sized && con->config.cols == cols && con->config.rows == rows)
        return;
    con->config.cols = cols;
    con->config.rows = rows;
    con->sized = true;
    virtio_config_changed(&con->vd);
    if (!con->ports[0].ready)
        return;
    con->ports[0].due |= BIT(EVENT_RESIZE);
    vcon_tell(con);
}

static void vcon_connect(struct virtio_console *con, unsigned id, struct chr *chr, const char *name)
{
    struct vcon_port *p = &con->ports[id];

    p->chr = chr;
    p->name = name;
    chr_connect(chr, bus_lock(con->vd.bus), vcon_receive, p);
    chr_watch(chr, vcon_changed);
}

int virtio_console_init(struct virtio_console *con, const struct vcon_desc *desc)
{
    int err;

    BUG_ON(desc->nr_ports >= VCON_PORTS_MAX);
    *con = (struct virtio_console){ .config.nr_ports = 1 + desc->nr_ports };
    for (unsigned i = 0; i < VCON_PORTS_MAX; i++)
        con->ports[i].con = con;
    err = virtio_init(&con->vd,
                      &(struct virtio_desc){
                          .type = &vcon_type,
                          .name = "console",
                          .bus = desc->bus,
                          .mmu = desc->mmu,
                          .features = BIT64(F_SIZE) | BIT64(F_MULTIPORT) | BIT64(F_EMERGENCY_WRITE),
                          .nr_queues = 2 * desc->nr_ports + 4,
                          .queue_size = VCON_QUEUE_SIZE,
                          .config = &con->config,
                          .config_bytes = sizeof(con->config),
                      });
    if (err)
        return err;
    if (desc->console)
        vcon_connect(con, 0, desc->console, NULL);
    for (unsigned i = 0; i < desc->nr_ports; i++)
        vcon_connect(con, 1 + i, desc->ports[i].chr, desc->ports[i].name);
    return 0;
}

void virtio_console_stop(struct virtio_console *con)
{
    for (unsigned i = 0; i < VCON_PORTS_MAX; i++)
        chr_connect(con->ports[i].chr, NULL, NULL, NULL);
}

void virtio_console_fini(struct virtio_console *con)
{
    virtio_fini(&con->vd);
}
