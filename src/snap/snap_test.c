/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots of machines with guests of a few instructions: what comes back, what is refused, and
 * that damage is found wherever it is. Booted guests are tests/snap's.
 */
#include "snap/priv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "snap/crc.h"
#include "snap/vcpu.h"

#define LOAD_AT   0x100000u
#define DATA_AT   0x800000u
#define LOW_BYTES MIB(15) /* of the slot "ram-low" */

struct fixture {
    char tmp[64], image[96], a[96], b[96], c[96];
};

/* Multiboot 1 header with addresses, then 32-bit code: jmp . ; out %al, $0xf4; jmp . */
static const struct {
    uint32_t magic, flags, checksum, header_at, load_at, load_end, bss_end, entry;
    uint8_t code[6];
} image = { 0x1badb002, 0x10000,      -(0x1badb002u + 0x10000u),
            LOAD_AT,    LOAD_AT,      0,
            0,          LOAD_AT + 32, { 0xeb, 0xfe, 0xe6, 0xf4, 0xeb, 0xfe } };
#define AT_OUT (LOAD_AT + 34)

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    FILE *out;

    log_set_level((enum log_level) - 1);
    strcpy(f->tmp, "/tmp/doppel-snap-test-XXXXXX");
    if (!f || !mkdtemp(f->tmp))
        return -1;
    snprintf(f->image, sizeof(f->image), "%s/image", f->tmp);
    snprintf(f->a, sizeof(f->a), "%s/a", f->tmp);
    snprintf(f->b, sizeof(f->b), "%s/b", f->tmp);
    snprintf(f->c, sizeof(f->c), "%s/c", f->tmp);
    out = fopen(f->image, "wb");
    if (!out || fwrite(&image, sizeof(image), 1, out) != 1 || fclose(out))
        return -1;
    *state = f;
    return 0;
}

static void remove_snapshot(const char *dir)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/state", dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/memory", dir);
    unlink(path);
    rmdir(dir);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    remove_snapshot(f->a);
    remove_snapshot(f->b);
    remove_snapshot(f->c);
    unlink(f->image);
    rmdir(f->tmp);
    free(f);
    return 0;
}

static struct vm *make(const struct fixture *f, const struct vm_image *from, bool rng)
{
    return vm_create(&(struct vm_config){
        .engine = &interp_engine,
        .boot = { .kernel = f->image, .ram_bytes = MIB(16) },
        .debug_exit = true,
        .rng = rng,
        .image = from,
    });
}

/* One that is about to leave with status 15h, and has something in memory. */
static struct vm *make_origin(const struct fixture *f)
{
    struct vm *vm = make(f, NULL, false);
    struct cpu *c = &vm_vcpu(vm, 0)->cpu;
    uint64_t data = 0x0123456789abcdefull;

    assert_non_null(vm);
    c->rip = AT_OUT;
    c->gpr[RAX] = 0x15;
    c->gpr[R15] = 0xfeedface;
    c->fpu.xmm[7][3] = 0x77;
    assert_int_equal(mmu_write(vm_mmu(vm), GPA(DATA_AT), &data, sizeof(data)), sizeof(data));
    return vm;
}

static const struct snap_how diff = { SNAP_DIFF, SNAP_PLAIN };

static void save_as(struct vm *vm, const char *dir, enum snap_kind kind, enum snap_packing packing)
{
    const struct snap_how how = { kind, packing };
    char why[256] = "";

    assert_int_equal(snap_save_dir(vm, dir, how, NULL, why, sizeof(why)), 0);
}

static void save(struct vm *vm, const char *dir, enum snap_kind kind)
{
    save_as(vm, dir, kind, SNAP_PLAIN);
}

/* NULL: refused, and why. */
static struct vm *load_with(const struct fixture *f, const char *dir, bool rng, unsigned flags,
                            char *why)
{
    struct snap *s = snap_open_dir(dir, SNAP_VERIFY | flags, why, 256);
    struct vm *vm = s ? make(f, snap_image(s), rng) : NULL;

    if (vm && snap_load(s, vm, why, 256) < 0) {
        vm_destroy(vm);
        vm = NULL;
    }
    snap_close(s);
    return vm;
}

static struct vm *load(const struct fixture *f, const char *dir, bool rng, char *why)
{
    return load_with(f, dir, rng, 0, why);
}

static uint64_t data_of(struct vm *vm)
{
    uint64_t data = 0;

    assert_int_equal(mmu_read(vm_mmu(vm), GPA(DATA_AT), &data, sizeof(data)), sizeof(data));
    return data;
}

static void test_a_restored_machine_goes_on_where_it_was(void **state)
{
    const struct fixture *f = *state;
    struct vm *vm = make_origin(f);
    char why[256] = "";
    int status;

    save(vm, f->a, SNAP_FULL);
    vm_destroy(vm);
    vm = load(f, f->a, false, why);
    assert_non_null(vm);
    assert_int_equal(vm_vcpu(vm, 0)->cpu.gpr[R15], 0xfeedface);
    assert_int_equal(vm_vcpu(vm, 0)->cpu.fpu.xmm[7][3], 0x77);
    assert_int_equal(data_of(vm), 0x0123456789abcdefull);
    assert_int_equal(vm_start(vm), 0);
    assert_int_equal(vm_wait(vm, &status), STOP_EXIT);
    assert_int_equal(status, 0x15 << 1 | 1);
    vm_destroy(vm);
}

static void test_a_difference_has_what_was_written_since(void **state)
{
    const struct fixture *f = *state;
    struct vm *vm = make_origin(f);
    struct snap_saved saved;
    char why[256] = "";
    uint64_t data = 42;

    assert_int_equal(snap_save_dir(vm, f->b, diff, NULL, why, sizeof(why)), -ENOENT);
    save(vm, f->a, SNAP_FULL);
    assert_int_equal(snap_save_dir(vm, f->a, diff, NULL, why, sizeof(why)), -EEXIST);
    assert_int_equal(mmu_write(vm_mmu(vm), GPA(DATA_AT), &data, sizeof(data)), sizeof(data));
    assert_int_equal(snap_save_dir(vm, f->b, diff, &saved, why, sizeof(why)), 0);
    assert_int_equal(saved.pages, 1);
    vm_destroy(vm);
    vm = load(f, f->b, false, why);
    assert_non_null(vm);
    assert_int_equal(data_of(vm), 42);
    vm_destroy(vm);
    vm = load(f, f->a, false, why);
    assert_non_null(vm);
    assert_int_equal(data_of(vm), 0x0123456789abcdefull);
    vm_destroy(vm);
}

static void test_compressed_memory_comes_back(void **state)
{
    const struct fixture *f = *state;
    struct vm *vm = make_origin(f);
    struct snap_saved saved;
    char why[256] = "";
    int status;

    assert_int_equal(snap_save_dir(vm, f->a, (struct snap_how){ SNAP_FULL, SNAP_ZSTD }, &saved, why,
                                   sizeof(why)),
                     0);
    assert_in_range(saved.packed_bytes, 1, (saved.pages << PAGE_SHIFT) - 1);
    vm_destroy(vm);
    vm = load(f, f->a, false, why);
    assert_non_null(vm);
    assert_int_equal(data_of(vm), 0x0123456789abcdefull);
    assert_false(mmu_has_private(vm_mmu(vm)));
    assert_int_equal(vm_start(vm), 0);
    assert_int_equal(vm_wait(vm, &status), STOP_EXIT);
    assert_int_equal(status, 0x15 << 1 | 1);
    vm_destroy(vm);
}

static void test_a_difference_goes_over_its_base_whichever_is_compressed(void **state)
{
    const struct fixture *f = *state;

    for (unsigned i = 0; i < 4; i++) {
        struct vm *vm = make_origin(f);
        char why[256] = "";
        uint64_t data = 42;

        save_as(vm, f->a, SNAP_FULL, i & 1 ? SNAP_ZSTD : SNAP_PLAIN);
        assert_int_equal(mmu_write(vm_mmu(vm), GPA(DATA_AT), &data, sizeof(data)), sizeof(data));
        save_as(vm, f->b, SNAP_DIFF, i & 2 ? SNAP_ZSTD : SNAP_PLAIN);
        vm_destroy(vm);
        vm = load(f, f->b, false, why);
        assert_non_null(vm);
        assert_int_equal(data_of(vm), 42);
        /* The next difference is one to what was loaded. */
        data = 43;
        assert_int_equal(mmu_write(vm_mmu(vm), GPA(DATA_AT + MIB(4)), &data, sizeof(data)), 8);
        save_as(vm, f->c, SNAP_DIFF, SNAP_ZSTD);
        vm_destroy(vm);
        vm = load(f, f->c, false, why);
        assert_non_null(vm);
        assert_int_equal(data_of(vm), 42);
        assert_int_equal(mmu_read(vm_mmu(vm), GPA(DATA_AT + MIB(4)), &data, sizeof(data)), 8);
        assert_int_equal(data, 43);
        vm_destroy(vm);
        remove_snapshot(f->b);
        remove_snapshot(f->c);
    }
}

static void test_another_machine_is_refused(void **state)
{
    const struct fixture *f = *state;
    struct vm *vm = make_origin(f);
    char why[256] = "";

    save(vm, f->a, SNAP_FULL);
    vm_destroy(vm);
    assert_null(load(f, f->a, true, why));
    assert_non_null(strstr(why, "another machine"));
}

/* ---- damage ---- */

static uint8_t *read_file(const char *dir, const char *name, size_t *bytes)
{
    char path[128];
    uint8_t *file;
    int err;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    file = files_load(path, MIB(16), bytes, &err);
    assert_non_null(file);
    return file;
}

/* The state file of a full snapshot of the usual machine, in f->a. The caller frees it. */
static uint8_t *origin_state(const struct fixture *f, size_t *bytes)
{
    struct vm *vm = make_origin(f);

    save(vm, f->a, SNAP_FULL);
    vm_destroy(vm);
    return read_file(f->a, SNAP_STATE_FILE, bytes);
}

static void write_file(const char *dir, const char *name, const uint8_t *file, size_t bytes)
{
    char path[128];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(file, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

static void test_each_damaged_byte_is_found(void **state)
{
    const struct fixture *f = *state;
    size_t bytes;
    uint8_t *file = origin_state(f, &bytes);

    for (size_t i = 0; i < bytes; i++) {
        uint8_t *copy = malloc(bytes);
        struct snap_doc d;

        memcpy(copy, file, bytes);
        copy[i] ^= (uint8_t)(1u << i % 8);
        assert_int_equal(doc_parse(&d, copy, bytes, NULL), -EINVAL);
    }
    for (size_t n = 0; n < bytes; n += n / 16 + 1) {
        uint8_t *copy = malloc(n + 1);
        struct snap_doc d;

        memcpy(copy, file, n);
        assert_int_equal(doc_parse(&d, copy, n, NULL), -EINVAL);
    }
    free(file);
}

/* Whoever makes a file to do harm makes its checksums, too. */
static void seal(uint8_t *file, size_t bytes)
{
    uint32_t json_bytes, crc;

    memcpy(&json_bytes, file + 20, 4);
    crc = crc32c(0, file + 64, json_bytes);
    memcpy(file + 32, &crc, 4);
    crc = crc32c(0, file + 64 + json_bytes, bytes - 64 - json_bytes);
    memcpy(file + 36, &crc, 4);
    crc = crc32c(0, file, 60);
    memcpy(file + 60, &crc, 4);
}

/* The first byte of a section's data in the file. */
static size_t section_at(const uint8_t *file, size_t bytes, const char *name)
{
    uint8_t *copy = malloc(bytes);
    struct snap_doc d;
    size_t at = 0;

    memcpy(copy, file, bytes);
    assert_int_equal(doc_parse(&d, copy, bytes, NULL), 0);
    for (size_t i = 0; i < d.nr_sections && !at; i++)
        if (!strcmp(d.sections[i].name, name))
            at = (size_t)(d.sections[i].data - copy);
    doc_free(&d);
    assert_true(at);
    return at;
}

/* ---- damage to compressed memory ---- */

/* The memory file of the usual machine, compressed, in f->a. The caller frees it. */
static uint8_t *packed_memory(const struct fixture *f, size_t *bytes)
{
    struct vm *vm = make_origin(f);
    uint32_t noise[PAGE_BYTES / 4], x = 1;

    /* So that the first frame has some length. */
    for (unsigned i = 0; i < ARRAY_SIZE(noise); i++)
        noise[i] = x = x * 1664525 + 1013904223;
    assert_int_equal(mmu_write(vm_mmu(vm), GPA(0x10000), noise, sizeof(noise)), sizeof(noise));
    save_as(vm, f->a, SNAP_FULL, SNAP_ZSTD);
    vm_destroy(vm);
    return read_file(f->a, SNAP_MEMORY_FILE, bytes);
}

static void test_damaged_compressed_memory_is_refused(void **state)
{
    const struct fixture *f = *state;
    size_t bytes, frames;
    uint8_t *file = packed_memory(f, &bytes), *copy = malloc(bytes);
    unsigned refused = 0, tried = 0;

    frames = bytes - PAGE_BYTES;
    assert_in_range(frames, 64, MIB(1));
    for (size_t i = 0; i < bytes; i += i < 64 ? 1 : frames / 64 + 1, tried++) {
        char why[256] = "";
        struct vm *vm;

        memcpy(copy, file, bytes);
        copy[i] ^= (uint8_t)(1u << i % 8);
        write_file(f->a, SNAP_MEMORY_FILE, copy, bytes);
        vm = load(f, f->a, false, why);
        refused += !vm;
        /* Not each bit of a frame means something. */
        if (vm)
            assert_int_equal(data_of(vm), 0x0123456789abcdefull);
        else
            assert_non_null(strstr(why, "memory"));
        vm_destroy(vm);
    }
    assert_true(refused > tried / 2);
    for (size_t n = 0; n < bytes; n += bytes / 16 + 1) {
        char why[256] = "";

        write_file(f->a, SNAP_MEMORY_FILE, file, n);
        assert_null(load(f, f->a, false, why));
        assert_non_null(strstr(why, "bytes instead of"));
    }
    free(copy);
    free(file);
}

/* Instead of the first frame one that gives `gives` bytes, filled up with a frame to be skipped
 * (RFC 8878, "Skippable Frames"). */
static void put_frame(uint8_t *file, uint32_t old_bytes, size_t gives)
{
    const uint32_t magic = 0x184d2a50;
    uint8_t *zeroes = calloc(1, gives);
    size_t n = ZSTD_compress(file, old_bytes - 8, zeroes, gives, 1);
    uint32_t rest;

    assert_false(ZSTD_isError(n));
    rest = old_bytes - (uint32_t)n - 8;
    memcpy(file + n, &magic, 4);
    memcpy(file + n + 4, &rest, 4);
    free(zeroes);
}

static void test_a_frame_of_another_size_is_refused(void **state)
{
    static const size_t sizes[] = { 1, PAGE_BYTES, MIB(2), MIB(8) };
    const struct fixture *f = *state;
    size_t bytes;
    uint8_t *file = packed_memory(f, &bytes);
    uint32_t first = (uint32_t)ZSTD_findFrameCompressedSize(file, bytes);

    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        char why[256] = "";

        put_frame(file, first, sizes[i]);
        write_file(f->a, SNAP_MEMORY_FILE, file, bytes);
        assert_null(load(f, f->a, false, why));
        assert_non_null(strstr(why, "what is compressed there is not its pages"));
    }
    free(file);
}

static void test_wrong_lengths_of_frames_are_refused(void **state)
{
    static const uint32_t lengths[] = { 0, 1, MIB(2), UINT32_MAX };
    const struct fixture *f = *state;
    size_t memory_bytes, bytes, at;
    uint8_t *file, *good;

    free(packed_memory(f, &memory_bytes));
    good = read_file(f->a, SNAP_STATE_FILE, &bytes);
    at = section_at(good, bytes, "pages:ram-low") + pages_bitmap_bytes(LOW_BYTES) +
         pages_nr_chunks(LOW_BYTES) * sizeof(uint32_t);
    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        char why[256] = "";

        file = malloc(bytes);
        memcpy(file, good, bytes);
        memcpy(file + at, &lengths[i], sizeof(lengths[i]));
        seal(file, bytes);
        write_file(f->a, SNAP_STATE_FILE, file, bytes);
        free(file);
        assert_null(load(f, f->a, false, why));
    }
    free(good);
}

static void test_a_state_that_no_processor_has_is_refused(void **state)
{
    const struct fixture *f = *state;
    char why[256] = "";
    uint64_t cr0 = 0x80000000; /* paging without protection */
    size_t bytes, at = 0;
    uint8_t *file = origin_state(f, &bytes);

    for (unsigned i = 0; i < vcpu_table.nr && strcmp(vcpu_table.fields[i].name, "cr0") != 0; i++)
        at += vcpu_table.fields[i].bytes;
    memcpy(file + section_at(file, bytes, "vcpu") + at, &cr0, sizeof(cr0));
    seal(file, bytes);
    write_file(f->a, SNAP_STATE_FILE, file, bytes);
    free(file);
    assert_null(load(f, f->a, false, why));
    assert_non_null(strstr(why, "vCPU 0"));
}

static void test_a_changed_description_is_refused(void **state)
{
    static const struct {
        const char *from, *to; /* of the same length */
    } cases[] = {
        { "\"name\": \"ram-low\"", "\"name\": \"ram-owl\"" },
        { "\"name\": \"vcpu\"", "\"name\": \"vcup\"" },
        { "\"vendor\": \"AMD\"", "\"vendor\": \"ABC\"" },
        { "\"cpus\": 1", "\"cpus\": 0" },
        { "\"tsc\": ", "\"tsx\": " },
        { "\"base\": null", "\"base\": {}  " },
        { "\"file\": \"memory\"", "\"file\": \"mammal\"" },
        { "\"version\": 1", "\"version\": 9" },
    };
    const struct fixture *f = *state;
    size_t bytes;
    uint8_t *file = origin_state(f, &bytes);

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint8_t *copy = malloc(bytes), *at;
        char why[256] = "";

        assert_int_equal(strlen(cases[i].from), strlen(cases[i].to));
        memcpy(copy, file, bytes);
        at = memmem(copy, bytes, cases[i].from, strlen(cases[i].from));
        if (at) {
            memcpy(at, cases[i].to, strlen(cases[i].to));
            seal(copy, bytes);
            write_file(f->a, SNAP_STATE_FILE, copy, bytes);
            assert_null(load(f, f->a, false, why));
        }
        free(copy);
    }
    free(file);
}

#define NS_PER_S    1000000000ull
#define DATE_DIGITS 19

/* What the VM's clock says when the machine has run its few instructions. */
static uint64_t clock_of_run(const struct fixture *f, unsigned flags)
{
    char why[256] = "";
    struct vm *vm = load_with(f, f->a, false, flags, why);
    uint64_t ns;

    assert_non_null(vm);
    assert_int_equal(vm_start(vm), 0);
    assert_int_equal(vm_wait(vm, NULL), STOP_EXIT);
    ns = clock_now_ns(bus_clock(vm_bus(vm)));
    vm_destroy(vm);
    return ns;
}

static void test_the_clock_goes_on_by_the_snapshots_age_if_that_can_be(void **state)
{
    const uint64_t year_s = 365 * 86400, now_s = host_real_ns() / NS_PER_S;
    const struct {
        uint64_t date_s, ahead_s;
    } cases[] = {
        { now_s - 3600, 3600 },      { now_s - 9 * year_s, 9 * year_s }, { now_s + 3600, 0 },
        { now_s + 100 * year_s, 0 }, { now_s - 11 * year_s, 0 },         { 0, 0 },
    };
    const struct fixture *f = *state;
    size_t bytes;
    uint8_t *file = origin_state(f, &bytes);

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        static const char key[] = "\"real_ns\": ";
        char *at = memmem(file, bytes, key, strlen(key)), date[DATE_DIGITS + 1];
        uint64_t ahead_s;

        assert_non_null(at);
        (void)snprintf(date, sizeof(date), "%-*llu", DATE_DIGITS,
                       (unsigned long long)(cases[i].date_s * NS_PER_S));
        memcpy(at + strlen(key), date, DATE_DIGITS);
        seal(file, bytes);
        write_file(f->a, SNAP_STATE_FILE, file, bytes);
        assert_true(clock_of_run(f, 0) < 1000 * NS_PER_S);
        ahead_s = clock_of_run(f, SNAP_CLOCK_HOST) / NS_PER_S;
        assert_in_range(ahead_s, cases[i].ahead_s, cases[i].ahead_s + 1000);
    }
    free(file);
}

static void test_a_snapshot_of_what_has_not_gone_on_yet_is_as_old(void **state)
{
    const struct fixture *f = *state;
    struct vm *vm = make_origin(f);
    char why[256] = "";
    uint64_t real = clock_stopped_real_ns(bus_clock(vm_bus(vm)));

    save(vm, f->a, SNAP_FULL);
    vm_destroy(vm);
    for (unsigned i = 0; i < 2; i++) {
        vm = load_with(f, i ? f->b : f->a, false, SNAP_CLOCK_HOST, why);
        assert_non_null(vm);
        assert_int_equal(clock_stopped_real_ns(bus_clock(vm_bus(vm))), real);
        save(vm, f->b, SNAP_FULL);
        vm_destroy(vm);
    }
}

static void test_crc32c_is_that_of_rfc_3720(void **state)
{
    uint8_t zeroes[32] = { 0 }, ones[32];

    (void)state;
    memset(ones, 0xff, sizeof(ones));
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c(0, zeroes, 32), 0x8a9136aa);
    assert_int_equal(crc32c(0, ones, 32), 0x62a8ab43);
    assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
}

static void test_files_are_named_from_each_other(void **state)
{
    char *name = files_name_from("/x/y/a/state", "/x/y/a/memory");

    (void)state;
    assert_string_equal(name, "memory");
    free(name);
    name = files_name_from("/x/y/b/state", "/x/y/a/state");
    assert_string_equal(name, "../a/state");
    free(name);
    name = files_resolve("/x/y/b/state", "../a/state");
    assert_string_equal(name, "/x/y/b/../a/state");
    free(name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc32c_is_that_of_rfc_3720),
        cmocka_unit_test(test_files_are_named_from_each_other),
        cmocka_unit_test_setup_teardown(test_a_restored_machine_goes_on_where_it_was, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_clock_goes_on_by_the_snapshots_age_if_that_can_be,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_snapshot_of_what_has_not_gone_on_yet_is_as_old,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_difference_has_what_was_written_since, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_compressed_memory_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_a_difference_goes_over_its_base_whichever_is_compressed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_machine_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_compressed_memory_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_frame_of_another_size_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_lengths_of_frames_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_damaged_byte_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_state_that_no_processor_has_is_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_changed_description_is_refused, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
