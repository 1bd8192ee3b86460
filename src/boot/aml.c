/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The AML encoder. Package lengths are known only at the end of a package: it is opened without
 * one, and aml_end() moves the contents up to make room for the shortest form.
 */
#include "boot/aml.h"

#define OP_ZERO       0x00u
#define OP_ONE        0x01u
#define OP_NAME       0x08u
#define OP_BYTE       0x0au
#define OP_WORD       0x0bu
#define OP_DWORD      0x0cu
#define OP_STRING     0x0du
#define OP_QWORD      0x0eu
#define OP_SCOPE      0x10u
#define OP_BUFFER     0x11u
#define OP_PACKAGE    0x12u
#define OP_METHOD     0x14u
#define OP_DUAL_NAME  0x2eu
#define OP_MULTI_NAME 0x2fu
#define OP_EXT        0x5bu
#define OP_EXT_DEVICE 0x82u
#define OP_IF         0xa0u
#define OP_ELSE       0xa1u

#define METHOD_SERIALIZED BIT(3)
#define NAME_SEG_BYTES    4u

/* "Name Objects Encoding": one segment, "NameSeg", padded. */
static void aml_segment(struct bytes *b, const char *s, size_t chars)
{
    char seg[NAME_SEG_BYTES] = { '_', '_', '_', '_' };

    BUG_ON(!chars || chars > NAME_SEG_BYTES);
    memcpy(seg, s, chars);
    put_mem(b, seg, sizeof(seg));
}

void aml_path(struct bytes *b, const char *name)
{
    unsigned nr = 1;

    if (*name == '\\') {
        put8(b, '\\');
        name++;
    }
    for (const char *s = name; *s; s++)
        nr += *s == '.';
    if (nr == 2)
        put8(b, OP_DUAL_NAME);
    if (nr > 2) {
        put8(b, OP_MULTI_NAME);
        put8(b, nr);
    }
    for (; nr; nr--) {
        size_t chars = strcspn(name, ".");

        aml_segment(b, name, chars);
        name += chars + 1;
    }
}

/* ---- packages ---- */

static size_t aml_open(struct bytes *b, unsigned op)
{
    if (op > 0xff)
        put8(b, op >> 8);
    put8(b, op);
    return b->n;
}

/* "Package Length Encoding": the length counts its own bytes too. */
static unsigned pkg_length(size_t contents_bytes, uint8_t out[4])
{
    static const size_t most[] = { 0x3f, 0xfff, 0xfffff, 0xfffffff };
    unsigned n = 1;
    size_t total;

    while (contents_bytes + n > most[n - 1])
        n++;
    total = contents_bytes + n;
    if (n == 1) {
        out[0] = (uint8_t)total;
        return n;
    }
    out[0] = (uint8_t)((n - 1) << 6 | (total & 0xf));
    for (unsigned i = 1; i < n; i++)
        out[i] = (uint8_t)(total >> (4 + 8 * (i - 1)));
    return n;
}

void aml_end(struct bytes *b, size_t open)
{
    size_t contents_bytes = b->n - open;
    uint8_t len[4];
    unsigned n = pkg_length(contents_bytes, len);

    put_zero(b, n);
    if (b->full)
        return;
    memmove(b->p + open + n, b->p + open, contents_bytes);
    memcpy(b->p + open, len, n);
}

size_t aml_scope(struct bytes *b, const char *name)
{
    size_t open = aml_open(b, OP_SCOPE);

    aml_path(b, name);
    return open;
}

size_t aml_device(struct bytes *b, const char *name)
{
    size_t open = aml_open(b, OP_EXT << 8 | OP_EXT_DEVICE);

    aml_path(b, name);
    return open;
}

size_t aml_method(struct bytes *b, const char *name, unsigned nr_args)
{
    size_t open = aml_open(b, OP_METHOD);

    aml_path(b, name);
    put8(b, nr_args | METHOD_SERIALIZED);
    return open;
}

size_t aml_package(struct bytes *b, unsigned nr_elements)
{
    size_t open = aml_open(b, OP_PACKAGE);

    BUG_ON(nr_elements > 255);
    put8(b, nr_elements);
    return open;
}

size_t aml_if(struct bytes *b)
{
    return aml_open(b, OP_IF);
}

size_t aml_else(struct bytes *b)
{
    return aml_open(b, OP_ELSE);
}

/* ---- data ---- */

void aml_op(struct bytes *b, unsigned op)
{
    put8(b, op);
}

void aml_name(struct bytes *b, const char *name)
{
    put8(b, OP_NAME);
    aml_path(b, name);
}

/* "Data Objects Encoding": the shortest form. */
void aml_int(struct bytes *b, uint64_t val)
{
    static const struct {
        uint64_t most;
        uint8_t op, bytes;
    } forms[] = { { 0xff, OP_BYTE, 1 },
                  { 0xffff, OP_WORD, 2 },
                  { 0xffffffff, OP_DWORD, 4 },
                  { ~0ull, OP_QWORD, 8 } };
    unsigned i = 0;

    if (val <= 1) {
        put8(b, val ? OP_ONE : OP_ZERO);
        return;
    }
    while (val > forms[i].most)
        i++;
    put8(b, forms[i].op);
    put_int(b, val, forms[i].bytes);
}

void aml_string(struct bytes *b, const char *s)
{
    put8(b, OP_STRING);
    put_mem(b, s, strlen(s) + 1);
}

void aml_buffer(struct bytes *b, const void *data, size_t bytes)
{
    size_t open = aml_open(b, OP_BUFFER);

    aml_int(b, bytes);
    put_mem(b, data, bytes);
    aml_end(b, open);
}

static unsigned hex_digit(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 0x20) - 'a' + 10);
}

/* Three letters of 5 bits, four hexadecimal digits, most significant byte first ("EISAID"). */
void aml_eisaid(struct bytes *b, const char *id)
{
    uint32_t v;

    BUG_ON(strlen(id) != 7);
    v = (id[0] & 0x1fu) << 26 | (id[1] & 0x1fu) << 21 | (id[2] & 0x1fu) << 16;
    for (unsigned i = 3; i < 7; i++)
        v |= hex_digit(id[i]) << (4 * (6 - i));
    put8(b, OP_DWORD);
    put32(b, __builtin_bswap32(v));
}

/* The first three groups are little endian ("ToUUID (Convert String to UUID Macro)"). */
void aml_uuid(struct bytes *b, const char *uuid)
{
    static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
    uint8_t out[16];
    unsigned n = 0;

    for (; *uuid && n < sizeof(out); uuid += 2) {
        if (*uuid == '-')
            uuid++;
        out[order[n++]] = (uint8_t)(hex_digit(uuid[0]) << 4 | hex_digit(uuid[1]));
    }
    BUG_ON(n != sizeof(out));
    aml_buffer(b, out, sizeof(out));
}

void aml_name_int(struct bytes *b, const char *name, uint64_t val)
{
    aml_name(b, name);
    aml_int(b, val);
}

void aml_name_eisaid(struct bytes *b, const char *name, const char *id)
{
    aml_name(b, name);
    aml_eisaid(b, id);
}
