/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checksums and TCP segmentation in software, for links and guests that leave them to the other
 * side. Frames come from guests and strangers: every length is checked here.
 */
#include <errno.h>
#include <string.h>

#include "backend/net.h"

#define ETH_TYPE_OFF   12
#define ETH_VLAN_BYTES 4
#define ETH_IPV4       0x0800
#define ETH_IPV6       0x86dd
#define ETH_VLAN       0x8100
#define IP_PROTO_TCP   6
#define IPV4_MIN_BYTES 20
#define IPV6_BYTES     40
#define TCP_MIN_BYTES  20
#define TCP_FIN        0x01
#define TCP_PSH        0x08
#define TCP_CWR        0x80

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, (uint16_t)(v >> 16));
    put16(p + 2, (uint16_t)v);
}

/* ---- checksums (RFC 1071) ---- */

/* Adds to a sum of words as they lie in memory; the byte order comes right in the end. */
static uint64_t sum_add(uint64_t sum, const uint8_t *p, size_t bytes)
{
    uint32_t word;
    uint16_t half;

    for (; bytes >= sizeof(word); p += sizeof(word), bytes -= sizeof(word)) {
        memcpy(&word, p, sizeof(word));
        sum += word;
    }
    if (bytes >= sizeof(half)) {
        memcpy(&half, p, sizeof(half));
        sum += half;
        p += sizeof(half);
        bytes -= sizeof(half);
    }
    return bytes ? sum + *p : sum;
}

static uint16_t sum_fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static void sum_store(uint8_t *p, uint64_t sum)
{
    uint16_t folded = sum_fold(sum);

    memcpy(p, &folded, sizeof(folded));
}

void net_checksum(struct net_frame *f)
{
    uint8_t *at = f->data + f->hdr.csum_start, *field = at + f->hdr.csum_offset;
    /* The field holds the sum of the pseudo header, and is part of what is summed. */
    uint16_t folded = sum_fold(sum_add(0, at, f->bytes - f->hdr.csum_start));

    /* Zero says "none" in UDP; the other zero of this arithmetic is as good everywhere. */
    if (!folded)
        folded = 0xffff;
    memcpy(field, &folded, sizeof(folded));
    f->hdr.flags &= (uint8_t)~NET_HDR_NEEDS_CSUM;
}

/* ---- what a header may say ---- */

bool net_frame_ok(const struct net_frame *f)
{
    const struct net_hdr *h = &f->hdr;
    unsigned gso = h->gso_type & (unsigned)~NET_GSO_ECN;

    if (f->bytes < NET_ETH_BYTES || f->bytes > NET_FRAME_MAX)
        return false;
    if (h->flags & NET_HDR_NEEDS_CSUM && (size_t)h->csum_start + h->csum_offset + 2 > f->bytes)
        return false;
    if (gso == NET_GSO_NONE)
        return h->gso_type == NET_GSO_NONE;
    /* A segment without checksum would be wrong after it was cut. */
    return (gso == NET_GSO_TCPV4 || gso == NET_GSO_TCPV6) && h->gso_size &&
           h->flags & NET_HDR_NEEDS_CSUM;
}

/* ---- segmentation ---- */

/* Where the headers of a TCP frame are. */
struct tcp_at {
    size_t ip, tcp, payload; /* offsets */
    bool v6;
};

static bool tcp_find(const struct net_frame *f, struct tcp_at *at)
{
    const uint8_t *p = f->data;
    size_t type = ETH_TYPE_OFF;

    if (get16(p + type) == ETH_VLAN) {
        type += ETH_VLAN_BYTES;
        if (type + 2 > f->bytes)
            return false;
    }
    at->ip = type + 2;
    at->tcp = f->hdr.csum_start;
    at->v6 = (f->hdr.gso_type & ~NET_GSO_ECN) == NET_GSO_TCPV6;
    if (get16(p + type) != (at->v6 ? ETH_IPV6 : ETH_IPV4))
        return false;
    if (at->tcp < at->ip + (at->v6 ? IPV6_BYTES : IPV4_MIN_BYTES) ||
        at->tcp + TCP_MIN_BYTES > f->bytes)
        return false;
    /* Of IPv6's extension headers only the end counts, and that is where the driver says. */
    if (!at->v6 && ((p[at->ip] & 0xf) * 4u != at->tcp - at->ip || p[at->ip + 9] != IP_PROTO_TCP))
        return false;
    at->payload = at->tcp + (p[at->tcp + 12] >> 4) * 4u;
    return at->payload >= at->tcp + TCP_MIN_BYTES && at->payload <= f->bytes;
}

/* Sum of the pseudo header (RFC 9293, Checksum; RFC 8200, Upper-Layer Checksums). */
static uint64_t pseudo_sum(const uint8_t *ip, bool v6, size_t tcp_bytes)
{
    uint8_t tail[8] = { 0 };
    uint64_t sum = v6 ? sum_add(0, ip + 8, 32) : sum_add(0, ip + 12, 8);

    put32(tail, (uint32_t)tcp_bytes);
    tail[7] = IP_PROTO_TCP;
    return sum_add(sum, tail, sizeof(tail));
}

/* One piece's headers: lengths, numbers, flags, checksums. `off` is its place in the payload. */
static void segment_finish(uint8_t *p, size_t bytes, const struct tcp_at *at, size_t off, bool last,
                           unsigned nr)
{
    uint8_t *ip = p + at->ip, *tcp = p + at->tcp;

    if (at->v6) {
        put16(ip + 4, (uint16_t)(bytes - at->ip - IPV6_BYTES));
    } else {
        put16(ip + 2, (uint16_t)(bytes - at->ip));
        put16(ip + 4, (uint16_t)(get16(ip + 4) + nr));
        put16(ip + 10, 0);
        sum_store(ip + 10, sum_add(0, ip, at->tcp - at->ip));
    }
    put32(tcp + 4, (uint32_t)(get32(tcp + 4) + off));
    if (!last)
        tcp[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
    /* RFC 3168, TCP: CWR is told once. */
    if (nr)
        tcp[13] &= (uint8_t)~TCP_CWR;
    put16(tcp + 16, 0);
    sum_store(tcp + 16, sum_add(pseudo_sum(ip, at->v6, bytes - at->tcp), tcp, bytes - at->tcp));
}

int net_segment(struct net_frame *f, size_t mss, uint8_t *scratch,
                bool (*emit)(void *arg, struct net_frame *f), void *arg)
{
    struct tcp_at at;
    size_t left;

    if (!tcp_find(f, &at) || !mss || at.payload - at.ip + mss > UINT16_MAX)
        return -EINVAL;
    left = f->bytes - at.payload;
    if (left <= mss) {
        segment_finish(f->data, f->bytes, &at, 0, true, 0);
        f->hdr = (struct net_hdr){ .flags = 0 };
        (void)emit(arg, f);
        return 0;
    }
    for (size_t off = 0, nr = 0; left; nr++) {
        size_t take = MIN(left, mss);
        struct net_frame seg = { .data = scratch, .bytes = at.payload + take };

        memcpy(scratch, f->data, at.payload);
        memcpy(scratch + at.payload, f->data + at.payload + off, take);
        left -= take;
        segment_finish(scratch, seg.bytes, &at, off, !left, (unsigned)nr);
        if (!emit(arg, &seg))
            return 0;
        off += take;
    }
    return 0;
}
