/* SPDX-License-Identifier: Apache-2.0 */
/* The machine that the API's configuration describes, with all it has open: machine.c. */
#ifndef API_MACHINE_H
#define API_MACHINE_H

#include <jansson.h>

#include "backend/net.h"
#include "vm/vm.h"

struct api;
struct snap;
struct ctl;

/* A disk's image; the store does not copy its names. */
struct machine_disk {
    struct store *store; /* NULL: closed */
    char *name, *path;
};

/* The CPUs that the guest finds, as vm_config has them. model "": the default. */
struct api_cpu {
    char model[2048];
    uint32_t signature_mask, signature;
};

/* Zeroed members are not open. */
struct machine {
    struct vm *vm;
    struct chr *serial;
    struct machine_disk disks[VM_DISKS_MAX];
    struct net *nets[VM_NETS_MAX];
    struct vsock *vsock;
    struct vm_pmem pmems[VM_PMEMS_MAX]; /* nr_pmems of them are open */
    unsigned nr_pmems;
    struct ctl *ctl;
    struct api_cpu cpu;
    uint64_t started_ns,
        started_cpu_ns; /* when the client asked for it: host_mono_ns(), .._cpu_ns() */
    json_t *config;     /* for snapshots of the VM */
    char *append;

    int server[2]; /* of a snapshot's memory: snap_take_server(); 0 or -1: none */
    int ended_fd;  /* an eventfd that can be read when the VM has ended; only with the waiter */
    struct thread waiter;
};

/* Makes and starts it; with snap it goes on from there, and is paused. 0, or -errno after a
 * message: nothing is open then. */
int machine_start(struct api *a, struct snap *snap) MUST_CHECK;
/* Ends it and closes all. Nothing there is fine. */
void machine_close(struct machine *m);

/* A host_dev_name that is no tap: a private network by libslirp, as `doppel run --net user`. */
#define MACHINE_NET_USER "user:"
/* What PUT /network-interfaces describes. NULL after a message. */
struct net *machine_open_net(struct api *a, const json_t *n, unsigned idx);
/* What PUT /pmem describes. A descriptor, or -1 after a message; the name is the object's. */
int machine_open_pmem(const json_t *pmem, struct vm_pmem *out);
/* False: it is no address that a card can have. */
bool machine_mac(const char *text, uint8_t mac[NET_MAC_BYTES]);

/* Of a started one. -errno after a message. */
int machine_replace_disk(struct api *a, unsigned idx, const char *path) MUST_CHECK;
int machine_limit_disk(struct api *a, unsigned idx, const json_t *limiter) MUST_CHECK;
void machine_limit_net(struct api *a, unsigned idx, const json_t *net);
int machine_set_balloon(struct api *a) MUST_CHECK;

#endif
