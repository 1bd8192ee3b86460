/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 16550A UART: a serial port of the PC, its other end a byte channel of the host
 * (backend/backend.h).
 *
 * Manual: National Semiconductor PC16550D data sheet; on a PC, OUT2 enables the driver of the
 * interrupt line.
 *
 * The transmitter is infinitely fast: THR and its FIFO are empty again before the guest's next
 * instruction, so what the guest prints appears at once. The receiver takes up to a FIFO at once; a
 * channel with more waits, so that nothing is lost. Only the loopback path can overrun.
 */
#include "dev/uart.h"

#include <stdatomic.h>

#include "backend/backend.h"

#define UART_NR_PORTS 8

enum { UART_RBR_THR, UART_IER, UART_IIR_FCR, UART_LCR, UART_MCR, UART_LSR, UART_MSR, UART_SCR };

#define IER_ERBFI BIT(0) /* received data available, and character timeout */
#define IER_ETBEI BIT(1) /* THR empty */
#define IER_ELSI  BIT(2) /* receiver line status */
#define IER_EDSSI BIT(3) /* modem status */
#define IER_MASK  0x0f

#define IIR_NONE        0x01
#define IIR_LINE_STATUS 0x06
#define IIR_RX_DATA     0x04
#define IIR_RX_TIMEOUT  0x0c
#define IIR_THR_EMPTY   0x02
#define IIR_MODEM       0x00
#define IIR_FIFOS       0xc0

#define FCR_ENABLE   BIT(0)
#define FCR_CLEAR_RX BIT(1)
#define FCR_STAYS    0xc9 /* enable, DMA mode, trigger level */

#define LCR_WORD_LENGTH 0x03
#define LCR_STB         BIT(2)
#define LCR_PEN         BIT(3)
#define LCR_BREAK       BIT(6)
#define LCR_DLAB        BIT(7)

#define MCR_DTR  BIT(0)
#define MCR_RTS  BIT(1)
#define MCR_OUT1 BIT(2)
#define MCR_OUT2 BIT(3)
#define MCR_LOOP BIT(4)
#define MCR_MASK 0x1f

#define LSR_DR       BIT(0)
#define LSR_OE       BIT(1)
#define LSR_PE       BIT(2)
#define LSR_FE       BIT(3)
#define LSR_BI       BIT(4)
#define LSR_THRE     BIT(5)
#define LSR_TEMT     BIT(6)
#define LSR_FIFO_ERR BIT(7)
#define LSR_ERRORS   (LSR_OE | LSR_PE | LSR_FE | LSR_BI)

#define MSR_DCTS   BIT(0)
#define MSR_TERI   BIT(2)
#define MSR_DELTAS 0x0f
#define MSR_CTS    BIT(4)
#define MSR_DSR    BIT(5)
#define MSR_RI     BIT(6)
#define MSR_DCD    BIT(7)

#define UART_BASE_BAUD 115200u /* 1.8432 MHz / 16 */
#define UART_NR_POLLS  16

static bool uart_has_fifos(const struct uart *u)
{
    return u->fcr & FCR_ENABLE;
}

static unsigned uart_rx_room(const struct uart *u)
{
    return (uart_has_fifos(u) ? UART_FIFO_BYTES : 1u) - u->nr_rx;
}

static unsigned uart_trigger(const struct uart *u)
{
    static const uint8_t levels[] = { 1, 4, 8, 14 };

    return uart_has_fifos(u) ? levels[u->fcr >> 6] : 1;
}

/* How long a character takes on the line: start bit, data, parity, stop bits. */
static uint64_t uart_char_ns(const struct uart *u)
{
    unsigned divisor = (unsigned)(u->dlm << 8 | u->dll);
    unsigned nr_bits =
        1 + 5 + (u->lcr & LCR_WORD_LENGTH) + !!(u->lcr & LCR_PEN) + 1 + !!(u->lcr & LCR_STB);

    return (uint64_t)nr_bits * MAX(divisor, 1u) * 1000000000 / UART_BASE_BAUD;
}

/* ---- interrupts ---- */

/* LSR's error bits belong to the character at the top of the FIFO. */
static uint8_t uart_lsr(const struct uart *u)
{
    uint8_t lsr = u->lsr | LSR_THRE | LSR_TEMT;

    if (!u->nr_rx)
        return lsr;
    lsr |= LSR_DR | u->rx_err[u->rx_at];
    for (unsigned i = 0; i < u->nr_rx && uart_has_fifos(u); i++)
        if (u->rx_err[(u->rx_at + i) % UART_FIFO_BYTES])
            lsr |= LSR_FIFO_ERR;
    return lsr;
}

/* "Interrupt Control Functions": the pending and enabled source of highest priority. */
static uint8_t uart_iir(const struct uart *u)
{
    if (u->ier & IER_ELSI && uart_lsr(u) & LSR_ERRORS)
        return IIR_LINE_STATUS;
    if (u->ier & IER_ERBFI && u->nr_rx >= uart_trigger(u))
        return IIR_RX_DATA;
    if (u->ier & IER_ERBFI && u->rx_timeout)
        return IIR_RX_TIMEOUT;
    if (u->ier & IER_ETBEI && u->thre_pending)
        return IIR_THR_EMPTY;
    if (u->ier & IER_EDSSI && u->msr & MSR_DELTAS)
        return IIR_MODEM;
    return IIR_NONE;
}

/* In loopback OUT2 is at its inactive level outside ("Modem Control Register", bit 4): no interrupt
 * leaves. */
static void uart_update_irq(struct uart *u)
{
    bool up = uart_iir(u) != IIR_NONE && (u->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;

    if (up == u->irq_up)
        return;
    u->irq_up = up;
    irq_set(&u->irq, up);
}

/* ---- receiver ---- */

/*
 * A sender with hardware flow control stays quiet until the port is ready, and so must we: drivers
 * clear the FIFO when they open the port, and what a user or a script typed before would be gone.
 * Ready means RTS, or receive interrupts that get through, or (small guests know neither) a guest
 * that polls LSR and sends nothing.
 */
static bool uart_wants_rx(const struct uart *u)
{
    if (u->mcr & MCR_LOOP)
        return false;
    return u->mcr & MCR_RTS || (u->mcr & MCR_OUT2 && u->ier & IER_ERBFI) ||
           u->nr_polls >= UART_NR_POLLS;
}

/*
 * "FIFO Interrupt Mode Operation": when fewer characters than the trigger level lie in the FIFO and
 * none came or was read for four character times, a timeout interrupt tells of them. Called after
 * each arrival and each read.
 */
static void uart_restart_timeout(struct uart *u)
{
    u->rx_timeout = false;
    if (uart_has_fifos(u) && u->nr_rx && u->nr_rx < uart_trigger(u)) {
        u->rx_deadline_ns = clock_now_ns(bus_clock(u->dev.bus)) + 4 * uart_char_ns(u);
        timer_arm(&u->rx_timer, u->rx_deadline_ns);
    } else if (u->rx_deadline_ns != UINT64_MAX) {
        u->rx_deadline_ns = UINT64_MAX;
        timer_cancel(&u->rx_timer);
    }
}

static void uart_rx_timed_out(void *arg)
{
    struct uart *u = arg;

    if (u->rx_deadline_ns > clock_now_ns(bus_clock(u->dev.bus)))
        return;
    u->rx_deadline_ns = UINT64_MAX;
    u->rx_timeout = u->nr_rx > 0;
    uart_update_irq(u);
}

/* One character from the line. In an overrun the FIFO stays and the new one is lost; a lone RBR is
 * overwritten. */
static void uart_put(struct uart *u, uint8_t ch, uint8_t err)
{
    unsigned at;

    if (!uart_rx_room(u)) {
        u->lsr |= LSR_OE;
        if (uart_has_fifos(u))
            return;
        u->nr_rx = 0;
    }
    at = (u->rx_at + u->nr_rx) % UART_FIFO_BYTES;
    u->rx[at] = ch;
    u->rx_err[at] = err;
    u->nr_rx++;
    uart_restart_timeout(u);
}

static uint8_t uart_get(struct uart *u)
{
    if (!u->nr_rx)
        return u->rbr;
    u->rbr = u->rx[u->rx_at];
    u->rx_at = (u->rx_at + 1) % UART_FIFO_BYTES;
    u->nr_rx--;
    uart_restart_timeout(u);
    uart_update_irq(u);
    if (uart_wants_rx(u))
        chr_accept(u->chr);
    return u->rbr;
}

static void uart_clear_rx(struct uart *u)
{
    u->nr_rx = 0;
    u->lsr = 0;
    uart_restart_timeout(u);
}

/* From the channel's thread, with the machine lock held. What is not taken is offered again after
 * chr_accept(). */
static size_t uart_rx(void *arg, const uint8_t *buf, size_t bytes)
{
    struct uart *u = arg;
    size_t nr = uart_wants_rx(u) ? MIN(bytes, uart_rx_room(u)) : 0;

    for (size_t i = 0; i < nr; i++)
        uart_put(u, buf[i], 0);
    uart_update_irq(u);
    return nr;
}

/* ---- transmitter and modem lines ---- */

static void uart_transmit(struct uart *u, uint8_t ch)
{
    if (bucket_limits(&u->limit) && bucket_take(&u->limit, clock_now_ns(bus_clock(u->dev.bus)), 1))
        (void)atomic_fetch_add_explicit(&u->nr_dropped, 1, memory_order_relaxed);
    else
        chr_write(u->chr, &ch, 1);
}

/* "Transmitter Holding Register": a write clears the THRE interrupt, the character's departure
 * brings it anew. */
static void uart_send(struct uart *u, uint8_t ch)
{
    static const uint8_t data_mask[] = { 0x1f, 0x3f, 0x7f, 0xff };

    u->thre_pending = false;
    uart_update_irq(u);
    ch &= data_mask[u->lcr & LCR_WORD_LENGTH];
    if (u->mcr & MCR_LOOP)
        uart_put(u, ch, 0);
    else if (!(u->lcr & LCR_BREAK))
        uart_transmit(u, ch);
    u->thre_pending = true;
    uart_update_irq(u);
}

/* The other end is always there and ready; in loopback the modem outputs come back: RTS, DTR, OUT1,
 * OUT2. */
static uint8_t uart_modem_inputs(const struct uart *u)
{
    if (!(u->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return (uint8_t)((u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) |
                     (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

/* "Modem Status Register": the deltas note changes, of RI only its trailing edge. */
static void uart_update_msr(struct uart *u)
{
    uint8_t now = uart_modem_inputs(u);
    uint8_t changed = (u->msr ^ now) & 0xf0;

    if (now & MSR_RI)
        changed &= (uint8_t)~MSR_RI;
    u->msr = (uint8_t)(now | (u->msr & MSR_DELTAS) | changed >> 4);
}

static void uart_write_mcr(struct uart *u, uint8_t val)
{
    bool wanted = uart_wants_rx(u);

    u->mcr = val & MCR_MASK;
    uart_update_msr(u);
    if (uart_wants_rx(u) && !wanted)
        chr_accept(u->chr);
}

static void uart_write_ier(struct uart *u, uint8_t val)
{
    bool wanted = uart_wants_rx(u);
    uint8_t was = u->ier;

    u->ier = val & IER_MASK;
    /* Enabling the THRE interrupt while THR is empty raises it at once: drivers start their output
     * so. */
    if (~was & u->ier & IER_ETBEI)
        u->thre_pending = true;
    if (uart_wants_rx(u) && !wanted)
        chr_accept(u->chr);
}

/*
 * Without RTS that input is wanted was a guess (uart_wants_rx()). Linux' driver enables receive
 * interrupts, then the FIFOs, and says RTS only then: what came in between, one character, would be
 * gone with the change of modes, and nobody has asked for that. So the line's sender is taken to
 * have waited a moment longer.
 */
static bool uart_came_too_early(const struct uart *u, uint8_t was, uint8_t fcr)
{
    return ~was & fcr & FCR_ENABLE && !(fcr & FCR_CLEAR_RX) && !(u->mcr & (MCR_RTS | MCR_LOOP));
}

/* "FIFO Control Register": without bit 0 the others are not programmed, and its change empties the
 * FIFOs. */
static void uart_write_fcr(struct uart *u, uint8_t val)
{
    bool keeps = uart_came_too_early(u, u->fcr, val);
    uint8_t was = u->fcr;

    u->fcr = val & FCR_ENABLE ? val & FCR_STAYS : 0;
    if (!keeps && ((was ^ val) & FCR_ENABLE || (val & FCR_ENABLE && val & FCR_CLEAR_RX)))
        uart_clear_rx(u);
    else
        uart_restart_timeout(u);
    if (uart_wants_rx(u))
        chr_accept(u->chr);
}

/* "Line Control Register": SOUT held at spacing is received, in loopback, as one break. */
static void uart_write_lcr(struct uart *u, uint8_t val)
{
    bool begins = ~u->lcr & val & LCR_BREAK;

    u->lcr = val;
    if (begins && u->mcr & MCR_LOOP)
        uart_put(u, 0, LSR_BI);
}

/* ---- registers ---- */

static uint8_t uart_read_iir(struct uart *u)
{
    uint8_t iir = uart_iir(u);

    /* Reading clears the THRE interrupt, if it was the one shown. */
    if (iir == IIR_THR_EMPTY)
        u->thre_pending = false;
    uart_update_irq(u);
    return uart_has_fifos(u) ? iir | IIR_FIFOS : iir;
}

static uint8_t uart_read_lsr(struct uart *u)
{
    uint8_t lsr = uart_lsr(u);

    u->lsr = 0;
    if (u->nr_rx)
        u->rx_err[u->rx_at] = 0;
    uart_update_irq(u);
    if (u->nr_polls < UART_NR_POLLS && ++u->nr_polls == UART_NR_POLLS && uart_wants_rx(u))
        chr_accept(u->chr);
    return lsr;
}

static uint8_t uart_read_msr(struct uart *u)
{
    uint8_t msr = u->msr;

    u->msr &= (uint8_t)~MSR_DELTAS;
    uart_update_irq(u);
    return msr;
}

static uint64_t uart_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    struct uart *u = container_of(dev, struct uart, dev);

    (void)bytes;
    switch (off_bytes) {
    case UART_RBR_THR:
        return u->lcr & LCR_DLAB ? u->dll : uart_get(u);
    case UART_IER:
        return u->lcr & LCR_DLAB ? u->dlm : u->ier;
    case UART_IIR_FCR:
        return uart_read_iir(u);
    case UART_LCR:
        return u->lcr;
    case UART_MCR:
        return u->mcr;
    case UART_LSR:
        return uart_read_lsr(u);
    case UART_MSR:
        return uart_read_msr(u);
    default:
        return u->scr;
    }
}

static void uart_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    struct uart *u = container_of(dev, struct uart, dev);
    uint8_t v = (uint8_t)val;

    (void)bytes;
    u->nr_polls = 0;
    switch (off_bytes) {
    case UART_RBR_THR:
        if (u->lcr & LCR_DLAB)
            u->dll = v;
        else
            uart_send(u, v);
        break;
    case UART_IER:
        if (u->lcr & LCR_DLAB)
            u->dlm = v;
        else
            uart_write_ier(u, v);
        break;
    case UART_IIR_FCR:
        uart_write_fcr(u, v);
        break;
    case UART_LCR:
        uart_write_lcr(u, v);
        break;
    case UART_MCR:
        uart_write_mcr(u, v);
        break;
    case UART_LSR: /* factory tests only */
    case UART_MSR:
        break;
    case UART_SCR:
        u->scr = v;
        break;
    }
    uart_update_irq(u);
}

/*
 * "Master Reset", but for what firmware sets on every PC: 9600 baud, 8 data bits. There is none
 * here, and small guests count on it.
 */
static void uart_reset(struct device *dev)
{
    struct uart *u = container_of(dev, struct uart, dev);

    u->ier = u->fcr = u->mcr = 0;
    u->lcr = LCR_WORD_LENGTH;
    u->dll = UART_BASE_BAUD / 9600;
    u->dlm = 0;
    u->thre_pending = false;
    u->nr_polls = 0;
    uart_clear_rx(u);
    u->msr = uart_modem_inputs(u);
    uart_update_irq(u);
}

static void uart_loaded(struct device *dev)
{
    struct uart *u = container_of(dev, struct uart, dev);

    u->rx_at %= UART_FIFO_BYTES;
    u->nr_rx = MIN(u->nr_rx, UART_FIFO_BYTES);
    if (!uart_has_fifos(u))
        u->nr_rx = MIN(u->nr_rx, 1);
    if (u->rx_deadline_ns != UINT64_MAX)
        timer_arm(&u->rx_timer, u->rx_deadline_ns);
    else
        timer_cancel(&u->rx_timer);
    u->irq_up = false;
    irq_set(&u->irq, 0);
    uart_update_irq(u);
    if (uart_wants_rx(u))
        chr_accept(u->chr);
}

static const struct state_field uart_state[] = {
    FIELD(struct uart, ier, U8, 1),
    FIELD(struct uart, lcr, U8, 1),
    FIELD(struct uart, mcr, U8, 1),
    FIELD(struct uart, msr, U8, 1),
    FIELD(struct uart, scr, U8, 1),
    FIELD(struct uart, dll, U8, 1),
    FIELD(struct uart, dlm, U8, 1),
    FIELD(struct uart, fcr, U8, 1),
    FIELD(struct uart, lsr, U8, 1),
    FIELD(struct uart, rx, BYTES, 1),
    FIELD(struct uart, rx_err, BYTES, 1),
    FIELD(struct uart, rx_at, U8, 1),
    FIELD(struct uart, nr_rx, U8, 1),
    FIELD(struct uart, rbr, U8, 1),
    FIELD(struct uart, thre_pending, BOOL, 1),
    FIELD(struct uart, rx_timeout, BOOL, 1),
    FIELD(struct uart, nr_polls, U8, 1),
    FIELD(struct uart, rx_deadline_ns, U64, 1),
};

static const struct device_type uart_type = {
    .name = "uart",
    .read = uart_read,
    .write = uart_write,
    .reset = uart_reset,
    .loaded = uart_loaded,
    .state = uart_state,
    .nr_state = ARRAY_SIZE(uart_state),
    .version = 1,
};

int uart_init(struct uart *u, const struct uart_config *cfg)
{
    int err;

    *u = (struct uart){
        .dev = { .type = &uart_type, .bus = cfg->bus, .state_base = u },
        .irq = cfg->irq,
        .chr = cfg->chr,
        .port = cfg->port,
        .rx_deadline_ns = UINT64_MAX,
    };
    bucket_init(&u->limit, &cfg->limit, clock_now_ns(bus_clock(cfg->bus)));
    timer_init(&u->rx_timer, bus_clock(cfg->bus), uart_rx_timed_out, u);
    uart_reset(&u->dev);
    err = bus_claim_ports(cfg->bus, cfg->port, UART_NR_PORTS, &u->dev, 0);
    if (err)
        return err;
    bus_add(cfg->bus, &u->dev);
    if (u->chr)
        chr_connect(u->chr, bus_lock(cfg->bus), uart_rx, u);
    return 0;
}

void uart_fini(struct uart *u)
{
    timer_cancel(&u->rx_timer);
    bus_release_ports(u->dev.bus, u->port, UART_NR_PORTS, &u->dev);
}
