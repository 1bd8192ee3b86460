/* SPDX-License-Identifier: Apache-2.0 */
/* The way from a PS/2 device to the i8042: a ring of events, and before it the reply to the last
 * command. */
#include "dev/ps2.h"

bool ps2_has_byte(const struct ps2_out *o)
{
    return o->nr_reply || o->nr;
}

uint8_t ps2_take_byte(struct ps2_out *o)
{
    if (o->nr_reply) {
        o->nr_reply--;
        o->last = o->reply[o->reply_at++];
        return o->last;
    }
    o->last = o->queue[o->at];
    o->at = (o->at + 1) % PS2_QUEUE_BYTES;
    o->nr--;
    return o->last;
}

void ps2_clear_reply(struct ps2_out *o)
{
    o->reply_at = o->nr_reply = 0;
}

void ps2_reply(struct ps2_out *o, uint8_t byte)
{
    BUG_ON(o->reply_at + o->nr_reply >= PS2_REPLY_BYTES);
    o->reply[o->reply_at + o->nr_reply++] = byte;
}

void ps2_clear_queue(struct ps2_out *o)
{
    o->at = o->nr = 0;
}

bool ps2_queue(struct ps2_out *o, const uint8_t *bytes, unsigned nr)
{
    if (nr > (unsigned)PS2_QUEUE_BYTES - o->nr)
        return false;
    for (unsigned i = 0; i < nr; i++)
        o->queue[(o->at + o->nr++) % PS2_QUEUE_BYTES] = bytes[i];
    return true;
}

void ps2_out_loaded(struct ps2_out *o)
{
    o->at %= PS2_QUEUE_BYTES;
    o->nr = MIN(o->nr, PS2_QUEUE_BYTES);
    o->reply_at %= PS2_REPLY_BYTES;
    o->nr_reply = MIN(o->nr_reply, PS2_REPLY_BYTES - o->reply_at);
}
