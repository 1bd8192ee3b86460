/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8042 keyboard controller at ports 60h and 64h: commands, output port with A20 and reset, and the
 * way of bytes from the PS/2 keyboard and mouse (ps2kbd.c, ps2mouse.c) to the guest.
 *
 * Manual: IBM Personal System/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary
 * Device Controller".
 *
 * It is fast: a command is done before the guest's next instruction (IBF is never seen), and after
 * a byte was read the next one is there, with a new edge of its interrupt line. It comes up as
 * firmware leaves it: keyboard on, translated.
 */
#include "dev/i8042.h"

#define PORT_DATA    0x60
#define PORT_COMMAND 0x64
enum { I8042_AT_DATA, I8042_AT_COMMAND };

#define STATUS_OBF      BIT(0)
#define STATUS_SYS      BIT(2)
#define STATUS_COMMAND  BIT(3)
#define STATUS_UNLOCKED BIT(4)
#define STATUS_AUX_OBF  BIT(5)

/* The command byte: RAM address 0. */
#define CTR_KBD_INT   BIT(0)
#define CTR_AUX_INT   BIT(1)
#define CTR_SYS       BIT(2)
#define CTR_KBD_OFF   BIT(4)
#define CTR_AUX_OFF   BIT(5)
#define CTR_TRANSLATE BIT(6)
#define CTR_FIRMWARE  (CTR_KBD_INT | CTR_SYS | CTR_AUX_OFF | CTR_TRANSLATE)

#define OUTPORT_RUN     BIT(0) /* low: the CPU is held in reset */
#define OUTPORT_A20     BIT(1)
#define OUTPORT_KBD_INT BIT(4)
#define OUTPORT_AUX_INT BIT(5)
#define OUTPORT_IDLE    0xc0 /* keyboard clock and data */

enum {
    CMD_READ_RAM = 0x20,  /* to 3F */
    CMD_WRITE_RAM = 0x60, /* to 7F */
    CMD_TEST_PASSWORD = 0xa4,
    CMD_AUX_OFF = 0xa7,
    CMD_AUX_ON = 0xa8,
    CMD_TEST_AUX = 0xa9,
    CMD_SELF_TEST = 0xaa,
    CMD_TEST_KBD = 0xab,
    CMD_KBD_OFF = 0xad,
    CMD_KBD_ON = 0xae,
    CMD_READ_INPORT = 0xc0,
    CMD_READ_OUTPORT = 0xd0,
    CMD_WRITE_OUTPORT = 0xd1,
    CMD_KBD_LOOP = 0xd2,
    CMD_AUX_LOOP = 0xd3,
    CMD_WRITE_AUX = 0xd4,
    CMD_A20_OFF = 0xdd,
    CMD_A20_ON = 0xdf,
    CMD_READ_TEST = 0xe0,
    CMD_PULSE = 0xf0, /* to FF: pulses those of output port bits 0 to 3 that are 0 in the command */
};

#define ANSWER_SELF_TEST_OK 0x55

static void i8042_update_irq(struct i8042 *k)
{
    bool kbd = k->full && !k->from_aux && k->ram[0] & CTR_KBD_INT;
    bool aux = k->full && k->from_aux && k->ram[0] & CTR_AUX_INT;

    if (kbd != k->kbd_up)
        irq_set(&k->irq_kbd, kbd);
    if (aux != k->aux_up)
        irq_set(&k->irq_aux, aux);
    k->kbd_up = kbd;
    k->aux_up = aux;
}

static void i8042_fill(struct i8042 *k, uint8_t byte, bool from_aux)
{
    k->out = byte;
    k->full = true;
    k->from_aux = from_aux;
}

/* Next byte into the output buffer: the controller's own answer first, then the keyboard, then the
 * mouse. */
static void i8042_pump(struct i8042 *k)
{
    if (!k->full && k->has_answer) {
        k->has_answer = false;
        i8042_fill(k, k->answer, k->answer_from_aux);
    }
    while (!k->full && !(k->ram[0] & CTR_KBD_OFF) && ps2_has_byte(&k->kbd.out)) {
        uint8_t byte = ps2_take_byte(&k->kbd.out);

        if (!(k->ram[0] & CTR_TRANSLATE) || ps2_translate(&k->release, byte, &byte))
            i8042_fill(k, byte, false);
    }
    if (!k->full && !(k->ram[0] & CTR_AUX_OFF) && ps2_has_byte(&k->mouse.out)) {
        i8042_fill(k, ps2_take_byte(&k->mouse.out), true);
        ps2_mouse_poll(&k->mouse);
    }
    i8042_update_irq(k);
}

void i8042_key(struct i8042 *k, const uint8_t *code, unsigned nr)
{
    assert_held(bus_lock(k->dev.bus));
    ps2_kbd_key(&k->kbd, code, nr);
    i8042_pump(k);
}

bool i8042_has_room(const struct i8042 *k, unsigned nr)
{
    return k->kbd.out.nr + nr < PS2_QUEUE_BYTES;
}

void i8042_move(struct i8042 *k, int dx, int dy, int dz, uint8_t buttons)
{
    assert_held(bus_lock(k->dev.bus));
    ps2_mouse_move(&k->mouse, dx, dy, dz, buttons);
    i8042_pump(k);
}

/* ---- commands ---- */

static void i8042_answer(struct i8042 *k, uint8_t byte, bool from_aux)
{
    k->answer = byte;
    k->answer_from_aux = from_aux;
    k->has_answer = true;
}

static void i8042_set_outport(struct i8042 *k, uint8_t val)
{
    bus_set_a20(k->dev.bus, val & OUTPORT_A20);
    if (!(val & OUTPORT_RUN))
        bus_post_stop(k->dev.bus, STOP_RESET, 0);
}

static uint8_t i8042_outport(const struct i8042 *k)
{
    return (uint8_t)(OUTPORT_IDLE | OUTPORT_RUN | (bus_a20(k->dev.bus) ? OUTPORT_A20 : 0) |
                     (k->kbd_up ? OUTPORT_KBD_INT : 0) | (k->aux_up ? OUTPORT_AUX_INT : 0));
}

/* "Self-test": what was in the buffer is lost. */
static void i8042_self_test(struct i8042 *k)
{
    k->full = k->has_answer = k->release = false;
    k->ram[0] |= CTR_SYS;
    i8042_update_irq(k);
    i8042_answer(k, ANSWER_SELF_TEST_OK, false);
}

/* Commands that ask for a byte that never changes. */
static const struct {
    uint8_t cmd, answer;
} i8042_constants[] = {
    { CMD_TEST_PASSWORD, 0xf1 },                            /* none installed */
    { CMD_TEST_AUX, 0x00 },                                 /* no error */
    { CMD_TEST_KBD, 0x00 },      { CMD_READ_INPORT, 0x80 }, /* not locked by key */
    { CMD_READ_TEST, 0x00 },
};

static void i8042_command_constant(struct i8042 *k, uint8_t cmd)
{
    for (unsigned i = 0; i < ARRAY_SIZE(i8042_constants); i++) {
        if (i8042_constants[i].cmd != cmd)
            continue;
        i8042_answer(k, i8042_constants[i].answer, false);
        return;
    }
    if (log_first(bus_seen(k->dev.bus), 0x804200u | cmd))
        log_warn("i8042: guest gave command %#x, which this controller does not have; ignored",
                 cmd);
}

static void i8042_command(struct i8042 *k, uint8_t cmd)
{
    k->cmd = 0;
    switch (cmd) {
    case CMD_READ_RAM ... CMD_READ_RAM + 0x1f:
        i8042_answer(k, k->ram[cmd & 0x1f], false);
        break;
    case CMD_WRITE_RAM ... CMD_WRITE_RAM + 0x1f:
    case CMD_WRITE_OUTPORT:
    case CMD_KBD_LOOP:
    case CMD_AUX_LOOP:
    case CMD_WRITE_AUX:
        k->cmd = cmd;
        break;
    case CMD_AUX_OFF:
        k->ram[0] |= CTR_AUX_OFF;
        break;
    case CMD_AUX_ON:
        k->ram[0] &= (uint8_t)~CTR_AUX_OFF;
        break;
    case CMD_KBD_OFF:
        k->ram[0] |= CTR_KBD_OFF;
        break;
    case CMD_KBD_ON:
        k->ram[0] &= (uint8_t)~CTR_KBD_OFF;
        break;
    case CMD_SELF_TEST:
        i8042_self_test(k);
        break;
    case CMD_READ_OUTPORT:
        i8042_answer(k, i8042_outport(k), false);
        break;
    case CMD_A20_OFF:
    case CMD_A20_ON:
        bus_set_a20(k->dev.bus, cmd == CMD_A20_ON);
        break;
    case CMD_PULSE ... CMD_PULSE + 0xf:
        if (!(cmd & OUTPORT_RUN))
            bus_post_stop(k->dev.bus, STOP_RESET, 0);
        break;
    default:
        i8042_command_constant(k, cmd);
        break;
    }
}

/* A byte at port 60h: data of the command before it, else for the keyboard. Sending to a device
 * switches it on. */
static void i8042_data(struct i8042 *k, uint8_t val)
{
    uint8_t cmd = k->cmd;

    k->cmd = 0;
    switch (cmd) {
    case CMD_WRITE_RAM ... CMD_WRITE_RAM + 0x1f:
        k->ram[cmd & 0x1f] = val;
        break;
    case CMD_WRITE_OUTPORT:
        i8042_set_outport(k, val);
        break;
    case CMD_KBD_LOOP:
    case CMD_AUX_LOOP:
        i8042_answer(k, val, cmd == CMD_AUX_LOOP);
        break;
    case CMD_WRITE_AUX:
        k->ram[0] &= (uint8_t)~CTR_AUX_OFF;
        ps2_mouse_command(&k->mouse, val);
        break;
    default:
        k->ram[0] &= (uint8_t)~CTR_KBD_OFF;
        ps2_kbd_command(&k->kbd, val);
        break;
    }
}

/* ---- ports ---- */

static uint8_t i8042_status(const struct i8042 *k)
{
    return (uint8_t)(STATUS_UNLOCKED | (k->full ? STATUS_OBF : 0) |
                     (k->full && k->from_aux ? STATUS_AUX_OBF : 0) |
                     (k->ram[0] & CTR_SYS ? STATUS_SYS : 0) | (k->wrote_cmd ? STATUS_COMMAND : 0));
}

static uint64_t i8042_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    struct i8042 *k = container_of(dev, struct i8042, dev);
    uint8_t val = k->out; /* an empty buffer gives its last byte again */

    (void)bytes;
    if (off_bytes == I8042_AT_COMMAND)
        return i8042_status(k);
    k->full = false;
    i8042_update_irq(k); /* the line falls, so that the next byte is an edge */
    i8042_pump(k);
    return val;
}

static void i8042_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    struct i8042 *k = container_of(dev, struct i8042, dev);

    (void)bytes;
    k->wrote_cmd = off_bytes == I8042_AT_COMMAND;
    if (k->wrote_cmd)
        i8042_command(k, (uint8_t)val);
    else
        i8042_data(k, (uint8_t)val);
    i8042_pump(k);
}

/* ---- life ---- */

static void i8042_reset(struct device *dev)
{
    struct i8042 *k = container_of(dev, struct i8042, dev);

    for (unsigned i = 0; i < sizeof(k->ram); i++)
        k->ram[i] = i ? 0 : CTR_FIRMWARE;
    k->cmd = k->out = 0;
    k->wrote_cmd = k->full = k->from_aux = k->has_answer = k->release = false;
    ps2_kbd_reset(&k->kbd);
    ps2_mouse_reset(&k->mouse);
    bus_set_a20(k->dev.bus, true);
    i8042_update_irq(k);
}

static void i8042_loaded(struct device *dev)
{
    struct i8042 *k = container_of(dev, struct i8042, dev);

    ps2_out_loaded(&k->kbd.out);
    ps2_out_loaded(&k->mouse.out);
    k->kbd_up = k->aux_up = false;
    irq_set(&k->irq_kbd, 0);
    irq_set(&k->irq_aux, 0);
    i8042_pump(k);
}

#define PS2_OUT_FIELDS(who)                                                                   \
    FIELD(struct i8042, who.out.queue, BYTES, 1), FIELD(struct i8042, who.out.at, U8, 1),     \
        FIELD(struct i8042, who.out.nr, U8, 1), FIELD(struct i8042, who.out.reply, BYTES, 1), \
        FIELD(struct i8042, who.out.reply_at, U8, 1),                                         \
        FIELD(struct i8042, who.out.nr_reply, U8, 1), FIELD(struct i8042, who.out.last, U8, 1)

static const struct state_field i8042_state[] = {
    FIELD(struct i8042, ram, BYTES, 1),
    FIELD(struct i8042, cmd, U8, 1),
    FIELD(struct i8042, wrote_cmd, BOOL, 1),
    FIELD(struct i8042, out, U8, 1),
    FIELD(struct i8042, full, BOOL, 1),
    FIELD(struct i8042, from_aux, BOOL, 1),
    FIELD(struct i8042, answer, U8, 1),
    FIELD(struct i8042, has_answer, BOOL, 1),
    FIELD(struct i8042, answer_from_aux, BOOL, 1),
    FIELD(struct i8042, release, BOOL, 1),
    PS2_OUT_FIELDS(kbd),
    FIELD(struct i8042, kbd.cmd, U8, 1),
    FIELD(struct i8042, kbd.set, U8, 1),
    FIELD(struct i8042, kbd.leds, U8, 1),
    FIELD(struct i8042, kbd.typematic, U8, 1),
    FIELD(struct i8042, kbd.scanning, BOOL, 1),
    FIELD(struct i8042, kbd.release, BOOL, 1),
    PS2_OUT_FIELDS(mouse),
    FIELD(struct i8042, mouse.cmd, U8, 1),
    FIELD(struct i8042, mouse.id, U8, 1),
    FIELD(struct i8042, mouse.rate, U8, 1),
    FIELD(struct i8042, mouse.resolution, U8, 1),
    FIELD(struct i8042, mouse.rates, BYTES, 1),
    FIELD(struct i8042, mouse.buttons, U8, 1),
    FIELD(struct i8042, mouse.enabled, BOOL, 1),
    FIELD(struct i8042, mouse.remote, BOOL, 1),
    FIELD(struct i8042, mouse.wrap, BOOL, 1),
    FIELD(struct i8042, mouse.scale2, BOOL, 1),
    FIELD(struct i8042, mouse.dx, U16, 1),
    FIELD(struct i8042, mouse.dy, U16, 1),
    FIELD(struct i8042, mouse.dz, U16, 1),
};

static const struct device_type i8042_type = {
    .name = "i8042",
    .read = i8042_read,
    .write = i8042_write,
    .reset = i8042_reset,
    .loaded = i8042_loaded,
    .state = i8042_state,
    .nr_state = ARRAY_SIZE(i8042_state),
    .version = 1,
};

int i8042_init(struct i8042 *k, const struct i8042_config *cfg)
{
    int err;

    *k = (struct i8042){
        .dev = { .type = &i8042_type, .bus = cfg->bus, .state_base = k },
        .irq_kbd = cfg->irq_kbd,
        .irq_aux = cfg->irq_aux,
    };
    i8042_reset(&k->dev);
    err = bus_claim_ports(cfg->bus, PORT_DATA, 1, &k->dev, I8042_AT_DATA);
    if (err)
        return err;
    err = bus_claim_ports(cfg->bus, PORT_COMMAND, 1, &k->dev, I8042_AT_COMMAND);
    if (err) {
        bus_release_ports(cfg->bus, PORT_DATA, 1, &k->dev);
        return err;
    }
    bus_add(cfg->bus, &k->dev);
    return 0;
}

void i8042_fini(struct i8042 *k)
{
    bus_release_ports(k->dev.bus, PORT_DATA, 1, &k->dev);
    bus_release_ports(k->dev.bus, PORT_COMMAND, 1, &k->dev);
}
