/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of a shared folder's server: what a guest gets, and that it gets no more. */
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "backend/fs_fakeguest.h"

#define ROOT FUSE_ROOT_ID

static mode_t answer_mode(const struct guest *g)
{
    struct fuse_entry_out e;

    memcpy(&e, g->answer, sizeof(e));
    return e.attr.mode;
}

/* ---- names ---- */

static void test_names_that_lead_elsewhere_are_refused(void **state)
{
    static const char *const bad[] = { "", ".", "..", "/", "/etc", "../x", "d/x", "d/../..", "d/" };
    struct guest *g = *state;
    char longest[300];
    struct fuse_rename2_in rn = { .newdir = ROOT };
    struct fuse_link_in ln;
    uint64_t file;

    assert_int_equal(mkdir(guest_path(g, "d"), 0755), 0);
    guest_put_file(g, "ok", "");
    file = (uint64_t)guest_lookup(g, ROOT, "ok");
    ln.oldnodeid = file;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        char two[600];
        int n = snprintf(two, sizeof(two), "ok%c%s", 0, bad[i]);

        assert_int_equal(guest_lookup(g, ROOT, bad[i]), -EINVAL);
        assert_int_equal(guest_name(g, FUSE_UNLINK, ROOT, "", 0, bad[i]), -EINVAL);
        assert_int_equal(guest_name(g, FUSE_RMDIR, ROOT, "", 0, bad[i]), -EINVAL);
        assert_int_equal(guest_name(g, FUSE_MKDIR, ROOT, &(struct fuse_mkdir_in){ .mode = 0755 },
                                    sizeof(struct fuse_mkdir_in), bad[i]),
                         -EINVAL);
        assert_int_equal(guest_create(g, ROOT, bad[i], O_RDWR, 0644), -EINVAL);
        assert_int_equal(guest_name(g, FUSE_LINK, ROOT, &ln, sizeof(ln), bad[i]), -EINVAL);
        assert_int_equal(guest_call2(g, FUSE_RENAME2, ROOT, &rn, sizeof(rn), two, (size_t)n + 1),
                         -EINVAL);
    }
    memset(longest, 'x', sizeof(longest));
    longest[256] = 0;
    assert_int_equal(guest_lookup(g, ROOT, longest), -ENAMETOOLONG);
    longest[255] = 0;
    assert_int_equal(guest_lookup(g, ROOT, longest), -ENOENT);
    /* No 0 at the end. */
    assert_int_equal(guest_call(g, FUSE_LOOKUP, ROOT, "ok", 2), -EINVAL);
    assert_int_equal(guest_call2(g, FUSE_RENAME2, ROOT, &rn, sizeof(rn), "ok\0new", 6), -EINVAL);
}

static void test_symlinks_are_the_guests_to_follow(void **state)
{
    struct guest *g = *state;
    int64_t id;

    assert_int_equal(symlink("/etc", guest_path(g, "out")), 0);
    id = guest_lookup(g, ROOT, "out");
    assert_true(id > 0);
    assert_true(S_ISLNK(answer_mode(g)));
    assert_int_equal(guest_lookup(g, (uint64_t)id, "passwd"), -ENOTDIR);
    assert_int_equal(guest_open(g, FUSE_OPEN, id, O_RDONLY), -ELOOP);
    assert_int_equal(guest_open(g, FUSE_OPENDIR, id, O_RDONLY), -ENOTDIR);
    assert_int_equal(guest_create(g, ROOT, "out", O_RDWR, 0644), -ELOOP);
    assert_int_equal(guest_create(g, (uint64_t)id, "new", O_RDWR, 0644), -ENOTDIR);
    assert_int_equal(guest_call(g, FUSE_READLINK, (uint64_t)id, "", 0), 0);
    assert_int_equal(g->answer_bytes, 4);
    assert_memory_equal(g->answer, "/etc", 4);
    assert_int_equal(guest_call2(g, FUSE_SYMLINK, ROOT, "l\0", 2, "..", 3), 0);
    assert_true(S_ISLNK(answer_mode(g)));
    /* A file that became a link since it was looked up is still the file. */
    guest_put_file(g, "f", "mine");
    id = guest_lookup(g, ROOT, "f");
    assert_int_equal(unlink(guest_path(g, "f")), 0);
    assert_int_equal(symlink("/etc/passwd", guest_path(g, "f")), 0);
    assert_int_equal(guest_read(g, guest_open(g, FUSE_OPEN, id, O_RDONLY), 0, 10), 0);
    assert_int_equal(g->answer_bytes, 4);
    assert_memory_equal(g->answer, "mine", 4);
}

static void test_pipes_and_devices_are_not_opened(void **state)
{
    struct guest *g = *state;
    struct fuse_mknod_in in = { .mode = S_IFBLK | 0666, .rdev = 0x0801 };
    int64_t id;

    assert_int_equal(guest_name(g, FUSE_MKNOD, ROOT, &in, sizeof(in), "sda1"), -EPERM);
    in.mode = S_IFCHR | 0666;
    assert_int_equal(guest_name(g, FUSE_MKNOD, ROOT, &in, sizeof(in), "mem"), -EPERM);
    in.mode = S_IFDIR | 0777;
    assert_int_equal(guest_name(g, FUSE_MKNOD, ROOT, &in, sizeof(in), "dir"), -EINVAL);
    in.mode = S_IFIFO | 0666;
    assert_int_equal(guest_name(g, FUSE_MKNOD, ROOT, &in, sizeof(in), "pipe"), 0);
    assert_true(S_ISFIFO(answer_mode(g)));
    id = guest_lookup(g, ROOT, "pipe");
    /* None of these waits for the other end. */
    assert_int_equal(guest_open(g, FUSE_OPEN, id, O_RDONLY), -ENXIO);
    assert_int_equal(guest_create(g, ROOT, "pipe", O_WRONLY, 0644), -ENXIO);
    if (mknod(guest_path(g, "null"), S_IFCHR | 0666, makedev(1, 3)) == 0) {
        id = guest_lookup(g, ROOT, "null");
        assert_int_equal(guest_open(g, FUSE_OPEN, id, O_RDONLY), -ENXIO);
        assert_int_equal(guest_create(g, ROOT, "null", O_RDWR, 0644), -ENXIO);
    }
}

/* ---- requests of wrong sizes ---- */

/* Every operation with arguments of every length, all zeroes, all ones, and room of all kinds: the
 * checks are guest_send()'s and the sanitizers'. */
static void test_any_length_of_any_request_is_answered(void **state)
{
    struct guest *g = *state;
    static const uint32_t rooms[] = { 0, 16, 20, 120, 4096 };
    uint8_t args[160];

    for (uint32_t op = 0; op < 60; op++)
        for (uint32_t len = 0; len < sizeof(args); len++)
            for (unsigned fill = 0; fill < 3; fill++) {
                memset(args, fill == 1 ? 0xff : 0, sizeof(args));
                if (fill == 2)
                    memset(args, 'x', len);
                g->room = rooms[(op + len + fill) % ARRAY_SIZE(rooms)];
                (void)guest_call(g, op, ROOT, args, len);
            }
    g->room = sizeof(g->out) - 1;
    assert_int_equal(guest_init(g), 0);
}

static void test_requests_that_lie_about_their_length_are_refused(void **state)
{
    struct guest *g = *state;
    struct fuse_in_header h = { .opcode = FUSE_MKDIR, .unique = ++g->unique, .nodeid = ROOT };
    static const int32_t off[] = { -60, -1, 1, 4096, INT32_MAX };
    struct stat st;

    for (unsigned i = 0; i < ARRAY_SIZE(off); i++) {
        h.len = (uint32_t)(sizeof(h) + 10 + off[i]);
        memset(g->in, 0, 128);
        memcpy(g->in, &h, sizeof(h));
        memcpy(g->in + sizeof(h) + 8, "d", 2);
        assert_int_equal(guest_send(g, sizeof(h) + 10), -EINVAL);
    }
    assert_int_equal(stat(guest_path(g, "d"), &st), -1);
    /* Without room for its answer nothing is done. */
    g->room = 0;
    assert_int_equal(guest_name(g, FUSE_MKDIR, ROOT, "\0\0\0\0\0\0\0", 8, "d"), 1);
    g->room = 16 + sizeof(struct fuse_entry_out) - 1;
    assert_int_equal(guest_name(g, FUSE_MKDIR, ROOT, "\0\0\0\0\0\0\0", 8, "d"), -EINVAL);
    assert_int_equal(stat(guest_path(g, "d"), &st), -1);
}

static void test_unknown_numbers_are_refused(void **state)
{
    static const uint64_t bad[] = { 0, 2, 3, 1ull << 32 | 1, UINT64_MAX, UINT32_MAX, 1ull << 63 };
    struct guest *g = *state;
    struct fuse_getattr_in ga = { .dummy = 0 };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(guest_call(g, FUSE_GETATTR, bad[i], &ga, sizeof(ga)), -ESTALE);
        assert_int_equal(guest_lookup(g, bad[i], "x"), -ESTALE);
        assert_int_equal(guest_open(g, FUSE_OPEN, (int64_t)bad[i], 0), -ESTALE);
        assert_int_equal(guest_read(g, (int64_t)bad[i], 0, 1), -EBADF);
        assert_int_equal(guest_write(g, (int64_t)bad[i], 0, "x", 0, 0), -EBADF);
        assert_int_equal(guest_call(g, FUSE_RELEASE, ROOT,
                                    &(struct fuse_release_in){ .fh = bad[i] },
                                    sizeof(struct fuse_release_in)),
                         0);
    }
    assert_int_equal(guest_open(g, FUSE_OPEN, ROOT, O_RDONLY), -EISDIR);
}

/* ---- sessions ---- */

static void test_session_begins_with_init_and_ends_with_destroy(void **state)
{
    struct guest *g = *state;
    struct fuse_init_in in = { .major = 8, .minor = 1 };
    struct fuse_init_out out;
    unsigned nodes, files;
    int64_t id;

    guest_put_file(g, "f", "");
    id = guest_lookup(g, ROOT, "f");
    assert_true(guest_open(g, FUSE_OPEN, id, O_RDWR) > 0);
    fs_count(g->fs, &nodes, &files);
    assert_int_equal(nodes, 1);
    assert_int_equal(files, 1);
    assert_int_equal(guest_call(g, FUSE_DESTROY, 0, "", 0), 0);
    fs_count(g->fs, &nodes, &files);
    assert_int_equal(nodes + files, 0);
    assert_int_equal(guest_lookup(g, ROOT, "f"), -ENOTCONN);
    assert_int_equal(guest_call(g, FUSE_INIT, 0, &in, sizeof(in)), 0);
    memcpy(&out, g->answer, sizeof(out));
    assert_int_equal(out.major, 7);
    in = (struct fuse_init_in){ .major = 7, .minor = 30 };
    assert_int_equal(guest_call(g, FUSE_INIT, 0, &in, sizeof(in)), -EPROTO);
    assert_int_equal(guest_lookup(g, ROOT, "f"), -ENOTCONN);
    in = (struct fuse_init_in){ .major = 7, .minor = 31, .flags = FUSE_MAX_PAGES };
    assert_int_equal(guest_call(g, FUSE_INIT, 0, &in, 16), 0); /* as before 7.36 */
    memcpy(&out, g->answer, sizeof(out));
    assert_int_equal(out.minor, 31);
    assert_int_equal(out.flags, FUSE_MAX_PAGES);
    assert_int_equal(out.max_pages, 256);
    /* The old number is not the new node's. */
    assert_int_equal(guest_call(g, FUSE_READLINK, (uint64_t)id, "", 0), -ESTALE);
    assert_true(guest_lookup(g, ROOT, "f") > 0);
    assert_int_equal(guest_init(g), 0);
    fs_count(g->fs, &nodes, &files);
    assert_int_equal(nodes, 0);
}

static void test_nodes_are_counted_and_bounded(void **state)
{
    struct guest *g = *state;
    struct fuse_forget_in one = { .nlookup = 1 };
    struct {
        struct fuse_batch_forget_in in;
        struct fuse_forget_one one[3];
    } batch = { .in = { .count = 1000 } };
    unsigned nodes, files;
    int64_t a, b;

    guest_put_file(g, "a", "");
    guest_put_file(g, "b", "");
    guest_put_file(g, "c", "");
    assert_int_equal(link(guest_path(g, "a"), guest_path(g, "a2")), 0);
    g->fs->nodes.max = 3; /* with the root */
    a = guest_lookup(g, ROOT, "a");
    assert_int_equal(guest_lookup(g, ROOT, "a2"), a);
    b = guest_lookup(g, ROOT, "b");
    assert_int_equal(guest_lookup(g, ROOT, "c"), -ENFILE);
    assert_int_equal(guest_lookup(g, ROOT, "b"), b);
    assert_int_equal(guest_call(g, FUSE_FORGET, (uint64_t)a, &one, sizeof(one)), 1);
    assert_int_equal(guest_lookup(g, ROOT, "c"), -ENFILE); /* a2 is still known */
    assert_int_equal(guest_call(g, FUSE_FORGET, (uint64_t)a, &one, sizeof(one)), 1);
    assert_true(guest_lookup(g, ROOT, "c") > 0);
    assert_int_equal(guest_call(g, FUSE_READLINK, (uint64_t)a, "", 0), -ESTALE);
    /* More than there is, of what there is not, and of the root. */
    batch.one[0] = (struct fuse_forget_one){ .nodeid = (uint64_t)b, .nlookup = UINT64_MAX };
    batch.one[1] = (struct fuse_forget_one){ .nodeid = (uint64_t)a, .nlookup = 1 };
    batch.one[2] = (struct fuse_forget_one){ .nodeid = ROOT, .nlookup = 1 };
    assert_int_equal(guest_call(g, FUSE_BATCH_FORGET, 0, &batch, sizeof(batch)), 1);
    fs_count(g->fs, &nodes, &files);
    assert_int_equal(nodes, 1);
    a = guest_lookup(g, ROOT, "a");
    assert_true(a > 0);
    g->fs->files.max = 1;
    assert_true(guest_open(g, FUSE_OPEN, a, O_RDONLY) > 0);
    assert_int_equal(guest_open(g, FUSE_OPEN, a, O_RDONLY), -ENFILE);
    assert_int_equal(guest_open(g, FUSE_OPENDIR, ROOT, O_RDONLY), -ENFILE);
}

static void test_more_nodes_than_descriptors(void **state)
{
    enum { NR = 40 };
    struct guest *g = *state;
    struct fuse_getattr_in ga = { .dummy = 0 };
    struct fuse_attr_out out;
    int64_t ids[NR], old, id;
    struct stat st;
    char name[16];
    unsigned nodes, files;

    if (g->fs->mount_fd < 0) {
        skip(); /* this host gives no handles */
        return;
    }
    g->fs->max_open_nodes = 4;
    for (unsigned i = 0; i < NR; i++) {
        (void)snprintf(name, sizeof(name), "f%u", i);
        guest_put_file(g, name, name);
        if (i % 3 == 1)
            assert_int_equal(symlink(name, guest_path(g, "l")), 0);
        ids[i] = guest_lookup(g, ROOT, i % 3 == 1 ? "l" : name);
        assert_true(ids[i] > 0);
        if (i % 3 == 1)
            assert_int_equal(rename(guest_path(g, "l"), guest_path(g, name)), 0);
        assert_true(g->fs->nr_open_nodes <= 4);
    }
    fs_count(g->fs, &nodes, &files);
    assert_int_equal(nodes, NR);
    for (unsigned i = 0; i < NR; i++) {
        (void)snprintf(name, sizeof(name), "f%u", i);
        assert_int_equal(guest_call(g, FUSE_GETATTR, (uint64_t)ids[i], &ga, sizeof(ga)), 0);
        memcpy(&out, g->answer, sizeof(out));
        assert_int_equal(lstat(guest_path(g, name), &st), 0);
        assert_int_equal(out.attr.ino, st.st_ino);
        assert_int_equal(out.attr.mode, st.st_mode);
        assert_int_equal(guest_lookup(g, ROOT, name), ids[i]);
        if (i % 3 != 1) {
            assert_int_equal(guest_read(g, guest_open(g, FUSE_OPEN, ids[i], O_RDONLY), 0, 10), 0);
            assert_memory_equal(g->answer, name, strlen(name));
        }
    }
    assert_true(g->fs->nr_open_nodes <= 4);
    /* One without a name that the guest has open. */
    assert_true(guest_create(g, ROOT, "unnamed", O_RDWR, 0600) > 0);
    memcpy(&id, g->answer, sizeof(id));
    assert_int_equal(guest_name(g, FUSE_UNLINK, ROOT, "", 0, "unnamed"), 0);
    for (unsigned i = 0; i < NR; i++)
        assert_int_equal(guest_call(g, FUSE_GETATTR, (uint64_t)ids[i], &ga, sizeof(ga)), 0);
    assert_int_equal(guest_call(g, FUSE_GETATTR, (uint64_t)id, &ga, sizeof(ga)), 0);
    /* A file that is gone, and one that may have its inode's number now. */
    assert_int_equal(lstat(guest_path(g, "f0"), &st), 0);
    assert_int_equal(guest_call(g, FUSE_DESTROY, 0, "", 0), 0);
    assert_int_equal(guest_init(g), 0);
    old = guest_lookup(g, ROOT, "f0");
    for (unsigned i = 2; i < NR; i++) {
        (void)snprintf(name, sizeof(name), "f%u", i);
        assert_true(guest_lookup(g, ROOT, name) > 0);
    }
    assert_int_equal(unlink(guest_path(g, "f0")), 0);
    guest_put_file(g, "new", "new");
    id = guest_lookup(g, ROOT, "new");
    assert_true(id > 0 && id != old);
    assert_int_equal(guest_call(g, FUSE_GETATTR, (uint64_t)old, &ga, sizeof(ga)), -ESTALE);
    assert_int_equal(guest_call(g, FUSE_FORGET, (uint64_t)old, &(struct fuse_forget_in){ 1 }, 8),
                     1);
    assert_int_equal(guest_call(g, FUSE_GETATTR, (uint64_t)id, &ga, sizeof(ga)), 0);
}

/* ---- a share that is read-only ---- */

static void test_readonly_share_changes_nothing(void **state)
{
    struct guest *g = *state;
    struct fuse_setattr_in sa = { .valid = FATTR_SIZE };
    int64_t id, fh;

    guest_put_file(g, "f", "text");
    g->cfg.readonly = true;
    guest_share(g);
    id = guest_lookup(g, ROOT, "f");
    assert_int_equal(guest_open(g, FUSE_OPEN, id, O_RDWR), -EROFS);
    assert_int_equal(guest_open(g, FUSE_OPEN, id, O_WRONLY), -EROFS);
    assert_int_equal(guest_open(g, FUSE_OPEN, id, O_RDONLY | O_TRUNC), -EROFS);
    assert_int_equal(guest_create(g, ROOT, "f", O_RDONLY, 0644), -EROFS);
    assert_int_equal(guest_create(g, ROOT, "new", O_RDWR, 0644), -EROFS);
    assert_int_equal(guest_call(g, FUSE_SETATTR, (uint64_t)id, &sa, sizeof(sa)), -EROFS);
    assert_int_equal(guest_name(g, FUSE_UNLINK, ROOT, "", 0, "f"), -EROFS);
    assert_int_equal(guest_name(g, FUSE_MKDIR, ROOT, "\0\0\0\0\0\0\0", 8, "d"), -EROFS);
    assert_int_equal(guest_call2(g, FUSE_SYMLINK, ROOT, "l\0", 2, "x", 2), -EROFS);
    assert_int_equal(
        guest_call2(g, FUSE_SETXATTR, (uint64_t)id, "\1\0\0\0\0\0\0", 8, "user.a\0x", 8), -EROFS);
    fh = guest_open(g, FUSE_OPEN, id, O_RDONLY);
    assert_int_equal(guest_write(g, fh, 0, "x", 0, 0), -EROFS);
    assert_int_equal(guest_read(g, fh, 0, 100), 0);
    assert_int_equal(g->answer_bytes, 4);
    guest_check_file(g, "f", "text");
}

/* ---- files ---- */

static void test_data_and_appending(void **state)
{
    struct guest *g = *state;
    struct fuse_write_in in = { .size = 3 };
    int64_t fh = guest_create(g, ROOT, "f", O_RDWR | O_APPEND, 0640);

    assert_true(fh > 0);
    assert_int_equal(guest_write(g, fh, 0, "0123456789", O_RDWR, 0), 0);
    assert_int_equal(guest_write(g, fh, 2, "xy", O_RDWR, 0), 0);
    guest_check_file(g, "f", "01xy456789");
    /* Wherever the guest thinks the end is; but not for pages that it had mapped. */
    assert_int_equal(guest_write(g, fh, 4, "end", O_RDWR | O_APPEND, 0), 0);
    guest_check_file(g, "f", "01xy456789end");
    assert_int_equal(guest_write(g, fh, 4, "map", O_RDWR | O_APPEND, FUSE_WRITE_CACHE), 0);
    guest_check_file(g, "f", "01xymap789end");
    assert_int_equal(guest_read(g, fh, 1, 5), 0);
    assert_memory_equal(g->answer, "1xyma", 5);
    assert_int_equal(g->answer_bytes, 5);
    assert_int_equal(guest_read(g, fh, 100, 5), 0);
    assert_int_equal(g->answer_bytes, 0);
    assert_int_equal(guest_read(g, fh, UINT64_MAX, 5), -EINVAL);
    assert_int_equal(guest_read(g, fh, INT64_MAX, 5), -EINVAL);
    /* As much as there is room for. */
    g->room = 16 + 3;
    assert_int_equal(guest_read(g, fh, 0, UINT32_MAX), 0);
    assert_int_equal(g->answer_bytes, 3);
    g->room = sizeof(g->out) - 1;
    /* A size that is not that of the data. */
    in.fh = (uint64_t)fh;
    assert_int_equal(guest_call2(g, FUSE_WRITE, ROOT, &in, sizeof(in), "xxxx", 4), -EINVAL);
    assert_int_equal(guest_call2(g, FUSE_WRITE, ROOT, &in, sizeof(in), "xx", 2), -EINVAL);
    in.offset = INT64_MAX;
    assert_int_equal(guest_call2(g, FUSE_WRITE, ROOT, &in, sizeof(in), "xxx", 3), -EINVAL);
    guest_check_file(g, "f", "01xymap789end");
}

static void test_large_data_goes_through_whole(void **state)
{
    struct guest *g = *state;
    int64_t fh = guest_create(g, ROOT, "f", O_RDWR, 0640);
    char *text = malloc(100001);

    for (unsigned i = 0; i < 100000; i++)
        text[i] = (char)('a' + i * 7 % 26);
    text[100000] = 0;
    assert_int_equal(guest_write(g, fh, 5, text, O_RDWR, 0), 0);
    assert_int_equal(guest_read(g, fh, 5, 200000), 0);
    assert_int_equal(g->answer_bytes, 100000);
    assert_memory_equal(g->answer, text, 100000);
    free(text);
}

static void test_open_files_outlive_their_names(void **state)
{
    struct guest *g = *state;
    struct fuse_getattr_in ga = { .dummy = 0 };
    struct fuse_link_in ln;
    int64_t fh, id;

    fh = guest_create(g, ROOT, "f", O_RDWR, 0640);
    memcpy(&id, g->answer, sizeof(id));
    assert_int_equal(guest_name(g, FUSE_UNLINK, ROOT, "", 0, "f"), 0);
    assert_int_equal(guest_write(g, fh, 0, "still", O_RDWR, 0), 0);
    assert_int_equal(guest_call(g, FUSE_GETATTR, (uint64_t)id, &ga, sizeof(ga)), 0);
    /* A file that never had a name gets one. */
    assert_int_equal(guest_name(g, FUSE_TMPFILE, ROOT,
                                &(struct fuse_create_in){ .flags = O_RDWR, .mode = 0600 },
                                sizeof(struct fuse_create_in), "/"),
                     0);
    memcpy(&ln.oldnodeid, g->answer, 8);
    assert_int_equal(guest_name(g, FUSE_LINK, ROOT, &ln, sizeof(ln), "named"), 0);
    guest_check_file(g, "named", "");
    ln.oldnodeid = ROOT;
    assert_int_equal(guest_name(g, FUSE_LINK, ROOT, &ln, sizeof(ln), "dir"), -EPERM);
}

static void test_sizes_times_and_modes(void **state)
{
    struct guest *g = *state;
    struct fuse_setattr_in sa = { .valid = FATTR_SIZE | FATTR_MODE | FATTR_ATIME | FATTR_MTIME,
                                  .size = 3,
                                  .mode = S_IFREG | 0741,
                                  .atime = 1,
                                  .mtime = 2,
                                  .mtimensec = 999999999 };
    struct stat st;
    int64_t id;

    guest_put_file(g, "f", "0123456");
    assert_int_equal(symlink("f", guest_path(g, "l")), 0);
    id = guest_lookup(g, ROOT, "f");
    assert_int_equal(guest_call(g, FUSE_SETATTR, (uint64_t)id, &sa, sizeof(sa)), 0);
    guest_check_file(g, "f", "012");
    assert_int_equal(stat(guest_path(g, "f"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0741);
    assert_int_equal(st.st_mtim.tv_sec, 2);
    assert_int_equal(st.st_mtim.tv_nsec, 999999999);
    sa.mtimensec = 1000000000;
    assert_int_equal(guest_call(g, FUSE_SETATTR, (uint64_t)id, &sa, sizeof(sa)), -EINVAL);
    sa.valid = FATTR_SIZE;
    sa.size = UINT64_MAX;
    assert_int_equal(guest_call(g, FUSE_SETATTR, (uint64_t)id, &sa, sizeof(sa)), -EFBIG);
    assert_int_equal(guest_call(g, FUSE_SETATTR, ROOT, &sa, sizeof(sa)), -EISDIR);
    /* The link itself, not what it leads to. */
    sa = (struct fuse_setattr_in){ .valid = FATTR_MTIME, .mtime = 77 };
    id = guest_lookup(g, ROOT, "l");
    assert_int_equal(guest_call(g, FUSE_SETATTR, (uint64_t)id, &sa, sizeof(sa)), 0);
    assert_int_equal(lstat(guest_path(g, "l"), &st), 0);
    assert_int_equal(st.st_mtim.tv_sec, 77);
    assert_int_equal(stat(guest_path(g, "f"), &st), 0);
    assert_int_equal(st.st_mtim.tv_sec, 2);
    sa = (struct fuse_setattr_in){ .valid = FATTR_MODE, .mode = 0777 };
    assert_int_equal(guest_call(g, FUSE_SETATTR, (uint64_t)id, &sa, sizeof(sa)), -EOPNOTSUPP);
    assert_int_equal(stat(guest_path(g, "f"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0741);
}

static void test_renames(void **state)
{
    struct guest *g = *state;
    struct fuse_rename2_in in = { .newdir = ROOT, .flags = RENAME_NOREPLACE };
    struct fuse_rename_in plain = { .newdir = ROOT };

    guest_put_file(g, "a", "A");
    guest_put_file(g, "b", "B");
    assert_int_equal(guest_call2(g, FUSE_RENAME2, ROOT, &in, sizeof(in), "a\0b", 4), -EEXIST);
    in.flags = RENAME_EXCHANGE;
    assert_int_equal(guest_call2(g, FUSE_RENAME2, ROOT, &in, sizeof(in), "a\0b", 4), 0);
    guest_check_file(g, "a", "B");
    in.flags = 64;
    assert_int_equal(guest_call2(g, FUSE_RENAME2, ROOT, &in, sizeof(in), "a\0b", 4), -EINVAL);
    assert_int_equal(guest_call2(g, FUSE_RENAME, ROOT, &plain, sizeof(plain), "a\0b", 4), 0);
    guest_check_file(g, "b", "B");
    plain.newdir = 99;
    assert_int_equal(guest_call2(g, FUSE_RENAME, ROOT, &plain, sizeof(plain), "b\0c", 4), -ESTALE);
}

static void test_ranges_of_files(void **state)
{
    struct guest *g = *state;
    int64_t a = guest_create(g, ROOT, "a", O_RDWR, 0640);
    int64_t b = guest_create(g, ROOT, "b", O_RDWR, 0640);
    struct fuse_copy_file_range_in cp = { .fh_in = (uint64_t)a, .fh_out = (uint64_t)b, .len = 4 };
    struct fuse_fallocate_in fa = { .fh = (uint64_t)a, .length = 100 };
    struct fuse_lseek_in ls = { .fh = (uint64_t)a, .whence = SEEK_HOLE };
    struct fuse_lseek_out where;
    struct stat st;

    assert_int_equal(guest_write(g, a, 0, "0123456789", 0, 0), 0);
    cp.off_in = 3;
    cp.off_out = 1;
    assert_int_equal(guest_call(g, FUSE_COPY_FILE_RANGE, ROOT, &cp, sizeof(cp)), 0);
    assert_int_equal(guest_read(g, b, 1, 10), 0);
    assert_int_equal(g->answer_bytes, 4);
    assert_memory_equal(g->answer, "3456", 4);
    cp.flags = 1;
    assert_int_equal(guest_call(g, FUSE_COPY_FILE_RANGE, ROOT, &cp, sizeof(cp)), -EINVAL);
    cp.flags = 0;
    cp.off_in = UINT64_MAX;
    assert_int_equal(guest_call(g, FUSE_COPY_FILE_RANGE, ROOT, &cp, sizeof(cp)), -EINVAL);
    cp.off_in = 0;
    cp.fh_out = 77;
    assert_int_equal(guest_call(g, FUSE_COPY_FILE_RANGE, ROOT, &cp, sizeof(cp)), -EBADF);
    assert_int_equal(guest_call(g, FUSE_LSEEK, ROOT, &ls, sizeof(ls)), 0);
    memcpy(&where, g->answer, sizeof(where));
    assert_int_equal(where.offset, 10);
    ls.whence = SEEK_END;
    assert_int_equal(guest_call(g, FUSE_LSEEK, ROOT, &ls, sizeof(ls)), -EINVAL);
    assert_int_equal(guest_call(g, FUSE_FALLOCATE, ROOT, &fa, sizeof(fa)), 0);
    assert_int_equal(stat(guest_path(g, "a"), &st), 0);
    assert_int_equal(st.st_size, 100);
    fa.mode = 0x40; /* unshare */
    assert_int_equal(guest_call(g, FUSE_FALLOCATE, ROOT, &fa, sizeof(fa)), -EOPNOTSUPP);
    fa.mode = 0;
    fa.length = UINT64_MAX;
    assert_int_equal(guest_call(g, FUSE_FALLOCATE, ROOT, &fa, sizeof(fa)), -EFBIG);
}

/* What was answered to an OPEN of the node's. */
static uint32_t open_flags(struct guest *g, int64_t node)
{
    struct fuse_open_out out;
    int64_t fh = guest_open(g, FUSE_OPEN, node, O_RDONLY);

    assert_true(fh > 0);
    memcpy(&out, g->answer, sizeof(out));
    assert_int_equal(guest_call(g, FUSE_RELEASE, ROOT,
                                &(struct fuse_release_in){ .fh = (uint64_t)fh },
                                sizeof(struct fuse_release_in)),
                     0);
    return out.open_flags;
}

static void test_cached_pages_are_kept_while_the_file_is_the_same(void **state)
{
    struct guest *g = *state;
    int64_t id, other;

    guest_put_file(g, "f", "text");
    guest_put_file(g, "other", "text");
    id = guest_lookup(g, ROOT, "f");
    other = guest_lookup(g, ROOT, "other");
    assert_int_equal(open_flags(g, id), 0);
    /* Once its last change is so long ago that another could not look the same. */
    while (open_flags(g, id) != FOPEN_KEEP_CACHE)
        (void)usleep(1000);
    assert_int_equal(open_flags(g, id), FOPEN_KEEP_CACHE);
    assert_int_equal(open_flags(g, other), 0);
    guest_put_file(g, "f", "TEXT");
    assert_int_equal(open_flags(g, id), 0);
    g->cfg.cache = FS_CACHE_NONE;
    guest_share(g);
    assert_int_equal(open_flags(g, guest_lookup(g, ROOT, "f")), FOPEN_DIRECT_IO);
    g->cfg.cache = FS_CACHE_ALWAYS;
    guest_share(g);
    assert_int_equal(open_flags(g, guest_lookup(g, ROOT, "f")), FOPEN_KEEP_CACHE);
    /* That there is nothing can be remembered, too. */
    assert_int_equal(guest_lookup(g, ROOT, "nothing"), 0);
}

/* ---- folders ---- */

/* Reads a folder with so much room at a time; seen counts names f000 ... */
static void read_all(struct guest *g, uint32_t op, uint32_t bytes, unsigned *seen, unsigned nr)
{
    struct fuse_read_in in = { .fh = (uint64_t)guest_open(g, FUSE_OPENDIR, ROOT, O_RDONLY),
                               .size = bytes };
    size_t head = op == FUSE_READDIRPLUS ? sizeof(struct fuse_entry_out) : 0;

    memset(seen, 0, nr * sizeof(*seen));
    for (;;) {
        uint32_t at = 0;

        assert_int_equal(guest_call(g, op, ROOT, &in, sizeof(in)), 0);
        assert_true(g->answer_bytes <= bytes);
        if (!g->answer_bytes)
            return;
        while (at < g->answer_bytes) {
            struct fuse_dirent d;
            char name[300];

            memcpy(&d, g->answer + at + head, FUSE_NAME_OFFSET);
            (void)snprintf(name, sizeof(name), "%.*s", (int)d.namelen,
                           (const char *)g->answer + at + head + FUSE_NAME_OFFSET);
            at += (uint32_t)(head + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + d.namelen));
            in.offset = d.off;
            if (name[0] == 'f' && (unsigned)atoi(name + 1) < nr)
                seen[atoi(name + 1)]++;
        }
        assert_int_equal(at, g->answer_bytes);
    }
}

static void test_folders_are_listed_whole_in_any_steps(void **state)
{
    static const uint32_t steps[] = { 400, 1000, 4096, 65536 };
    struct guest *g = *state;
    unsigned seen[200], nodes, files;
    struct fuse_read_in in = { .size = 20 };

    for (unsigned i = 0; i < ARRAY_SIZE(seen); i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), "f%03u", i);
        guest_put_file(g, name, "");
    }
    for (unsigned s = 0; s < ARRAY_SIZE(steps); s++) {
        read_all(g, FUSE_READDIR, steps[s], seen, ARRAY_SIZE(seen));
        for (unsigned i = 0; i < ARRAY_SIZE(seen); i++)
            assert_int_equal(seen[i], 1);
        fs_count(g->fs, &nodes, &files);
        assert_int_equal(nodes, s ? 200 : 0);
        read_all(g, FUSE_READDIRPLUS, steps[s], seen, ARRAY_SIZE(seen));
        for (unsigned i = 0; i < ARRAY_SIZE(seen); i++)
            assert_int_equal(seen[i], 1);
        fs_count(g->fs, &nodes, &files);
        assert_int_equal(nodes, 200);
    }
    in.fh = (uint64_t)guest_open(g, FUSE_OPENDIR, ROOT, O_RDONLY);
    assert_int_equal(guest_call(g, FUSE_READDIR, ROOT, &in, sizeof(in)), -EINVAL);
    in.offset = UINT64_MAX;
    in.size = 4096;
    assert_true(guest_call(g, FUSE_READDIR, ROOT, &in, sizeof(in)) <= 0);
    /* When descriptors run out, names alone. */
    assert_int_equal(guest_init(g), 0);
    g->fs->nodes.max = 20;
    read_all(g, FUSE_READDIRPLUS, 4096, seen, ARRAY_SIZE(seen));
    for (unsigned i = 0; i < ARRAY_SIZE(seen); i++)
        assert_int_equal(seen[i], 1);
}

/* ---- attributes and owners ---- */

static void test_attributes_of_the_host_are_not_the_guests(void **state)
{
    static const char *const bad[] = { "security.selinux", "security.ima",
                                       "system.posix_acl_access", "other.x", "user" };
    struct guest *g = *state;
    struct fuse_getxattr_in get = { .size = 100 };
    struct fuse_getxattr_out size;
    uint32_t set[2] = { 1, 0 };
    int64_t id;

    guest_put_file(g, "f", "");
    id = guest_lookup(g, ROOT, "f");
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        char two[64];
        int n = snprintf(two, sizeof(two), "%s%cx", bad[i], 0);

        assert_int_equal(
            guest_call2(g, FUSE_SETXATTR, (uint64_t)id, set, sizeof(set), two, (size_t)n),
            -EOPNOTSUPP);
        assert_int_equal(guest_name(g, FUSE_GETXATTR, (uint64_t)id, &get, sizeof(get), bad[i]),
                         -EOPNOTSUPP);
        assert_int_equal(guest_name(g, FUSE_REMOVEXATTR, (uint64_t)id, "", 0, bad[i]), -EOPNOTSUPP);
    }
    /* Sizes that are not those of the value. */
    set[0] = 2;
    assert_int_equal(guest_call2(g, FUSE_SETXATTR, (uint64_t)id, set, 8, "user.a\0x", 8), -EINVAL);
    set[0] = 1u << 31;
    assert_int_equal(guest_call2(g, FUSE_SETXATTR, (uint64_t)id, set, 8, "user.a\0x", 8), -E2BIG);
    if (setxattr(guest_path(g, "f"), "user.b", "bb", 2, 0) < 0)
        skip(); /* this host's file system has none */
    set[0] = 1;
    assert_int_equal(guest_call2(g, FUSE_SETXATTR, (uint64_t)id, set, 8, "user.a\0x", 8), 0);
    assert_int_equal(guest_name(g, FUSE_GETXATTR, (uint64_t)id, &get, sizeof(get), "user.b"), 0);
    assert_int_equal(g->answer_bytes, 2);
    get.size = 1;
    assert_int_equal(guest_name(g, FUSE_GETXATTR, (uint64_t)id, &get, sizeof(get), "user.b"),
                     -ERANGE);
    get.size = 0;
    assert_int_equal(guest_call(g, FUSE_LISTXATTR, (uint64_t)id, &get, sizeof(get)), 0);
    memcpy(&size, g->answer, sizeof(size));
    assert_int_equal(size.size, 14);
}

static void test_owners_are_the_guests(void **state)
{
    struct guest *g = *state;
    struct fuse_setattr_in sa = { .valid = FATTR_UID, .uid = 4321 };
    struct stat st;
    int64_t fh;

    g->uid = 1234;
    g->gid = 1235;
    fh = guest_create(g, ROOT, "f", O_RDWR, 06777);
    if (!g->fs->owners) {
        skip(); /* not root: test_without_root_all_files_are_one_users */
        return;
    }
    assert_true(fh > 0);
    assert_int_equal(stat(guest_path(g, "f"), &st), 0);
    assert_int_equal(st.st_uid, 1234);
    assert_int_equal(st.st_gid, 1235);
    assert_int_equal(st.st_mode & 07777, 06777);
    assert_int_equal(
        guest_name(g, FUSE_MKDIR, ROOT, &(struct fuse_mkdir_in){ .mode = 0777 }, 8, "d"), 0);
    assert_int_equal(stat(guest_path(g, "d"), &st), 0);
    assert_int_equal(st.st_uid, 1234);
    assert_int_equal(geteuid(), 0);
    /* Set-user-ID bits go when the guest says so, as they do for users. */
    assert_int_equal(guest_write(g, fh, 0, "x", 0, 0), 0);
    assert_int_equal(stat(guest_path(g, "f"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 06777);
    assert_int_equal(guest_write(g, fh, 0, "x", 0, FUSE_WRITE_KILL_SUIDGID), 0);
    assert_int_equal(stat(guest_path(g, "f"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0777);
    assert_int_equal(
        guest_call(g, FUSE_SETATTR, (uint64_t)guest_lookup(g, ROOT, "f"), &sa, sizeof(sa)), 0);
    assert_int_equal(stat(guest_path(g, "f"), &st), 0);
    assert_int_equal(st.st_uid, 4321);
    g->uid = UINT32_MAX;
    assert_int_equal(guest_create(g, ROOT, "nobody", O_RDWR, 0644), -EPERM);
}

static void test_without_root_all_files_are_one_users(void **state)
{
    struct guest *g = *state;
    struct fuse_setattr_in sa = { .valid = FATTR_UID | FATTR_GID };
    struct fuse_entry_out e;
    struct stat st;
    int64_t id;

    g->fs->owners = false;
    g->uid = 1234;
    assert_true(guest_create(g, ROOT, "f", O_RDWR, 0644) > 0);
    assert_int_equal(stat(guest_path(g, "f"), &st), 0);
    assert_int_equal(st.st_uid, geteuid());
    id = guest_lookup(g, ROOT, "f");
    memcpy(&e, g->answer, sizeof(e));
    assert_int_equal(e.attr.uid, 0);
    assert_int_equal(guest_call(g, FUSE_SETATTR, (uint64_t)id, &sa, sizeof(sa)), 0);
    sa.uid = 1234;
    assert_int_equal(guest_call(g, FUSE_SETATTR, (uint64_t)id, &sa, sizeof(sa)), -EPERM);
    g->fs->uid++; /* somebody else's file */
    (void)guest_lookup(g, ROOT, "f");
    memcpy(&e, g->answer, sizeof(e));
    assert_int_equal(e.attr.uid, 65534);
    sa.uid = 0;
    assert_int_equal(guest_call(g, FUSE_SETATTR, (uint64_t)id, &sa, sizeof(sa)), -EPERM);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, guest_setup, guest_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_names_that_lead_elsewhere_are_refused),
        TEST(test_symlinks_are_the_guests_to_follow),
        TEST(test_pipes_and_devices_are_not_opened),
        TEST(test_any_length_of_any_request_is_answered),
        TEST(test_requests_that_lie_about_their_length_are_refused),
        TEST(test_unknown_numbers_are_refused),
        TEST(test_session_begins_with_init_and_ends_with_destroy),
        TEST(test_nodes_are_counted_and_bounded),
        TEST(test_more_nodes_than_descriptors),
        TEST(test_readonly_share_changes_nothing),
        TEST(test_data_and_appending),
        TEST(test_large_data_goes_through_whole),
        TEST(test_open_files_outlive_their_names),
        TEST(test_sizes_times_and_modes),
        TEST(test_renames),
        TEST(test_ranges_of_files),
        TEST(test_cached_pages_are_kept_while_the_file_is_the_same),
        TEST(test_folders_are_listed_whole_in_any_steps),
        TEST(test_attributes_of_the_host_are_not_the_guests),
        TEST(test_owners_are_the_guests),
        TEST(test_without_root_all_files_are_one_users),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
