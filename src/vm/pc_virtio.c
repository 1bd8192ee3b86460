/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's virtio devices: which there are, and over which transport each is reached. PCI
 * functions from device 3 on, or pages of registers in the gap behind the I/O APIC.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/fs.h"
#include "virtio/mem.h"
#include "virtio/mmio.h"
#include "virtio/net.h"
#include "virtio/pci.h"
#include "virtio/pmem.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"
#include "vm/priv.h"

#define DISK_QUEUES_MAX  8u /* unless the user wants more */
#define FIRST_PCI_DEVICE 3u /* firmware and guests expect bridge and display before */
#define LAST_PCI_DEVICE  30u

/* A device with its transport. */
struct pc_virtio_slot {
    enum vm_transport transport;
    struct virtio_mmio mmio;
    struct virtio_pci pci;
};

struct pc_virtio {
    struct vm *vm;
    struct pci_host *pci_host;
    struct irq_shared mmio_irq[PC_VIRTIO_NR_GSIS];
    struct pc_virtio_slot slots[PC_VIRTIO_MAX];
    unsigned nr_slots, nr_mmio, nr_pci;

    struct virtio_blk *disks[VM_DISKS_MAX]; /* by their number in vm_config; NULL: IDE */
    unsigned disk_device[VM_DISKS_MAX];     /* on the PCI bus; 0: it is not there */
    unsigned nr_disks;
    struct virtio_net nets[VM_NETS_MAX];
    struct virtio_fs shares[VM_SHARES_MAX];
    struct virtio_rng rng;
    struct virtio_balloon balloon;
    struct virtio_vsock vsock;
    struct virtio_console console;
    struct virtio_pmem pmems[VM_PMEMS_MAX];
    struct virtio_mem mem;
};

/* ---- transports ---- */

static int pc_virtio_add_pci(struct pc_virtio *pv, struct pc_virtio_slot *s, struct virtio *vd)
{
    unsigned dev = FIRST_PCI_DEVICE + pv->nr_pci;

    if (dev > LAST_PCI_DEVICE) {
        log_error("%s: no room for more than %u virtio devices on the PCI bus", vd->name,
                  pv->nr_pci);
        return -ENOSPC;
    }
    pv->nr_pci++;
    return virtio_pci_init(&s->pci, pv->pci_host, PCI_DEVFN(dev, 0), vd);
}

static int pc_virtio_add_mmio(struct pc_virtio *pv, struct pc_virtio_slot *s, struct virtio *vd)
{
    unsigned idx = pv->nr_mmio;
    int err =
        virtio_mmio_init(&s->mmio, &(struct virtio_mmio_config){
                                       .vd = vd,
                                       .at = GPA(PC_VIRTIO_MMIO_AT + idx * PC_VIRTIO_MMIO_BYTES),
                                       .irq = &pv->mmio_irq[idx % PC_VIRTIO_NR_GSIS],
                                   });

    if (!err)
        pv->nr_mmio++;
    return err;
}

static int pc_virtio_add(struct pc_virtio *pv, struct virtio *vd, enum vm_transport transport)
{
    struct pc_virtio_slot *s = &pv->slots[pv->nr_slots];
    int err;

    if (pv->nr_slots == PC_VIRTIO_MAX) {
        log_error("%s: more than %u virtio devices", vd->name, PC_VIRTIO_MAX);
        return -ENOSPC;
    }
    s->transport = transport;
    if (transport == VM_TRANSPORT_MMIO)
        err = pc_virtio_add_mmio(pv, s, vd);
    else
        err = pc_virtio_add_pci(pv, s, vd);
    if (!err)
        pv->nr_slots++;
    return err;
}

/* ---- devices: making one may fail, with a message ---- */

static int pc_virtio_add_disks(struct pc_virtio *pv)
{
    const struct vm_config *cfg = &pv->vm->cfg;
    int err = 0;

    for (unsigned i = 0; i < cfg->nr_disks && !err; i++) {
        const struct vm_disk *d = &cfg->disks[i];
        struct virtio_blk *b;

        if (d->transport == VM_TRANSPORT_IDE)
            continue;
        b = virtio_blk_create(&(struct blk_config){
            .bus = pv->vm->bus,
            .mmu = pv->vm->mmu,
            .store = d->store,
            .serial = d->serial,
            .nr_queues = d->nr_queues ? d->nr_queues : MIN(cfg->boot.nr_cpus, DISK_QUEUES_MAX),
            .limits = { .requests_per_s = d->requests_per_s, .bytes_per_s = d->bytes_per_s },
            .no_packed = d->no_packed,
        });

        if (!b)
            return -EIO;
        pv->disks[i] = b;
        pv->nr_disks = i + 1;
        err = pc_virtio_add(pv, virtio_blk_device(b), d->transport);
        if (!err && d->transport == VM_TRANSPORT_PCI)
            pv->disk_device[i] = FIRST_PCI_DEVICE + pv->nr_pci - 1;
    }
    return err;
}

static int pc_virtio_add_nets(struct pc_virtio *pv)
{
    const struct vm_config *cfg = &pv->vm->cfg;
    int err = 0;

    for (unsigned i = 0; i < cfg->nr_nets && !err; i++) {
        struct virtio_net *n = &pv->nets[i];

        err = virtio_net_init(n, &(struct virtio_net_config){
                                     .bus = pv->vm->bus,
                                     .mmu = pv->vm->mmu,
                                     .net = cfg->nets[i].net,
                                     .idx = i,
                                 });
        if (!err)
            err = pc_virtio_add(pv, &n->vd, cfg->nets[i].transport);
        if (!err)
            err = virtio_net_start(n);
    }
    return err;
}

static int pc_virtio_add_shares(struct pc_virtio *pv)
{
    const struct vm_config *cfg = &pv->vm->cfg;
    int err = 0;

    for (unsigned i = 0; i < cfg->nr_shares && !err; i++) {
        struct virtio_fs *f = &pv->shares[i];

        err = virtio_fs_init(f, pv->vm->bus, pv->vm->mmu, cfg->shares[i].fs);
        if (!err)
            err = pc_virtio_add(pv, &f->vd, cfg->shares[i].transport);
        if (!err)
            err = virtio_fs_start(f);
    }
    return err;
}

static int pc_virtio_add_rng(struct pc_virtio *pv)
{
    int err;

    if (!pv->vm->cfg.rng)
        return 0;
    err = virtio_rng_init(&pv->rng, pv->vm->bus, pv->vm->mmu,
                          &(struct rng_limits){ pv->vm->cfg.rng_requests, pv->vm->cfg.rng_bytes });
    return err ? err : pc_virtio_add(pv, &pv->rng.vd, pv->vm->cfg.rng_transport);
}

static int pc_virtio_add_balloon(struct pc_virtio *pv)
{
    int err;

    if (!pv->vm->cfg.balloon)
        return 0;
    err = virtio_balloon_init(&pv->balloon, pv->vm->bus, pv->vm->mmu,
                              (pv->vm->cfg.balloon_keeps ? BALLOON_KEEPS : 0) |
                                  (pv->vm->cfg.balloon_hints ? BALLOON_HINTS : 0));
    return err ? err : pc_virtio_add(pv, &pv->balloon.vd, pv->vm->cfg.balloon_transport);
}

static int pc_virtio_add_vsock(struct pc_virtio *pv)
{
    const struct vm_config *cfg = &pv->vm->cfg;
    int err;

    if (!cfg->vsock)
        return 0;
    err = virtio_vsock_init(&pv->vsock, pv->vm->bus, pv->vm->mmu, cfg->vsock, cfg->vsock_cid);
    if (!err)
        err = pc_virtio_add(pv, &pv->vsock.vd, cfg->vsock_transport);
    return err ? err : virtio_vsock_start(&pv->vsock);
}

static int pc_virtio_add_pmems(struct pc_virtio *pv)
{
    const struct vm_config *cfg = &pv->vm->cfg;
    gpa_t at = vm_pmem_first(cfg);
    int err = 0;

    for (unsigned i = 0; i < cfg->nr_pmems && !err; i++) {
        const struct vm_pmem *p = &cfg->pmems[i];

        err = vm_pmem_map(pv->vm, p, at);
        if (!err)
            err = virtio_pmem_init(&pv->pmems[i], &(struct virtio_pmem_desc){
                                                      .bus = pv->vm->bus,
                                                      .mmu = pv->vm->mmu,
                                                      .name = p->name,
                                                      .at = at,
                                                      .bytes = p->bytes,
                                                      .fd = p->read_only ? -1 : p->fd,
                                                  });
        if (!err)
            err = pc_virtio_add(pv, &pv->pmems[i].vd, p->transport);
        at = gpa_add(at, p->bytes);
    }
    return err;
}

static_assert(VM_HOTPLUG_BLOCKS_MAX <= MEM_BLOCKS_MAX, "vm.h");

static void pc_virtio_mem_changed(void *ctx)
{
    run_post_remap(((struct pc_virtio *)ctx)->vm);
}

static int pc_virtio_add_mem(struct pc_virtio *pv)
{
    const struct vm_config *cfg = &pv->vm->cfg;
    gpa_t at = vm_hotplug_at(cfg);
    struct slot *memory = NULL;
    int err;

    if (!cfg->hotplug_bytes)
        return 0;
    err = vm_hotplug_map(pv->vm, at, &memory);
    if (!err)
        err = virtio_mem_init(&pv->mem,
                              &(struct virtio_mem_desc){ .bus = pv->vm->bus,
                                                         .mmu = pv->vm->mmu,
                                                         .memory = memory,
                                                         .piece_bytes = cfg->hotplug_slot_bytes,
                                                         .changed = pc_virtio_mem_changed,
                                                         .ctx = pv,
                                                         .at = at,
                                                         .bytes = cfg->hotplug_bytes,
                                                         .block_bytes = cfg->hotplug_block_bytes });
    return err ? err : pc_virtio_add(pv, &pv->mem.vd, VM_TRANSPORT_MMIO);
}

struct virtio_mem *pc_virtio_mem(struct pc_virtio *pv)
{
    return pv && pv->mem.made ? &pv->mem : NULL;
}

static bool pc_virtio_has_console(const struct pc_virtio *pv)
{
    const struct vm_console *c = &pv->vm->cfg.console;

    return c->chr || c->nr_ports;
}

static_assert(VM_PORTS_MAX < VCON_PORTS_MAX && VM_PORT_NAME_MAX <= VCON_NAME_MAX, "vm.h");

static int pc_virtio_add_console(struct pc_virtio *pv)
{
    const struct vm_console *c = &pv->vm->cfg.console;
    struct vcon_desc desc = {
        .bus = pv->vm->bus, .mmu = pv->vm->mmu, .console = c->chr, .nr_ports = c->nr_ports
    };
    int err;

    if (!pc_virtio_has_console(pv))
        return 0;
    for (unsigned i = 0; i < c->nr_ports; i++) {
        desc.ports[i].chr = c->ports[i].chr;
        desc.ports[i].name = c->ports[i].name;
    }
    err = virtio_console_init(&pv->console, &desc);
    return err ? err : pc_virtio_add(pv, &pv->console.vd, c->transport);
}

struct virtio_balloon *pc_virtio_balloon(struct pc_virtio *pv)
{
    return pv && pv->balloon.made ? &pv->balloon : NULL;
}

/* In this order on the bus. */
static int (*const pc_virtio_adders[])(struct pc_virtio *pv) = {
    pc_virtio_add_disks,   pc_virtio_add_nets,  pc_virtio_add_rng,
    pc_virtio_add_balloon, pc_virtio_add_vsock, pc_virtio_add_console,
    pc_virtio_add_shares,  pc_virtio_add_pmems, pc_virtio_add_mem,
};

void pc_virtio_destroy(struct pc_virtio *pv)
{
    if (!pv)
        return;
    for (unsigned i = 0; i < VM_NETS_MAX; i++)
        virtio_net_stop(&pv->nets[i]);
    virtio_balloon_stop(&pv->balloon);
    virtio_vsock_stop(&pv->vsock);
    virtio_console_stop(&pv->console);
    for (unsigned i = 0; i < VM_SHARES_MAX; i++)
        virtio_fs_stop(&pv->shares[i]);
    for (unsigned i = 0; i < VM_PMEMS_MAX; i++)
        virtio_pmem_stop(&pv->pmems[i]);
    virtio_mem_stop(&pv->mem);
    for (unsigned i = 0; i < PC_VIRTIO_MAX; i++) {
        virtio_pci_fini(&pv->slots[i].pci);
        virtio_mmio_fini(&pv->slots[i].mmio);
    }
    virtio_rng_fini(&pv->rng);
    virtio_balloon_fini(&pv->balloon);
    virtio_vsock_fini(&pv->vsock);
    virtio_console_fini(&pv->console);
    for (unsigned i = 0; i < VM_SHARES_MAX; i++)
        virtio_fs_fini(&pv->shares[i]);
    for (unsigned i = 0; i < VM_PMEMS_MAX; i++)
        virtio_pmem_fini(&pv->pmems[i]);
    virtio_mem_fini(&pv->mem);
    for (unsigned i = 0; i < VM_NETS_MAX; i++)
        virtio_net_fini(&pv->nets[i]);
    for (unsigned i = 0; i < pv->nr_disks; i++)
        virtio_blk_destroy(pv->disks[i]);
    free(pv);
}

struct pc_virtio *pc_virtio_create(struct vm *vm, struct pci_host *pci_host)
{
    struct pc_virtio *pv = calloc(1, sizeof(*pv));

    if (!pv) {
        log_error("out of memory for the virtio devices");
        return NULL;
    }
    pv->vm = vm;
    pv->pci_host = pci_host;
    for (unsigned i = 0; i < PC_VIRTIO_NR_GSIS; i++)
        pv->mmio_irq[i].out = bus_gsi(vm->bus, PC_VIRTIO_GSI + i);
    for (unsigned i = 0; i < ARRAY_SIZE(pc_virtio_adders); i++) {
        if (pc_virtio_adders[i](pv) < 0) {
            pc_virtio_destroy(pv);
            return NULL;
        }
    }
    vm->cfg.boot.nr_virtio_mmio = pv->nr_mmio;
    return pv;
}

void pc_virtio_set_paused(struct pc_virtio *pv, bool on)
{
    for (unsigned i = 0; i < pv->nr_slots; i++) {
        struct pc_virtio_slot *s = &pv->slots[i];

        virtio_set_paused(s->transport == VM_TRANSPORT_PCI ? s->pci.vd : s->mmio.vd, on);
    }
}

const char *pc_virtio_unsaveable(struct pc_virtio *pv)
{
    for (unsigned i = 0; i < pv->nr_slots; i++) {
        struct pc_virtio_slot *s = &pv->slots[i];
        struct virtio *vd = s->transport == VM_TRANSPORT_PCI ? s->pci.vd : s->mmio.vd;

        if (!vd->type->loaded)
            return vd->type->name;
    }
    return NULL;
}

const char *pc_virtio_settle(struct pc_virtio *pv)
{
    for (unsigned i = 0; i < pv->nr_slots; i++) {
        struct pc_virtio_slot *s = &pv->slots[i];
        struct virtio *vd = s->transport == VM_TRANSPORT_PCI ? s->pci.vd : s->mmio.vd;

        if (!virtio_settle(vd))
            return vd->name;
    }
    return NULL;
}

int pc_virtio_disk_resize(struct pc_virtio *pv, unsigned idx, uint64_t bytes)
{
    int err;

    if (idx >= pv->nr_disks || !pv->disks[idx])
        return -ENOENT;
    err = store_resize(pv->vm->cfg.disks[idx].store, bytes);
    if (!err)
        virtio_blk_resized(pv->disks[idx]);
    return err;
}

struct virtio_blk *pc_virtio_disk(struct pc_virtio *pv, unsigned idx)
{
    return idx < pv->nr_disks ? pv->disks[idx] : NULL;
}

void pc_virtio_resize_console(struct pc_virtio *pv, uint16_t cols, uint16_t rows)
{
    if (pc_virtio_has_console(pv))
        virtio_console_resize(&pv->console, cols, rows);
}

int pc_virtio_disk_devfn(const struct pc_virtio *pv, unsigned disk)
{
    return disk < pv->nr_disks && pv->disk_device[disk] ? (int)PCI_DEVFN(pv->disk_device[disk], 0)
                                                        : -1;
}
