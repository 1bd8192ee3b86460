/* SPDX-License-Identifier: Apache-2.0 */
/* The MMIO and the PCI transport as a driver sees them: a device is found, set up, notified, heard
 * and reset through the registers alone. */
#include "virtio/testdriver.h"

#include "virtio/mmio.h"
#include "virtio/pci.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MMIO_AT 0xfec40000ull
#define ECAM_AT 0xe0000000ull
#define BAR_AT  0xc0000000u
#define MSIX_AT 0xc0010000u
#define DEVFN   PCI_DEVFN(3, 0)
#define SIZE    8u

struct env {
    struct testmachine m;
    struct virtio vd;
    uint8_t config[12];
    unsigned nr_notified;
    uint16_t notified_idx;
    bool wants_queue_reset; /* the driver does */
    unsigned nr_queue_resets;

    struct irq_shared line;
    int level;
    struct virtio_mmio mmio;

    struct pci_host host;
    struct virtio_pci pci;
    int intx;
    unsigned nr_msi;
    uint32_t msi_data;

    /* An engine with descriptors. */
    bool gives_fds;     /* the device does */
    bool refuses_msi;   /* the engine does */
    bool wants_lengths; /* it does not know writes of any length */
    struct bus_notify notifies[4];
    unsigned nr_notifies;
    uint32_t fd_data[64]; /* by descriptor */
    unsigned nr_msi_fds;
};

#define TOY_FD 1000 /* and one more for the second queue; never used */

static int toy_notify_fd(struct virtio *vd, struct virtq *q)
{
    return container_of(vd, struct env, vd)->gives_fds ? TOY_FD + q->idx : -1;
}

static int env_notify(void *ctx, const struct bus_notify *n, bool on)
{
    struct env *e = ctx;

    if (!n->bytes && e->wants_lengths)
        return -ENOTSUP;
    if (on) {
        assert_in_range(e->nr_notifies, 0, ARRAY_SIZE(e->notifies) - 1);
        e->notifies[e->nr_notifies++] = *n;
        return 0;
    }
    for (unsigned i = 0; i < e->nr_notifies; i++)
        if (!memcmp(&e->notifies[i], n, sizeof(*n))) {
            e->notifies[i] = e->notifies[--e->nr_notifies];
            return 0;
        }
    fail_msg("what is turned off was never on");
    return -ENOENT;
}

static int env_msi_fd(void *ctx, int fd, uint64_t addr, uint32_t data)
{
    struct env *e = ctx;

    if (e->refuses_msi)
        return -ENOTSUP;
    assert_int_equal(addr, 0xfee00000);
    if (fd < 0) {
        fd = eventfd(0, EFD_NONBLOCK);
        e->nr_msi_fds++;
    }
    assert_in_range(fd, 0, 63);
    e->fd_data[fd] = data;
    return fd;
}

static void env_msi_close(void *ctx, int fd)
{
    ((struct env *)ctx)->nr_msi_fds--;
    assert_int_equal(close(fd), 0);
}

static const struct bus_fd_ops env_fd_ops = {
    .notify = env_notify,
    .msi = env_msi_fd,
    .msi_close = env_msi_close,
};

/* How often the queue's descriptor was signalled since the last call. */
static uint64_t signals(const struct env *e, unsigned queue)
{
    uint64_t nr = 0;

    if (read(e->pci.irqs[queue].fd, &nr, sizeof(nr)) < 0)
        return 0;
    return nr;
}

static void toy_notify(struct virtio *vd, struct virtq *q)
{
    struct env *e = container_of(vd, struct env, vd);

    e->nr_notified++;
    e->notified_idx = q->idx;
}

static void toy_queue_reset(struct virtio *vd, struct virtq *q)
{
    struct env *e = container_of(vd, struct env, vd);

    e->nr_queue_resets++;
    e->notified_idx = q->idx;
}

static void toy_config_write(struct virtio *vd, uint32_t off_bytes, const void *buf, uint32_t bytes)
{
    memcpy(container_of(vd, struct env, vd)->config + off_bytes, buf, bytes);
}

static const struct virtio_type toy_type = {
    .name = "toy",
    .id = VIRTIO_ID_CONSOLE,
    .pci_class = 0x078000,
    .notify = toy_notify,
    .notify_fd = toy_notify_fd,
    .config_write = toy_config_write,
    .queue_reset = toy_queue_reset,
};

static void env_level(void *ctx, unsigned idx, int level)
{
    (void)idx;
    ((struct env *)ctx)->level = level;
}

static void env_gsi(void *ctx, unsigned gsi, int level)
{
    if (gsi >= 16)
        ((struct env *)ctx)->intx = level;
}

static void env_msi(void *ctx, uint64_t addr, uint32_t data)
{
    struct env *e = ctx;

    assert_int_equal(addr, 0xfee00000);
    e->nr_msi++;
    e->msi_data = data;
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    testmachine_init(&e->m);
    bus_set_fd_ops(e->m.bus, &env_fd_ops, e);
    memcpy(e->config, "0123456789ab", 12);
    assert_int_equal(virtio_init(&e->vd, &(struct virtio_desc){ .type = &toy_type,
                                                                .name = "toy",
                                                                .bus = e->m.bus,
                                                                .mmu = e->m.mmu,
                                                                .features = BIT64(5),
                                                                .nr_queues = 2,
                                                                .queue_size = 64,
                                                                .config = e->config,
                                                                .config_bytes = 12 }),
                     0);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    assert_int_equal(e->nr_notifies, 0);
    assert_int_equal(e->nr_msi_fds, 0);
    virtio_fini(&e->vd);
    testmachine_fini(&e->m);
    free(e);
    return 0;
}

/* The upper half of the features that the driver takes. */
static uint32_t upper_features(const struct env *e)
{
    return 1 | (e->wants_queue_reset ? BIT(VIRTIO_F_RING_RESET - 32) : 0);
}

static struct virtq_chain take_chain(struct env *e, unsigned queue, struct host_iov *iov, gpa_t *at)
{
    struct virtq_chain c = { .iov = iov, .at = at, .max = 1 };

    put_split(&e->m, queue, 0, TEST_BUFFERS, 8, D_WRITE, 0);
    make_available(&e->m, queue, SIZE, 0);
    virtio_lock(&e->vd);
    assert_true(virtq_pop(&e->vd.queues[queue], &c));
    virtio_unlock(&e->vd);
    return c;
}

static void give_chain(struct env *e, unsigned queue, const struct virtq_chain *c)
{
    virtio_lock(&e->vd);
    virtq_push(&e->vd.queues[queue], c, 8);
    virtq_publish(&e->vd.queues[queue]);
    virtio_unlock(&e->vd);
    virtio_signal(&e->vd);
}

static void interrupt(struct env *e, unsigned queue)
{
    virtio_lock(&e->vd);
    e->vd.irq_queues = BIT64(queue);
    virtio_unlock(&e->vd);
    virtio_signal(&e->vd);
}

static void config_changed(struct env *e)
{
    lock_take(bus_lock(e->m.bus));
    virtio_config_changed(&e->vd);
    lock_drop(bus_lock(e->m.bus));
}

/* ---- MMIO ---- */

static int setup_mmio(void **state)
{
    struct env *e;

    (void)setup(state);
    e = *state;
    e->line.out = (struct irq_line){ .set = env_level, .ctx = e };
    return virtio_mmio_init(&e->mmio, &(struct virtio_mmio_config){
                                          .vd = &e->vd, .at = GPA(MMIO_AT), .irq = &e->line });
}

static int teardown_mmio(void **state)
{
    virtio_mmio_fini(&((struct env *)*state)->mmio);
    return teardown(state);
}

static uint32_t rd(struct env *e, unsigned reg)
{
    return (uint32_t)bus_mmio_read(e->m.bus, GPA(MMIO_AT + reg), 4);
}

static void wr(struct env *e, unsigned reg, uint32_t val)
{
    bus_mmio_write(e->m.bus, GPA(MMIO_AT + reg), 4, val);
}

static void mmio_start(struct env *e)
{
    wr(e, 0x70, 1);
    wr(e, 0x70, 3);
    wr(e, 0x14, 1);
    assert_true(rd(e, 0x10) & 1); /* VERSION_1 */
    wr(e, 0x14, 0);
    assert_int_equal(rd(e, 0x10), BIT(28) | BIT(29) | BIT(5));
    wr(e, 0x24, 1);
    wr(e, 0x20, upper_features(e));
    wr(e, 0x70, 11);
    assert_int_equal(rd(e, 0x70), 11);
    for (unsigned i = 0; i < 2; i++) {
        wr(e, 0x30, i);
        assert_int_equal(rd(e, 0x44), 0);
        assert_int_equal(rd(e, 0x34), 64);
        wr(e, 0x38, SIZE);
        wr(e, 0x80, (uint32_t)queue_at(i));
        wr(e, 0x90, (uint32_t)queue_at(i) + TEST_DRIVER);
        wr(e, 0xa0, (uint32_t)queue_at(i) + TEST_DEVICE);
        wr(e, 0x44, 1);
        assert_int_equal(rd(e, 0x44), 1);
    }
    wr(e, 0x70, 15);
    assert_int_equal(rd(e, 0x70), 15);
}

static void test_mmio_driver_starts_and_resets_a_device(void **state)
{
    struct env *e = *state;

    assert_int_equal(rd(e, 0), 0x74726976);
    assert_int_equal(rd(e, 4), 2);
    assert_int_equal(rd(e, 8), VIRTIO_ID_CONSOLE);
    assert_int_equal(rd(e, 0xb0), UINT32_MAX);
    wr(e, 0x30, 2);
    assert_int_equal(rd(e, 0x34), 0); /* there are two */
    mmio_start(e);
    wr(e, 0x50, 1);
    wr(e, 0x50, 2);
    assert_int_equal(e->nr_notified, 1);
    assert_int_equal(e->notified_idx, 1);
    wr(e, 0x30, 1);
    wr(e, 0x44, 0);
    assert_int_equal(rd(e, 0x44), 0);
    wr(e, 0x50, 1);
    assert_int_equal(e->nr_notified, 1);
    wr(e, 0x70, 0);
    assert_int_equal(rd(e, 0x70), 0);
    wr(e, 0x30, 0);
    assert_int_equal(rd(e, 0x44), 0);
    mmio_start(e);
}

static void test_mmio_interrupts_stay_up_until_acknowledged(void **state)
{
    struct env *e = *state;

    mmio_start(e);
    interrupt(e, 1);
    assert_int_equal(e->level, 1);
    config_changed(e);
    assert_int_equal(rd(e, 0x60), 3);
    wr(e, 0x64, 1);
    assert_int_equal(e->level, 1);
    wr(e, 0x64, 2);
    assert_int_equal(e->level, 0);
    interrupt(e, 0);
    wr(e, 0x70, 0);
    assert_int_equal(e->level, 0);
}

static void test_mmio_configuration_space(void **state)
{
    struct env *e = *state;
    uint32_t generation = rd(e, 0xfc);

    assert_int_equal(bus_mmio_read(e->m.bus, GPA(MMIO_AT + 0x103), 1), '3');
    assert_int_equal(bus_mmio_read(e->m.bus, GPA(MMIO_AT + 0x104), 8), 0x6261393837363534);
    assert_int_equal(rd(e, 0x10c), 0);
    bus_mmio_write(e->m.bus, GPA(MMIO_AT + 0x102), 2, 0x5958);
    assert_memory_equal(e->config, "01XY", 4);
    wr(e, 0x10c, 1);                                                      /* behind its end */
    assert_int_equal(bus_mmio_read(e->m.bus, GPA(MMIO_AT + 0x70), 1), 0); /* no register */
    config_changed(e);
    assert_int_not_equal(rd(e, 0xfc), generation);
}

static void test_mmio_queue_reset_waits_for_what_is_out(void **state)
{
    struct env *e = *state;
    struct host_iov iov;
    gpa_t at;
    struct virtq_chain c;

    e->wants_queue_reset = true;
    mmio_start(e);
    c = take_chain(e, 1, &iov, &at);
    wr(e, 0x30, 1);
    wr(e, 0xc0, 1);
    assert_int_equal(e->nr_queue_resets, 1);
    assert_int_equal(rd(e, 0xc0), 1);
    wr(e, 0x50, 1);
    assert_int_equal(e->nr_notified, 0);
    give_chain(e, 1, &c);
    assert_int_equal(rd(e, 0xc0), 0);
    assert_int_equal(rd(e, 0x44), 0);
    assert_int_equal(used_idx(&e->m, 1), 0); /* nobody was told */
    wr(e, 0x30, 0);
    assert_int_equal(rd(e, 0x44), 1); /* the other one goes on */
}

/* ---- PCI ---- */

static int setup_pci(void **state)
{
    struct env *e;

    (void)setup(state);
    e = *state;
    bus_set_gsi_sink(e->m.bus, env_gsi, NULL, e);
    bus_set_msi_sink(e->m.bus, env_msi, e);
    assert_int_equal(pci_host_init(&e->host, &(struct pci_host_config){ .bus = e->m.bus,
                                                                        .ecam_at = GPA(ECAM_AT),
                                                                        .ecam_bytes = MIB(256),
                                                                        .intx_gsi = 16 }),
                     0);
    return virtio_pci_init(&e->pci, &e->host, DEVFN, &e->vd);
}

static int teardown_pci(void **state)
{
    struct env *e = *state;

    virtio_pci_fini(&e->pci);
    pci_host_fini(&e->host);
    return teardown(state);
}

static uint32_t cfg_rd(struct env *e, unsigned off, unsigned bytes)
{
    return (uint32_t)bus_mmio_read(e->m.bus, GPA(ECAM_AT + (DEVFN << 12) + off), bytes);
}

static void cfg_wr(struct env *e, unsigned off, unsigned bytes, uint32_t val)
{
    bus_mmio_write(e->m.bus, GPA(ECAM_AT + (DEVFN << 12) + off), bytes, val);
}

/* The vendor capability of that type, or 0. */
static unsigned find_cap(struct env *e, unsigned type)
{
    unsigned at = cfg_rd(e, PCI_CAP_PTR, 1);

    while (at && (cfg_rd(e, at, 1) != PCI_CAP_VENDOR || cfg_rd(e, at + 3, 1) != type))
        at = cfg_rd(e, at + 1, 1);
    return at;
}

/* Where the structure of that type is in memory. */
static uint64_t part(struct env *e, unsigned type)
{
    unsigned cap = find_cap(e, type);

    assert_int_not_equal(cap, 0);
    assert_int_equal(cfg_rd(e, cap + 4, 1), 0);
    return BAR_AT + cfg_rd(e, cap + 8, 4);
}

static uint32_t get(struct env *e, unsigned type, unsigned off, unsigned bytes)
{
    return (uint32_t)bus_mmio_read(e->m.bus, GPA(part(e, type) + off), bytes);
}

static void put(struct env *e, unsigned type, unsigned off, unsigned bytes, uint64_t val)
{
    bus_mmio_write(e->m.bus, GPA(part(e, type) + off), bytes, val);
}

static void pci_start(struct env *e)
{
    cfg_wr(e, PCI_BAR0, 4, BAR_AT);
    cfg_wr(e, PCI_BAR0 + 4, 4, MSIX_AT);
    cfg_wr(e, PCI_COMMAND, 2, PCI_COMMAND_MEM | PCI_COMMAND_MASTER);
    assert_int_equal(get(e, 1, 0x12, 2), 2);
    put(e, 1, 0x14, 1, 3);
    put(e, 1, 8, 4, 1);
    put(e, 1, 0xc, 4, upper_features(e));
    put(e, 1, 0x14, 1, 11);
    assert_int_equal(get(e, 1, 0x14, 1), 11);
    for (unsigned i = 0; i < 2; i++) {
        put(e, 1, 0x16, 2, i);
        assert_int_equal(get(e, 1, 0x18, 2), 64);
        assert_int_equal(get(e, 1, 0x1e, 2), i);
        put(e, 1, 0x18, 2, SIZE);
        put(e, 1, 0x20, 8, queue_at(i));
        put(e, 1, 0x28, 8, queue_at(i) + TEST_DRIVER);
        put(e, 1, 0x30, 8, queue_at(i) + TEST_DEVICE);
        assert_int_equal(get(e, 1, 0x28, 4), queue_at(i) + TEST_DRIVER);
        put(e, 1, 0x1c, 2, 1);
        assert_int_equal(get(e, 1, 0x1c, 2), 1);
    }
    put(e, 1, 0x14, 1, 15);
}

static void test_pci_function_says_what_it_is(void **state)
{
    struct env *e = *state;

    assert_int_equal(cfg_rd(e, 0, 4), 0x10431af4);
    assert_int_equal(cfg_rd(e, PCI_REVISION, 4), 0x07800001);
    for (unsigned type = 1; type <= 5; type++)
        assert_int_not_equal(find_cap(e, type), 0);
    pci_start(e);
    put(e, 2, 4, 2, 1); /* the second queue's word */
    assert_int_equal(e->nr_notified, 1);
    assert_int_equal(e->notified_idx, 1);
    assert_int_equal(get(e, 4, 4, 4), 0x37363534);
    put(e, 4, 0, 1, 'X');
    assert_int_equal(e->config[0], 'X');
    put(e, 1, 0x14, 1, 0);
    assert_int_equal(get(e, 1, 0x14, 1), 0);
    assert_int_equal(get(e, 1, 0x1c, 2), 0);
}

static void test_pci_intx_and_isr(void **state)
{
    struct env *e = *state;

    pci_start(e);
    interrupt(e, 0);
    assert_int_equal(e->intx, 1);
    config_changed(e);
    assert_int_equal(get(e, 3, 0, 1), 3);
    assert_int_equal(e->intx, 0);
    assert_int_equal(get(e, 3, 0, 1), 0);
    interrupt(e, 0);
    put(e, 1, 0x14, 1, 0);
    assert_int_equal(e->intx, 0);
}

static void test_pci_msix_vectors(void **state)
{
    struct env *e = *state;
    unsigned cap = cfg_rd(e, PCI_CAP_PTR, 1);

    e->refuses_msi = true;
    while (cfg_rd(e, cap, 1) != PCI_CAP_MSIX)
        cap = cfg_rd(e, cap + 1, 1);
    pci_start(e);
    assert_int_equal(get(e, 1, 0x1a, 2), 0xffff);
    put(e, 1, 0x1a, 2, 3); /* there are 0 to 2 */
    assert_int_equal(get(e, 1, 0x1a, 2), 0xffff);
    put(e, 1, 0x1a, 2, 2);
    put(e, 1, 0x10, 2, 0);
    for (unsigned i = 0; i < 3; i++) {
        bus_mmio_write(e->m.bus, GPA(MSIX_AT + 16 * i), 8, 0xfee00000);
        bus_mmio_write(e->m.bus, GPA(MSIX_AT + 16 * i + 8), 8, 0x40 + i);
    }
    cfg_wr(e, cap + 2, 2, 0x8000);
    interrupt(e, 1);
    assert_int_equal(e->nr_msi, 1);
    assert_int_equal(e->msi_data, 0x42);
    config_changed(e);
    assert_int_equal(e->msi_data, 0x40);
    interrupt(e, 0); /* has no vector */
    assert_int_equal(e->nr_msi, 2);
    assert_int_equal(e->intx, 0);
}

/* ---- descriptors ---- */

static void stand_still(struct env *e, bool on)
{
    lock_take(bus_lock(e->m.bus));
    virtio_set_paused(&e->vd, on);
    lock_drop(bus_lock(e->m.bus));
}

static void test_pci_notifications_by_descriptor_follow_bar_and_status(void **state)
{
    struct env *e = *state;

    e->gives_fds = true;
    pci_start(e);
    assert_int_equal(e->nr_notifies, 2);
    assert_int_equal(e->notifies[1].at.v, BAR_AT + 0x3004);
    assert_int_equal(e->notifies[1].bytes, 0);
    assert_int_equal(e->notifies[1].fd, TOY_FD + 1);
    cfg_wr(e, PCI_BAR0, 4, BAR_AT + 0x100000);
    assert_int_equal(e->nr_notifies, 2);
    assert_int_equal(e->notifies[0].at.v & ~0xfffull, BAR_AT + 0x103000);
    cfg_wr(e, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    assert_int_equal(e->nr_notifies, 0);
    cfg_wr(e, PCI_BAR0, 4, BAR_AT);
    cfg_wr(e, PCI_COMMAND, 2, PCI_COMMAND_MEM | PCI_COMMAND_MASTER);
    assert_int_equal(e->nr_notifies, 2);
    lock_take(bus_lock(e->m.bus));
    virtio_set_fds(&e->vd, false);
    assert_int_equal(e->nr_notifies, 0);
    virtio_set_fds(&e->vd, true);
    lock_drop(bus_lock(e->m.bus));
    assert_int_equal(e->nr_notifies, 2);
    put(e, 1, 0x14, 1, 0);
    assert_int_equal(e->nr_notifies, 0);
}

static void test_mmio_notifications_by_descriptor_match_the_queue(void **state)
{
    struct env *e = *state;

    e->gives_fds = true;
    mmio_start(e);
    assert_int_equal(e->nr_notifies, 2);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(e->notifies[i].at.v, MMIO_AT + 0x50);
        assert_int_equal(e->notifies[i].bytes, 4);
        assert_true(e->notifies[i].matched);
        assert_int_equal(e->notifies[i].fd, TOY_FD + (int)e->notifies[i].val);
    }
    wr(e, 0x30, 1);
    wr(e, 0x44, 0);
    assert_int_equal(e->nr_notifies, 1);
    wr(e, 0x70, 0);
    assert_int_equal(e->nr_notifies, 0);
}

static void test_pci_engine_that_wants_lengths_gets_16_bits(void **state)
{
    struct env *e = *state;

    e->gives_fds = e->wants_lengths = true;
    pci_start(e);
    assert_int_equal(e->nr_notifies, 2);
    assert_int_equal(e->notifies[0].bytes, 2);
}

static uint64_t pending_bits(struct env *e)
{
    return bus_mmio_read(e->m.bus, GPA(MSIX_AT + PAGE_BYTES), 4);
}

/* Vector 2 for the second queue, and MSI-X on; returns where the capability is. */
static unsigned msix_start(struct env *e)
{
    unsigned cap = cfg_rd(e, PCI_CAP_PTR, 1);

    while (cfg_rd(e, cap, 1) != PCI_CAP_MSIX)
        cap = cfg_rd(e, cap + 1, 1);
    pci_start(e);
    put(e, 1, 0x1a, 2, 2);
    bus_mmio_write(e->m.bus, GPA(MSIX_AT + 32), 8, 0xfee00000);
    bus_mmio_write(e->m.bus, GPA(MSIX_AT + 40), 8, 0x42);
    cfg_wr(e, cap + 2, 2, 0x8000);
    return cap;
}

static void test_pci_messages_by_descriptor_leave_masked_ones_pending(void **state)
{
    struct env *e = *state;
    unsigned cap = msix_start(e);

    interrupt(e, 1);
    assert_int_equal(signals(e, 1), 1);
    assert_int_equal(e->fd_data[e->pci.irqs[1].fd], 0x42);
    assert_int_equal(e->nr_msi, 0);
    bus_mmio_write(e->m.bus, GPA(MSIX_AT + 44), 4, 1); /* mask it */
    interrupt(e, 1);
    assert_int_equal(signals(e, 1), 0);
    assert_int_equal(pending_bits(e), BIT(2));
    bus_mmio_write(e->m.bus, GPA(MSIX_AT + 40), 4, 0x52);
    bus_mmio_write(e->m.bus, GPA(MSIX_AT + 44), 4, 0);
    assert_int_equal(pending_bits(e), 0);
    assert_int_equal(e->nr_msi, 1); /* what was pending */
    assert_int_equal(e->msi_data, 0x52);
    interrupt(e, 1);
    assert_int_equal(signals(e, 1), 1);
    assert_int_equal(e->fd_data[e->pci.irqs[1].fd], 0x52);
    cfg_wr(e, cap + 2, 2, 0xc000); /* all are masked */
    interrupt(e, 1);
    assert_int_equal(signals(e, 1), 0);
    assert_int_equal(pending_bits(e), BIT(2));
    cfg_wr(e, PCI_COMMAND, 2, PCI_COMMAND_MEM);
    cfg_wr(e, cap + 2, 2, 0x8000);
    interrupt(e, 1); /* no Bus Master, no message */
    assert_int_equal(signals(e, 1), 0);
    assert_int_equal(e->nr_msi, 1);
    put(e, 1, 0x14, 1, 0);
    assert_int_equal(e->nr_msi_fds, 0);
}

static void test_pci_messages_by_descriptor_rest_while_the_machine_does(void **state)
{
    struct env *e = *state;

    (void)msix_start(e);
    stand_still(e, true);
    interrupt(e, 1);
    assert_int_equal(signals(e, 1), 0);
    assert_int_equal(e->nr_msi, 1);
    stand_still(e, false);
    interrupt(e, 1);
    assert_int_equal(signals(e, 1), 1);
    /* The engine does otherwise when the machine goes on. */
    e->refuses_msi = true;
    stand_still(e, true);
    stand_still(e, false);
    interrupt(e, 1);
    assert_int_equal(signals(e, 1), 0);
    assert_int_equal(e->nr_msi, 2);
    e->refuses_msi = false;
    stand_still(e, true);
    stand_still(e, false);
    interrupt(e, 1);
    assert_int_equal(signals(e, 1), 1);
}

static void test_pci_window_in_configuration_space(void **state)
{
    struct env *e = *state;
    unsigned cap = find_cap(e, 5);

    /* Without any BAR mapped: firmware does that. */
    cfg_wr(e, cap + 4, 1, 0);
    cfg_wr(e, cap + 8, 4, 0x14);
    cfg_wr(e, cap + 12, 4, 1);
    cfg_wr(e, cap + 16, 1, 3);
    assert_int_equal(e->vd.status, 3);
    assert_int_equal(cfg_rd(e, cap + 16, 1), 3);
    cfg_wr(e, cap + 8, 4, 0x2004);
    cfg_wr(e, cap + 12, 4, 4);
    assert_int_equal(cfg_rd(e, cap + 16, 4), 0x37363534);
    /* Badly set, it leads nowhere. */
    cfg_wr(e, cap + 8, 4, 0x4000);
    cfg_wr(e, cap + 16, 4, 1);
    cfg_wr(e, cap + 8, 4, 0xfffffffc);
    (void)cfg_rd(e, cap + 16, 4);
    cfg_wr(e, cap + 8, 4, 0x13);
    (void)cfg_rd(e, cap + 16, 4);
    cfg_wr(e, cap + 12, 4, 3);
    (void)cfg_rd(e, cap + 16, 4);
}

static void test_pci_bus_master_gates_the_queues(void **state)
{
    struct env *e = *state;

    pci_start(e);
    cfg_wr(e, PCI_COMMAND, 2, PCI_COMMAND_MEM);
    put(e, 2, 0, 2, 0);
    assert_int_equal(e->nr_notified, 0);
    cfg_wr(e, PCI_COMMAND, 2, PCI_COMMAND_MEM | PCI_COMMAND_MASTER);
    assert_int_equal(e->nr_notified, 2); /* both, in case */
}

static void test_pci_queue_reset_and_a_new_ring(void **state)
{
    struct env *e = *state;
    struct host_iov iov;
    gpa_t at;
    struct virtq_chain c;

    e->wants_queue_reset = true;
    pci_start(e);
    c = take_chain(e, 1, &iov, &at);
    put(e, 1, 0x3a, 2, 1);
    assert_int_equal(get(e, 1, 0x3a, 2), 1);
    assert_int_equal(get(e, 1, 0x1c, 2), 0);
    put(e, 1, 0x1c, 2, 1); /* too early */
    assert_int_equal(get(e, 1, 0x1c, 2), 0);
    give_chain(e, 1, &c);
    assert_int_equal(get(e, 1, 0x3a, 2), 0);
    assert_int_equal(get(e, 1, 0x18, 2), 64); /* as at first */
    assert_int_equal(get(e, 1, 0x20, 4), 0);
    put(e, 1, 0x18, 2, SIZE);
    put(e, 1, 0x20, 8, queue_at(1));
    put(e, 1, 0x28, 8, queue_at(1) + TEST_DRIVER);
    put(e, 1, 0x30, 8, queue_at(1) + TEST_DEVICE);
    put16(&e->m, queue_at(1) + TEST_DRIVER + 2, 0);
    put(e, 1, 0x1c, 2, 1);
    assert_int_equal(get(e, 1, 0x1c, 2), 1);
    c = take_chain(e, 1, &iov, &at);
    give_chain(e, 1, &c);
    assert_int_equal(used_idx(&e->m, 1), 1);
}

static void test_pci_queue_reset_must_be_agreed_on(void **state)
{
    struct env *e = *state;

    pci_start(e);
    put(e, 1, 0x3a, 2, 1);
    assert_int_equal(e->nr_queue_resets, 0);
    assert_int_equal(get(e, 1, 0x1c, 2), 1);
}

#define MMIO_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup_mmio, teardown_mmio)
#define PCI_TEST(fn)  cmocka_unit_test_setup_teardown(fn, setup_pci, teardown_pci)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MMIO_TEST(test_mmio_driver_starts_and_resets_a_device),
        MMIO_TEST(test_mmio_interrupts_stay_up_until_acknowledged),
        MMIO_TEST(test_mmio_configuration_space),
        MMIO_TEST(test_mmio_queue_reset_waits_for_what_is_out),
        PCI_TEST(test_pci_function_says_what_it_is),
        PCI_TEST(test_pci_intx_and_isr),
        PCI_TEST(test_pci_msix_vectors),
        PCI_TEST(test_pci_notifications_by_descriptor_follow_bar_and_status),
        MMIO_TEST(test_mmio_notifications_by_descriptor_match_the_queue),
        PCI_TEST(test_pci_engine_that_wants_lengths_gets_16_bits),
        PCI_TEST(test_pci_messages_by_descriptor_leave_masked_ones_pending),
        PCI_TEST(test_pci_messages_by_descriptor_rest_while_the_machine_does),
        PCI_TEST(test_pci_window_in_configuration_space),
        PCI_TEST(test_pci_bus_master_gates_the_queues),
        PCI_TEST(test_pci_queue_reset_and_a_new_ring),
        PCI_TEST(test_pci_queue_reset_must_be_agreed_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
