/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small TCP for the metadata service: see mmds_net.h. Connections are few, and what they hold is
 * bounded, so a guest can only hurt itself. Frames are not queued: what is to be sent follows from
 * the connections' state (RFC 9293), and goes out when the guest has room for it.
 *
 * Segments that come out of order are dropped and asked for again; what the guest does not
 * acknowledge is sent again from there on.
 */
#include "api/mmds_net.h"

#include <stdlib.h>
#include <string.h>

#include "api/mmds.h"
#include "host/host.h"
#include "lib/log.h"

#define NS_PER_MS   1000000ull
#define CONNS_MAX   16u
#define REQUEST_MAX 4096u
#define PORT        80u
#define WINDOW      REQUEST_MAX
#define FLIGHT_SEGS 8u /* at most that many segments unacknowledged */
#define RESEND_NS   (300 * NS_PER_MS)
#define RESENDS_MAX 6u
#define IDLE_NS     (30000 * NS_PER_MS)
#define MSS_DEFAULT 536u
#define MSS_MAX     1460u
#define MSS_MIN     64u

#define ETH_IPV4  0x0800u
#define ETH_ARP   0x0806u
#define ARP_BYTES 28u
#define IP_BYTES  20u
#define TCP_BYTES 20u
#define IP_TCP    6u

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_PSH = 8, TCP_ACK = 16 };

struct peer {
    uint8_t mac[NET_MAC_BYTES];
    uint32_t addr;
    uint16_t port;
};

struct conn {
    bool used, open; /* open: the handshake is done */
    struct peer peer;
    uint32_t iss, una, nxt; /* sent: first, first unacknowledged, next */
    uint32_t rcv;           /* next byte expected */
    uint32_t window, mss;   /* the peer's */
    bool owes_ack, owes_syn, peer_fin, probe;
    uint64_t seen_ns, resend_ns; /* UINT64_MAX: nothing to send again */
    unsigned nr_resends;

    char request[REQUEST_MAX];
    size_t nr_request;
    bool closing; /* there is an answer, or there will be none */
    char *answer; /* malloc'ed */
    uint32_t nr_answer;
};

/* A segment of the guest's. */
struct seg {
    struct peer from;
    uint16_t to_port;
    uint32_t seq, ack;
    uint8_t flags;
    uint16_t window, mss;
    const uint8_t *data;
    size_t bytes;
};

struct mmds_net {
    struct mmds *mmds;
    struct conn conns[CONNS_MAX];
    unsigned turn; /* of the connections, who is first to send */
    bool owes_arp, owes_rst;
    struct peer arp_to;
    struct seg rst_to;
};

/* Locally administered; nobody else has it on this link. */
static const uint8_t own_mac[NET_MAC_BYTES] = { 0x06, 0x01, 0x23, 0x45, 0x67, 0x01 };

struct mmds_net *mmds_net_create(struct mmds *m)
{
    struct mmds_net *n = calloc(1, sizeof(*n));

    if (n)
        n->mmds = m;
    else
        log_error("out of memory for the metadata service");
    return n;
}

static void conn_free(struct conn *c)
{
    free(c->answer);
    *c = (struct conn){ .used = false };
}

void mmds_net_destroy(struct mmds_net *n)
{
    for (unsigned i = 0; n && i < CONNS_MAX; i++)
        conn_free(&n->conns[i]);
    free(n);
}

/* ---- bytes in network order ---- */

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, uint16_t val)
{
    p[0] = (uint8_t)(val >> 8);
    p[1] = (uint8_t)val;
}

static void put32(uint8_t *p, uint32_t val)
{
    put16(p, (uint16_t)(val >> 16));
    put16(p + 2, (uint16_t)val);
}

/* RFC 1071. */
static uint32_t sum(uint32_t acc, const uint8_t *p, size_t bytes)
{
    for (; bytes > 1; p += 2, bytes -= 2)
        acc += get16(p);
    if (bytes)
        acc += (uint32_t)p[0] << 8;
    return (acc & 0xffff) + (acc >> 16);
}

static uint16_t sum_end(uint32_t acc)
{
    while (acc >> 16)
        acc = (acc & 0xffff) + (acc >> 16);
    return (uint16_t)~acc;
}

/* Of a TCP segment behind an IPv4 header. */
static uint16_t tcp_sum(const uint8_t *ip, const uint8_t *tcp, size_t bytes)
{
    uint32_t acc = sum(IP_TCP + (uint32_t)bytes, ip + 12, 8);

    return sum_end(sum(acc, tcp, bytes));
}

/* ---- hearing ---- */

static bool take_arp(struct mmds_net *n, const uint8_t *p, size_t bytes)
{
    static const uint8_t ask[] = { 0, 1, 8, 0, 6, 4, 0, 1 }; /* Ethernet, IPv4, a request */

    if (bytes < ARP_BYTES || memcmp(p, ask, sizeof(ask)) != 0 ||
        get32(p + 24) != mmds_config_of(n->mmds).addr)
        return false;
    memcpy(n->arp_to.mac, p + 8, NET_MAC_BYTES);
    n->arp_to.addr = get32(p + 14);
    n->owes_arp = true;
    return true;
}

static uint16_t find_mss(const uint8_t *opt, size_t bytes)
{
    for (size_t i = 0; i < bytes && opt[i];) {
        size_t len = opt[i] == 1 ? 1 : i + 1 < bytes ? opt[i + 1] : 0;

        if (!len || (opt[i] != 1 && len < 2) || len > bytes - i)
            break;
        if (opt[i] == 2 && len == 4)
            return get16(opt + i + 2);
        i += len;
    }
    return MSS_DEFAULT;
}

/* False: it is not for us. A segment that is damaged is for us, and has no flags. */
static bool parse_tcp(const struct mmds_net *n, const struct net_frame *f, struct seg *s)
{
    const uint8_t *ip = f->data + NET_ETH_BYTES, *tcp;
    size_t room = f->bytes - NET_ETH_BYTES, ip_bytes, total, tcp_bytes;

    if (room < IP_BYTES || ip[0] >> 4 != 4)
        return false;
    ip_bytes = 4 * (size_t)(ip[0] & 15);
    total = get16(ip + 2);
    if (ip_bytes < IP_BYTES || total < ip_bytes || total > room || ip[9] != IP_TCP ||
        get32(ip + 16) != mmds_config_of(n->mmds).addr)
        return false;
    *s = (struct seg){ .flags = 0 };
    tcp = ip + ip_bytes;
    tcp_bytes = total - ip_bytes;
    if (get16(ip + 6) & 0x3fff || tcp_bytes < TCP_BYTES) /* a fragment */
        return true;
    room = 4 * (size_t)(tcp[12] >> 4);
    if (room < TCP_BYTES || room > tcp_bytes)
        return true;
    if (!(f->hdr.flags & (NET_HDR_NEEDS_CSUM | NET_HDR_DATA_VALID)) &&
        tcp_sum(ip, tcp, tcp_bytes) != 0)
        return true;
    memcpy(s->from.mac, f->data + NET_MAC_BYTES, NET_MAC_BYTES);
    s->from.addr = get32(ip + 12);
    s->from.port = get16(tcp);
    s->to_port = get16(tcp + 2);
    s->seq = get32(tcp + 4);
    s->ack = get32(tcp + 8);
    s->flags = tcp[13] & 0x1f;
    s->window = get16(tcp + 14);
    s->mss = find_mss(tcp + TCP_BYTES, room - TCP_BYTES);
    s->data = tcp + room;
    s->bytes = tcp_bytes - room;
    return true;
}

static struct conn *conn_find(struct mmds_net *n, const struct peer *p)
{
    for (unsigned i = 0; i < CONNS_MAX; i++) {
        struct conn *c = &n->conns[i];

        if (c->used && c->peer.addr == p->addr && c->peer.port == p->port)
            return c;
    }
    return NULL;
}

/* The one that has been silent for longest makes room. */
static struct conn *conn_new(struct mmds_net *n)
{
    struct conn *oldest = &n->conns[0];

    for (unsigned i = 0; i < CONNS_MAX; i++) {
        if (!n->conns[i].used)
            return &n->conns[i];
        if (n->conns[i].seen_ns < oldest->seen_ns)
            oldest = &n->conns[i];
    }
    conn_free(oldest);
    return oldest;
}

static void conn_open(struct mmds_net *n, const struct seg *s, uint64_t now_ns)
{
    struct conn *c = conn_new(n);

    *c = (struct conn){
        .used = true,
        .peer = s->from,
        .rcv = s->seq + 1,
        .window = s->window,
        .mss = MIN(MAX(s->mss, MSS_MIN), MSS_MAX),
        .owes_syn = true,
        .seen_ns = now_ns,
        .resend_ns = UINT64_MAX,
    };
    host_random(&c->iss, sizeof(c->iss));
    c->una = c->nxt = c->iss;
}

/* What is acknowledged. False: it is nothing we sent. */
static bool conn_acked(struct conn *c, const struct seg *s)
{
    uint32_t acked = s->ack - c->una;

    if (acked > c->nxt - c->una)
        return false;
    c->window = s->window;
    if (!acked)
        return true;
    c->una = s->ack;
    c->open = true;
    c->nr_resends = 0;
    c->resend_ns = UINT64_MAX; /* set again by what is sent next, or below */
    if (c->una != c->nxt)
        c->resend_ns = c->seen_ns + RESEND_NS;
    return true;
}

static void conn_answer(struct mmds_net *n, struct conn *c, uint64_t now_ns)
{
    const char *end = memmem(c->request, c->nr_request, "\r\n\r\n", 4);

    if (c->closing || (!end && c->nr_request < REQUEST_MAX && !c->peer_fin))
        return;
    c->closing = true;
    if (!end && c->nr_request < REQUEST_MAX)
        return; /* it has left without asking */
    /* A head that is too long is no request: what there is of it has no end. */
    c->answer = mmds_answer(n->mmds, c->request, end ? (size_t)(end - c->request) : 0, now_ns);
    c->nr_answer = c->answer ? (uint32_t)strlen(c->answer) : 0;
}

static void conn_data(struct mmds_net *n, struct conn *c, const struct seg *s, uint64_t now_ns)
{
    uint32_t late = c->rcv - s->seq; /* bytes of it that came before */
    size_t fresh, kept;

    if (s->bytes || s->flags & TCP_FIN)
        c->owes_ack = true;
    if (late > s->bytes || c->peer_fin)
        return; /* not in order, or all of it is old */
    fresh = s->bytes - late;
    kept = c->closing ? 0 : MIN(fresh, REQUEST_MAX - c->nr_request);
    memcpy(c->request + c->nr_request, s->data + late, kept);
    c->nr_request += kept;
    c->rcv += (uint32_t)fresh;
    if (s->flags & TCP_FIN) {
        c->rcv++;
        c->peer_fin = true;
    }
    conn_answer(n, c, now_ns);
}

static uint32_t conn_end(const struct conn *c)
{
    return c->iss + 1 + c->nr_answer; /* the sequence number of our FIN */
}

static void conn_take(struct mmds_net *n, struct conn *c, const struct seg *s, uint64_t now_ns)
{
    c->seen_ns = now_ns;
    if (s->flags & TCP_RST) {
        if (s->seq - c->rcv < WINDOW)
            conn_free(c);
        return;
    }
    if (s->flags & TCP_SYN) {
        c->owes_syn = !c->open;
        c->owes_ack = c->open;
        return;
    }
    if (!(s->flags & TCP_ACK) || !conn_acked(c, s)) {
        c->owes_ack = true;
        return;
    }
    if (!c->open)
        return;
    conn_data(n, c, s, now_ns);
    if (c->closing && c->peer_fin && c->una == conn_end(c) + 1 && !c->owes_ack)
        conn_free(c);
}

bool mmds_net_take(struct mmds_net *n, const struct net_frame *f, uint64_t now_ns)
{
    uint16_t type;
    struct conn *c;
    struct seg s;

    if (f->bytes < NET_ETH_BYTES)
        return false;
    type = get16(f->data + 12);
    if (type == ETH_ARP)
        return take_arp(n, f->data + NET_ETH_BYTES, f->bytes - NET_ETH_BYTES);
    if (type != ETH_IPV4 || !parse_tcp(n, f, &s))
        return false;
    if (!s.flags)
        return true;
    c = conn_find(n, &s.from);
    if (c) {
        conn_take(n, c, &s, now_ns);
    } else if (s.to_port == PORT && (s.flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN) {
        conn_open(n, &s, now_ns);
    } else if (!(s.flags & TCP_RST)) {
        n->owes_rst = true;
        n->rst_to = s;
    }
    return true;
}

/* ---- speaking ---- */

struct out {
    const struct peer *to;
    uint16_t from_port;
    uint32_t seq, ack;
    uint8_t flags;
    const char *data;
    size_t bytes;
};

static void put_eth(uint8_t *buf, const uint8_t *to, uint16_t type)
{
    memcpy(buf, to, NET_MAC_BYTES);
    memcpy(buf + NET_MAC_BYTES, own_mac, NET_MAC_BYTES);
    put16(buf + 12, type);
}

static size_t put_segment(const struct mmds_net *n, uint8_t *buf, const struct out *o)
{
    static const uint8_t mss_option[] = { 2, 4, MSS_MAX >> 8, MSS_MAX & 0xff };
    uint8_t *ip = buf + NET_ETH_BYTES, *tcp = ip + IP_BYTES;
    size_t head = TCP_BYTES + (o->flags & TCP_SYN ? sizeof(mss_option) : 0),
           bytes = head + o->bytes;

    put_eth(buf, o->to->mac, ETH_IPV4);
    memset(ip, 0, IP_BYTES + TCP_BYTES);
    ip[0] = 0x45;
    put16(ip + 2, (uint16_t)(IP_BYTES + bytes));
    put16(ip + 6, 0x4000); /* don't fragment */
    ip[8] = 1;             /* link-local addresses are not routed */
    ip[9] = IP_TCP;
    put32(ip + 12, mmds_config_of(n->mmds).addr);
    put32(ip + 16, o->to->addr);
    put16(ip + 10, sum_end(sum(0, ip, IP_BYTES)));
    put16(tcp, o->from_port);
    put16(tcp + 2, o->to->port);
    put32(tcp + 4, o->seq);
    put32(tcp + 8, o->ack);
    tcp[12] = (uint8_t)(head / 4 << 4);
    tcp[13] = o->flags;
    put16(tcp + 14, o->flags & TCP_RST ? 0 : WINDOW);
    if (o->flags & TCP_SYN)
        memcpy(tcp + TCP_BYTES, mss_option, sizeof(mss_option));
    if (o->bytes)
        memcpy(tcp + head, o->data, o->bytes);
    put16(tcp + 16, tcp_sum(ip, tcp, bytes));
    return NET_ETH_BYTES + IP_BYTES + bytes;
}

static size_t put_arp(struct mmds_net *n, uint8_t *buf)
{
    static const uint8_t head[] = { 0, 1, 8, 0, 6, 4, 0, 2 };
    uint8_t *p = buf + NET_ETH_BYTES;

    n->owes_arp = false;
    put_eth(buf, n->arp_to.mac, ETH_ARP);
    memcpy(p, head, sizeof(head));
    memcpy(p + 8, own_mac, NET_MAC_BYTES);
    put32(p + 14, mmds_config_of(n->mmds).addr);
    memcpy(p + 18, n->arp_to.mac, NET_MAC_BYTES);
    put32(p + 24, n->arp_to.addr);
    return NET_ETH_BYTES + ARP_BYTES;
}

/* "Reset Generation" */
static size_t put_reset(struct mmds_net *n, uint8_t *buf)
{
    const struct seg *s = &n->rst_to;
    struct out o = { .to = &s->from, .from_port = s->to_port, .flags = TCP_RST };

    n->owes_rst = false;
    if (s->flags & TCP_ACK) {
        o.seq = s->ack;
    } else {
        o.flags |= TCP_ACK;
        o.ack =
            s->seq + (uint32_t)s->bytes + ((s->flags & TCP_SYN) != 0) + ((s->flags & TCP_FIN) != 0);
    }
    return put_segment(n, buf, &o);
}

/* What has not been acknowledged for too long is to be sent again. False: nobody is there. */
static bool conn_resend(struct conn *c, uint64_t now_ns)
{
    if (now_ns - MIN(c->seen_ns, now_ns) >= IDLE_NS)
        return false;
    if (now_ns < c->resend_ns)
        return true;
    c->resend_ns = UINT64_MAX;
    c->nxt = c->una;
    c->probe = true;
    c->owes_syn = !c->open;
    return c->nr_resends++ < RESENDS_MAX;
}

/* Bytes of the answer that may be sent now. */
static uint32_t conn_sendable(const struct conn *c)
{
    uint32_t end = conn_end(c), flight = c->nxt - c->una,
             room = MIN(c->window, FLIGHT_SEGS * c->mss), left;

    if (!c->open || !c->nr_answer || c->nxt - (c->iss + 1) >= c->nr_answer)
        return 0;
    left = end - c->nxt;
    if (c->probe && !room)
        room = 1; /* "Zero-Window Probing" */
    return room > flight ? MIN(MIN(left, c->mss), room - flight) : 0;
}

static size_t conn_next(struct mmds_net *n, struct conn *c, uint8_t *buf, uint64_t now_ns)
{
    struct out o = { .to = &c->peer, .from_port = PORT, .ack = c->rcv, .flags = TCP_ACK };
    uint32_t bytes = conn_sendable(c);

    if (c->owes_syn) {
        o.seq = c->iss;
        o.flags |= TCP_SYN;
        c->nxt = c->iss + 1;
        c->owes_syn = false;
    } else {
        o.seq = c->nxt;
        o.bytes = bytes;
        o.data = bytes ? c->answer + (c->nxt - c->iss - 1) : NULL;
        if (c->open && c->closing && c->nxt + bytes == conn_end(c))
            o.flags |= TCP_FIN | (bytes ? TCP_PSH : 0);
        if (!bytes && !(o.flags & TCP_FIN) && !c->owes_ack) {
            /* There is more, but the guest has no room: it is asked once in a while. */
            if (c->open && c->closing && c->una == c->nxt && c->nxt - c->iss - 1 < c->nr_answer &&
                c->resend_ns == UINT64_MAX)
                c->resend_ns = now_ns + RESEND_NS;
            return 0;
        }
        c->nxt += bytes + ((o.flags & TCP_FIN) != 0);
    }
    c->owes_ack = c->probe = false;
    if (c->nxt != c->una && c->resend_ns == UINT64_MAX)
        c->resend_ns = now_ns + (RESEND_NS << c->nr_resends);
    return put_segment(n, buf, &o);
}

size_t mmds_net_next(struct mmds_net *n, uint8_t *buf, uint64_t now_ns)
{
    if (n->owes_arp)
        return put_arp(n, buf);
    if (n->owes_rst)
        return put_reset(n, buf);
    for (unsigned i = 0; i < CONNS_MAX; i++) {
        struct conn *c = &n->conns[(n->turn + i) % CONNS_MAX];
        size_t bytes;

        if (!c->used)
            continue;
        if (!conn_resend(c, now_ns)) {
            conn_free(c);
            continue;
        }
        bytes = conn_next(n, c, buf, now_ns);
        /* Both ends have closed, and we have said so. */
        if (c->closing && c->peer_fin && c->una == conn_end(c) + 1)
            conn_free(c);
        if (bytes) {
            n->turn = (n->turn + i + 1) % CONNS_MAX;
            return bytes;
        }
    }
    return 0;
}

uint64_t mmds_net_due_ns(const struct mmds_net *n)
{
    uint64_t due = UINT64_MAX;

    for (unsigned i = 0; i < CONNS_MAX; i++)
        if (n->conns[i].used)
            due = MIN(due, MIN(n->conns[i].resend_ns, n->conns[i].seen_ns + IDLE_NS));
    return due;
}
