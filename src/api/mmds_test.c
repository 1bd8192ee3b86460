/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/mmds.h"

#define NS_PER_S 1000000000ull

static json_t *json(const char *text)
{
    json_t *j = json_loads(text, 0, NULL);

    assert_non_null(j);
    return j;
}

static struct mmds *make(const char *data)
{
    struct mmds *m = mmds_create(1000);
    json_t *j = json(data);

    assert_int_equal(mmds_put_data(m, j), 0);
    json_decref(j);
    return m;
}

/* The request gets that status, and that text behind the headers (NULL: any). */
static void expect(struct mmds *m, const char *request, uint64_t now_ns, int status,
                   const char *body)
{
    char *all = mmds_answer(m, request, strlen(request), now_ns), *at;

    assert_non_null(all);
    assert_int_equal(atoi(all + strlen("HTTP/1.1 ")), status);
    at = strstr(all, "\r\n\r\n");
    assert_non_null(at);
    if (body)
        assert_string_equal(at + 4, body);
    free(all);
}

static void test_patch_merges_and_null_removes(void **state)
{
    static const struct {
        const char *data, *patch, *want;
    } cases[] = {
        { "{\"a\": 1}", "{\"b\": 2}", "{\"a\": 1, \"b\": 2}" },
        { "{\"a\": {\"x\": 1, \"y\": 2}}", "{\"a\": {\"x\": null}}", "{\"a\": {\"y\": 2}}" },
        { "{\"a\": [1]}", "{\"a\": {\"b\": {\"c\": null, \"d\": 3}}}", "{\"a\": {\"b\": {\"d\": 3}}}" },
        { "{\"a\": {}}", "{\"a\": [{\"b\": null}]}", "{\"a\": [{\"b\": null}]}" },
    };
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct mmds *m = make(cases[i].data);
        json_t *patch = json(cases[i].patch), *want = json(cases[i].want), *got;

        assert_int_equal(mmds_patch_data(m, patch), 0);
        got = mmds_get_data(m);
        assert_true(json_equal(got, want));
        json_decref(got);
        json_decref(want);
        json_decref(patch);
        mmds_destroy(m);
    }
}

static void test_data_that_are_too_large_or_no_object_change_nothing(void **state)
{
    struct mmds *m = mmds_create(30);
    json_t *list = json("[1]"), *small = json("{\"a\": 1}"),
           *large = json("{\"b\": \"0123456789012345678901234567890\"}"), *got;

    (void)state;
    assert_int_equal(mmds_patch_data(m, small), -ENOENT);
    assert_int_equal(mmds_put_data(m, list), -EINVAL);
    assert_int_equal(mmds_put_data(m, large), -E2BIG);
    assert_int_equal(mmds_put_data(m, small), 0);
    assert_int_equal(mmds_patch_data(m, large), -E2BIG);
    got = mmds_get_data(m);
    assert_true(json_equal(got, small));
    json_decref(got);
    json_decref(large);
    json_decref(small);
    json_decref(list);
    mmds_destroy(m);
}

static void test_values_are_read_as_text_or_json(void **state)
{
    struct mmds *m =
        make("{\"a\": {\"b\": \"text\", \"c\": {}, \"n\": 5}, \"list\": [\"x\", \"y\"]}");

    (void)state;
    expect(m, "GET / HTTP/1.1", 0, 200, "a/\nlist");
    expect(m, "GET /a HTTP/1.0", 0, 200, "b\nc/\nn");
    expect(m, "GET /a/ HTTP/1.1\r\nAccept: */*", 0, 200, "b\nc/\nn");
    expect(m, "GET //a//b HTTP/1.1", 0, 200, "text");
    expect(m, "GET http://169.254.169.254/a/b HTTP/1.1", 0, 200, "text");
    expect(m, "GET /a/c HTTP/1.1", 0, 200, "");
    expect(m, "GET /list/1 HTTP/1.1", 0, 200, "y");
    expect(m, "GET /a/n HTTP/1.1", 0, 501, NULL);
    expect(m, "GET /a/n HTTP/1.1\r\naccept: application/json", 0, 200, "5");
    expect(m, "GET /a/c HTTP/1.1\r\nAccept: application/json", 0, 200, "{}");
    expect(m, "GET /list/2 HTTP/1.1", 0, 404, NULL);
    expect(m, "GET /list/x HTTP/1.1", 0, 404, NULL);
    expect(m, "GET /a/b/c HTTP/1.1", 0, 404, NULL);
    mmds_configure(m, &(struct mmds_config){ .imds_compat = true });
    expect(m, "GET /a/b HTTP/1.1\r\nAccept: application/json", 0, 200, "text");
    mmds_destroy(m);
}

static void test_what_is_no_request_is_answered(void **state)
{
    struct mmds *m = make("{}");

    (void)state;
    expect(m, "", 0, 400, NULL);
    expect(m, "\r\n\r\n", 0, 400, NULL);
    expect(m, "GET", 0, 400, NULL);
    expect(m, "GET /", 0, 400, NULL);
    expect(m, "GET / FTP/1.1", 0, 400, NULL);
    expect(m, "GET a HTTP/1.1", 0, 400, NULL);
    expect(m, "DELETE / HTTP/1.1", 0, 405, NULL);
    expect(m, "GET / HTTP/1.1\r\n:\r\n: :\r\nno colon\r\nAccept:", 0, 200, "");
    mmds_destroy(m);
}

static void test_tokens_are_needed_and_end(void **state)
{
    struct mmds *m = make("{\"a\": \"b\"}");
    char request[200], *all, *token;

    (void)state;
    mmds_configure(m, &(struct mmds_config){ .v2 = true });
    expect(m, "GET /a HTTP/1.1", 0, 401, NULL);
    expect(m, "GET /a HTTP/1.1\r\nX-metadata-token: ", 0, 401, NULL);
    expect(m, "GET /a HTTP/1.1\r\nX-metadata-token: guess", 0, 401, NULL);
    expect(m, "PUT /latest/api/token HTTP/1.1", 0, 400, NULL);
    expect(m, "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 0", 0, 400, NULL);
    expect(m, "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 21601", 0, 400, NULL);
    expect(m, "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 6x", 0, 400, NULL);
    expect(m, "PUT /latest HTTP/1.1\r\nX-metadata-token-ttl-seconds: 6", 0, 404, NULL);
    expect(m,
           "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 6\r\n"
           "X-Forwarded-For: a",
           0, 400, NULL);
    all = mmds_answer(m, "PUT /latest/api/token HTTP/1.1\r\nx-aws-ec2-metadata-token-ttl-seconds: 6",
                      72, 0);
    token = strstr(all, "\r\n\r\n") + 4;
    assert_non_null(strstr(all, "X-metadata-token-ttl-seconds: 6\r\n"));
    (void)snprintf(request, sizeof(request), "GET /a HTTP/1.1\r\nX-metadata-token: %s", token);
    expect(m, request, 0, 200, "b");
    expect(m, request, 6 * NS_PER_S - 1, 200, "b");
    expect(m, request, 6 * NS_PER_S, 401, NULL);
    /* So many others make it go. */
    for (unsigned i = 0; i < 1000; i++)
        expect(m, "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60", 0, 200, NULL);
    expect(m, request, 0, 401, NULL);
    free(all);
    mmds_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patch_merges_and_null_removes),
        cmocka_unit_test(test_data_that_are_too_large_or_no_object_change_nothing),
        cmocka_unit_test(test_values_are_read_as_text_or_json),
        cmocka_unit_test(test_what_is_no_request_is_answered),
        cmocka_unit_test(test_tokens_are_needed_and_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
