/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fw_cfg device and what is in it: how much memory and how many CPUs there are, and for a
 * machine that boots by firmware the tables, the boot order and the console.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/fwcfg.h"
#include "dev/pci.h"
#include "dev/uart.h"
#include "vm/priv.h"

#define IDE_DRIVES_A_CHANNEL 2
#define IDE_FIRST_CD         2

#define PATH_BYTES 64

struct pc_firmware {
    struct vm *vm;
    const struct pci_host *pci_host;
    const struct pc_virtio *virtio;
    struct fwcfg fwcfg;
};

/* ---- tables ---- */

/* Where the guest put the configuration space; where it cannot be, the tables say the usual. */
static gpa_t firmware_ecam(const struct pc_firmware *f)
{
    uint64_t at = f->pci_host->ecam_at.v;
    bool is_sane =
        f->pci_host->ecam_on && at > PC_LOW_RAM_MAX && at <= PC_IOAPIC_AT - PC_ECAM_BYTES;

    return GPA(is_sane ? at : PC_ECAM_AT);
}

/*
 * The ACPI tables depend on what the firmware has configured meanwhile: they are made again when it
 * begins to read a file.
 */
static void firmware_selecting(void *ctx, uint16_t key)
{
    struct pc_firmware *f = ctx;
    struct boot_files files;

    if (key < FWCFG_FILE_FIRST)
        return;
    if (!boot_files(&files, &f->vm->cfg.boot, firmware_ecam(f)))
        for (unsigned i = 0; i < files.nr; i++)
            BUG_ON(fwcfg_change_file(&f->fwcfg, files.f[i].name, files.f[i].data,
                                     files.f[i].bytes) < 0);
    boot_files_free(&files);
}

static int firmware_add_tables(struct pc_firmware *f)
{
    struct boot_files files;
    int rc = boot_files(&files, &f->vm->cfg.boot, GPA(PC_ECAM_AT));

    for (unsigned i = 0; i < files.nr && !rc; i++)
        rc = fwcfg_add_file(&f->fwcfg, files.f[i].name, files.f[i].data, files.f[i].bytes);
    boot_files_free(&files);
    f->fwcfg.selecting = firmware_selecting;
    f->fwcfg.selecting_ctx = f;
    return rc;
}

/* ---- boot order ---- */

int vm_ide_slot(const struct vm_config *cfg, unsigned idx)
{
    int slot = cfg->disks[idx].is_cd ? IDE_FIRST_CD : 0, nr = 0;

    if (cfg->disks[idx].transport != VM_TRANSPORT_IDE)
        return -1;
    for (unsigned i = 0; i < idx; i++)
        nr += cfg->disks[i].transport == VM_TRANSPORT_IDE &&
              cfg->disks[i].is_cd == cfg->disks[idx].is_cd;
    return nr < IDE_DRIVES_A_CHANNEL ? slot + nr : VM_DISKS_MAX;
}

/*
 * A device's path as Open Firmware writes it. Firmware knows a drive by its controller's place on
 * the PCI bus and, on IDE, its channel and its number there. False: firmware cannot boot from it.
 */
static bool firmware_disk_path(const struct pc_firmware *f, unsigned idx, char *path, size_t bytes)
{
    int slot = vm_ide_slot(&f->vm->cfg, idx), devfn = pc_virtio_disk_devfn(f->virtio, idx);

    if (slot >= 0)
        (void)snprintf(path, bytes, "/pci@i0cf8/ide@%x,%x/drive@%x/disk@%x\n", PC_IDE_DEVFN >> 3,
                       PC_IDE_DEVFN & 7, slot / IDE_DRIVES_A_CHANNEL, slot % IDE_DRIVES_A_CHANNEL);
    else if (devfn >= 0)
        (void)snprintf(path, bytes, "/pci@i0cf8/scsi@%x/disk@0,0\n", devfn >> 3);
    return slot >= 0 || devfn >= 0;
}

/* "bootorder": a path a line, in the order of --boot's words; all disks of a kind by number. */
static int firmware_add_boot_order(struct pc_firmware *f)
{
    const struct vm_config *cfg = &f->vm->cfg;
    char text[VM_DISKS_MAX * PATH_BYTES] = "", path[PATH_BYTES];

    for (const char *word = cfg->boot_order; word && *word;) {
        bool is_cd = !strncmp(word, "cdrom", 5);

        for (unsigned i = 0; i < cfg->nr_disks; i++)
            if (cfg->disks[i].is_cd == is_cd && firmware_disk_path(f, i, path, sizeof(path)) &&
                strlen(text) + strlen(path) < sizeof(text))
                strcat(text, path); /* NOLINT: it fits */
        word += strcspn(word, ",");
        word += *word == ',';
    }
    return *text ? fwcfg_add_file(&f->fwcfg, "bootorder", text, (uint32_t)strlen(text) + 1) : 0;
}

/* ---- the rest ---- */

/* Without a screen SeaBIOS and what it boots have the serial port for one. */
static int firmware_add_serial_console(struct pc_firmware *f)
{
    static const uint64_t port = UART_COM1_PORT;

    return fwcfg_add_file(&f->fwcfg, "etc/sercon-port", &port, sizeof(port));
}

static int firmware_add_items(struct pc_firmware *f)
{
    const struct boot_config *boot = &f->vm->cfg.boot;
    int rc = fwcfg_add_u64(&f->fwcfg, FWCFG_RAM_BYTES, boot->ram_bytes);

    if (!rc)
        rc = fwcfg_add_u16(&f->fwcfg, FWCFG_NR_CPUS, (uint16_t)boot->nr_cpus);
    if (!rc)
        rc = fwcfg_add_u16(&f->fwcfg, FWCFG_MAX_CPUS, (uint16_t)boot->nr_cpus);
    if (rc || !boot->firmware)
        return rc;
    rc = firmware_add_tables(f);
    if (!rc)
        rc = firmware_add_boot_order(f);
    if (!rc && !f->vm->cfg.vga)
        rc = firmware_add_serial_console(f);
    return rc;
}

void pc_firmware_destroy(struct pc_firmware *f)
{
    if (!f)
        return;
    fwcfg_fini(&f->fwcfg);
    free(f);
}

struct pc_firmware *pc_firmware_create(struct vm *vm, struct pci_host *pci_host,
                                       const struct pc_virtio *pv, struct dma *dma)
{
    struct pc_firmware *f = calloc(1, sizeof(*f));

    if (!f) {
        log_error("out of memory for the firmware configuration device");
        return NULL;
    }
    f->vm = vm;
    f->pci_host = pci_host;
    f->virtio = pv;
    if (fwcfg_init(&f->fwcfg, vm->bus, PC_FW_CFG_PORT, dma) < 0 || firmware_add_items(f) < 0) {
        pc_firmware_destroy(f);
        return NULL;
    }
    return f;
}
