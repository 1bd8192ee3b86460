/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: names, stale sockets, and requests that make no sense. */
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

#include "ctl/ctl.h"
#include "ctl/sock.h"

static char dir[] = "/tmp/doppel-ctl-test-XXXXXX";

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) && setenv("XDG_RUNTIME_DIR", dir, 1) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
    char path[128];

    (void)state;
    (void)snprintf(path, sizeof(path), "%s/doppel", dir);
    return rmdir(path) == 0 && rmdir(dir) == 0 ? 0 : -1; /* nothing was left behind */
}

static void test_name_is_checked(void **state)
{
    char longest[CTL_NAME_MAX + 2];

    (void)state;
    assert_true(ctl_name_ok("a"));
    assert_true(ctl_name_ok("vm-1.x_Y"));
    assert_false(ctl_name_ok(""));
    assert_false(ctl_name_ok(".."));
    assert_false(ctl_name_ok("-v"));
    assert_false(ctl_name_ok("a/b"));
    assert_false(ctl_name_ok("a b"));
    assert_false(ctl_name_ok("a\n"));
    memset(longest, 'n', sizeof(longest));
    longest[CTL_NAME_MAX] = 0;
    assert_true(ctl_name_ok(longest));
    longest[CTL_NAME_MAX] = 'n';
    longest[CTL_NAME_MAX + 1] = 0;
    assert_false(ctl_name_ok(longest));
}

static void test_directory_is_ours_alone(void **state)
{
    char path[128];
    struct stat st;

    (void)state;
    assert_true(ctl_dir(path, sizeof(path), true));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(chmod(path, 0755), 0);
    assert_false(ctl_dir(path, sizeof(path), true));
    assert_int_equal(chmod(path, 0700), 0);
    assert_false(ctl_dir(path, 8, true));
}

static void test_name_in_use_is_refused(void **state)
{
    struct ctl *a, *b;

    (void)state;
    assert_int_equal(ctl_open("one", &a), 0);
    assert_int_equal(ctl_open("one", &b), -EEXIST);
    assert_int_equal(ctl_open("two", &b), 0);
    ctl_close(b);
    ctl_close(a);
    assert_int_equal(ctl_open("one", &a), 0);
    ctl_close(a);
}

static void test_socket_of_a_dead_vm_is_replaced(void **state)
{
    struct ctl *c;
    char path[128];
    int fd;

    (void)state;
    (void)snprintf(path, sizeof(path), "%s/doppel/dead.sock", dir);
    fd = sock_listen_unix(path);
    assert_true(fd >= 0);
    (void)close(fd); /* the file stays, as after a crash */
    assert_int_equal(ctl_open("dead", &c), 0);
    ctl_close(c);
    assert_int_equal(access(path, F_OK), -1);
}

static void count(void *arg, const char *name)
{
    assert_string_equal(name, "alive");
    (*(unsigned *)arg)++;
}

static void test_list_has_only_the_living(void **state)
{
    char path[128];
    unsigned nr = 0;
    struct ctl *c;

    (void)state;
    assert_int_equal(ctl_open("alive", &c), 0);
    (void)snprintf(path, sizeof(path), "%s/doppel/dead.sock", dir);
    (void)close(sock_listen_unix(path));
    assert_int_equal(ctl_list(count, &nr), 1);
    assert_int_equal(nr, 1);
    (void)unlink(path);
    ctl_close(c);
    assert_int_equal(ctl_list(count, &nr), 0);
}

static const struct ctl_fds none;

static void test_request_without_sense_is_an_error(void **state)
{
    static const char *const lines[] = {
        "",
        "x",
        "{",
        "[]",
        "1",
        "{}",
        "{\"do\":1}",
        "{\"do\":\"\"}",
        "{\"do\":\"fly\"}",
        "{\"do\":\"a\",\"do\":\"b\"}",
        "{\"do\":\"\xff\"}",
        "{\"do\":\"%s%n\"}",
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(lines); i++) {
        char *answer = ctl_answer(NULL, lines[i], strlen(lines[i]), &none);

        assert_non_null(answer);
        assert_non_null(strstr(answer, "\"ok\":false"));
        assert_non_null(strstr(answer, "\"error\":"));
        assert_null(strchr(answer, '\n'));
        free(answer);
    }
}

static void test_version_is_answered(void **state)
{
    static const char line[] = "{\"do\":\"version\"}";
    char *answer = ctl_answer(NULL, line, sizeof(line) - 1, &none);

    (void)state;
    assert_non_null(strstr(answer, "\"ok\":true"));
    assert_non_null(strstr(answer, DOPPEL_VERSION));
    free(answer);
}

static void test_table_shows_what_the_json_has(void **state)
{
    static const char json[] =
        "{\"name\":\"web\",\"engine\":\"interp\",\"cpu\":\"host\",\"state\":\"running\","
        "\"memory_bytes\":1048576,\"seconds\":2.0,\"guest_seconds\":2.0,\"vcpus\":[{\"id\":0,"
        "\"instructions\":200000000,\"exits\":{"
        "\"PIO\":{\"text\":\"port I/O\",\"count\":4,\"total_ns\":1000000,\"mean_ns\":250000},"
        "\"HLT\":{\"text\":\"halt\",\"count\":2,\"total_ns\":1000000000,\"mean_ns\":500000000},"
        "\"IRQ\":{\"text\":\"interrupt delivered\",\"count\":7,\"total_ns\":0,\"mean_ns\":0}}}]}";
    char *text = ctl_stat_text(json);

    (void)state;
    assert_non_null(strstr(text, "web: running, engine interp"));
    assert_non_null(strstr(text, "200000000 guest instructions, 100.0 MIPS (200.0"));
    assert_non_null(strstr(text, "50.0%"));
    assert_true(strstr(text, "halt") < strstr(text, "port I/O")); /* the dearest first */
    assert_true(strstr(text, "port I/O") < strstr(text, "interrupt delivered"));
    free(text);
    assert_null(ctl_stat_text("not json"));
    assert_null(ctl_stat_text(NULL));
    text = ctl_stat_text("{\"vcpus\":[{\"exits\":{\"A\":1,\"B\":{}}}, 3]}");
    assert_non_null(text);
    free(text);
}

static void test_trace_categories_are_parsed(void **state)
{
    const char *bad = NULL;
    uint32_t mask = 0;

    (void)state;
    assert_true(trace_parse("pio,irq", &mask, &bad));
    assert_int_equal(mask, BIT(TRACE_PIO) | BIT(TRACE_IRQ));
    assert_false(trace_parse("pio,irqs", &mask, &bad));
    assert_string_equal(bad, "irqs");
    assert_false(trace_parse("", &mask, &bad));
    assert_false(trace_parse("pio,", &mask, &bad));
    assert_false(trace_parse("pi", &mask, &bad));
    assert_true(trace_parse("all", &mask, &bad));
    assert_int_equal(mask, BIT(NR_TRACE_CATS) - 1);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_name_is_checked),
        cmocka_unit_test(test_directory_is_ours_alone),
        cmocka_unit_test(test_name_in_use_is_refused),
        cmocka_unit_test(test_socket_of_a_dead_vm_is_replaced),
        cmocka_unit_test(test_list_has_only_the_living),
        cmocka_unit_test(test_request_without_sense_is_an_error),
        cmocka_unit_test(test_version_is_answered),
        cmocka_unit_test(test_table_shows_what_the_json_has),
        cmocka_unit_test(test_trace_categories_are_parsed),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
