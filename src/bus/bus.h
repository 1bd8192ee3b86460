/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a device may know of its machine: port and MMIO claims, interrupt lines, messages, the
 * clock, timers, its state table, and requests to stop or reset the VM.
 *
 * Locking: the machine lock (bus->lock) is held whenever device code runs: vCPU threads take it in
 * bus_pio/bus_mmio, the timer thread around callbacks, backends' threads before they touch a
 * device. Device code never blocks.
 */
#ifndef BUS_BUS_H
#define BUS_BUS_H

#include "host/host.h"
#include "lib/log.h"
#include "lib/types.h"

struct bus;
struct device;
struct clock;

/*
 * ---- state tables: what is saved of a device ----
 *
 * A snapshot (snap/) saves each device of the bus's list: the fields of its type's table, and those
 * of its parts, which are what else belongs to it (a virtio device behind its transport, its
 * queues). All of it is loaded before `loaded` is called, once, with the machine lock held, the
 * clock stopped at the time of the snapshot, and memory as it was. What is saved comes back from a
 * file that may be hostile: `loaded` puts right what the device's code relies on (indexes, enums,
 * divisors), `check` refuses what cannot be put right. Timers are re-armed and lines raised again
 * in `loaded`; interrupt controllers (`late`) are loaded once more behind all others, so that what
 * those tell of their lines makes no new edges.
 */
enum field_type { U8, U16, U32, U64, BOOL, BYTES };
struct state_field {
    const char *name;
    uint32_t off_bytes, bytes;
    enum field_type type;
    unsigned since; /* version that brought it */
};
#define FIELD(strct, member, t, since_)                                       \
    {                                                                         \
        .name = #member, .off_bytes = offsetof(strct, member),                \
        .bytes = sizeof(((strct *)0)->member), .type = (t), .since = (since_) \
    }

struct state_table {
    const char *name;
    const struct state_field *fields;
    unsigned nr, version;
};
#define STATE_TABLE(name_, fields_, version_)                                                  \
    {                                                                                          \
        .name = (name_), .fields = (fields_), .nr = ARRAY_SIZE(fields_), .version = (version_) \
    }

/*
 * State of no fixed size, which a device makes and reads itself. Both with the machine lock held; 0
 * or -errno after a message. What is loaded is a stranger's, and read whole: a version up to its
 * own.
 */
struct state_blob {
    const char *name;
    unsigned version;
    int (*save)(void *base, uint8_t **data, size_t *bytes); /* *data: malloc'ed */
    int (*load)(void *base, const uint8_t *data, size_t bytes, unsigned version);
};

/* A part of a device: a struct with a table of its own, or, if blob is not NULL, that. */
struct state_part {
    const struct state_table *table;
    void *base;
    const struct state_blob *blob;
};

/*
 * The constant part of a device. Port handlers see off_bytes = port - base of the claim + the
 * claim's off_bytes, so a device with several claims tells them apart by offset. bytes is 1, 2 or 4
 * (MMIO: and 8); wider accesses than max_bytes are split by the bus in ascending order. Handlers
 * are optional: without one reads give all ones. state describes the struct that embeds struct
 * device; `dev` need not be its first member: offsets are from state_base.
 */
struct device_type {
    const char *name;
    uint64_t (*read)(struct device *dev, uint32_t off_bytes, unsigned bytes);
    void (*write)(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val);
    unsigned max_bytes; /* ports; 0 means 1 */
    uint64_t (*mmio_read)(struct device *dev, uint64_t off_bytes, unsigned bytes);
    void (*mmio_write)(struct device *dev, uint64_t off_bytes, unsigned bytes, uint64_t val);
    unsigned mmio_max_bytes;           /* 0 means 4 */
    void (*reset)(struct device *dev); /* machine reset; optional */
    /* After state was loaded: re-arm timers, re-raise lines; optional. */
    void (*loaded)(struct device *dev);
    /* Optional: its part number idx = 0...; false behind the last. The same ones, in the same
     * order, in machines of the same configuration. */
    bool (*part)(struct device *dev, unsigned idx, struct state_part *out);
    /* Optional: before `loaded`: -EINVAL after a message refuses what was loaded. */
    int (*check)(struct device *dev);
    bool late; /* an interrupt controller: see state tables */
    const struct state_field *state;
    unsigned nr_state;
    unsigned version;
};

struct device {
    const struct device_type *type;
    struct bus *bus;
    void *state_base; /* the struct that state[] describes */
    struct device *next;
};

/* ---- the bus ---- */
struct bus *bus_create(void);
void bus_destroy(struct bus *b);
struct lock *bus_lock(struct bus *b); /* the machine lock */
/* Every device is added once (order: creation), then claims. Not owned by the bus. */
void bus_add(struct bus *b, struct device *dev);
/* Devices in order of creation; NULL behind the last. */
struct device *bus_device_next(struct bus *b, struct device *prev);

/* -EBUSY, with a message naming both devices, if any of it is taken. off_bytes is what the handler
 * sees for `base`. */
int bus_claim_ports(struct bus *b, uint16_t base, unsigned nr, struct device *dev,
                    uint32_t off_bytes) MUST_CHECK;
/*
 * A register of `bytes` bytes at one port whose other bytes are other ports: it gets the accesses
 * that begin at `port`, as wide as they are, and nothing else. For CF8h, whose second byte is the
 * reset control register CF9h. Released with nr = 1.
 */
int bus_claim_wide_port(struct bus *b, uint16_t port, unsigned bytes, struct device *dev,
                        uint32_t off_bytes) MUST_CHECK;
/* Would a claim succeed? For claims a guest asks for (PCI BARs), whose failure must not reach the
 * log each time. */
bool bus_ports_free(struct bus *b, uint16_t base, unsigned nr);
bool bus_mmio_free(struct bus *b, gpa_t base, uint64_t bytes);
/* Releasing what one does not hold does nothing, so that a device's fini may follow an init that
 * failed (b may be NULL). */
void bus_release_ports(struct bus *b, uint16_t base, unsigned nr, struct device *dev);
int bus_claim_mmio(struct bus *b, gpa_t base, uint64_t bytes, struct device *dev,
                   uint64_t off_bytes) MUST_CHECK;
void bus_release_mmio(struct bus *b, gpa_t base, struct device *dev);

/* An access by a vCPU (or DMA): takes the machine lock. Unclaimed: reads all ones, writes nowhere;
 * reported once each. */
uint64_t bus_port_read(struct bus *b, uint16_t port, unsigned bytes);
void bus_port_write(struct bus *b, uint16_t port, unsigned bytes, uint64_t val);
uint64_t bus_mmio_read(struct bus *b, gpa_t at, unsigned bytes);
void bus_mmio_write(struct bus *b, gpa_t at, unsigned bytes, uint64_t val);

/* ---- interrupt lines: a wire with a sink; level 0 or 1 ---- */
struct irq_line {
    void (*set)(void *ctx, unsigned idx, int level);
    void *ctx;
    unsigned idx;
    bool (*waits)(void *ctx, unsigned idx); /* optional: see irq_waits() */
};
static inline void irq_set(const struct irq_line *l, int level)
{
    if (l->set)
        l->set(l->ctx, l->idx, level);
}
static inline void irq_pulse(const struct irq_line *l)
{
    irq_set(l, 1);
    irq_set(l, 0);
}
/* Does an earlier edge still wait for a processor, so that another one now would be lost in it? A
 * hint; false where the sink cannot tell. Machine lock held. */
static inline bool irq_waits(const struct irq_line *l)
{
    return l->waits && l->waits(l->ctx, l->idx);
}
/*
 * ISA IRQs 0..15 and PCI/GSI pins: the machine sets the sink (PIC and I/O APIC both hear it);
 * devices ask for a line by GSI number (ISA IRQ n is GSI n, but for the PIT's IRQ 0, which the
 * machine also wires to I/O APIC pin 2). waits may be NULL.
 */
void bus_set_gsi_sink(struct bus *b, void (*set)(void *ctx, unsigned gsi, int level),
                      bool (*waits)(void *ctx, unsigned gsi), void *ctx);
struct irq_line bus_gsi(struct bus *b, unsigned gsi);
/* Lines that several devices share (PCI INTx) are counted: up while any user holds it up. One user
 * per handle. */
struct irq_shared {
    struct irq_line out;
    unsigned nr_up;
};
struct irq_user {
    struct irq_shared *line;
    bool up;
};
void irq_user_set(struct irq_user *u, int level); /* machine lock held */

/* ---- messages (MSI): a write of data to address as a device would ---- */
void bus_set_msi_sink(struct bus *b, void (*send)(void *ctx, uint64_t addr, uint32_t data),
                      void *ctx);
void bus_msi(struct bus *b, uint64_t addr, uint32_t data);

/*
 * ---- descriptors in the place of accesses and of messages, where the engine can do that ----
 *
 * All with the machine lock held, and all optional for who uses them: any may fail at any time, and
 * what is not done by a descriptor is done by an access or by bus_msi(). Those who have some look
 * again whenever the machine goes on, since the engine may do otherwise then.
 */
struct bus_notify {
    gpa_t at;
    unsigned bytes; /* only writes so wide; 0: any */
    bool matched;   /* only writes of val */
    uint32_t val;
    int fd;
};
struct bus_fd_ops {
    /* on: such writes by a guest make the eventfd fd ready, and nothing else; off: no more, with
     * the same values. 0 or -errno. */
    int (*notify)(void *ctx, const struct bus_notify *n, bool on);
    /* A descriptor that sends a message whenever bus_msi_fd_signal() is called on it, or -errno;
     * fd >= 0: that one now sends this one. After -errno it sends neither, but is still there. */
    int (*msi)(void *ctx, int fd, uint64_t addr, uint32_t data);
    void (*msi_close)(void *ctx, int fd);
};
void bus_set_fd_ops(struct bus *b, const struct bus_fd_ops *ops, void *ctx);
int bus_notify_fd(struct bus *b, const struct bus_notify *n, bool on) MUST_CHECK;
int bus_msi_fd(struct bus *b, int fd, uint64_t addr, uint32_t data) MUST_CHECK;
void bus_msi_fd_close(struct bus *b, int fd);
/* Any thread that knows that it is open; no lock. */
void bus_msi_fd_signal(int fd);

/* ---- time: one clock per VM; ns since the VM's start, stands still while the VM is paused ---- */
struct clock *clock_create(struct lock *machine_lock);
void clock_destroy(struct clock *c);
struct clock *bus_clock(struct bus *b);
uint64_t clock_now_ns(const struct clock *c); /* any thread */
uint64_t clock_tsc(const struct clock *
                       c); /* the guest's invariant TSC: same clock, clock_tsc_khz() ticks per ms */
/* clock_tsc() is the host's TSC plus *offset until the clock is paused. False: it is not. */
bool clock_tsc_offset(const struct clock *c, uint64_t *offset);
uint64_t clock_tsc_khz(const struct clock *c);
/* For guests that read the host's TSC whether it is invariant or not: count its ticks. While the
 * clock is paused and no timer is armed. khz 0: nothing changes. */
void clock_use_tsc(struct clock *c, uint64_t khz);
uint64_t clock_tsc_to_ns(const struct clock *c, uint64_t tsc);
uint64_t clock_real_ns(const struct clock *c); /* host's UTC time, for the RTC */
/* Of a clock that is paused: it stands at tsc, and counts at khz from there on, as the clock did
 * whose time this is. -EINVAL: no rate that this host's source can have (too far from its own). */
int clock_restore(struct clock *c, uint64_t tsc, uint64_t khz) MUST_CHECK;
/*
 * Of a clock that is paused: it was where it stands at that UTC time of the host's, and when it is
 * resumed, once, it goes on as if it had run since. Timers that fell due by that fire then.
 * -ERANGE, and nothing changes: that time is still to come, or decades ago.
 */
int clock_catch_up(struct clock *c, uint64_t real_ns) MUST_CHECK;
/* Of a clock that is paused, and stays so meanwhile: the host's UTC time when it was where it
 * stands. */
uint64_t clock_stopped_real_ns(const struct clock *c);
void clock_pause(struct clock *c);
void clock_resume(struct clock *c);
/* The same after a pause, and no clock_restore(), as if there had been none. */
void clock_resume_as_if_run(struct clock *c);

/* A one-shot timer. fn runs in the clock's thread with the machine lock held; it may re-arm.
 * Zero-initialise, then timer_init. */
struct timer {
    void (*fn)(void *arg);
    void *arg;
    uint64_t deadline_ns; /* VM clock; UINT64_MAX: not armed */
    struct clock *clock;
    unsigned heap_idx;
};
void timer_init(struct timer *t, struct clock *c, void (*fn)(void *arg), void *arg);
void timer_arm(struct timer *t, uint64_t deadline_ns); /* any thread; moves it when armed */
/* Any thread. With the machine lock held fn is not running and will not run; without it fn may be
 * running just now. */
void timer_cancel(struct timer *t);

/* ---- requests to the machine; any thread. They post; the VM acts when it can. ---- */
enum stop_reason {
    STOP_NONE,
    STOP_POWEROFF, /* S5 */
    STOP_RESET,    /* CF9h, i8042, port 92h, ACPI reset register */
    STOP_TRIPLE,   /* triple fault */
    STOP_EXIT,     /* debug-exit: status */
    STOP_TIMEOUT,
    STOP_USER,  /* Ctrl-A x, SIGTERM, doppel stop */
    STOP_ERROR, /* the VMM itself */
};
void bus_post_stop(struct bus *b, enum stop_reason why, int status);
void bus_set_stop_sink(struct bus *b, void (*stop)(void *ctx, enum stop_reason why, int status),
                       void *ctx);
/*
 * A device cannot go on (its disk is full): the VM stands still, as if paused, until each hold is
 * taken back.
 */
void bus_post_hold(struct bus *b, bool on);
void bus_set_hold_sink(struct bus *b, void (*hold)(void *ctx, bool on), void *ctx);
/* A20 gate (port 92h, i8042): recorded and readable; doppel keeps A20 on and says so once if a
 * guest turns it off. */
void bus_set_a20(struct bus *b, bool on);
bool bus_a20(const struct bus *b);

struct log_seen *bus_seen(struct bus *b);

/* ---- saving: all fields of a table to and from a flat buffer (little endian, no padding) ---- */
size_t state_table_bytes(const struct state_table *t);
void state_table_save(const struct state_table *t, const void *base, void *buf);
/* -EINVAL and a message if version or size do not fit. */
int state_table_load(const struct state_table *t, void *base, const void *buf, size_t bytes,
                     unsigned version) MUST_CHECK;

/* The table of a device's own struct. */
struct state_table state_table_of(const struct device *dev);
/* The same three for it; state_load() calls `check` and `loaded`, too. */
size_t state_bytes(const struct device *dev);
void state_save(const struct device *dev, void *buf);
int state_load(struct device *dev, const void *buf, size_t bytes, unsigned version) MUST_CHECK;
/* All was loaded: see `check` and `loaded`. */
int state_loaded(struct device *dev) MUST_CHECK;

#endif
