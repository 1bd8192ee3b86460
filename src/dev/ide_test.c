/* SPDX-License-Identifier: Apache-2.0 */
/* IDE as drivers use it: a disk at the primary channel, a CD-ROM drive at the secondary one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dev/fakeclock.h"
#include "dev/ide.h"

#define NR_SECTORS 512u
#define NR_BLOCKS  64u /* of the CD */
#define RAM_BYTES  MIB(1)
#define DISK       0x1f0
#define CD         0x170
#define BM_PORT    0xc000
#define DEVFN      PCI_DEVFN(0x1f, 1)

enum { ERROR = 1, COUNT, LBA0, LBA1, LBA2, DEVICE, STATUS, CONTROL = 0x206 };

struct env {
    struct bus *bus;
    struct pci_host host;
    struct mmu *mmu;
    struct dma dma;
    struct slot *ram;
    struct ide ide;
    char paths[2][32];
    struct store *stores[2];
    unsigned nr_irqs[2];
    int level[2];
};

static void env_irq(void *ctx, unsigned idx, int level)
{
    struct env *e = ctx;

    e->nr_irqs[idx] += level && !e->level[idx];
    e->level[idx] = level;
}

/* Byte i of sector n. */
static uint8_t pattern(unsigned n, unsigned i)
{
    return (uint8_t)(n * 7 + i * 3 + (i >> 8));
}

static void make_image(char *path, unsigned nr_sectors)
{
    uint8_t sector[IDE_BLOCK];
    int fd;

    strcpy(path, "/tmp/ide_test.XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    for (unsigned n = 0; n < nr_sectors; n++) {
        for (unsigned i = 0; i < sizeof(sector); i++)
            sector[i] = pattern(n, i);
        assert_int_equal(write(fd, sector, sizeof(sector)), sizeof(sector));
    }
    close(fd);
}

static void make_ide(struct env *e, bool readonly)
{
    struct ide_config cfg = { .host = &e->host,
                              .dma = &e->dma,
                              .irq = { { env_irq, e, 0 }, { env_irq, e, 1 } },
                              .devfn = DEVFN };

    for (unsigned i = 0; i < 2; i++) {
        e->stores[i] = store_open(&(struct store_config){ .name = "disk",
                                                          .path = e->paths[i],
                                                          .readonly = readonly || i,
                                                          .aio = STORE_AIO_THREADS });
        assert_non_null(e->stores[i]);
    }
    cfg.slots[0] = (struct ide_slot){ .store = e->stores[0] };
    cfg.slots[2] = (struct ide_slot){ .store = e->stores[1], .is_cd = true };
    assert_int_equal(ide_init(&e->ide, &cfg), 0);
    bus_port_write(e->bus, 0xcf8, 4, 0x80000000u | DEVFN << 8 | 0x20);
    bus_port_write(e->bus, 0xcfc, 4, BM_PORT);
    bus_port_write(e->bus, 0xcf8, 4, 0x80000000u | DEVFN << 8 | PCI_COMMAND);
    bus_port_write(e->bus, 0xcfc, 2, PCI_COMMAND_IO | PCI_COMMAND_MASTER);
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    log_set_level(LOG_ERROR - 1);
    e->bus = bus_create();
    assert_int_equal(pci_host_init(&e->host, &(struct pci_host_config){ .bus = e->bus,
                                                                        .ecam_at = GPA(GIB(3)),
                                                                        .ecam_bytes = MIB(256),
                                                                        .intx_gsi = 16 }),
                     0);
    e->mmu = mmu_create();
    assert_int_equal(
        mmu_slot_add(e->mmu, &(struct slot_desc){ .name = "ram", .bytes = RAM_BYTES }, &e->ram), 0);
    e->dma.mmu = e->mmu;
    make_image(e->paths[0], NR_SECTORS);
    make_image(e->paths[1], NR_BLOCKS * 4);
    make_ide(e, false);
    *state = e;
    return 0;
}

static void close_ide(struct env *e)
{
    ide_fini(&e->ide);
    for (unsigned i = 0; i < 2; i++)
        store_close(e->stores[i]);
}

static int teardown(void **state)
{
    struct env *e = *state;

    close_ide(e);
    for (unsigned i = 0; i < 2; i++)
        unlink(e->paths[i]);
    mmu_destroy(e->mmu);
    pci_host_fini(&e->host);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

static uint8_t in(struct env *e, unsigned port)
{
    return (uint8_t)bus_port_read(e->bus, (uint16_t)port, 1);
}

static void out(struct env *e, unsigned port, uint8_t val)
{
    bus_port_write(e->bus, (uint16_t)port, 1, val);
}

/* The disk's thread is on its way; the alternate status acknowledges nothing. */
static uint8_t wait_idle(struct env *e, unsigned chan)
{
    while (in(e, chan + CONTROL) & IDE_BSY)
        usleep(100);
    return in(e, chan + STATUS);
}

static void command(struct env *e, uint8_t cmd, uint32_t lba, uint8_t count)
{
    out(e, DISK + COUNT, count);
    for (unsigned i = 0; i < 3; i++)
        out(e, DISK + LBA0 + i, (uint8_t)(lba >> (8 * i)));
    out(e, DISK + DEVICE, (uint8_t)(0xe0 | (lba >> 24 & 0xf)));
    out(e, DISK + STATUS, cmd);
}

static void read_data(struct env *e, unsigned chan, uint8_t *to, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i += 2) {
        uint16_t word = (uint16_t)bus_port_read(e->bus, (uint16_t)chan, 2);

        memcpy(to + i, &word, 2);
    }
}

static void expect_sector(const uint8_t *got, unsigned n)
{
    for (unsigned i = 0; i < IDE_BLOCK; i++)
        assert_int_equal(got[i], pattern(n, i));
}

/* ---- disks ---- */

static void test_signature_tells_disk_from_cdrom_and_from_nothing(void **state)
{
    struct env *e = *state;

    assert_int_equal(in(e, DISK + STATUS), IDE_DRDY | IDE_DSC);
    assert_int_equal(in(e, DISK + LBA1) | in(e, DISK + LBA2) << 8, 0);
    assert_int_equal(in(e, CD + LBA1) | in(e, CD + LBA2) << 8, 0xeb14);
    out(e, DISK + DEVICE, 0xf0);
    assert_int_equal(in(e, DISK + STATUS), 0);
    assert_int_equal(in(e, DISK + COUNT), 0);
    out(e, DISK + STATUS, 0xec); /* to nobody */
    assert_int_equal(e->nr_irqs[0], 0);
}

static void test_identify_tells_model_and_size(void **state)
{
    struct env *e = *state;
    uint8_t id[IDE_BLOCK];

    command(e, 0xec, 0, 0);
    assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC | IDE_DRQ);
    read_data(e, DISK, id, sizeof(id));
    assert_memory_equal(id + 54, "ODPPLEH RADDSI K", 16); /* swapped */
    assert_int_equal(id[120] | id[121] << 8, NR_SECTORS);
    assert_int_equal(id[200] | id[201] << 8, NR_SECTORS);
    assert_int_equal(in(e, DISK + STATUS), IDE_DRDY | IDE_DSC);
    assert_int_equal(e->nr_irqs[0], 1);
}

static void test_pio_read_interrupts_once_a_sector(void **state)
{
    struct env *e = *state;
    uint8_t buf[IDE_BLOCK];

    command(e, 0x20, 9, 3);
    for (unsigned n = 9; n < 12; n++) {
        assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC | IDE_DRQ);
        assert_int_equal(e->nr_irqs[0], n - 8);
        read_data(e, DISK, buf, sizeof(buf));
        expect_sector(buf, n);
    }
    assert_int_equal(in(e, DISK + STATUS), IDE_DRDY | IDE_DSC);
    assert_int_equal(e->nr_irqs[0], 3);
    assert_int_equal(bus_port_read(e->bus, DISK, 2), 0xffff);
}

static void test_read_of_256_sectors_goes_over_several_buffers(void **state)
{
    struct env *e = *state;
    uint8_t buf[IDE_BLOCK];

    command(e, 0x20, 256, 0);
    for (unsigned n = 256; n < 512; n++) {
        assert_true(wait_idle(e, DISK) & IDE_DRQ);
        read_data(e, DISK, buf, sizeof(buf));
        expect_sector(buf, n);
    }
    assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC);
}

static void write_sector(struct env *e, unsigned n)
{
    for (unsigned i = 0; i < IDE_BLOCK; i += 2)
        bus_port_write(e->bus, DISK, 2, pattern(n, i) | pattern(n, i + 1) << 8);
}

static void test_pio_write_reaches_the_image(void **state)
{
    struct env *e = *state;
    uint8_t buf[IDE_BLOCK];

    command(e, 0x30, 20, 2);
    assert_true(in(e, DISK + STATUS) & IDE_DRQ);
    assert_int_equal(e->nr_irqs[0], 0); /* the first block is not announced */
    write_sector(e, 100);
    assert_true(wait_idle(e, DISK) & IDE_DRQ);
    write_sector(e, 101);
    assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC);
    assert_int_equal(e->nr_irqs[0], 2);
    command(e, 0xe7, 0, 0);
    assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC);
    command(e, 0x20, 21, 1);
    assert_true(wait_idle(e, DISK) & IDE_DRQ);
    read_data(e, DISK, buf, sizeof(buf));
    expect_sector(buf, 101);
}

static void test_access_behind_the_end_is_not_found(void **state)
{
    static const struct {
        uint32_t lba;
        uint8_t count;
    } cases[] = { { NR_SECTORS, 1 }, { NR_SECTORS - 1, 2 }, { 0xfffffff, 1 }, { 300, 0 } };
    struct env *e = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        command(e, 0x20, cases[i].lba, cases[i].count);
        assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC | IDE_ERR);
        assert_int_equal(in(e, DISK + ERROR), IDE_IDNF);
    }
    /* Sector 0 of a track is none, nor is one more than it has. */
    for (unsigned i = 0; i < 4; i++) {
        out(e, DISK + COUNT, 1);
        out(e, DISK + LBA0, i & 1 ? 64 : 0);
        out(e, DISK + LBA1, 0);
        out(e, DISK + LBA2, 0);
        out(e, DISK + DEVICE, 0xa0 | (i & 2) >> 1);
        out(e, DISK + STATUS, 0x20);
        assert_int_equal(wait_idle(e, DISK) & IDE_ERR, IDE_ERR);
        assert_int_equal(in(e, DISK + ERROR), IDE_IDNF);
    }
}

static void test_write_to_a_readonly_image_is_aborted(void **state)
{
    struct env *e = *state;

    close_ide(e);
    make_ide(e, true);
    command(e, 0x30, 1, 1);
    assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC | IDE_ERR);
    assert_int_equal(in(e, DISK + ERROR), IDE_ABRT);
}

static void test_unknown_command_is_aborted(void **state)
{
    struct env *e = *state;

    command(e, 0xb0, 0, 0);
    assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC | IDE_ERR);
    assert_int_equal(in(e, DISK + ERROR), IDE_ABRT);
}

static void test_interrupt_is_held_back_by_nien(void **state)
{
    struct env *e = *state;

    out(e, DISK + CONTROL, 2);
    command(e, 0xe7, 0, 0);
    while (in(e, DISK + CONTROL) & IDE_BSY)
        usleep(100);
    assert_int_equal(e->nr_irqs[0], 0);
    out(e, DISK + CONTROL, 0);
    assert_int_equal(e->nr_irqs[0], 1);
    (void)in(e, DISK + STATUS);
    assert_int_equal(e->level[0], 0);
}

/* ---- DMA ---- */

#define TABLE 0x1000u

static void put_prd(struct env *e, unsigned idx, uint32_t at, uint32_t bytes_and_end)
{
    const uint32_t prd[2] = { at, bytes_and_end };

    memcpy(slot_hva(e->ram, GPA(TABLE + 8 * idx)), prd, sizeof(prd));
}

static void start_dma(struct env *e, uint8_t direction)
{
    bus_port_write(e->bus, BM_PORT + 4, 4, TABLE);
    out(e, BM_PORT + 2, 6);
    out(e, BM_PORT, direction);
    out(e, BM_PORT, direction | 1);
}

static void test_dma_read_scatters_over_the_table(void **state)
{
    struct env *e = *state;
    uint8_t buf[2 * IDE_BLOCK];

    put_prd(e, 0, 0x8000, 300);
    put_prd(e, 1, 0x9002, 724 | 0x80000000u);
    command(e, 0xc8, 40, 2);
    start_dma(e, 8);
    assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC);
    assert_int_equal(e->nr_irqs[0], 1);
    assert_int_equal(in(e, BM_PORT + 2) & 7, 4); /* interrupt; neither active nor error */
    memcpy(buf, slot_hva(e->ram, GPA(0x8000)), 300);
    memcpy(buf + 300, slot_hva(e->ram, GPA(0x9002)), 724);
    expect_sector(buf, 40);
    expect_sector(buf + IDE_BLOCK, 41);
}

static void test_dma_write_gathers(void **state)
{
    struct env *e = *state;
    uint8_t buf[IDE_BLOCK];

    for (unsigned i = 0; i < IDE_BLOCK; i++)
        *slot_hva(e->ram, GPA(0x8000 + i)) = pattern(77, i);
    put_prd(e, 0, 0x8000, IDE_BLOCK | 0x80000000u);
    start_dma(e, 0);
    command(e, 0xca, 5, 1); /* the bus master was first */
    assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC);
    assert_int_equal(in(e, BM_PORT + 2) & 7, 4);
    command(e, 0x20, 5, 1);
    assert_true(wait_idle(e, DISK) & IDE_DRQ);
    read_data(e, DISK, buf, sizeof(buf));
    expect_sector(buf, 77);
}

static void test_short_table_stops_without_interrupt_and_reset_helps(void **state)
{
    struct env *e = *state;

    put_prd(e, 0, 0x8000, 100 | 0x80000000u);
    command(e, 0xc8, 0, 1);
    start_dma(e, 8);
    while (in(e, BM_PORT + 2) & 1)
        usleep(100);
    assert_int_equal(e->nr_irqs[0], 0);
    assert_int_equal(in(e, BM_PORT + 2) & 7, 0);
    out(e, DISK + CONTROL, 4);
    assert_int_equal(in(e, DISK + STATUS), IDE_BSY);
    out(e, DISK + CONTROL, 0);
    assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC);
    assert_int_equal(in(e, DISK + ERROR), 1);
}

static void test_table_outside_memory_stops(void **state)
{
    struct env *e = *state;

    command(e, 0xc8, 0, 1);
    bus_port_write(e->bus, BM_PORT + 4, 4, 0xfffffffc);
    out(e, BM_PORT, 9);
    while (in(e, BM_PORT + 2) & 1)
        usleep(100);
    assert_int_equal(e->nr_irqs[0], 0);
}

static void test_reset_during_a_request_waits_for_it(void **state)
{
    struct env *e = *state;

    for (unsigned i = 0; i < 50; i++) {
        command(e, 0x20, i, 8);
        out(e, DISK + CONTROL, 4);
        if (i & 1) /* the request ends while SRST is still set */
            usleep(2000);
        assert_int_equal(in(e, DISK + STATUS), IDE_BSY);
        out(e, DISK + CONTROL, 0);
        assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC);
        assert_int_equal(in(e, DISK + COUNT), 1);
    }
}

/* Anything at any port: with the address sanitizer a test of every bound. */
static void test_random_accesses_stay_in_bounds(void **state)
{
    static const uint8_t cmds[] = { 0x20, 0x30, 0xc8, 0xca, 0xc4, 0xc5, 0xec, 0xa0, 0xa1,
                                    0x08, 0x90, 0xc6, 0x24, 0x35, 0xe7, 0x91, 0xef };
    struct env *e = *state;
    uint64_t x = 0x9e3779b97f4a7c15ull;

    put_prd(e, 0, 0x8000, 0x10000);
    put_prd(e, 1, 0x8000, 0x80001000u);
    for (unsigned i = 0; i < 60000; i++) {
        unsigned chan, reg;

        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        chan = x & 1 ? DISK : CD;
        reg = x >> 8 & 7;
        if (x >> 16 & 1)
            (void)bus_port_read(e->bus, (uint16_t)(chan + reg), 1u << (x >> 17 & 1));
        else if ((x >> 17 & 15) == 0)
            out(e, chan + CONTROL, x >> 24 & 6);
        else if ((x >> 17 & 15) == 1)
            start_dma(e, x >> 24 & 8);
        else if (reg == 0)
            bus_port_write(e->bus, (uint16_t)chan, 2 << (x >> 20 & 1), x >> 24);
        else if (reg == STATUS)
            out(e, chan + STATUS, cmds[(x >> 24) % sizeof(cmds)]);
        else
            out(e, chan + reg, x >> 24 & (reg == DEVICE ? 0x50 : 0x1f));
    }
    for (unsigned i = 0; i < 2; i++) {
        unsigned chan = i ? CD : DISK;

        out(e, chan + CONTROL, 4);
        out(e, chan + CONTROL, 0);
        assert_int_equal(wait_idle(e, chan), i ? 0 : IDE_DRDY | IDE_DSC);
    }
}

static void test_switch_to_the_other_drive_in_a_transfer_moves_nothing(void **state)
{
    struct env *e = *state;
    uint8_t buf[IDE_BLOCK];

    command(e, 0x20, 9, 1);
    assert_true(wait_idle(e, DISK) & IDE_DRQ);
    out(e, DISK + DEVICE, 0xf0); /* nobody there */
    assert_int_equal(bus_port_read(e->bus, DISK, 2), 0xffff);
    start_dma(e, 8);
    out(e, DISK + DEVICE, 0xe0);
    read_data(e, DISK, buf, sizeof(buf));
    expect_sector(buf, 9);
}

/* ---- CD-ROM ---- */

static void packet(struct env *e, const uint8_t *p, uint16_t limit, uint8_t feature)
{
    out(e, CD + DEVICE, 0xa0);
    out(e, CD + ERROR, feature);
    out(e, CD + LBA1, (uint8_t)limit);
    out(e, CD + LBA2, (uint8_t)(limit >> 8));
    out(e, CD + STATUS, 0xa0);
    assert_int_equal(in(e, CD + STATUS) & (IDE_BSY | IDE_DRQ), IDE_DRQ);
    assert_int_equal(in(e, CD + COUNT), 1);
    for (unsigned i = 0; i < 12; i += 2)
        bus_port_write(e->bus, CD, 2, p[i] | p[i + 1] << 8);
}

static void test_packet_read_comes_in_blocks_of_the_limit(void **state)
{
    static const uint8_t read10[12] = { 0x28, 0, 0, 0, 0, 5, 0, 0, 2 };
    struct env *e = *state;
    uint8_t buf[2 * IDE_CD_BLOCK];

    packet(e, read10, 1024, 0);
    for (unsigned at = 0; at < sizeof(buf); at += 1024) {
        assert_int_equal(wait_idle(e, CD), IDE_DRDY | IDE_DSC | IDE_DRQ);
        assert_int_equal(in(e, CD + COUNT), 2);
        assert_int_equal(in(e, CD + LBA1) | in(e, CD + LBA2) << 8, 1024);
        read_data(e, CD, buf + at, 1024);
    }
    assert_int_equal(wait_idle(e, CD), IDE_DRDY | IDE_DSC);
    assert_int_equal(in(e, CD + COUNT), 3);
    assert_int_equal(e->nr_irqs[1], 5);
    for (unsigned n = 0; n < 8; n++)
        expect_sector(buf + n * IDE_BLOCK, 20 + n);
}

static void test_packet_capacity_and_toc_tell_the_disc(void **state)
{
    static const uint8_t capacity[12] = { 0x25 }, toc[12] = { 0x43, 0, 0, 0, 0, 0, 0, 0, 64 };
    struct env *e = *state;
    uint8_t buf[20];

    packet(e, capacity, 64, 0);
    assert_true(wait_idle(e, CD) & IDE_DRQ);
    read_data(e, CD, buf, 8);
    assert_memory_equal(buf, ((uint8_t[]){ 0, 0, 0, NR_BLOCKS - 1, 0, 0, 8, 0 }), 8);
    packet(e, toc, 64, 0);
    assert_true(wait_idle(e, CD) & IDE_DRQ);
    assert_int_equal(in(e, CD + LBA1), 20);
    read_data(e, CD, buf, 20);
    assert_int_equal(buf[1], 18);
    assert_int_equal(buf[14], 0xaa);
    assert_int_equal(buf[19], NR_BLOCKS);
}

static void test_packet_failure_is_told_by_sense(void **state)
{
    static const uint8_t bad[12] = { 0xff }, far[12] = { 0x28, 0, 0, 0, 0, NR_BLOCKS, 0, 0, 1 },
                         sense[12] = { 0x03, 0, 0, 0, 18 };
    static const struct {
        const uint8_t *p;
        uint8_t code;
    } cases[] = { { bad, 0x20 }, { far, 0x21 } };
    struct env *e = *state;
    uint8_t buf[18];

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        packet(e, cases[i].p, 2048, 0);
        assert_int_equal(wait_idle(e, CD), IDE_DRDY | IDE_DSC | IDE_ERR);
        assert_int_equal(in(e, CD + ERROR) >> 4, 5);
        packet(e, sense, 2048, 0);
        assert_true(wait_idle(e, CD) & IDE_DRQ);
        read_data(e, CD, buf, sizeof(buf));
        assert_int_equal(buf[2], 5);
        assert_int_equal(buf[12], cases[i].code);
        assert_int_equal(wait_idle(e, CD), IDE_DRDY | IDE_DSC);
    }
}

static void test_packet_read_by_dma(void **state)
{
    static const uint8_t read12[12] = { 0xa8, 0, 0, 0, 0, 1, 0, 0, 0, 1 };
    struct env *e = *state;

    put_prd(e, 0, 0x8000, IDE_CD_BLOCK | 0x80000000u);
    bus_port_write(e->bus, BM_PORT + 12, 4, TABLE);
    out(e, BM_PORT + 8, 8);
    packet(e, read12, 0, 1);
    out(e, BM_PORT + 8, 9);
    assert_int_equal(wait_idle(e, CD), IDE_DRDY | IDE_DSC);
    assert_int_equal(e->nr_irqs[1], 1);
    for (unsigned n = 0; n < 4; n++)
        expect_sector(slot_hva(e->ram, GPA(0x8000 + n * IDE_BLOCK)), 4 + n);
}

/* ---- saved state ---- */

/* To a device that was reset meanwhile, and has no request out. */
static void save_and_load(struct env *e)
{
    struct device *dev = &e->ide.pci.dev;
    size_t bytes = state_bytes(dev);
    uint8_t *buf = malloc(bytes);

    assert_non_null(buf);
    lock_take(bus_lock(e->bus));
    state_save(dev, buf);
    dev->type->reset(dev);
    while (e->ide.chans[0].in_flight)
        cond_wait(&e->ide.idle, bus_lock(e->bus));
    assert_int_equal(state_load(dev, buf, bytes, dev->type->version), 0);
    lock_drop(bus_lock(e->bus));
    free(buf);
}

/* Saved after each step, with the request still out or done. */
static void test_pio_read_goes_on_where_it_was_saved(void **state)
{
    struct env *e = *state;
    uint8_t buf[IDE_BLOCK];

    command(e, 0x20, 100, 200);
    for (unsigned n = 100; n < 300; n++) {
        save_and_load(e);
        assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC | IDE_DRQ);
        read_data(e, DISK, buf, 100);
        save_and_load(e);
        read_data(e, DISK, buf + 100, sizeof(buf) - 100);
        expect_sector(buf, n);
    }
    save_and_load(e);
    assert_int_equal(in(e, DISK + STATUS), IDE_DRDY | IDE_DSC);
}

static void test_saved_write_reaches_the_disk(void **state)
{
    struct env *e = *state;
    uint8_t buf[IDE_BLOCK];

    for (unsigned round = 0; round < 20; round++) {
        command(e, 0x30, round, 1);
        assert_true(wait_idle(e, DISK) & IDE_DRQ);
        for (unsigned i = 0; i < IDE_BLOCK; i += 2)
            bus_port_write(e->bus, DISK, 2, (uint64_t)round << 8 | i / 2);
        save_and_load(e);
        assert_int_equal(wait_idle(e, DISK), IDE_DRDY | IDE_DSC);
        command(e, 0x20, round, 1);
        assert_true(wait_idle(e, DISK) & IDE_DRQ);
        read_data(e, DISK, buf, sizeof(buf));
        for (unsigned i = 0; i < IDE_BLOCK; i += 2)
            assert_int_equal(buf[i] | buf[i + 1] << 8, round << 8 | i / 2);
    }
}

/* Whatever a state says: nothing outside buffer and disk is touched. */
static void test_loaded_nonsense_is_an_error_of_the_command(void **state)
{
    struct env *e = *state;
    struct ide_chan *c = &e->ide.chans[0];
    const struct ide_xfer nonsense[] = {
        { .at = 8, .end = IDE_BUF_BYTES + 1, .buf_bytes = IDE_BUF_BYTES },
        { .at = 2, .end = 1 },
        { .buf_bytes = IDE_BUF_BYTES + 1 },
        { .block_bytes = UINT32_MAX },
        { .at_bytes = NR_SECTORS * IDE_BLOCK, .left_bytes = 1 },
        { .left_bytes = UINT64_MAX, .at_bytes = 2 },
        { .is_write = true, .buf_bytes = IDE_BLOCK },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(nonsense); i++) {
        lock_take(bus_lock(e->bus));
        c->x = nonsense[i];
        c->drives[0].r.status = IDE_DRDY | IDE_DSC | IDE_DRQ;
        c->active_nr = 2;
        lock_drop(bus_lock(e->bus));
        save_and_load(e);
        assert_int_equal(in(e, DISK + STATUS), IDE_DRDY | IDE_DSC | IDE_ERR);
        assert_int_equal(in(e, DISK + ERROR), IDE_ABRT);
    }
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_signature_tells_disk_from_cdrom_and_from_nothing),
        TEST(test_identify_tells_model_and_size),
        TEST(test_pio_read_interrupts_once_a_sector),
        TEST(test_read_of_256_sectors_goes_over_several_buffers),
        TEST(test_pio_write_reaches_the_image),
        TEST(test_access_behind_the_end_is_not_found),
        TEST(test_write_to_a_readonly_image_is_aborted),
        TEST(test_unknown_command_is_aborted),
        TEST(test_interrupt_is_held_back_by_nien),
        TEST(test_dma_read_scatters_over_the_table),
        TEST(test_dma_write_gathers),
        TEST(test_short_table_stops_without_interrupt_and_reset_helps),
        TEST(test_table_outside_memory_stops),
        TEST(test_reset_during_a_request_waits_for_it),
        TEST(test_random_accesses_stay_in_bounds),
        TEST(test_switch_to_the_other_drive_in_a_transfer_moves_nothing),
        TEST(test_packet_read_comes_in_blocks_of_the_limit),
        TEST(test_packet_capacity_and_toc_tell_the_disc),
        TEST(test_packet_failure_is_told_by_sense),
        TEST(test_packet_read_by_dma),
        TEST(test_pio_read_goes_on_where_it_was_saved),
        TEST(test_saved_write_reaches_the_disk),
        TEST(test_loaded_nonsense_is_an_error_of_the_command),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
