/* SPDX-License-Identifier: Apache-2.0 */
/* The VGA as software uses it: text, planes, linear modes, and where its frame buffer is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "dev/fakeclock.h"
#include "dev/vga.h"

#define DEVFN  PCI_DEVFN(1, 0)
#define LFB_AT 0xd0000000u
#define REG_AT 0xd1000000u
#define ROM_AT 0xd2000000u

struct env {
    struct bus *bus;
    struct pci_host host;
    struct mmu *mmu;
    struct slot *vram;
    struct vga vga;
    uint8_t rom[1024];
    unsigned nr_moved;
};

static void env_moved(void *ctx)
{
    ((struct env *)ctx)->nr_moved++;
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    log_set_level(LOG_ERROR - 1);
    e->bus = bus_create();
    assert_int_equal(pci_host_init(&e->host, &(struct pci_host_config){ .bus = e->bus,
                                                                        .ecam_at = GPA(GIB(3)),
                                                                        .ecam_bytes = MIB(16),
                                                                        .intx_gsi = 16 }),
                     0);
    e->mmu = mmu_create();
    assert_int_equal(mmu_slot_add(e->mmu,
                                  &(struct slot_desc){ .name = "video",
                                                       .base = GPA(MMU_PARKED_AT),
                                                       .bytes = VGA_VRAM_BYTES },
                                  &e->vram),
                     0);
    e->rom[0] = 0x55;
    e->rom[1] = 0xaa;
    e->rom[1023] = 0x77;
    assert_int_equal(vga_init(&e->vga, &(struct vga_config){ .host = &e->host,
                                                             .devfn = DEVFN,
                                                             .vram = e->vram,
                                                             .rom = e->rom,
                                                             .rom_bytes = sizeof(e->rom),
                                                             .moved = env_moved,
                                                             .moved_ctx = e }),
                     0);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    vga_fini(&e->vga);
    mmu_destroy(e->mmu);
    pci_host_fini(&e->host);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

static void config(struct env *e, unsigned reg, uint32_t val)
{
    bus_port_write(e->bus, 0xcf8, 4, 0x80000000u | DEVFN << 8 | reg);
    bus_port_write(e->bus, 0xcfc, 4, val);
}

static void indexed(struct env *e, uint16_t port, uint8_t idx, uint8_t val)
{
    bus_port_write(e->bus, port, 2, idx | val << 8);
}

static void attribute(struct env *e, uint8_t idx, uint8_t val)
{
    (void)bus_port_read(e->bus, 0x3da, 1);
    bus_port_write(e->bus, 0x3c0, 1, idx);
    bus_port_write(e->bus, 0x3c0, 1, val);
    bus_port_write(e->bus, 0x3c0, 1, 0x20);
}

static void vbe(struct env *e, uint16_t idx, uint16_t val)
{
    bus_port_write(e->bus, 0x1ce, 2, idx);
    bus_port_write(e->bus, 0x1cf, 2, val);
}

static uint16_t vbe_get(struct env *e, uint16_t idx)
{
    bus_port_write(e->bus, 0x1ce, 2, idx);
    return (uint16_t)bus_port_read(e->bus, 0x1d0, 2);
}

/* 80 x 25 characters of 9 x 16 dots, as a video BIOS sets them. */
static void text_mode(struct env *e)
{
    static const uint8_t seq[] = { 3, 0, 3, 0, 2 }, gr[] = { 0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff };

    bus_port_write(e->bus, 0x3c2, 1, 0x67);
    for (unsigned i = 0; i < sizeof(seq); i++)
        indexed(e, 0x3c4, (uint8_t)i, seq[i]);
    for (unsigned i = 0; i < sizeof(gr); i++)
        indexed(e, 0x3ce, (uint8_t)i, gr[i]);
    indexed(e, 0x3d4, 0x01, 79);
    indexed(e, 0x3d4, 0x07, 0x1f);
    indexed(e, 0x3d4, 0x09, 0x4f);
    indexed(e, 0x3d4, 0x0a, 0x20); /* no cursor */
    indexed(e, 0x3d4, 0x12, 0x8f);
    indexed(e, 0x3d4, 0x13, 40);
    for (uint8_t i = 0; i < 16; i++)
        attribute(e, i, i);
    bus_port_write(e->bus, 0x3c8, 1, 0);
    for (unsigned i = 0; i < 3 * 16; i++)
        bus_port_write(e->bus, 0x3c9, 1, i / 3);
}

static void test_text_is_read_from_the_screen(void **state)
{
    struct env *e = *state;
    static const char words[] = "two words";
    char *text;

    assert_null(vga_text(&e->vga));
    text_mode(e);
    for (unsigned i = 0; i < sizeof(words) - 1; i++)
        bus_mmio_write(e->bus, GPA(0xb8000 + 160 + 2 * i), 2, (uint8_t)words[i] | 0x0700);
    bus_mmio_write(e->bus, GPA(0xb8000 + 320), 2, 0x07c4);
    text = vga_text(&e->vga);
    assert_non_null(text);
    assert_memory_equal(text, "\ntwo words\n-\n\n", 14);
    free(text);
}

static void test_text_is_drawn_by_font_and_palette(void **state)
{
    struct env *e = *state;
    struct picture pic;

    text_mode(e);
    /* The font is in plane 2: line 3 of 'A' is a left half. */
    indexed(e, 0x3c4, 2, 4);
    indexed(e, 0x3c4, 4, 6);
    indexed(e, 0x3ce, 6, 0);
    indexed(e, 0x3ce, 5, 0);
    bus_mmio_write(e->bus, GPA(0xa0000 + 'A' * 32 + 3), 1, 0xf0);
    text_mode(e);
    bus_mmio_write(e->bus, GPA(0xb8000), 2, 'A' | 0x1f00); /* colour 15 on 1 */
    assert_int_equal(vga_draw(&e->vga, &pic), 0);
    assert_int_equal(pic.width, 720);
    assert_int_equal(pic.height, 400);
    for (unsigned x = 0; x < 9; x++)
        assert_int_equal(pic.pixels[3 * 720 + x], x < 4 ? 0x3c3c3c : 0x040404);
    assert_int_equal(pic.pixels[2 * 720], 0x040404);
    free(pic.pixels);
}

static void test_write_modes_go_through_latches(void **state)
{
    struct env *e = *state;
    const uint8_t *plane = e->vram->hva + 4 * 0x100;

    indexed(e, 0x3c4, 4, 6);
    indexed(e, 0x3ce, 6, 5);
    indexed(e, 0x3c4, 2, 0xf);
    /* Mode 0: set/reset in planes 0 and 2, the bit mask keeps the rest from the latches. */
    indexed(e, 0x3ce, 8, 0xff);
    bus_mmio_write(e->bus, GPA(0xa0100), 1, 0x55);
    assert_memory_equal(plane, "\x55\x55\x55\x55", 4);
    (void)bus_mmio_read(e->bus, GPA(0xa0100), 1);
    indexed(e, 0x3ce, 0, 4);
    indexed(e, 0x3ce, 1, 5);
    indexed(e, 0x3ce, 8, 0x0f);
    bus_mmio_write(e->bus, GPA(0xa0100), 1, 0xaa);
    assert_memory_equal(plane, "\x50\x5a\x5f\x5a", 4);
    /* Mode 1 copies the latches; mode 2 takes a colour. */
    (void)bus_mmio_read(e->bus, GPA(0xa0100), 1);
    indexed(e, 0x3ce, 5, 1);
    bus_mmio_write(e->bus, GPA(0xa0101), 1, 0);
    assert_memory_equal(plane + 4, "\x50\x5a\x5f\x5a", 4);
    indexed(e, 0x3ce, 5, 2);
    indexed(e, 0x3ce, 8, 0xff);
    bus_mmio_write(e->bus, GPA(0xa0102), 1, 0x9);
    assert_memory_equal(plane + 8, "\xff\x00\x00\xff", 4);
    /* Read mode 1: where the colour is 9. */
    indexed(e, 0x3ce, 5, 8);
    indexed(e, 0x3ce, 2, 9);
    indexed(e, 0x3ce, 7, 0xf);
    assert_int_equal(bus_mmio_read(e->bus, GPA(0xa0102), 1), 0xff);
    assert_int_equal(bus_mmio_read(e->bus, GPA(0xa0103), 1), 0);
}

static void test_linear_mode_is_drawn_from_the_frame_buffer(void **state)
{
    struct env *e = *state;
    struct picture pic;

    assert_int_equal(vbe_get(e, VBE_ID), 0xb0c5);
    vbe(e, VBE_XRES, 640);
    vbe(e, VBE_YRES, 480);
    vbe(e, VBE_BPP, 32);
    vbe(e, VBE_ENABLE, VBE_ENABLED | VBE_LFB);
    config(e, PCI_BAR0, LFB_AT);
    config(e, PCI_COMMAND, PCI_COMMAND_MEM);
    /* No slot is there: the handlers do it. */
    bus_mmio_write(e->bus, GPA(LFB_AT + 4 * (640 * 2 + 3)), 4, 0xff123456);
    vbe(e, VBE_BANK, 0);
    bus_mmio_write(e->bus, GPA(0xa0000 + 4 * 5), 4, 0x00654321);
    assert_int_equal(vga_draw(&e->vga, &pic), 0);
    assert_int_equal(pic.width, 640);
    assert_int_equal(pic.height, 480);
    assert_int_equal(pic.pixels[640 * 2 + 3], 0x123456);
    assert_int_equal(pic.pixels[5], 0x654321);
    free(pic.pixels);
}

/* Loads what is there after somebody has changed it. */
static void load_again(struct env *e)
{
    size_t bytes = state_bytes(&e->vga.pci.dev);
    void *buf = malloc(bytes);

    assert_non_null(buf);
    state_save(&e->vga.pci.dev, buf);
    assert_int_equal(state_load(&e->vga.pci.dev, buf, bytes, 1), 0);
    free(buf);
}

static void test_loaded_nonsense_stays_in_video_memory(void **state)
{
    static const struct {
        unsigned reg;
        uint16_t val;
    } cases[] = { { VBE_VIRT_WIDTH, 0xffff }, { VBE_BPP, 7 },         { VBE_XRES, 0 },
                  { VBE_X_OFFSET, 1 },        { VBE_Y_OFFSET, 9999 }, { VBE_VIRT_HEIGHT, 0xffff } };
    struct env *e = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        vbe(e, VBE_ENABLE, 0);
        vbe(e, VBE_XRES, 2560);
        vbe(e, VBE_YRES, 1600);
        vbe(e, VBE_BPP, 32);
        vbe(e, VBE_ENABLE, VBE_ENABLED);
        load_again(e);
        assert_true(vga_vbe_on(&e->vga));
        e->vga.vbe[cases[i].reg] = cases[i].val;
        e->vga.vbe[VBE_BANK] = 0xffff;
        e->vga.dac_part = 255;
        load_again(e);
        assert_false(vga_vbe_on(&e->vga));
        assert_true(e->vga.dac_part < 3);
        assert_int_equal(e->vga.vbe[VBE_BANK], 0);
    }
}

static void test_mode_that_does_not_fit_is_refused(void **state)
{
    static const struct {
        uint16_t x, y, bpp;
    } cases[] = { { 0, 480, 32 }, { 640, 0, 32 }, { 640, 480, 13 }, { 2560, 1600, 0xffff } };
    struct env *e = *state;
    struct picture pic;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        vbe(e, VBE_XRES, cases[i].x);
        vbe(e, VBE_YRES, cases[i].y);
        vbe(e, VBE_BPP, cases[i].bpp);
        vbe(e, VBE_ENABLE, VBE_ENABLED);
        assert_int_equal(vbe_get(e, VBE_ENABLE) & VBE_ENABLED, 0);
    }
    /* Panning stays inside memory. */
    vbe(e, VBE_XRES, 2560);
    vbe(e, VBE_YRES, 1600);
    vbe(e, VBE_BPP, 32);
    vbe(e, VBE_ENABLE, VBE_ENABLED);
    vbe(e, VBE_Y_OFFSET, 1000);
    vbe(e, VBE_X_OFFSET, 1);
    vbe(e, VBE_VIRT_WIDTH, 0xffff);
    vbe(e, VBE_ENABLE, 0);
    vbe(e, VBE_YRES, 600);
    vbe(e, VBE_XRES, 800);
    vbe(e, VBE_ENABLE, VBE_ENABLED);
    vbe(e, VBE_Y_OFFSET, 4000);
    vbe(e, VBE_VIRT_WIDTH, 6000); /* fewer lines than that now */
    assert_int_equal(vga_draw(&e->vga, &pic), 0);
    free(pic.pixels);
    vbe(e, VBE_X_OFFSET, 5000);
    vbe(e, VBE_VIRT_WIDTH, 800);
    assert_int_equal(vga_draw(&e->vga, &pic), 0);
    free(pic.pixels);
    vbe(e, VBE_ENABLE, 0);
    vbe(e, VBE_XRES, 2560);
    vbe(e, VBE_YRES, 1600);
    vbe(e, VBE_ENABLE, VBE_ENABLED);
    assert_int_equal(vga_draw(&e->vga, &pic), 0);
    assert_int_equal(pic.height, 1600);
    free(pic.pixels);
}

/* 320 x 200 in four colours, and 640 x 200 in two: odd lines are 8 KB behind the even ones. */
static void test_cga_modes_have_their_odd_lines_apart(void **state)
{
    struct env *e = *state;
    struct picture pic;

    text_mode(e);
    indexed(e, 0x3c4, 2, 0xf);
    indexed(e, 0x3ce, 5, 0x30);
    indexed(e, 0x3ce, 6, 0x0f);
    indexed(e, 0x3d4, 0x01, 39);
    indexed(e, 0x3d4, 0x09, 0xc1);
    indexed(e, 0x3d4, 0x13, 20);
    indexed(e, 0x3d4, 0x17, 0xa2);
    attribute(e, 0x12, 3);
    bus_mmio_write(e->bus, GPA(0xb8000 + 1), 1, 0x1b);
    bus_mmio_write(e->bus, GPA(0xb8000 + 0x2000), 1, 0xe4);
    bus_mmio_write(e->bus, GPA(0xb8000 + 80), 1, 0xc0);
    assert_int_equal(vga_draw(&e->vga, &pic), 0);
    assert_int_equal(pic.width, 320);
    assert_int_equal(pic.height, 200);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(pic.pixels[4 + i], i * 0x040404);
        assert_int_equal(pic.pixels[320 + i], (3 - i) * 0x040404);
    }
    assert_int_equal(pic.pixels[2 * 320], 3 * 0x040404);
    free(pic.pixels);

    indexed(e, 0x3c4, 4, 6);
    indexed(e, 0x3ce, 5, 0);
    indexed(e, 0x3ce, 6, 0x0d);
    indexed(e, 0x3d4, 0x01, 79);
    indexed(e, 0x3d4, 0x13, 40);
    indexed(e, 0x3d4, 0x17, 0xc2);
    attribute(e, 0x12, 1);
    bus_mmio_write(e->bus, GPA(0xb8000 + 0x2000 + 79), 1, 0x01);
    assert_int_equal(vga_draw(&e->vga, &pic), 0);
    assert_int_equal(pic.width, 640);
    assert_int_equal(pic.height, 200);
    assert_int_equal(pic.pixels[640 + 639], 0x040404);
    assert_int_equal(pic.pixels[640 + 638], 0);
    free(pic.pixels);
}

static void test_any_registers_give_a_picture(void **state)
{
    struct env *e = *state;
    uint64_t x = 0x9e3779b97f4a7c15ull;

    for (unsigned round = 0; round < 60; round++) {
        struct picture pic;

        for (unsigned i = 0; i < 64; i++) {
            static const uint16_t ports[] = { 0x3c4, 0x3ce, 0x3d4, 0x3c0, 0x3c2 };

            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            bus_port_write(e->bus, ports[x % 5], 2, x >> 16 & 0xff1f);
        }
        assert_int_equal(vga_draw(&e->vga, &pic), 0);
        free(pic.pixels);
        free(vga_text(&e->vga));
    }
}

static void test_frame_buffer_moves_are_told(void **state)
{
    struct env *e = *state;

    config(e, PCI_BAR0, LFB_AT);
    assert_int_equal(e->nr_moved, 0);
    config(e, PCI_COMMAND, PCI_COMMAND_MEM);
    assert_int_equal(e->nr_moved, 1);
    assert_int_equal(e->vga.lfb_at.v, LFB_AT);
    config(e, PCI_COMMAND, 0);
    assert_int_equal(e->nr_moved, 2);
    assert_int_equal(e->vga.lfb_at.v, LFB_NOWHERE.v);
}

static void test_registers_and_rom_are_in_memory(void **state)
{
    struct env *e = *state;

    config(e, PCI_BAR0 + 8, REG_AT);
    config(e, PCI_ROM, ROM_AT | 1);
    config(e, PCI_COMMAND, PCI_COMMAND_MEM);
    bus_mmio_write(e->bus, GPA(REG_AT + 0x500 + 2 * VBE_XRES), 2, 800);
    assert_int_equal(vbe_get(e, VBE_XRES), 800);
    assert_int_equal(bus_mmio_read(e->bus, GPA(REG_AT + 0x500), 2), 0xb0c5);
    bus_mmio_write(e->bus, GPA(REG_AT + 0x402), 1, 0x67);
    assert_int_equal(bus_port_read(e->bus, 0x3cc, 1), 0x67);
    assert_int_equal(bus_mmio_read(e->bus, GPA(ROM_AT), 2), 0xaa55);
    assert_int_equal(bus_mmio_read(e->bus, GPA(ROM_AT + 1023), 1), 0x77);
    assert_int_equal(bus_mmio_read(e->bus, GPA(ROM_AT + 1024), 1), 0xff);
    config(e, PCI_ROM, ROM_AT);
    assert_int_equal(bus_mmio_read(e->bus, GPA(ROM_AT), 2), 0xffff);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_text_is_read_from_the_screen),
        TEST(test_text_is_drawn_by_font_and_palette),
        TEST(test_write_modes_go_through_latches),
        TEST(test_linear_mode_is_drawn_from_the_frame_buffer),
        TEST(test_loaded_nonsense_stays_in_video_memory),
        TEST(test_mode_that_does_not_fit_is_refused),
        TEST(test_cga_modes_have_their_odd_lines_apart),
        TEST(test_any_registers_give_a_picture),
        TEST(test_frame_buffer_moves_are_told),
        TEST(test_registers_and_rom_are_in_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
