/* SPDX-License-Identifier: Apache-2.0 */
/* User mode by frames made by hand: ARP, DHCP, a connection in and one out, no room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/net_fake.h"

static const uint8_t guest_mac[6] = { 2, 0, 0, 0, 0, 1 };
static const uint8_t guest_ip[4] = { 10, 0, 2, 15 }, gateway_ip[4] = { 10, 0, 2, 2 };

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static struct net *open_user(const struct net_user_config *cfg)
{
    return net_open_user(&(struct net_common){ .vm = "test", .mac = guest_mac }, cfg);
}

/* ---- frames ---- */

static void send_arp(struct card *c, unsigned op, const uint8_t *about)
{
    uint8_t p[60] = { 0 };

    memset(p, 0xff, 6);
    memcpy(p + 6, guest_mac, 6);
    memcpy(p + 12, (uint8_t[]){ 8, 6, 0, 1, 8, 0, 6, 4, 0, (uint8_t)op }, 10);
    memcpy(p + 22, guest_mac, 6);
    memcpy(p + 28, guest_ip, 4);
    memcpy(p + 38, about, 4);
    card_send(c, (struct net_hdr){ .flags = 0 }, p, sizeof(p));
}

/* IPv4 header at p + 14, with its checksum. */
static void put_ip(uint8_t *p, size_t ip_bytes, unsigned proto, const uint8_t *from,
                   const uint8_t *to)
{
    uint32_t sum = 0;

    memcpy(p + 6, guest_mac, 6);
    put16(p + 12, 0x0800);
    p[14] = 0x45;
    put16(p + 16, (unsigned)ip_bytes);
    p[22] = 64;
    p[23] = (uint8_t)proto;
    memcpy(p + 26, from, 4);
    memcpy(p + 30, to, 4);
    for (unsigned i = 0; i < 20; i += 2)
        sum += (uint32_t)p[14 + i] << 8 | p[15 + i];
    put16(p + 24, ~((sum & 0xffff) + (sum >> 16)) & 0xffff);
}

#define DHCP_BYTES 300
static void send_dhcp_discover(struct card *c)
{
    uint8_t p[14 + 20 + 8 + DHCP_BYTES] = { 0 };
    static const uint8_t any[4], all[4] = { 255, 255, 255, 255 };

    memset(p, 0xff, 6);
    put_ip(p, sizeof(p) - 14, 17, any, all);
    put16(p + 34, 68);
    put16(p + 36, 67);
    put16(p + 38, 8 + DHCP_BYTES);
    memcpy(p + 42, (uint8_t[]){ 1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78 }, 8);
    memcpy(p + 70, guest_mac, 6);
    memcpy(p + 278, (uint8_t[]){ 99, 130, 83, 99, 53, 1, 1, 255 }, 8); /* cookie, discover */
    card_send(c, (struct net_hdr){ .flags = 0 }, p, sizeof(p));
}

/* The sum of the pseudo header, as a driver leaves it in the checksum's place. */
static void send_tcp_syn(struct card *c, unsigned to_port)
{
    uint8_t p[14 + 20 + 20] = { 0 };
    struct net_hdr hdr = { .flags = NET_HDR_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16 };
    uint32_t sum = 6 + 20;

    put_ip(p, 40, 6, guest_ip, gateway_ip);
    for (unsigned i = 26; i < 34; i += 2)
        sum += (uint32_t)p[i] << 8 | p[i + 1];
    put16(p + 34, 40000);
    put16(p + 36, to_port);
    p[41] = 1; /* sequence number */
    p[46] = 5 << 4;
    p[47] = 2; /* SYN */
    put16(p + 48, 8192);
    put16(p + 50, (sum & 0xffff) + (sum >> 16));
    card_send(c, hdr, p, sizeof(p));
}

/* Waits for a frame of that EtherType in which the byte at `at` has that value. */
static const uint8_t *wait_frame(struct card *c, unsigned type, unsigned at, uint8_t val)
{
    for (unsigned i = 0; card_wait(c, &c->nr_in, i + 1); i++) {
        const struct card_frame *f = &c->in[i];

        if (f->bytes > at && f->data[12] == type >> 8 && f->data[13] == (type & 0xff) &&
            f->data[at] == val)
            return f->data;
    }
    return NULL;
}

/* ---- tests ---- */

static void test_arp_gateway_and_name_server_answer(void **state)
{
    static const uint8_t dns_ip[4] = { 10, 0, 2, 3 };
    struct card c;
    const uint8_t *p;

    (void)state;
    assert_int_equal(card_connect(&c, open_user(&(struct net_user_config){ 0 }), CARD_FRAMES), 0);
    assert_true(c.up);
    send_arp(&c, 1, gateway_ip);
    p = wait_frame(&c, 0x0806, 21, 2);
    assert_non_null(p);
    assert_memory_equal(p + 28, gateway_ip, 4);
    assert_memory_equal(p + 32, guest_mac, 6);
    send_arp(&c, 1, dns_ip);
    assert_true(card_wait(&c, &c.nr_in, 2));
    assert_memory_equal(c.in[1].data + 28, dns_ip, 4);
    card_close(&c);
}

static void test_dhcp_offers_the_documented_address(void **state)
{
    struct card c;
    const uint8_t *p;

    (void)state;
    assert_int_equal(card_connect(&c, open_user(&(struct net_user_config){ 0 }), CARD_FRAMES), 0);
    send_dhcp_discover(&c);
    p = wait_frame(&c, 0x0800, 23, 17);
    assert_non_null(p);
    assert_int_equal(p[42], 2); /* a reply */
    assert_memory_equal(p + 42 + 16, guest_ip, 4);
    card_close(&c);
}

/* No buffers at first: the answers wait. */
static void test_answers_wait_for_room(void **state)
{
    struct card c;

    (void)state;
    assert_int_equal(card_connect(&c, open_user(&(struct net_user_config){ 0 }), 0), 0);
    for (unsigned i = 0; i < 5; i++)
        send_arp(&c, 1, gateway_ip);
    assert_true(card_wait(&c, &c.nr_refused, 1));
    card_give_room(&c, 2);
    assert_true(card_wait(&c, &c.nr_in, 2));
    card_give_room(&c, 5);
    assert_true(card_wait(&c, &c.nr_in, 5));
    card_close(&c);
}

/* A listening socket on the loopback, at any free port. */
static int listen_loopback(unsigned *port)
{
    struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    assert_int_equal(listen(fd, 1), 0);
    *port = ntohs(sa.sin_port);
    return fd;
}

/* The checksum that the guest leaves out is filled in, or the library would drop the segment. */
static void test_tcp_to_the_gateway_reaches_the_host(void **state)
{
    struct card c;
    unsigned port;
    int fd = listen_loopback(&port), in;
    const uint8_t *p;

    (void)state;
    assert_int_equal(card_connect(&c, open_user(&(struct net_user_config){ 0 }), CARD_FRAMES), 0);
    send_arp(&c, 1, gateway_ip);
    send_tcp_syn(&c, port);
    in = accept(fd, NULL, NULL);
    assert_true(in >= 0);
    p = wait_frame(&c, 0x0800, 47, 0x12); /* SYN ACK */
    assert_non_null(p);
    assert_int_equal(p[34] << 8 | p[35], port);
    (void)close(in);
    (void)close(fd);
    card_close(&c);
}

static void test_restricted_guest_reaches_nothing(void **state)
{
    struct card c;
    unsigned port;
    int fd = listen_loopback(&port);
    struct net_user_config cfg = { .restricted = true };

    (void)state;
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(card_connect(&c, open_user(&cfg), CARD_FRAMES), 0);
    send_arp(&c, 1, gateway_ip);
    send_tcp_syn(&c, port);
    send_arp(&c, 1, gateway_ip);
    /* The second answer comes when the segment was looked at. */
    assert_true(card_wait(&c, &c.nr_sent, 3));
    assert_true(card_wait(&c, &c.nr_in, 2));
    assert_true(accept(fd, NULL, NULL) < 0);
    (void)close(fd);
    card_close(&c);
}

static void test_forward_brings_connections_in(void **state)
{
    struct net_user_config cfg = { .nr_forwards = 1 };
    struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct card c;
    struct net *net = NULL;
    unsigned port;
    const uint8_t *p;
    int fd;

    (void)state;
    /* The port was free a moment ago. */
    for (unsigned i = 0; i < 20 && !net; i++) {
        (void)close(listen_loopback(&port));
        cfg.forwards[0] = (struct net_forward){ .host_addr = INADDR_LOOPBACK,
                                                .host_port = (uint16_t)port,
                                                .guest_port = 22 };
        net = open_user(&cfg);
    }
    assert_non_null(net);
    assert_int_equal(card_connect(&c, net, CARD_FRAMES), 0);
    send_arp(&c, 1, gateway_ip); /* tells who has 10.0.2.15 */
    assert_non_null(wait_frame(&c, 0x0806, 21, 2));
    fd = socket(AF_INET, SOCK_STREAM, 0);
    sa.sin_port = htons((uint16_t)port);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    p = wait_frame(&c, 0x0800, 47, 0x02); /* SYN */
    assert_non_null(p);
    assert_int_equal(p[36] << 8 | p[37], 22);
    assert_memory_equal(p + 30, guest_ip, 4);
    (void)close(fd);
    card_close(&c);
}

static void test_forward_brings_datagrams_in(void **state)
{
    struct net_user_config cfg = { .nr_forwards = 1 };
    struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(sa);
    struct card c;
    struct net *net = NULL;
    const uint8_t *p;
    int fd;

    (void)state;
    for (unsigned i = 0; i < 20 && !net; i++) {
        fd = socket(AF_INET, SOCK_DGRAM, 0);
        sa.sin_port = 0;
        assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
        assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
        (void)close(fd);
        cfg.forwards[0] = (struct net_forward){ .udp = true,
                                                .host_addr = INADDR_LOOPBACK,
                                                .host_port = ntohs(sa.sin_port),
                                                .guest_port = 53 };
        net = open_user(&cfg);
    }
    assert_non_null(net);
    assert_int_equal(card_connect(&c, net, CARD_FRAMES), 0);
    send_arp(&c, 1, gateway_ip);
    assert_non_null(wait_frame(&c, 0x0806, 21, 2));
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    assert_int_equal(sendto(fd, "hello", 5, 0, (struct sockaddr *)&sa, sizeof(sa)), 5);
    p = wait_frame(&c, 0x0800, 23, 17);
    assert_non_null(p);
    assert_int_equal(p[36] << 8 | p[37], 53);
    assert_memory_equal(p + 42, "hello", 5);
    (void)close(fd);
    card_close(&c);
}

static void test_taken_port_is_an_error(void **state)
{
    struct net_user_config cfg = { .nr_forwards = 1 };
    unsigned port;
    int fd = listen_loopback(&port);

    (void)state;
    cfg.forwards[0] = (struct net_forward){ .host_addr = INADDR_LOOPBACK,
                                            .host_port = (uint16_t)port,
                                            .guest_port = 22 };
    assert_null(open_user(&cfg));
    (void)close(fd);
}

/* Frames that no driver sends: the library has to live with all that pass net_frame_ok(). */
/* ICMPv6 of the guest's: a neighbour solicitation (RFC 4861) for fec0::host. */
static void send_solicitation(struct card *c, uint8_t host)
{
    uint8_t p[14 + 40 + 32] = { 0x33, 0x33, 0xff, 0, 0, host };
    uint32_t sum = 58 + 32;

    memcpy(p + 6, guest_mac, 6);
    put16(p + 12, 0x86dd);
    p[14] = 0x60;
    put16(p + 18, 32);
    p[20] = 58; /* ICMPv6 */
    p[21] = 255;
    memcpy(p + 22, (uint8_t[]){ 0xfe, 0xc0 }, 2);
    p[37] = 0x55;
    memcpy(p + 38, (uint8_t[]){ 0xff, 2 }, 2); /* ff02::1:ff00:host */
    p[49] = 1;
    p[50] = 0xff;
    p[53] = host;
    p[54] = 135;
    memcpy(p + 62, (uint8_t[]){ 0xfe, 0xc0 }, 2);
    p[77] = host;
    p[78] = 1; /* source link-layer address */
    p[79] = 1;
    memcpy(p + 80, guest_mac, 6);
    for (unsigned at = 22; at < sizeof(p); at += 2)
        sum += (uint32_t)p[at] << 8 | p[at + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    put16(p + 56, ~((sum & 0xffff) + (sum >> 16)) & 0xffff);
    card_send(c, (struct net_hdr){ .flags = 0 }, p, sizeof(p));
}

static void test_ipv6_gateway_answers_unless_restricted(void **state)
{
    struct net *net = open_user(&(struct net_user_config){ .nr_forwards = 0 });
    struct card c;
    const uint8_t *p;

    (void)state;
    assert_true(net->tx_offloads & NET_TSO6);
    assert_int_equal(card_connect(&c, net, CARD_FRAMES), 0);
    send_solicitation(&c, 2);
    p = wait_frame(&c, 0x86dd, 54, 136); /* a neighbour advertisement */
    assert_non_null(p);
    assert_int_equal(p[62], 0xfe);
    assert_int_equal(p[77], 2);
    card_close(&c);
    net = open_user(&(struct net_user_config){ .restricted = true });
    assert_false(net->tx_offloads & NET_TSO6);
    assert_int_equal(card_connect(&c, net, CARD_FRAMES), 0);
    send_solicitation(&c, 2);
    send_arp(&c, 1, gateway_ip); /* which is answered behind it */
    assert_non_null(wait_frame(&c, 0x0806, 21, 2));
    for (unsigned i = 0; i < c.nr_in; i++)
        assert_int_not_equal(c.in[i].data[12], 0x86);
    card_close(&c);
}

static void test_nonsense_is_survived(void **state)
{
    struct card c;
    uint8_t p[200];
    uint32_t x = 1;

    (void)state;
    assert_int_equal(card_connect(&c, open_user(&(struct net_user_config){ 0 }), CARD_FRAMES), 0);
    for (unsigned i = 0; i < CARD_FRAMES - 1; i++) {
        size_t bytes = 14 + i * 2;

        for (size_t k = 0; k < bytes; k++) {
            x = x * 1664525 + 1013904223;
            p[k] = (uint8_t)(x >> 24);
        }
        put16(p + 12, i % 3 == 0 ? 0x0806 : i % 3 == 1 ? 0x0800 : 0x86dd);
        if (i % 3 == 1)
            p[14] = 0x45;
        card_send(&c, (struct net_hdr){ .flags = 0 }, p, bytes);
    }
    assert_true(card_wait(&c, &c.nr_sent, CARD_FRAMES - 1));
    card_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arp_gateway_and_name_server_answer),
        cmocka_unit_test(test_dhcp_offers_the_documented_address),
        cmocka_unit_test(test_answers_wait_for_room),
        cmocka_unit_test(test_tcp_to_the_gateway_reaches_the_host),
        cmocka_unit_test(test_restricted_guest_reaches_nothing),
        cmocka_unit_test(test_forward_brings_connections_in),
        cmocka_unit_test(test_forward_brings_datagrams_in),
        cmocka_unit_test(test_taken_port_is_an_error),
        cmocka_unit_test(test_ipv6_gateway_answers_unless_restricted),
        cmocka_unit_test(test_nonsense_is_survived),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
