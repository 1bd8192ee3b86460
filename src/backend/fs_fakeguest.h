/* SPDX-License-Identifier: Apache-2.0 */
/* For tests: a guest's side of a shared folder, without queues and threads. Requests and answers
 * lie in pieces of odd sizes, as a guest's memory may. */
#ifndef BACKEND_FS_FAKEGUEST_H
#define BACKEND_FS_FAKEGUEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/fs_priv.h"

#define GUEST_BYTES KIB(160)

struct guest {
    char dir[64];
    struct fs_share *fs;
    struct fs_config cfg;
    uint32_t uid, gid;
    uint64_t unique;
    uint32_t room; /* for answers */

    uint8_t in[GUEST_BYTES], out[GUEST_BYTES];
    struct host_iov iov[64];
    struct fs_req r;
    _Alignas(8) uint8_t args[FS_ARGS_MAX], reply[FS_REPLY_MAX];
    const uint8_t *answer; /* behind its header */
    uint32_t answer_bytes;
};

static inline unsigned guest_pieces(struct host_iov *to, uint8_t *at, uint32_t bytes)
{
    static const uint32_t sizes[] = { 7, 1, 33, 40, 3, 4096 };
    unsigned nr = 0;

    while (bytes) {
        uint32_t n = nr < ARRAY_SIZE(sizes) ? MIN(sizes[nr], bytes) : bytes;

        to[nr++] = (struct host_iov){ .base = at, .bytes = n };
        at += n;
        bytes -= n;
    }
    return nr;
}

/* What is in g->in is a request of that many bytes. The error of its answer; 1: there was none. */
static inline int guest_send(struct guest *g, uint32_t bytes)
{
    struct fuse_out_header h;

    memset(g->out, 0xee, sizeof(g->out));
    g->r = (struct fs_req){
        .iov = g->iov, .out_bytes = bytes, .in_bytes = g->room, .args = g->args, .reply = g->reply
    };
    g->r.nr_out = guest_pieces(g->iov, g->in, bytes);
    g->r.nr_in = guest_pieces(g->iov + g->r.nr_out, g->out, g->room);
    memcpy(g->args, g->in, MIN(bytes, FS_ARGS_MAX));
    fs_serve(g->fs, &g->r);
    assert_true(g->r.reply_bytes <= g->r.nr_written && g->r.nr_written <= g->room);
    assert_int_equal(g->out[g->r.nr_written], 0xee);
    memcpy(g->out, g->reply, g->r.reply_bytes);
    if (!g->r.nr_written)
        return 1;
    memcpy(&h, g->out, sizeof(h));
    assert_int_equal(h.len, g->r.nr_written);
    assert_int_equal(h.unique, g->unique);
    g->answer = g->out + sizeof(h);
    g->answer_bytes = h.len - (uint32_t)sizeof(h);
    assert_true(!h.error || !g->answer_bytes);
    return h.error;
}

/* args, and what is behind them. */
static inline int guest_call2(struct guest *g, uint32_t op, uint64_t node, const void *args,
                              size_t nr, const void *rest, size_t nr_rest)
{
    struct fuse_in_header h = { .len = (uint32_t)(sizeof(h) + nr + nr_rest),
                                .opcode = op,
                                .unique = ++g->unique,
                                .nodeid = node,
                                .uid = g->uid,
                                .gid = g->gid,
                                .pid = 1 };

    assert_true(h.len < sizeof(g->in));
    memcpy(g->in, &h, sizeof(h));
    memcpy(g->in + sizeof(h), args, nr);
    memcpy(g->in + sizeof(h) + nr, rest, nr_rest);
    return guest_send(g, h.len);
}

static inline int guest_call(struct guest *g, uint32_t op, uint64_t node, const void *args,
                             size_t nr)
{
    return guest_call2(g, op, node, args, nr, "", 0);
}

/* args and a name. */
static inline int guest_name(struct guest *g, uint32_t op, uint64_t node, const void *args,
                             size_t nr, const char *name)
{
    return guest_call2(g, op, node, args, nr, name, strlen(name) + 1);
}

static inline int guest_init(struct guest *g)
{
    return guest_call(g, FUSE_INIT, 0,
                      &(struct fuse_init_in){ .major = 7, .minor = 36, .flags = UINT32_MAX },
                      sizeof(struct fuse_init_in));
}

/* The node's number, or -errno. */
static inline int64_t guest_lookup(struct guest *g, uint64_t dir, const char *name)
{
    struct fuse_entry_out e;
    int err = guest_name(g, FUSE_LOOKUP, dir, "", 0, name);

    if (err)
        return err;
    assert_int_equal(g->answer_bytes, sizeof(e));
    memcpy(&e, g->answer, sizeof(e));
    return (int64_t)e.nodeid;
}

/* The handle, or -errno. */
static inline int64_t guest_open(struct guest *g, uint32_t op, int64_t node, uint32_t flags)
{
    struct fuse_open_out out;
    int err = guest_call(g, op, (uint64_t)node, &(struct fuse_open_in){ .flags = flags },
                         sizeof(struct fuse_open_in));

    if (err)
        return err;
    memcpy(&out, g->answer, sizeof(out));
    return (int64_t)out.fh;
}

static inline int64_t guest_create(struct guest *g, uint64_t dir, const char *name, uint32_t flags,
                                   uint32_t mode)
{
    struct fuse_open_out out;
    int err =
        guest_name(g, FUSE_CREATE, dir, &(struct fuse_create_in){ .flags = flags, .mode = mode },
                   sizeof(struct fuse_create_in), name);

    if (err)
        return err;
    memcpy(&out, g->answer + sizeof(struct fuse_entry_out), sizeof(out));
    return (int64_t)out.fh;
}

static inline int guest_write(struct guest *g, int64_t fh, uint64_t off, const char *text,
                              uint32_t flags, uint32_t write_flags)
{
    struct fuse_write_in in = { .fh = (uint64_t)fh,
                                .offset = off,
                                .size = (uint32_t)strlen(text),
                                .flags = flags,
                                .write_flags = write_flags };

    return guest_call2(g, FUSE_WRITE, 0, &in, sizeof(in), text, in.size);
}

static inline int guest_read(struct guest *g, int64_t fh, uint64_t off, uint32_t bytes)
{
    return guest_call(g, FUSE_READ, 0,
                      &(struct fuse_read_in){ .fh = (uint64_t)fh, .offset = off, .size = bytes },
                      sizeof(struct fuse_read_in));
}

static inline const char *guest_path(const struct guest *g, const char *name)
{
    static char paths[2][512]; /* two at a time */
    static unsigned turn;
    char *path = paths[turn++ % 2];

    (void)snprintf(path, sizeof(paths[0]), "%s/%s", g->dir, name);
    return path;
}

static inline void guest_put_file(const struct guest *g, const char *name, const char *text)
{
    FILE *f = fopen(guest_path(g, name), "we");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static inline void guest_check_file(const struct guest *g, const char *name, const char *text)
{
    char buf[4096] = "";
    FILE *f = fopen(guest_path(g, name), "re");

    assert_non_null(f);
    buf[fread(buf, 1, sizeof(buf) - 1, f)] = 0;
    (void)fclose(f);
    assert_string_equal(buf, text);
}

static inline void guest_share(struct guest *g)
{
    fs_close(g->fs);
    g->fs = fs_open(&g->cfg);
    assert_non_null(g->fs);
    assert_int_equal(guest_init(g), 0);
}

static inline int guest_setup(void **state)
{
    struct guest *g = calloc(1, sizeof(*g));

    log_set_level(LOG_ERROR - 1);
    assert_non_null(g);
    (void)snprintf(g->dir, sizeof(g->dir), "/tmp/doppel-fs-XXXXXX");
    assert_non_null(mkdtemp(g->dir));
    g->uid = geteuid();
    g->gid = getegid();
    g->room = sizeof(g->out) - 1;
    g->cfg = (struct fs_config){ .tag = "test", .path = g->dir };
    g->fs = fs_open(&g->cfg);
    assert_non_null(g->fs);
    assert_int_equal(fs_thread_begin(g->fs), 0);
    assert_int_equal(guest_init(g), 0);
    *state = g;
    return 0;
}

static inline int guest_teardown(void **state)
{
    struct guest *g = *state;
    char cmd[128];

    fs_close(g->fs);
    (void)snprintf(cmd, sizeof(cmd), "rm -rf %s", g->dir);
    assert_int_equal(system(cmd), 0);
    free(g);
    return 0;
}

#endif
