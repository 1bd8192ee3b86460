/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that wants out of the folder it shares: libFuzzer target over the FUSE server.
 *
 * The input is a program of requests, some with sensible parts (numbers that were given, names from
 * a list), all with bytes of the input. What must hold: every answer is well-formed and inside its
 * buffers, nothing beside the shared folder changes, nothing blocks, and nothing crashed or tripped
 * a sanitizer. Files are in memory (/dev/shm), and small.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backend/fs_priv.h"

#define BASE       "/dev/shm/doppel-sharefuzz"
#define CANARY     "untouched"
#define FILE_MAX   MIB(1)
#define NR_NUMBERS 16u
#define ROOM_MAX   KIB(8)

struct input {
    const uint8_t *at, *end;
};

struct player {
    struct fs_share *fs;
    uint64_t nodes[NR_NUMBERS], files[NR_NUMBERS];
    uint8_t next_node, next_file;
    uint8_t in[KIB(4)], out[ROOM_MAX + 16];
    struct host_iov iov[8];
    _Alignas(8) uint8_t args[FS_ARGS_MAX], reply[FS_REPLY_MAX];
};

static uint8_t next8(struct input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

/* ---- the place ---- */

static char base[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type;
    return ftw->level ? remove(path) : 0;
}

static void place_remove(void)
{
    char share[80];

    (void)snprintf(share, sizeof(share), "%s/share", base);
    (void)nftw(share, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    (void)snprintf(share, sizeof(share), "rm -rf %s", base);
    (void)!system(share);
}

static struct fs_share *place_open(void)
{
    static struct fs_share *fs;
    static char share[80];
    char path[80];
    int fd;

    if (fs)
        return fs;
    (void)snprintf(base, sizeof(base), "%s-%d", BASE, (int)getpid());
    (void)snprintf(share, sizeof(share), "%s/share", base);
    (void)snprintf(path, sizeof(path), "%s/canary", base);
    BUG_ON(mkdir(base, 0755) || mkdir(share, 0755));
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    BUG_ON(fd < 0 || write(fd, CANARY, strlen(CANARY)) != (ssize_t)strlen(CANARY));
    (void)close(fd);
    (void)atexit(place_remove);
    (void)signal(SIGXFSZ, SIG_IGN);
    BUG_ON(setrlimit(RLIMIT_FSIZE, &(struct rlimit){ FILE_MAX, FILE_MAX }));
    fs = fs_open(&(struct fs_config){ .tag = "fuzz", .path = share });
    BUG_ON(!fs || fs_thread_begin(fs));
    fs->max_open_nodes = 4; /* so that they are closed and opened again */
    return fs;
}

/* Nothing but the folder and the canary, which is as it was. */
static void place_check(void)
{
    char path[80], text[32] = "";
    unsigned nr = 0;
    DIR *d = opendir(base);
    int fd;

    BUG_ON(!d);
    while (readdir(d))
        nr++;
    (void)closedir(d);
    BUG_ON(nr != 4);
    (void)snprintf(path, sizeof(path), "%s/canary", base);
    fd = open(path, O_RDONLY);
    BUG_ON(fd < 0 || read(fd, text, sizeof(text) - 1) < 0 || strcmp(text, CANARY) != 0);
    (void)close(fd);
}

static void place_clear(void)
{
    char share[80];

    (void)snprintf(share, sizeof(share), "%s/share", base);
    BUG_ON(nftw(share, remove_one, 8, FTW_DEPTH | FTW_PHYS));
}

/* ---- requests ---- */

static unsigned pieces(struct host_iov *to, uint8_t *at, uint32_t bytes, uint32_t cut)
{
    if (!bytes)
        return 0;
    cut = MIN(cut, bytes);
    to[0] = (struct host_iov){ .base = at, .bytes = cut };
    if (!cut)
        to[0].bytes = cut = bytes;
    if (cut == bytes)
        return 1;
    to[1] = (struct host_iov){ .base = at + cut, .bytes = bytes - cut };
    return 2;
}

static void send_request(struct player *p, uint32_t bytes, uint32_t room, uint8_t cut)
{
    struct fs_req r = {
        .iov = p->iov, .out_bytes = bytes, .in_bytes = room, .args = p->args, .reply = p->reply
    };
    struct fuse_out_header h;

    memset(p->out, 0xee, sizeof(p->out));
    r.nr_out = pieces(p->iov, p->in, bytes, cut);
    r.nr_in = pieces(p->iov + r.nr_out, p->out, room, cut);
    memcpy(p->args, p->in, bytes);
    fs_serve(p->fs, &r);
    BUG_ON(r.reply_bytes > r.nr_written || r.nr_written > room);
    memcpy(p->out, p->reply, r.reply_bytes);
    for (unsigned i = room; i < sizeof(p->out); i++)
        BUG_ON(p->out[i] != 0xee);
    if (!r.nr_written)
        return;
    memcpy(&h, p->out, sizeof(h));
    BUG_ON(h.len != r.nr_written || h.error > 0 || h.error < -4095);
}

/* What the answer gives to use later. */
static void remember(struct player *p, uint32_t op)
{
    struct fuse_out_header h;
    size_t at = sizeof(h);

    memcpy(&h, p->out, sizeof(h));
    if (h.error)
        return;
    if (h.len >= at + sizeof(struct fuse_entry_out) && op != FUSE_READ) {
        memcpy(&p->nodes[p->next_node++ % NR_NUMBERS], p->out + at, 8);
        at += sizeof(struct fuse_entry_out);
    }
    if (op == FUSE_OPEN || op == FUSE_OPENDIR || op == FUSE_CREATE || op == FUSE_TMPFILE)
        memcpy(&p->files[p->next_file++ % NR_NUMBERS], p->out + at, 8);
}

static const char *const names[] = { "a",    "b",   "d",  "l",           "pipe", "..",
                                     ".",    "",    "/",  "../canary",   "a/b",  "user.a",
                                     "d/..", "out", "\n", "/etc/passwd", "c",    "security.x" };

static void request(struct player *p, struct input *in)
{
    static const uint32_t rooms[] = { ROOM_MAX, ROOM_MAX, ROOM_MAX, ROOM_MAX, 16, 0, 40, 300 };
    uint8_t op = next8(in) % 54, how = next8(in), len = next8(in), cut = next8(in);
    struct fuse_in_header h = { .opcode = op,
                                .unique = 1,
                                .nodeid = p->nodes[next8(in) % NR_NUMBERS],
                                .uid = how & 1 ? 1000 : 0,
                                .gid = how & 2 ? 1000 : 0 };
    uint32_t at = sizeof(h) + len, room = rooms[how >> 2 & 7];

    for (uint32_t i = sizeof(h); i < at; i++)
        p->in[i] = next8(in);
    if (how & 0x20 && len >= 8)
        memcpy(p->in + sizeof(h),
               how & 0x80 ? &p->nodes[cut % NR_NUMBERS] : &p->files[cut % NR_NUMBERS], 8);
    for (unsigned i = how >> 6 & 1 ? 2 : how >> 7; i; i--) {
        const char *name = names[next8(in) % ARRAY_SIZE(names)];

        memcpy(p->in + at, name, strlen(name) + 1);
        at += (uint32_t)strlen(name) + 1;
    }
    h.len = at + (how == 0xff);
    memcpy(p->in, &h, sizeof(h));
    /* A file that was closed here may take its time; a request may not. */
    (void)alarm(20);
    send_request(p, at, room, cut);
    (void)alarm(0);
    if (room >= 16)
        remember(p, op);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct player p;
    struct input in = { .at = data, .end = data + bytes };
    struct fuse_init_in init = { .major = 7, .minor = 36, .flags = UINT32_MAX };
    struct fuse_in_header h = { .len = sizeof(h) + sizeof(init), .opcode = FUSE_INIT };

    log_set_level(LOG_ERROR - 1);
    p.fs = place_open();
    p.next_node = p.next_file = 0;
    memset(p.files, 0, sizeof(p.files));
    for (unsigned i = 0; i < NR_NUMBERS; i++)
        p.nodes[i] = FUSE_ROOT_ID;
    memcpy(p.in, &h, sizeof(h));
    memcpy(p.in + sizeof(h), &init, sizeof(init));
    send_request(&p, h.len, ROOM_MAX, 0);
    while (in.at < in.end)
        request(&p, &in);
    fs_end_session(p.fs);
    fs_collect(p.fs);
    place_check();
    place_clear();
    return 0;
}
