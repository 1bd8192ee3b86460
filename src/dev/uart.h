/* SPDX-License-Identifier: Apache-2.0 */
/* A 16550A serial port: see uart.c. */
#ifndef DEV_UART_H
#define DEV_UART_H

#include "bus/bus.h"
#include "lib/bucket.h"

struct chr;

#define UART_FIFO_BYTES 16
#define UART_COM1_PORT  0x3f8 /* IRQ 4 */
#define UART_COM2_PORT  0x2f8 /* IRQ 3 */
#define UART_COM3_PORT  0x3e8 /* IRQ 4 */
#define UART_COM4_PORT  0x2e8 /* IRQ 3 */

struct uart_config {
    struct bus *bus;
    uint16_t port;              /* first of eight */
    struct irq_line irq;        /* two ports on one IRQ: the machine joins their lines */
    struct chr *chr;            /* NULL: a cable with nobody at the other end */
    struct bucket_config limit; /* of bytes to it; what is beyond is lost. All zero: none */
};

struct uart {
    struct device dev;
    struct irq_line irq;
    struct chr *chr;
    uint16_t port;
    uint8_t ier, lcr, mcr, msr, scr, dll, dlm;
    uint8_t fcr; /* bits 0, 3, 6, 7 */
    uint8_t lsr; /* OE only: DR, BI and the FIFO error bit follow from the FIFO, THRE and TEMT are
                    always set */
    uint8_t rx[UART_FIFO_BYTES];     /* a ring; without FIFOs only one place is used */
    uint8_t rx_err[UART_FIFO_BYTES]; /* LSR bits of each character */
    uint8_t rx_at, nr_rx;            /* oldest character, how many */
    uint8_t rbr;                     /* the last character read: read again when there is none */
    bool thre_pending;               /* THR became empty, not yet told */
    bool rx_timeout;                 /* character timeout interrupt */
    bool irq_up;
    uint8_t nr_polls; /* reads of LSR in a row: see uart_wants_rx() */
    uint64_t rx_deadline_ns;
    struct timer rx_timer;
    struct bucket limit;
    _Atomic uint64_t nr_dropped; /* bytes, by the limit; anybody may read it */
};

int uart_init(struct uart *u, const struct uart_config *cfg) MUST_CHECK;
void uart_fini(struct uart *u);

#endif
