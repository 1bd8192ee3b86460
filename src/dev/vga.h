/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VGA with the Bochs extensions: a PCI function 1234:1111 that text mode, the 16- and 256-colour
 * modes of a VGA, and linear frame buffers of up to 32 bits a pixel are on.
 *
 * vga.c: the function, its ports and where its memory is seen. vga_regs.c: the VGA's registers.
 * vga_mem.c: the window at A0000h with its planes. vga_vbe.c: the Bochs registers. vga_draw.c: from
 * all this to a picture.
 *
 * Video memory is a memory slot, so that the frame buffer is as fast as RAM: the slot is parked
 * where no guest address reaches, and is brought to BAR 0 when all vCPUs stand still. Until then
 * accesses come to the function's handlers, which do the same, slowly.
 */
#ifndef DEV_VGA_H
#define DEV_VGA_H

#include "dev/pci.h"
#include "mmu/mmu.h"

#define VGA_VRAM_BYTES MIB(16)
#define VGA_NR_SEQ     8u
#define VGA_NR_GR      16u
#define VGA_NR_CRTC    0x20u
#define VGA_NR_ATTR    0x20u

/* Bochs VBE registers ("VBE Display Interface", VBE_DISPI_INDEX_...) */
enum {
    VBE_ID,
    VBE_XRES,
    VBE_YRES,
    VBE_BPP,
    VBE_ENABLE,
    VBE_BANK,
    VBE_VIRT_WIDTH,
    VBE_VIRT_HEIGHT,
    VBE_X_OFFSET,
    VBE_Y_OFFSET,
    VBE_MEMORY_64K,
    NR_VBE_REGS
};
#define VBE_ENABLED   BIT(0)
#define VBE_GET_CAPS  BIT(1)
#define VBE_8BIT_DAC  BIT(5)
#define VBE_LFB       BIT(6)
#define VBE_KEEP_VRAM BIT(7)

struct vga {
    struct pci_dev pci;
    uint8_t *vram; /* VGA_VRAM_BYTES; planar: byte o of plane p is at 4 * o + p */
    struct slot *slot;
    void (*moved)(void *ctx);
    void *moved_ctx;
    gpa_t lfb_at; /* where BAR 0 wants it; LFB_NOWHERE: nowhere */

    uint8_t misc, seq_idx, gr_idx, crtc_idx, attr_idx, pel_mask;
    bool attr_data; /* the next write to 3C0h is data */
    uint8_t seq[VGA_NR_SEQ], gr[VGA_NR_GR], crtc[VGA_NR_CRTC], attr[VGA_NR_ATTR];
    uint8_t dac[256][3];
    uint8_t dac_read_at, dac_write_at, dac_part, dac_state;
    uint8_t latch[4];
    uint8_t vbe_low; /* the first half of a write */
    uint16_t vbe_idx, vbe[NR_VBE_REGS];
};

#define LFB_NOWHERE GPA(UINT64_MAX)

struct vga_config {
    struct pci_host *host;
    uint8_t devfn;
    struct slot *vram; /* VGA_VRAM_BYTES, parked */
    /* The video BIOS, for the expansion ROM; a multiple of 512 bytes, at most 64 KB. Or NULL. */
    const uint8_t *rom;
    uint32_t rom_bytes;
    /* lfb_at has changed: the slot should be moved when all stand still. Machine lock held. */
    void (*moved)(void *ctx);
    void *moved_ctx;
};

int vga_init(struct vga *v, const struct vga_config *cfg) MUST_CHECK;
void vga_fini(struct vga *v);

/* ---- what is to be seen; machine lock held ---- */
struct picture {
    unsigned width, height;
    uint32_t *pixels; /* 0x00RRGGBB, by rows; malloc'ed, the caller's */
};
/* -ENOMEM. A mode that shows nothing gives a black picture. */
int vga_draw(const struct vga *v, struct picture *pic) MUST_CHECK;
/* In text mode what is on the screen, lines without trailing blanks, in ASCII; malloc'ed. NULL: not
 * in text mode, or out of memory. */
char *vga_text(const struct vga *v);

/* ---- between the files of VGA ---- */
static inline bool vga_vbe_on(const struct vga *v)
{
    return v->vbe[VBE_ENABLE] & VBE_ENABLED;
}
void vga_regs_reset(struct vga *v);
uint8_t vga_port_read(struct vga *v, uint16_t port);
void vga_port_write(struct vga *v, uint16_t port, uint8_t val);
uint8_t vga_window_read(struct vga *v, uint32_t off_bytes); /* from A0000h on */
void vga_window_write(struct vga *v, uint32_t off_bytes, uint8_t val);
void vga_vbe_reset(struct vga *v);
void vga_vbe_loaded(struct vga *v); /* puts right what a strange state may say */
uint16_t vga_vbe_read(const struct vga *v);
void vga_vbe_write(struct vga *v, uint16_t val);

#endif
