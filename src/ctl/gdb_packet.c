/* SPDX-License-Identifier: Apache-2.0 */
/* Framing, checksums and the small parts packets are made of: see gdb_packet.h. */
#include "ctl/gdb_packet.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CTRL_C     0x03
#define ESCAPE     '}'
#define ESCAPE_XOR 0x20

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static void rx_start(struct gdb_rx *rx)
{
    rx->state = RX_DATA;
    rx->sum = 0;
    rx->nr = 0;
    rx->too_long = false;
}

static void rx_put(struct gdb_rx *rx, uint8_t byte)
{
    if (rx->nr < GDB_PACKET_BYTES)
        rx->buf[rx->nr++] = (char)byte;
    else
        rx->too_long = true;
}

static void rx_data(struct gdb_rx *rx, uint8_t byte)
{
    if (byte == '#') {
        rx->state = RX_SUM_HIGH;
        return;
    }
    if (byte == '$') { /* never in a payload unescaped: the sender has begun anew */
        rx_start(rx);
        return;
    }
    rx->sum = (uint8_t)(rx->sum + byte);
    if (byte == ESCAPE)
        rx->state = RX_ESCAPE;
    else
        rx_put(rx, byte);
}

static enum gdb_event rx_end(struct gdb_rx *rx, uint8_t byte)
{
    int high = hex_digit((char)rx->sum_high), low = hex_digit((char)byte);

    rx->state = RX_IDLE;
    if (high < 0 || low < 0 || (high << 4 | low) != rx->sum || rx->too_long)
        return GDB_BAD;
    rx->buf[rx->nr] = 0;
    return GDB_PACKET;
}

enum gdb_event gdb_rx_byte(struct gdb_rx *rx, uint8_t byte)
{
    switch (rx->state) {
    case RX_IDLE:
        if (byte == CTRL_C)
            return GDB_INTERRUPT;
        if (byte == '$')
            rx_start(rx);
        return GDB_NOTHING; /* acknowledgements, and noise */
    case RX_DATA:
        rx_data(rx, byte);
        return GDB_NOTHING;
    case RX_ESCAPE:
        rx->sum = (uint8_t)(rx->sum + byte);
        rx_put(rx, byte ^ ESCAPE_XOR);
        rx->state = RX_DATA;
        return GDB_NOTHING;
    case RX_SUM_HIGH:
        rx->sum_high = byte;
        rx->state = RX_SUM_LOW;
        return GDB_NOTHING;
    case RX_SUM_LOW:
        return rx_end(rx, byte);
    }
    return GDB_NOTHING;
}

/* ---- writing ---- */

void gdb_tx_raw(struct gdb_tx *tx, const void *data, size_t bytes)
{
    if (bytes > sizeof(tx->buf) - tx->nr) {
        tx->too_long = true;
        return;
    }
    memcpy(tx->buf + tx->nr, data, bytes);
    tx->nr += bytes;
}

void gdb_tx_text(struct gdb_tx *tx, const char *text)
{
    gdb_tx_raw(tx, text, strlen(text));
}

void gdb_tx_fmt(struct gdb_tx *tx, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    gdb_tx_text(tx, text);
}

void gdb_tx_hex(struct gdb_tx *tx, const void *data, size_t bytes)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *b = data;

    for (size_t i = 0; i < bytes; i++) {
        char two[2] = { digits[b[i] >> 4], digits[b[i] & 15] };

        gdb_tx_raw(tx, two, sizeof(two));
    }
}

size_t gdb_frame(char *out, const void *payload, size_t bytes)
{
    const char *b = payload;
    uint8_t sum = 0;
    size_t nr = 0;

    out[nr++] = '$';
    for (size_t i = 0; i < bytes; i++) {
        char c = b[i];

        if (c == '#' || c == '$' || c == ESCAPE || c == '*') {
            out[nr++] = ESCAPE;
            sum = (uint8_t)(sum + ESCAPE);
            c ^= ESCAPE_XOR;
        }
        out[nr++] = c;
        sum = (uint8_t)(sum + (uint8_t)c);
    }
    (void)snprintf(out + nr, 4, "#%02x", sum);
    return nr + 3;
}

/* ---- reading ---- */

bool gdb_take_hex(const char **p, uint64_t *val)
{
    unsigned nr = 0;
    int d;

    *val = 0;
    for (; (d = hex_digit(**p)) >= 0; nr++, (*p)++) {
        if (*val >> 60)
            return false;
        *val = *val << 4 | (unsigned)d;
    }
    return nr > 0;
}

bool gdb_take_char(const char **p, char c)
{
    if (**p != c || !c)
        return false;
    (*p)++;
    return true;
}

bool gdb_take_word(const char **p, const char *word)
{
    size_t len = strlen(word);

    if (strncmp(*p, word, len) != 0)
        return false;
    *p += len;
    return true;
}

bool gdb_take_bytes(const char **p, void *data, size_t bytes)
{
    uint8_t *b = data;

    for (size_t i = 0; i < bytes; i++) {
        int high = hex_digit((*p)[0]), low = high < 0 ? -1 : hex_digit((*p)[1]);

        if (low < 0)
            return false;
        b[i] = (uint8_t)(high << 4 | low);
        *p += 2;
    }
    return true;
}
