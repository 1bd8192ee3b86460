/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's screen: the VGA, its video memory and video BIOS; and what is asked from outside: a
 * picture of it.
 *
 * The frame buffer's BAR moves while the guest runs; memory slots do not. So the move is posted to
 * the supervisor, which makes it when all vCPUs stand still. Lock-step has a copy of memory that is
 * made once: there the frame buffer stays parked and is reached by the VGA's handlers.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "dev/vga.h"
#include "vm/priv.h"

#define VGA_DEVFN     PCI_DEVFN(1, 0)
#define VGA_ROM_MAX   KIB(64)
#define VGA_ROM_UNIT  512u
#define VGA_ROM_MAGIC 0xaa55u

struct pc_display {
    struct vm *vm;
    struct vga vga;
    uint8_t rom[VGA_ROM_MAX];
    uint32_t rom_bytes; /* 0: there is none */
};

/* ---- where the frame buffer is ---- */

static void display_moved(void *ctx)
{
    struct pc_display *d = ctx;

    if (d->vm->cfg.lockstep.reference)
        return;
    run_post_remap(d->vm);
}

void pc_display_remap(struct pc_display *d)
{
    struct vm *vm = d->vm;
    gpa_t at;
    int err;

    lock_take(bus_lock(vm->bus));
    at = d->vga.lfb_at;
    lock_drop(bus_lock(vm->bus));
    if (at.v == LFB_NOWHERE.v)
        at = GPA(MMU_PARKED_AT);
    if (at.v == d->vga.slot->base.v)
        return;
    err = mmu_slot_move(vm->mmu, d->vga.slot, at);
    /* Over RAM or ROM: RAM and ROM it is, as on a machine whose BARs overlap them. */
    if (err)
        err = mmu_slot_move(vm->mmu, d->vga.slot, GPA(MMU_PARKED_AT));
    BUG_ON(err); /* nobody else is parked there */
    vm_state_changed(vm);
}

/* ---- life ---- */

/* The video BIOS is a courtesy: without it a guest that knows the card shows its picture still. */
static void display_read_rom(struct pc_display *d, const char *path)
{
    FILE *f = path ? fopen(path, "rbe") : NULL;
    size_t n = f ? fread(d->rom, 1, sizeof(d->rom), f) : 0;
    bool is_rom = n >= VGA_ROM_UNIT && n % VGA_ROM_UNIT == 0 &&
                  (d->rom[0] | d->rom[1] << 8) == VGA_ROM_MAGIC && fgetc(f) == EOF;

    if (f)
        (void)fclose(f); /* only read from */
    if (is_rom)
        d->rom_bytes = (uint32_t)n;
    else if (path)
        log_warn("'%s' is no video BIOS that can be read; the screen stays dark until a guest "
                 "switches it on by itself",
                 path);
}

static int display_init(struct pc_display *d, struct pci_host *pci_host)
{
    struct slot *slot;
    int err = mmu_slot_add(
        d->vm->mmu,
        &(struct slot_desc){ .name = "video", .base = GPA(MMU_PARKED_AT), .bytes = VGA_VRAM_BYTES },
        &slot);

    if (err)
        return err;
    display_read_rom(d, d->vm->cfg.vga_bios);
    return vga_init(&d->vga, &(struct vga_config){
                                 .host = pci_host,
                                 .devfn = VGA_DEVFN,
                                 .vram = slot,
                                 .rom = d->rom_bytes ? d->rom : NULL,
                                 .rom_bytes = d->rom_bytes,
                                 .moved = display_moved,
                                 .moved_ctx = d,
                             });
}

struct pc_display *pc_display_create(struct vm *vm, struct pci_host *pci_host)
{
    struct pc_display *d = calloc(1, sizeof(*d));

    if (!d) {
        log_error("out of memory for the screen");
        return NULL;
    }
    d->vm = vm;
    if (display_init(d, pci_host) < 0) {
        pc_display_destroy(d);
        return NULL;
    }
    return d;
}

void pc_display_destroy(struct pc_display *d)
{
    if (!d)
        return;
    if (d->vga.pci.dev.bus)
        vga_fini(&d->vga);
    free(d);
}

/* ---- asked from outside ---- */

/*
 * Of a copy of the registers, so that no vCPU waits until a large picture is drawn; video memory
 * is the guest's to change at any time.
 */
int vm_screen(struct vm *vm, struct picture *pic)
{
    struct pc_display *d = pc_display(vm->pc);
    struct vga *now;
    int err;

    if (!d)
        return -ENODEV;
    now = malloc(sizeof(*now));
    if (!now)
        return -ENOMEM;
    lock_take(bus_lock(vm->bus));
    *now = d->vga;
    lock_drop(bus_lock(vm->bus));
    err = vga_draw(now, pic);
    free(now);
    return err;
}

char *vm_screen_text(struct vm *vm)
{
    struct pc_display *d = pc_display(vm->pc);
    char *text;

    if (!d)
        return NULL;
    lock_take(bus_lock(vm->bus));
    text = vga_text(&d->vga);
    lock_drop(bus_lock(vm->bus));
    return text;
}

int vm_key(struct vm *vm, const uint8_t *code, unsigned nr)
{
    int err;

    lock_take(bus_lock(vm->bus));
    err = pc_key(vm->pc, code, nr);
    lock_drop(bus_lock(vm->bus));
    return err;
}

void vm_pointer(struct vm *vm, int dx, int dy, int dz, uint8_t buttons)
{
    lock_take(bus_lock(vm->bus));
    pc_pointer(vm->pc, dx, dy, dz, buttons);
    lock_drop(bus_lock(vm->bus));
}
