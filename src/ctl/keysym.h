/* SPDX-License-Identifier: Apache-2.0 */
/* Keys: from what clients call them to what a PS/2 keyboard sends. Only the files of ctl/ include
 * this. */
#ifndef CTL_KEYSYM_H
#define CTL_KEYSYM_H

#include "lib/types.h"

/* Code of scan-code set 2, E000h added where a prefix is sent, E114h for Pause. 0: no such key. */
struct key {
    uint16_t code;
    bool shift; /* the character needs it */
};

struct key keysym_key(uint32_t keysym); /* X11's */

#define KEY_BYTES_MAX 8
/* What the keyboard sends when the key goes down, or up, into to[KEY_BYTES_MAX]: how many. */
unsigned key_bytes(uint8_t *to, uint16_t code, bool down);

#endif
