/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets of gdb's remote protocol (gdb manual, "Remote Protocol: Overview" and "Binary Data"),
 * without any sockets: bytes in, events out, and the other way round. What comes in is hostile.
 */
#ifndef CTL_GDB_PACKET_H
#define CTL_GDB_PACKET_H

#include "lib/types.h"

#define GDB_PACKET_BYTES 16384 /* told to gdb; payload of one packet */

enum gdb_event {
    GDB_NOTHING,   /* more bytes are needed */
    GDB_PACKET,    /* rx->buf has nr bytes, 0-terminated, escapes undone */
    GDB_BAD,       /* checksum wrong or too long: ask for it again */
    GDB_INTERRUPT, /* Ctrl-C */
};

struct gdb_rx {
    enum { RX_IDLE, RX_DATA, RX_ESCAPE, RX_SUM_HIGH, RX_SUM_LOW } state;
    uint8_t sum, sum_high;
    bool too_long;
    size_t nr;
    char buf[GDB_PACKET_BYTES + 1];
};

enum gdb_event gdb_rx_byte(struct gdb_rx *rx, uint8_t byte);

/* A packet being written. What does not fit is dropped and noted: the answer is an error then. */
struct gdb_tx {
    size_t nr;
    bool too_long;
    char buf[GDB_PACKET_BYTES];
};

void gdb_tx_text(struct gdb_tx *tx, const char *text);
void gdb_tx_fmt(struct gdb_tx *tx, const char *fmt, ...) PRINTF_LIKE(2, 3);
void gdb_tx_hex(struct gdb_tx *tx, const void *data, size_t bytes);
void gdb_tx_raw(struct gdb_tx *tx, const void *data, size_t bytes); /* escaped by gdb_frame() */
/* "$payload#sum", escaped; out has room for 2 * GDB_PACKET_BYTES + 8. Returns the bytes. */
#define GDB_FRAME_BYTES (2 * GDB_PACKET_BYTES + 8)
size_t gdb_frame(char *out, const void *payload, size_t bytes);

/*
 * Reading a packet: each moves *p behind what it took and says whether it was there. Numbers are
 * hexadecimal and at most 64 bits.
 */
bool gdb_take_hex(const char **p, uint64_t *val);
bool gdb_take_char(const char **p, char c);
bool gdb_take_word(const char **p, const char *word);
/* 2 * bytes hex digits. */
bool gdb_take_bytes(const char **p, void *data, size_t bytes);

#endif
