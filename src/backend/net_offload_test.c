/* SPDX-License-Identifier: Apache-2.0 */
/* Checksums and segmentation: known sums, pieces that make up the whole, headers that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "backend/net.h"

#define IP_AT     14
#define MAX_BYTES 8192

/* An Ethernet frame with a TCP segment of `payload` bytes, IPv4 or IPv6; returns its bytes. */
static size_t make_tcp(uint8_t *p, bool v6, size_t payload)
{
    size_t ip_bytes = v6 ? 40 : 20, tcp = IP_AT + ip_bytes, bytes = tcp + 20 + payload;

    memset(p, 0, tcp + 20);
    p[12] = v6 ? 0x86 : 0x08;
    p[13] = v6 ? 0xdd : 0x00;
    p[IP_AT] = v6 ? 0x60 : 0x45;
    if (v6) {
        p[IP_AT + 6] = 6;
        p[IP_AT + 7] = 64;
        p[IP_AT + 23] = 1;
        p[IP_AT + 39] = 2;
    } else {
        p[IP_AT + 4] = 0xff; /* identification: wraps */
        p[IP_AT + 5] = 0xff;
        p[IP_AT + 8] = 64;
        p[IP_AT + 9] = 6;
        memcpy(p + IP_AT + 12, (uint8_t[]){ 10, 0, 2, 15, 10, 0, 2, 2 }, 8);
    }
    memcpy(p + tcp + 4, (uint8_t[]){ 0xff, 0xff, 0xff, 0x00 }, 4); /* sequence number: wraps */
    p[tcp + 12] = 5 << 4;
    p[tcp + 13] = 0x80 | 0x10 | 0x08 | 0x01; /* CWR ACK PSH FIN */
    for (size_t i = 0; i < payload; i++)
        p[tcp + 20 + i] = (uint8_t)(i * 7 + i / 256);
    return bytes;
}

static struct net_hdr gso_hdr(bool v6, uint16_t mss)
{
    return (struct net_hdr){ .flags = NET_HDR_NEEDS_CSUM,
                             .gso_type = v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4,
                             .gso_size = mss,
                             .csum_start = v6 ? 54 : 34,
                             .csum_offset = 16 };
}

/* RFC 1071, the plain way. All ones: right. */
static uint16_t sum_of(const uint8_t *p, size_t bytes, uint32_t sum)
{
    for (size_t i = 0; i < bytes; i++)
        sum += (uint32_t)p[i] << (i & 1 ? 0 : 8);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

struct pieces {
    bool v6;
    unsigned nr, max;
    size_t payload;
    uint8_t got[MAX_BYTES];
    uint8_t flags_and, flags_or, last_flags;
    uint32_t next_seq;
};

static bool take_piece(void *arg, struct net_frame *f)
{
    struct pieces *s = arg;
    size_t ip = IP_AT, tcp = s->v6 ? 54 : 34, tcp_bytes = f->bytes - tcp;
    uint8_t *p = f->data;
    uint32_t seq;

    assert_int_equal(f->hdr.gso_type, NET_GSO_NONE);
    assert_int_equal(f->hdr.flags, 0);
    if (s->v6) {
        assert_int_equal(p[ip + 4] << 8 | p[ip + 5], f->bytes - ip - 40);
        assert_int_equal(
            sum_of(p + tcp, tcp_bytes, sum_of(p + ip + 8, 32, (uint32_t)tcp_bytes + 6)), 0xffff);
    } else {
        assert_int_equal(p[ip + 2] << 8 | p[ip + 3], f->bytes - ip);
        assert_int_equal((p[ip + 4] << 8 | p[ip + 5]), (0xffff + s->nr) & 0xffff);
        assert_int_equal(sum_of(p + ip, 20, 0), 0xffff);
        assert_int_equal(
            sum_of(p + tcp, tcp_bytes, sum_of(p + ip + 12, 8, (uint32_t)tcp_bytes + 6)), 0xffff);
    }
    seq = (uint32_t)p[tcp + 4] << 24 | p[tcp + 5] << 16 | p[tcp + 6] << 8 | p[tcp + 7];
    assert_int_equal(seq, 0xffffff00u + (uint32_t)s->payload);
    memcpy(s->got + s->payload, p + tcp + 20, tcp_bytes - 20);
    s->payload += tcp_bytes - 20;
    assert_int_equal(!!(p[tcp + 13] & 0x80), s->nr == 0);
    s->last_flags = p[tcp + 13];
    s->nr++;
    if (s->nr < s->max)
        assert_int_equal(p[tcp + 13] & 0x09, 0);
    return true;
}

static void cut(bool v6, size_t payload, uint16_t mss, unsigned want)
{
    static uint8_t frame[MAX_BYTES], orig[MAX_BYTES], scratch[NET_FRAME_MAX];
    static struct pieces s;
    struct net_frame f = { .hdr = gso_hdr(v6, mss), .data = frame };

    f.bytes = make_tcp(frame, v6, payload);
    memcpy(orig, frame, f.bytes);
    s = (struct pieces){ .v6 = v6, .max = want };
    assert_true(net_frame_ok(&f));
    assert_int_equal(net_segment(&f, mss, scratch, take_piece, &s), 0);
    assert_int_equal(s.nr, want);
    assert_int_equal(s.payload, payload);
    assert_memory_equal(s.got, orig + (v6 ? 74 : 54), payload);
    assert_int_equal(s.last_flags & 0x09, 0x09);
}

static void test_segments_make_up_the_whole(void **state)
{
    (void)state;
    for (unsigned v6 = 0; v6 < 2; v6++) {
        cut(v6, 4000, 1000, 4);
        cut(v6, 4001, 1000, 5);
        cut(v6, 999, 333, 3); /* odd pieces */
        cut(v6, 1000, 1000, 1);
        cut(v6, 1, 1000, 1);
    }
}

static void test_checksum_is_filled_in(void **state)
{
    uint8_t p[200];
    size_t bytes = make_tcp(p, false, 101);
    struct net_frame f = { .hdr = gso_hdr(false, 0), .data = p, .bytes = bytes };
    uint16_t pseudo = sum_of(p + IP_AT + 12, 8, 121 + 6);

    (void)state;
    f.hdr.gso_type = NET_GSO_NONE;
    p[34 + 16] = (uint8_t)(pseudo >> 8);
    p[34 + 17] = (uint8_t)pseudo;
    assert_true(net_frame_ok(&f));
    net_checksum(&f);
    assert_int_equal(f.hdr.flags, 0);
    assert_int_equal(sum_of(p + 34, 121, pseudo), 0xffff);
}

static void test_wrong_headers_are_refused(void **state)
{
    static const struct {
        struct net_hdr hdr;
        size_t bytes;
    } bad[] = {
        { { .flags = 0 }, 13 },
        { { .flags = 0 }, NET_FRAME_MAX + 1 },
        { { .flags = NET_HDR_NEEDS_CSUM, .csum_start = 50, .csum_offset = 9 }, 60 },
        { { .flags = NET_HDR_NEEDS_CSUM, .csum_start = 0xffff, .csum_offset = 0xffff }, 60 },
        { { .gso_type = NET_GSO_TCPV4, .gso_size = 100 }, 60 },
        { { .flags = NET_HDR_NEEDS_CSUM, .gso_type = NET_GSO_TCPV4 }, 60 },
        { { .flags = NET_HDR_NEEDS_CSUM, .gso_type = 3, .gso_size = 10 }, 60 },
        { { .flags = NET_HDR_NEEDS_CSUM, .gso_type = NET_GSO_ECN, .gso_size = 10 }, 60 },
    };
    static uint8_t p[NET_FRAME_MAX + 1];

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(net_frame_ok(&(struct net_frame){ bad[i].hdr, p, bad[i].bytes }));
}

static bool refuse_piece(void *arg, struct net_frame *f)
{
    (void)arg;
    (void)f;
    fail_msg("a frame that is not what its header says was cut");
    return false;
}

/* Each changes one byte of a good frame, or where it ends. */
static void test_segment_of_what_is_no_tcp_is_refused(void **state)
{
    static uint8_t frame[MAX_BYTES], scratch[NET_FRAME_MAX];
    static const struct {
        unsigned at, val;
        size_t bytes;
    } bad[] = {
        { 12, 0x86, 2000 },      /* another protocol */
        { IP_AT, 0x46, 2000 },   /* the header ends elsewhere than said */
        { IP_AT + 9, 17, 2000 }, /* UDP */
        { 34 + 12, 0x40, 2000 }, /* a TCP header of 16 bytes */
        { 34 + 12, 0xf0, 34 + 40 } /* one longer than the frame */,
        { 0, 0, 34 + 19 },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct net_frame f = { .hdr = gso_hdr(false, 500), .data = frame, .bytes = bad[i].bytes };

        (void)make_tcp(frame, false, 2000);
        frame[bad[i].at] = (uint8_t)bad[i].val;
        assert_int_equal(net_segment(&f, 500, scratch, refuse_piece, NULL), -EINVAL);
    }
}

static void test_mac_follows_from_the_name(void **state)
{
    uint8_t a[6], b[6];

    (void)state;
    net_mac_derive(a, "web", 0);
    net_mac_derive(b, "web", 0);
    assert_memory_equal(a, b, 6);
    assert_int_equal(a[0] & 3, 2);
    net_mac_derive(b, "web", 1);
    assert_memory_not_equal(a, b, 6);
    net_mac_derive(b, "wec", 0);
    assert_memory_not_equal(a, b, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_segments_make_up_the_whole),
        cmocka_unit_test(test_checksum_is_filled_in),
        cmocka_unit_test(test_wrong_headers_are_refused),
        cmocka_unit_test(test_segment_of_what_is_no_tcp_is_refused),
        cmocka_unit_test(test_mac_follows_from_the_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
