/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a snapshot's state file. The first byte says how the input is taken: as a whole file
 * (even), or as bytes that are written over a good one's state from a place on that the next two
 * bytes tell (odd). Checksums are made right, for who makes a file to do harm does so, too. What is
 * not refused has to run a few instructions.
 */
#include <stdlib.h>
#include <string.h>

#include "snap/crc.h"
#include "snap/priv.h"

#define STEPS 200

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* The machine lives in pages of its own, where the leak detector does not look for pointers. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

/* A machine with a device of each kind, never started; made once. */
static struct vm *fuzz_vm(void)
{
    static const uint32_t image[10] = { 0x1badb002, 0x10000,  -(0x1badb002u + 0x10000u),
                                        0x100000,   0x100000, 0,
                                        0,          0x100020, 0xfeebfeeb,
                                        0xf4f4 };
    static char path[] = "/tmp/doppel-snapfuzz-XXXXXX";
    static struct vm *vm;
    int fd;

    if (vm)
        return vm;
    log_set_level((enum log_level) - 1);
    fd = mkstemp(path);
    BUG_ON(fd < 0 || files_write(fd, image, sizeof(image), 0) < 0);
    vm = vm_create(&(struct vm_config){ .engine = &interp_engine,
                                        .boot = { .kernel = path, .ram_bytes = MIB(2) },
                                        .vga = true,
                                        .rng = true,
                                        .balloon = true,
                                        .debug_exit = true });
    BUG_ON(!vm);
    (void)remove(path); /* the VM has read it */
    vm_pause(vm);
    return vm;
}

/* The file of that machine as it was first; malloc'ed. */
static uint8_t *good_file(size_t *bytes)
{
    static uint8_t *good;
    static size_t good_bytes;
    uint8_t *copy;

    if (!good) {
        struct snap_doc d = { .json = json_pack("{s:o, s:[]}", "machine",
                                                machine_describe(fuzz_vm()), "state") };

        BUG_ON(vm_settle(fuzz_vm(), UINT32_MAX) < 0 || !machine_save(fuzz_vm(), &d));
        good = doc_make(&d, &good_bytes);
        doc_free(&d);
    }
    copy = good ? malloc(good_bytes) : NULL;
    BUG_ON(!copy);
    memcpy(copy, good, good_bytes);
    *bytes = good_bytes;
    return copy;
}

static uint32_t word_at(const uint8_t *file, size_t at)
{
    uint32_t val;

    memcpy(&val, file + at, sizeof(val));
    return val;
}

static void seal(uint8_t *file, size_t bytes)
{
    uint32_t json_bytes, crc;

    if (bytes < 64)
        return;
    json_bytes = (uint32_t)MIN(word_at(file, 20), bytes - 64);
    crc = crc32c(0, file + 64, json_bytes);
    memcpy(file + 32, &crc, sizeof(crc));
    crc = crc32c(0, file + 64 + json_bytes, bytes - 64 - json_bytes);
    memcpy(file + 36, &crc, sizeof(crc));
    crc = crc32c(0, file, 60);
    memcpy(file + 60, &crc, sizeof(crc));
}

static void run(struct vm *vm)
{
    struct vcpu *v = vm_vcpu(vm, 0);

    vm_state_changed(vm);
    v->run_limit = STEPS;
    (void)v->engine->run(v); /* whatever it comes to */
    v->run_limit = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct snap_layout layout;
    struct snap_doc d;
    uint8_t *file;
    size_t n;

    if (bytes < 3)
        return 0;
    if (data[0] & 1) {
        uint32_t at;

        file = good_file(&n);
        at = 64 + word_at(file, 20) + (uint32_t)(data[1] | data[2] << 8);
        if (at < n)
            memcpy(file + at, data + 3, MIN(bytes - 3, n - at));
    } else {
        n = bytes - 1;
        file = malloc(n);
        BUG_ON(!file);
        memcpy(file, data + 1, n);
    }
    seal(file, n);
    if (doc_parse(&d, file, n, NULL) < 0)
        return 0;
    (void)!pages_layout(&layout, &d, NULL); /* whatever it finds */
    if (machine_load(fuzz_vm(), &d, NULL) == 0)
        run(fuzz_vm());
    doc_free(&d);
    return 0;
}
