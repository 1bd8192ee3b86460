/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the configuration to a machine that runs: opens what is named, and makes the VM as a client
 * of this API knows it: no PCI, virtio devices over MMIO that the kernel's command line tells of,
 * the serial port on standard input and output, and a guest's reset is the end.
 */
#include "api/machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "api/jail.h"
#include "api/link.h"
#include "api/priv.h"
#include "backend/vsock.h"
#include "ctl/ctl.h"
#include "lib/log.h"
#include "snap/snap.h"
#include "virtio/blk.h"

#define DEFAULT_ARGS                                                                   \
    "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd " \
    "swiotlb=noforce"
#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull

/* ---- opening: false after a message ---- */

/* Ctrl-A x on a terminal: the way out that other doppel consoles have. */
static void machine_escape(void *arg, int key)
{
    struct machine *m = arg;

    if (key == 'x' && m->vm)
        vm_stop(m->vm, STOP_USER, 0);
}

static bool machine_open_serial(struct api *a)
{
    const char *path = field_string(a->serial, "serial_out_path");

    a->m.serial = path ? chr_open_file(path) : chr_open_stdio(machine_escape, &a->m);
    return a->m.serial;
}

/* d->name is set. */
static bool machine_open_disk(struct machine_disk *d, const json_t *drive)
{
    const char *engine = field_string(drive, "io_engine"), *served = field_string(drive, "socket");

    d->path = strdup(served ? served : field_string(drive, "path_on_host"));
    if (!d->name || !d->path) {
        log_error("out of memory");
        return false;
    }
    d->store = store_open(&(struct store_config){
        .name = d->name,
        .path = served ? NULL : d->path,
        .vhost_user = served ? d->path : NULL,
        .readonly = field_bool(drive, "is_read_only", false),
        .may_be_empty = true, /* clients make drives for files that they have not got yet */
        .aio = engine && !strcmp(engine, "Sync") ? STORE_AIO_THREADS : STORE_AIO_AUTO,
    });
    return d->store;
}

static void machine_close_disk(struct machine_disk *d)
{
    store_close(d->store);
    free(d->path);
    d->store = NULL;
    d->path = NULL;
}

static bool machine_open_disks(struct api *a)
{
    json_t *drive;
    size_t i;

    json_array_foreach(a->drives, i, drive)
    {
        a->m.disks[i].name = strdup(field_string(drive, "drive_id"));
        if (!machine_open_disk(&a->m.disks[i], drive))
            return false;
    }
    return true;
}

bool machine_mac(const char *text, uint8_t mac[NET_MAC_BYTES])
{
    unsigned b[NET_MAC_BYTES];
    int used = 0;

    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
               &used) != NET_MAC_BYTES ||
        strlen(text) != 3 * NET_MAC_BYTES - 1 || used != 3 * NET_MAC_BYTES - 1)
        return false;
    for (unsigned i = 0; i < NET_MAC_BYTES; i++)
        mac[i] = (uint8_t)b[i];
    return !(mac[0] & 1); /* a group's (IEEE 802, Universal and local addresses) */
}

struct net *machine_open_net(struct api *a, const json_t *n, unsigned idx)
{
    const char *dev = field_string(n, "host_dev_name"), *text = field_string(n, "guest_mac");
    uint8_t mac[NET_MAC_BYTES];
    struct net_common common = { .idx = idx, .vm = a->cfg->id };
    struct net *net;

    if (text && machine_mac(text, mac))
        common.mac = mac;
    net = strcmp(dev, MACHINE_NET_USER) != 0
              ? net_open_tap(&common, dev, 1)
              : net_open_user(&common, &(struct net_user_config){ .nr_forwards = 0 });
    if (net)
        net->mtu = (uint16_t)field_uint(n, "mtu", net->mtu);
    return net;
}

static bool machine_open_nets(struct api *a)
{
    json_t *net;
    size_t i;

    json_array_foreach(a->nets, i, net)
    {
        struct net *inner = machine_open_net(a, net, (unsigned)i);

        if (!inner)
            return false;
        a->m.nets[i] =
            link_open(inner, mmds_serves(a, field_string(net, "iface_id")) ? a->mmds : NULL);
        if (!a->m.nets[i])
            return false;
        machine_limit_net(a, (unsigned)i, net);
    }
    return true;
}

static bool machine_open_pmems(struct api *a)
{
    json_t *pmem;
    size_t i;

    json_array_foreach(a->pmems, i, pmem)
    {
        if (machine_open_pmem(pmem, &a->m.pmems[i]) < 0)
            return false;
        a->m.nr_pmems++;
    }
    return true;
}

static bool machine_open_vsock(struct api *a)
{
    if (!a->vsock)
        return true;
    a->m.vsock = vsock_open(field_string(a->vsock, "uds_path"));
    return a->m.vsock;
}

/* For `doppel ps` and `doppel stat`; the API goes without, if the name is another VM's. */
static void machine_open_ctl(struct api *a)
{
    if (strcmp(a->cfg->id, API_DEFAULT_ID) != 0 && ctl_name_ok(a->cfg->id) &&
        ctl_open(a->cfg->id, &a->m.ctl) < 0)
        a->m.ctl = NULL;
}

/* ---- the kernel's command line ---- */

static bool has_word(const char *text, const char *word)
{
    size_t len = strlen(word);

    for (const char *at = text; (at = strstr(at, word)); at += len)
        if ((at == text || at[-1] == ' ') && (at[len] == ' ' || !at[len]))
            return true;
    return false;
}

/* What the client gave, and what it relies on being added: where the root file system is, and that
 * there is no PCI bus to look for. malloc'ed. */
static char *machine_append(const struct api *a)
{
    const char *args = field_string(a->boot, "boot_args"), *uuid;
    char root[128] = "", *all;
    json_t *drive;
    size_t i;

    if (!args)
        args = DEFAULT_ARGS;
    json_array_foreach(a->drives, i, drive)
    {
        if (!field_bool(drive, "is_root_device", false))
            continue;
        uuid = field_string(drive, "partuuid");
        (void)snprintf(root, sizeof(root), " root=%s%s %s", uuid ? "PARTUUID=" : "/dev/vda",
                       uuid ? uuid : "", field_bool(drive, "is_read_only", false) ? "ro" : "rw");
    }
    json_array_foreach(a->pmems, i, drive)
    {
        if (field_bool(drive, "root_device", false))
            (void)snprintf(root, sizeof(root), " root=/dev/pmem%zu %s", i,
                           field_bool(drive, "read_only", false) ? "ro" : "rw");
    }
    if (asprintf(&all, "%s%s%s", args, root, has_word(args, "pci=off") ? "" : " pci=off") < 0) {
        log_error("out of memory");
        return NULL;
    }
    return all;
}

/* ---- limits ---- */

/* Tokens per second; 0: no limit. */
static uint64_t bucket_rate(const json_t *limiter, const char *which)
{
    const json_t *bucket = json_object_get(limiter, which);
    uint64_t size = field_uint(bucket, "size", 0), ms = field_uint(bucket, "refill_time", 0);

    if (!size || !ms)
        return 0;
    return MAX(size > UINT64_MAX / 1000 ? size / ms * 1000 : size * 1000 / ms, 1);
}

/* A bucket as it was asked for; NULL: no limit. */
static struct bucket_config bucket_of(const json_t *bucket)
{
    uint64_t ms = field_uint(bucket, "refill_time", 0);

    return (struct bucket_config){
        .size = field_uint(bucket, "size", 0),
        .burst = field_uint(bucket, "one_time_burst", 0),
        .refill_ns = ms > UINT64_MAX / NS_PER_MS ? UINT64_MAX : ms * NS_PER_MS,
    };
}

void machine_limit_net(struct api *a, unsigned idx, const json_t *net)
{
    const json_t *tx = json_object_get(net, "tx_rate_limiter"),
                 *rx = json_object_get(net, "rx_rate_limiter");

    link_limit(
        a->m.nets[idx],
        &(struct link_limits){ .tx = { bucket_rate(tx, "ops"), bucket_rate(tx, "bandwidth") },
                               .rx = { bucket_rate(rx, "ops"), bucket_rate(rx, "bandwidth") } });
}

int machine_limit_disk(struct api *a, unsigned idx, const json_t *limiter)
{
    return vm_limit_disk(a->m.vm, idx, bucket_rate(limiter, "ops"),
                         bucket_rate(limiter, "bandwidth"));
}

int machine_replace_disk(struct api *a, unsigned idx, const char *path)
{
    struct machine_disk d = { .name = a->m.disks[idx].name }; /* the device goes on to use it */
    json_t *drive = json_deep_copy(json_array_get(a->drives, idx));
    int err = -ENOMEM;

    if (drive && json_object_set_new(drive, "path_on_host", json_string(path)) == 0)
        err = machine_open_disk(&d, drive) ? 0 : -EIO;
    json_decref(drive);
    if (!err)
        err = vm_replace_disk(a->m.vm, idx, d.store);
    machine_close_disk(err ? &d : &a->m.disks[idx]);
    if (!err)
        a->m.disks[idx] = d;
    return err;
}

/* ---- the VM ---- */

/* A vCPU's thread: the guest's init has said that it is up. In the words that tools look for. */
static void machine_booted(void *arg)
{
    const struct machine *m = arg;
    uint64_t us = (host_mono_ns() - m->started_ns) / NS_PER_US,
             cpu_us = (host_cpu_ns() - m->started_cpu_ns) / NS_PER_US;

    log_info("Guest-boot-time = %6llu us %llu ms, %6llu CPU us %llu CPU ms", (unsigned long long)us,
             (unsigned long long)us / 1000, (unsigned long long)cpu_us,
             (unsigned long long)cpu_us / 1000);
}

static void machine_config_disks(struct api *a, struct vm_config *cfg)
{
    json_t *drive;
    size_t i;

    json_array_foreach(a->drives, i, drive)
    {
        const json_t *limiter = json_object_get(drive, "rate_limiter");

        cfg->disks[i] = (struct vm_disk){
            .store = a->m.disks[i].store,
            .serial = a->m.disks[i].name && strlen(a->m.disks[i].name) <= BLK_SERIAL_MAX
                          ? a->m.disks[i].name
                          : NULL,
            .transport = VM_TRANSPORT_MMIO,
            .requests_per_s = bucket_rate(limiter, "ops"),
            .bytes_per_s = bucket_rate(limiter, "bandwidth"),
        };
    }
    cfg->nr_disks = (unsigned)json_array_size(a->drives);
}

static bool machine_make(struct api *a, struct snap *snap)
{
    const json_t *rng = json_object_get(a->entropy, "rate_limiter");
    struct vm_config cfg = {
        .name = a->cfg->id,
        .engine = a->cfg->engine,
        .cpu_model = *a->m.cpu.model ? a->m.cpu.model : NULL,
        .cpu_signature_mask = a->m.cpu.signature_mask,
        .cpu_signature = a->m.cpu.signature,
        .boot = { .kernel = field_string(a->boot, "kernel_image_path"),
                  .initrd = field_string(a->boot, "initrd_path"),
                  .append = a->m.append,
                  .ram_bytes = field_uint(a->machine, "mem_size_mib", 128) << 20,
                  .nr_cpus = (uint32_t)field_uint(a->machine, "vcpu_count", 1) },
        .serial = a->m.serial,
        .rng = a->entropy,
        .rng_requests = bucket_of(json_object_get(rng, "ops")),
        .rng_bytes = bucket_of(json_object_get(rng, "bandwidth")),
        .serial_bytes = bucket_of(json_object_get(a->serial, "rate_limiter")),
        .booted = a->cfg->boot_timer ? machine_booted : NULL,
        .booted_arg = &a->m,
        .hotplug_bytes = field_uint(a->hotplug, "total_size_mib", 0) << 20,
        .hotplug_block_bytes = field_uint(a->hotplug, "block_size_mib", 0) << 20,
        .hotplug_slot_bytes = field_uint(a->hotplug, "slot_size_mib", 0) << 20,
        .balloon = a->balloon,
        .balloon_hints = field_bool(a->balloon, "free_page_hinting", false),
        .balloon_keeps = a->balloon && !field_bool(a->balloon, "deflate_on_oom", false),
        .vsock = a->m.vsock,
        .vsock_cid = (uint32_t)field_uint(a->vsock, "guest_cid", 0),
        .rng_transport = VM_TRANSPORT_MMIO,
        .balloon_transport = VM_TRANSPORT_MMIO,
        .vsock_transport = VM_TRANSPORT_MMIO,
        .no_reboot = true,
        .time_exits = true,
        .bt = a->cfg->bt,
        .config = a->m.config,
        .image = snap ? snap_image(snap) : NULL,
        .nr_nets = (unsigned)json_array_size(a->nets),
    };

    for (unsigned i = 0; i < cfg.nr_nets; i++)
        cfg.nets[i] = (struct vm_net){ .net = a->m.nets[i], .transport = VM_TRANSPORT_MMIO };
    machine_config_disks(a, &cfg);
    memcpy(cfg.pmems, a->m.pmems, sizeof(cfg.pmems));
    cfg.nr_pmems = a->m.nr_pmems;
    a->m.vm = vm_create(&cfg);
    if (a->m.vm && snap && snap_load(snap, a->m.vm, NULL, 0) < 0)
        return false;
    if (a->m.vm && snap)
        snap_take_server(snap, a->m.server);
    return a->m.vm;
}

int machine_set_balloon(struct api *a)
{
    uint64_t ram = field_uint(a->machine, "mem_size_mib", 128) << 20;

    return vm_set_memory(a->m.vm, ram - (field_uint(a->balloon, "amount_mib", 0) << 20));
}

static void *machine_wait(void *arg)
{
    struct machine *m = arg;

    (void)vm_wait(m->vm, NULL);
    BUG_ON(eventfd_write(m->ended_fd, 1) < 0);
    return NULL;
}

static int machine_run(struct api *a, bool paused)
{
    struct machine *m = &a->m;
    int err;

    m->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (m->ended_fd < 0) {
        log_error("cannot watch the VM: %m");
        return -EMFILE;
    }
    if (m->ctl && ctl_serve(m->ctl, m->vm) < 0)
        return -EIO;
    if (paused)
        (void)vm_user_pause(m->vm);
    vm_pause(m->vm); /* until this thread is in its sandbox, which the others' must not be inside */
    err = vm_start(m->vm);
    if (!err)
        err = thread_start(&m->waiter, "vm end", machine_wait, m);
    if (err)
        log_error("cannot start the VM's threads: %s", strerror(-err));
    else
        jail_enter();
    vm_resume(m->vm);
    return err;
}

int machine_start(struct api *a, struct snap *snap)
{
    int err = -EIO;

    a->m = (struct machine){ .ended_fd = -1,
                             .started_ns = host_mono_ns(),
                             .started_cpu_ns = host_cpu_ns() };
    if (jail_allow(a) < 0)
        return -EPERM;
    api_cpu(a, &a->m.cpu);
    a->m.append = machine_append(a);
    a->m.config = json_pack("{s:o}", "api", vm_config_all(a));
    if (!a->m.append || !a->m.config)
        err = -ENOMEM;
    else if (machine_open_disks(a) && machine_open_nets(a) && machine_open_pmems(a) &&
             machine_open_vsock(a) && machine_open_serial(a)) {
        machine_open_ctl(a);
        if (machine_make(a, snap) && (!a->balloon || snap || machine_set_balloon(a) == 0) &&
            (snap || machine_set_msrs(a) == 0))
            err = machine_run(a, snap);
    }
    if (err)
        machine_close(&a->m);
    return err;
}

void machine_close(struct machine *m)
{
    ctl_close(m->ctl);
    /* Who waits for a page that no server brings any more would not hear of the end. */
    for (unsigned i = 0; i < ARRAY_SIZE(m->server); i++)
        if (m->server[i] > 0)
            (void)close(m->server[i]);
    if (m->vm)
        vm_stop(m->vm, STOP_USER, 0);
    if (m->waiter.started)
        thread_join(&m->waiter);
    chr_flush(m->serial);
    vm_destroy(m->vm);
    for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
        machine_close_disk(&m->disks[i]);
        free(m->disks[i].name);
    }
    for (unsigned i = 0; i < VM_NETS_MAX; i++)
        net_close(m->nets[i]);
    vsock_close(m->vsock);
    for (unsigned i = 0; i < m->nr_pmems; i++)
        (void)close(m->pmems[i].fd);
    chr_close(m->serial);
    if (m->ended_fd > 0)
        (void)close(m->ended_fd);
    json_decref(m->config);
    free(m->append);
    *m = (struct machine){ .ended_fd = -1 };
}
