/* SPDX-License-Identifier: Apache-2.0 */
/* A share's state: saved, loaded by another one, and what becomes of files that changed in
 * between; and states that were tampered with. */
#include "backend/fs_fakeguest.h"

#define ROOT FUSE_ROOT_ID

struct saved {
    uint8_t *data;
    size_t bytes;
};

static struct saved save(struct guest *g)
{
    struct saved s;

    assert_int_equal(fs_save(g->fs, &s.data, &s.bytes), 0);
    return s;
}

/* Another share, without a session. */
static void renew(struct guest *g)
{
    fs_close(g->fs);
    g->fs = fs_open(&g->cfg);
    assert_non_null(g->fs);
}

static void load(struct guest *g, struct saved s)
{
    renew(g);
    assert_int_equal(fs_load(g->fs, s.data, s.bytes), 0);
    free(s.data);
}

static int guest_getattr(struct guest *g, int64_t node)
{
    struct fuse_getattr_in in = { .getattr_flags = 0 };

    return guest_call(g, FUSE_GETATTR, (uint64_t)node, &in, sizeof(in));
}

static void check_read(struct guest *g, int64_t fh, uint64_t off, const char *text)
{
    assert_int_equal(guest_read(g, fh, off, (uint32_t)strlen(text)), 0);
    assert_int_equal(g->answer_bytes, strlen(text));
    assert_memory_equal(g->answer, text, strlen(text));
}

static void forget(struct guest *g, int64_t node, uint64_t nr)
{
    struct fuse_forget_in in = { .nlookup = nr };

    assert_int_equal(guest_call(g, FUSE_FORGET, (uint64_t)node, &in, sizeof(in)), 1);
}

static void test_guest_goes_on_with_the_numbers_it_has(void **state)
{
    struct guest *g = *state;
    int64_t dir, file, other, fh, dfh, wfh;
    unsigned nr_nodes, nr_files;

    assert_int_equal(mkdir(guest_path(g, "d"), 0755), 0);
    guest_put_file(g, "d/f", "contents");
    guest_put_file(g, "log", "");
    guest_put_file(g, "other", "");
    dir = guest_lookup(g, ROOT, "d");
    other = guest_lookup(g, ROOT, "other");
    forget(g, other, 1); /* its slot is free, and was used once */
    file = guest_lookup(g, (uint64_t)dir, "f");
    assert_int_equal(guest_lookup(g, (uint64_t)dir, "f"), file);
    fh = guest_open(g, FUSE_OPEN, file, O_RDONLY);
    wfh = guest_open(g, FUSE_OPEN, guest_lookup(g, ROOT, "log"), O_WRONLY);
    dfh = guest_open(g, FUSE_OPENDIR, dir, O_RDONLY);
    load(g, save(g));

    fs_count(g->fs, &nr_nodes, &nr_files);
    assert_int_equal(nr_nodes, 3);
    assert_int_equal(nr_files, 3);
    check_read(g, fh, 3, "tents");
    assert_int_equal(guest_write(g, fh, 0, "x", 0, 0), -EBADF); /* open for reading */
    assert_int_equal(guest_write(g, wfh, 0, "line\n", 0, 0), 0);
    guest_check_file(g, "log", "line\n");
    assert_int_equal(guest_call(g, FUSE_READDIR, (uint64_t)dir,
                                &(struct fuse_read_in){ .fh = (uint64_t)dfh, .size = 4096 },
                                sizeof(struct fuse_read_in)),
                     0);
    assert_int_equal(guest_getattr(g, dir), 0);
    assert_int_equal(guest_lookup(g, (uint64_t)dir, "f"), file);
    /* Three times looked up. */
    forget(g, file, 2);
    assert_int_equal(guest_getattr(g, file), 0);
    forget(g, file, 1);
    assert_int_equal(guest_getattr(g, file), -ESTALE);
    /* No number is given twice. */
    assert_int_equal(guest_getattr(g, other), -ESTALE);
    for (unsigned i = 0; i < 2; i++) {
        char name[] = { 'n', (char)('0' + i), 0 };
        int64_t node;

        guest_put_file(g, name, "");
        node = guest_lookup(g, ROOT, name);
        assert_true(node > 0 && node != file && node != other);
    }
}

static void test_what_is_gone_or_another_file_is_stale(void **state)
{
    struct guest *g = *state;
    int64_t gone, other, kept, gone_fh, other_fh;
    struct saved s;

    guest_put_file(g, "gone", "1");
    guest_put_file(g, "other", "2");
    guest_put_file(g, "kept", "3");
    gone = guest_lookup(g, ROOT, "gone");
    other = guest_lookup(g, ROOT, "other");
    kept = guest_lookup(g, ROOT, "kept");
    gone_fh = guest_open(g, FUSE_OPEN, gone, O_RDONLY);
    other_fh = guest_open(g, FUSE_OPEN, other, O_RDWR);
    s = save(g);
    assert_int_equal(unlink(guest_path(g, "gone")), 0);
    guest_put_file(g, "new", "4"); /* while the old one is there, so it is another inode */
    assert_int_equal(rename(guest_path(g, "new"), guest_path(g, "other")), 0);
    load(g, s);

    assert_int_equal(guest_getattr(g, gone), -ESTALE);
    assert_int_equal(guest_read(g, gone_fh, 0, 1), -ESTALE);
    assert_int_equal(guest_getattr(g, other), -ESTALE);
    assert_int_equal(guest_write(g, other_fh, 0, "x", 0, 0), -ESTALE);
    assert_int_equal(guest_read(g, other_fh + 77, 0, 1), -EBADF);
    guest_check_file(g, "other", "4");
    assert_int_equal(guest_getattr(g, kept), 0);
    /* By its name the new one is found, under another number. */
    assert_int_not_equal(guest_lookup(g, ROOT, "other"), other);
    assert_int_equal(guest_lookup(g, ROOT, "gone"), -ENOENT);
    /* What is lost can be forgotten, closed, and saved again. */
    load(g, save(g));
    assert_int_equal(guest_read(g, gone_fh, 0, 1), -ESTALE);
    forget(g, gone, 1);
    forget(g, other, 1);
    assert_int_equal(guest_call(g, FUSE_RELEASE, 0,
                                &(struct fuse_release_in){ .fh = (uint64_t)gone_fh },
                                sizeof(struct fuse_release_in)),
                     0);
    assert_int_equal(guest_read(g, gone_fh, 0, 1), -EBADF);
}

static void test_file_without_a_name_is_lost(void **state)
{
    struct guest *g = *state;
    int64_t fh;

    guest_put_file(g, "f", "text");
    guest_put_file(g, "f (deleted)", "fake");
    fh = guest_open(g, FUSE_OPEN, guest_lookup(g, ROOT, "f"), O_RDONLY);
    assert_int_equal(unlink(guest_path(g, "f")), 0);
    load(g, save(g));
    assert_int_equal(guest_read(g, fh, 0, 4), -ESTALE);
}

static void test_copy_of_the_folder_is_taken_at_its_names(void **state)
{
    struct guest *g = *state;
    char cmd[512], other[sizeof(g->dir)], old[sizeof(g->dir)];
    int64_t fh, type;
    struct saved s;

    guest_put_file(g, "f", "text");
    guest_put_file(g, "t", "");
    fh = guest_open(g, FUSE_OPEN, guest_lookup(g, ROOT, "f"), O_RDWR);
    type = guest_lookup(g, ROOT, "t");
    s = save(g);
    (void)snprintf(other, sizeof(other), "/tmp/doppel-fs-XXXXXX");
    assert_non_null(mkdtemp(other));
    (void)snprintf(cmd, sizeof(cmd), "cp %s/f %s; mkdir %s/t; rm -r %s", g->dir, other, other,
                   g->dir);
    assert_int_equal(system(cmd), 0);
    memcpy(old, g->dir, sizeof(old));
    memcpy(g->dir, other, sizeof(other));
    load(g, s);
    check_read(g, fh, 0, "text");
    assert_int_equal(guest_write(g, fh, 0, "TEXT", 0, 0), 0);
    guest_check_file(g, "f", "TEXT");
    assert_int_equal(guest_getattr(g, type), -ESTALE); /* of another kind */
    assert_int_equal(access(old, F_OK), -1);
}

static void test_share_that_is_readonly_now_has_no_files_for_writing(void **state)
{
    struct guest *g = *state;
    int64_t node, fh, wfh;
    struct saved s;

    guest_put_file(g, "f", "text");
    node = guest_lookup(g, ROOT, "f");
    fh = guest_open(g, FUSE_OPEN, node, O_RDONLY);
    wfh = guest_open(g, FUSE_OPEN, node, O_RDWR);
    s = save(g);
    g->cfg.readonly = true;
    load(g, s);
    check_read(g, fh, 0, "text");
    assert_int_equal(guest_read(g, wfh, 0, 4), -ESTALE);
}

/* ---- hostile states ---- */

static struct saved one_open_file(struct guest *g, int64_t *fh)
{
    assert_int_equal(mkdir(guest_path(g, "dir"), 0755), 0);
    guest_put_file(g, "dir/file", "text");
    *fh = guest_open(g, FUSE_OPEN, guest_lookup(g, (uint64_t)guest_lookup(g, ROOT, "dir"), "file"),
                     O_RDWR);
    return save(g);
}

static void test_names_that_lead_out_are_refused(void **state)
{
    static const char *const bad[] = { "../ab/cd", "dir//abc", "dir/../a", "/dir/abc",
                                       "dir/./ab", "dir/abc/", "dir\0file" };
    struct guest *g = *state;
    int64_t fh;
    struct saved s = one_open_file(g, &fh);
    uint8_t *at = memmem(s.data, s.bytes, "dir/file", 8);

    assert_non_null(at);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        memcpy(at, bad[i], 8);
        renew(g);
        assert_int_equal(fs_load(g->fs, s.data, s.bytes), -EINVAL);
        assert_int_equal(guest_read(g, fh, 0, 1), -ENOTCONN); /* there is no session */
        assert_int_equal(guest_init(g), 0);
    }
    free(s.data);
}

/* A link that took a name's place, or a folder's, leads nowhere. */
static void test_links_are_not_followed(void **state)
{
    struct guest *g = *state;
    int64_t fh;
    struct saved s = one_open_file(g, &fh);

    assert_int_equal(rename(guest_path(g, "dir"), guest_path(g, "real")), 0);
    assert_int_equal(symlink("real", guest_path(g, "dir")), 0);
    load(g, s);
    assert_int_equal(guest_read(g, fh, 0, 1), -ESTALE);
}

/* Would wait for the other end, or do worse. */
static void test_pipe_is_not_opened(void **state)
{
    struct guest *g = *state;
    uint8_t *pipe, *file;
    struct saved s;
    uint16_t bytes;
    int64_t fh;

    assert_int_equal(mkfifo(guest_path(g, "FIFOFIFO"), 0666), 0);
    assert_true(guest_lookup(g, ROOT, "FIFOFIFO") > 0);
    s = one_open_file(g, &fh);
    /* What is said of the pipe's node is said of the open file, the last that there is. */
    pipe = memmem(s.data, s.bytes, "FIFOFIFO", 8);
    assert_non_null(pipe);
    memcpy(&bytes, pipe + 8, sizeof(bytes));
    file = s.data + s.bytes - bytes - 10;
    assert_memory_equal(file, "dir/file", 8);
    memcpy(file - 14, pipe - 14, 14u + 10 + bytes);
    load(g, s);
    assert_int_equal(guest_read(g, fh, 0, 1), -ESTALE);
}

static void test_damaged_state_is_refused_or_harmless(void **state)
{
    struct guest *g = *state;
    int64_t fh;
    struct saved s = one_open_file(g, &fh);

    for (size_t n = 0; n < s.bytes; n++) {
        renew(g);
        assert_int_equal(fs_load(g->fs, s.data, n), -EINVAL);
    }
    for (size_t n = 0; n < s.bytes; n++)
        for (unsigned bit = 0; bit < 8; bit += 7) {
            s.data[n] ^= (uint8_t)BIT(bit);
            renew(g);
            if (fs_load(g->fs, s.data, s.bytes) == 0) {
                (void)guest_read(g, fh, 0, 1);
                (void)guest_lookup(g, ROOT, "dir");
                free(save(g).data);
            }
            s.data[n] ^= (uint8_t)BIT(bit);
        }
    load(g, s);
    check_read(g, fh, 0, "text");
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, guest_setup, guest_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_guest_goes_on_with_the_numbers_it_has),
        TEST(test_what_is_gone_or_another_file_is_stale),
        TEST(test_file_without_a_name_is_lost),
        TEST(test_copy_of_the_folder_is_taken_at_its_names),
        TEST(test_share_that_is_readonly_now_has_no_files_for_writing),
        TEST(test_names_that_lead_out_are_refused),
        TEST(test_links_are_not_followed),
        TEST(test_pipe_is_not_opened),
        TEST(test_damaged_state_is_refused_or_harmless),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
