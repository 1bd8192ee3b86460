/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Free page hinting: on the host's command the guest names all pages that are free just now, and
 * holds them until it is told that the host is done. Their memory goes back to the host; the guest
 * must not rely on what is in them.
 *
 * A run has a number, the command; the guest sends it before the pages, and STOP behind them.
 *
 * Manual: Virtual I/O Device 1.2, "Traditional Memory Balloon Device", "Free Page Hinting".
 */
#include <errno.h>

#include "virtio/balloon.h"

/* VIRTIO_BALLOON_CMD_ID_STOP and _DONE; runs are numbered from 2 on. */
#define CMD_STOP     0u
#define CMD_DONE     1u
/* More than anybody has counted to. */
#define UNKNOWN_LAST BIT(30)

/* No locks held. */
static void hint_command(struct virtio_balloon *b, uint32_t cmd)
{
    struct lock *machine = bus_lock(b->vd.bus);

    lock_take(machine);
    b->config.hint_id = cmd;
    virtio_config_changed(&b->vd);
    lock_drop(machine);
}

uint64_t balloon_hint(struct virtio_balloon *b, const struct virtq_chain *c)
{
    uint64_t done = 0;
    uint32_t cmd;
    bool running, finished = false;

    lock_take(&b->lock);
    if (virtq_read(c, 0, &cmd, sizeof(cmd)) == sizeof(cmd)) {
        b->hint_guest = cmd;
        b->hint_told = true;
        finished = cmd == CMD_STOP && b->hint_host > CMD_DONE && b->hint_acks;
        if (finished)
            b->hint_host = CMD_DONE;
    }
    /* Pages of an older run may be in use again. */
    running = b->hint_told && b->hint_guest == b->hint_host && b->hint_host > CMD_DONE;
    lock_drop(&b->lock);
    if (finished)
        hint_command(b, CMD_DONE);
    for (unsigned i = c->nr_out; i < (unsigned)c->nr_out + c->nr_in && running; i++)
        done += mmu_discard(b->vd.mmu, c->at[i], c->iov[i].bytes);
    return done;
}

void balloon_hint_reset(struct virtio_balloon *b)
{
    b->config.hint_id = CMD_STOP;
    lock_take(&b->lock);
    b->hint_host = CMD_STOP;
    b->hint_told = false;
    lock_drop(&b->lock);
}

/*
 * A run that was under way is over, and the guest is told: the pages are its own again. The next
 * run's number must be another than the last one's, which a driver would take for nothing new; old
 * states do not tell that.
 */
void balloon_hint_loaded(struct virtio_balloon *b)
{
    if (b->config.hint_id > CMD_DONE) {
        b->config.hint_id = CMD_DONE;
        virtio_config_changed(&b->vd);
    }
    lock_take(&b->lock);
    b->hint_host = b->config.hint_id;
    if (!b->hint_last)
        b->hint_last = UNKNOWN_LAST;
    lock_drop(&b->lock);
}

/* Has the driver taken the feature? */
static bool guest_hints(struct virtio_balloon *b)
{
    struct lock *machine = bus_lock(b->vd.bus);
    bool has;

    lock_take(machine);
    has = virtio_has(&b->vd, BALLOON_F_HINTING);
    lock_drop(machine);
    return has;
}

int virtio_balloon_hint_start(struct virtio_balloon *b, bool acknowledge)
{
    uint32_t cmd;

    if (!guest_hints(b))
        return -EOPNOTSUPP;
    lock_take(&b->lock);
    b->hint_last = b->hint_last < CMD_DONE || b->hint_last == UINT32_MAX ? CMD_DONE : b->hint_last;
    cmd = ++b->hint_last;
    b->hint_host = cmd;
    b->hint_acks = acknowledge;
    lock_drop(&b->lock);
    hint_command(b, cmd);
    return 0;
}

int virtio_balloon_hint_stop(struct virtio_balloon *b)
{
    if (!guest_hints(b))
        return -EOPNOTSUPP;
    lock_take(&b->lock);
    b->hint_host = CMD_DONE;
    lock_drop(&b->lock);
    hint_command(b, CMD_DONE);
    return 0;
}

bool virtio_balloon_hint_status(struct virtio_balloon *b, uint32_t *host, uint32_t *guest)
{
    bool told;

    lock_take(&b->lock);
    *host = b->hint_host;
    *guest = b->hint_guest;
    told = b->hint_told;
    lock_drop(&b->lock);
    return told;
}
