/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory files and code buffers; time and random numbers, as far as they can be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/host.h"

static void test_memfd_has_its_size_and_keeps_it(void **state)
{
    struct stat st;
    int fd = host_memfd("test", MIB(3));

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, MIB(3));
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_int_equal(ftruncate(fd, (off_t)MIB(4)), -1);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    host_close(fd);
}

static void test_memfd_of_absurd_size_fails_with_an_error(void **state)
{
    (void)state;
    assert_true(host_memfd("test", UINT64_MAX) < 0);
}

static void test_mapping_agrees_with_the_file_modulo_2_mb(void **state)
{
    int fd = host_memfd("test", MIB(8));
    uint8_t *all = host_map_fd(fd, 0, MIB(8)), *part = host_map_fd(fd, MIB(3), MIB(1));

    (void)state;
    assert_non_null(all);
    assert_non_null(part);
    assert_int_equal((uintptr_t)all % MIB(2), 0);
    assert_int_equal((uintptr_t)part % MIB(2), MIB(1));
    all[MIB(3) + 5] = 0x5a;
    assert_int_equal(part[5], 0x5a);
    host_unmap(part, MIB(1));
    host_unmap(all, MIB(8));
    host_close(fd);
}

static void test_mapping_that_does_not_fit_fails(void **state)
{
    int fd = host_memfd("test", MIB(1));

    (void)state;
    assert_null(host_map_fd(fd, 0, UINT64_MAX - MIB(1)));
    assert_null(host_map_fd(fd, 0, 1ull << 56));
    host_close(fd);
}

static void test_code_written_at_one_address_runs_at_the_other(void **state)
{
    static const uint8_t ret42[] = { 0xb8, 42, 0, 0, 0, 0xc3 }; /* mov eax, 42; ret */
    struct host_code hc;
    int (*fn)(void);

    (void)state;
    assert_int_equal(host_code_create(&hc, 100), 0);
    assert_int_equal(hc.bytes, PAGE_BYTES);
    assert_ptr_not_equal(hc.rw, hc.rx);
    memcpy(hc.rw + 16, ret42, sizeof(ret42));
    fn = (int (*)(void))(uintptr_t)(hc.rx + 16);
    assert_int_equal(fn(), 42);
    host_code_destroy(&hc);
    host_code_destroy(&hc); /* harmless */
}

static void test_tsc_frequency_agrees_with_the_clock(void **state)
{
    uint64_t khz = host_tsc_khz(), tsc, ns, inner, before;

    (void)state;
    if (!khz)
        skip(); /* no invariant TSC */
    /* Between any two of these the thread may have to wait for a CPU. */
    before = host_mono_ns();
    tsc = host_tsc();
    inner = host_mono_ns();
    (void)usleep(20000);
    inner = host_mono_ns() - inner;
    tsc = host_tsc() - tsc;
    ns = host_mono_ns() - before;
    assert_in_range(tsc * 1000000 / khz, inner - inner / 50, ns + ns / 50);
}

static void test_random_bytes_fill_all_of_the_buffer(void **state)
{
    uint8_t seen[100] = { 0 };

    (void)state;
    for (int i = 0; i < 8; i++) {
        uint8_t buf[sizeof(seen)] = { 0 };

        host_random(buf, sizeof(buf));
        for (size_t k = 0; k < sizeof(buf); k++)
            seen[k] |= buf[k];
    }
    for (size_t k = 0; k < sizeof(seen); k++)
        assert_int_not_equal(seen[k], 0); /* 2^-64 each */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memfd_has_its_size_and_keeps_it),
        cmocka_unit_test(test_memfd_of_absurd_size_fails_with_an_error),
        cmocka_unit_test(test_mapping_agrees_with_the_file_modulo_2_mb),
        cmocka_unit_test(test_mapping_that_does_not_fit_fails),
        cmocka_unit_test(test_code_written_at_one_address_runs_at_the_other),
        cmocka_unit_test(test_tsc_frequency_agrees_with_the_clock),
        cmocka_unit_test(test_random_bytes_fill_all_of_the_buffer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
