/* SPDX-License-Identifier: Apache-2.0 */
/* The words of IDENTIFY (PACKET) DEVICE that disks and CD-ROM drives have in common. */
#ifndef DEV_IDE_ID_H
#define DEV_IDE_ID_H

#include <stdio.h>
#include <string.h>

#include "dev/ide.h"

static inline void id_word(uint8_t *id, unsigned word, unsigned val)
{
    id[2 * word] = (uint8_t)val;
    id[2 * word + 1] = (uint8_t)(val >> 8);
}

static inline void id_long(uint8_t *id, unsigned word, uint64_t val)
{
    id_word(id, word, (unsigned)(val & 0xffff));
    id_word(id, word + 1, (unsigned)(val >> 16 & 0xffff));
}

/* Text: filled up with blanks, the bytes of each word swapped. */
static inline void id_text(uint8_t *id, unsigned word, unsigned words, const char *text)
{
    size_t len = strlen(text);

    for (unsigned i = 0; i < 2 * words; i++)
        id[2 * word + (i ^ 1)] = i < len ? (uint8_t)text[i] : ' ';
}

static inline void id_names(uint8_t *id, const struct ide_drive *d, const char *model)
{
    unsigned chan = (unsigned)(d->chan - d->chan->ide->chans), idx = d != d->chan->drives;
    char serial[24];

    (void)snprintf(serial, sizeof(serial), "DP%05u", chan * IDE_NR_DRIVES + idx + 1);
    id_text(id, 10, 10, serial);
    id_text(id, 23, 4, "1.0");
    id_text(id, 27, 20, model);
}

/* Transfer modes: PIO 4, multiword DMA 2, Ultra DMA 5, and which is chosen. */
static inline void id_modes(uint8_t *id, const struct ide_drive *d)
{
    unsigned which = d->mode & 7;

    id_word(id, 53, 7); /* words 54 to 58, 64 to 70 and 88 are valid */
    id_word(id, 63, 0x07u | (d->mode >> 3 == 4 ? BIT(8 + which) : 0));
    id_word(id, 64, 3);
    for (unsigned i = 65; i <= 68; i++)
        id_word(id, i, 120); /* cycle times, ns */
    id_word(id, 80, 0x00f0); /* ATA/ATAPI-4 to -7 */
    id_word(id, 88, 0x3fu | (d->mode >> 3 == 8 ? BIT(8 + which) : 0));
    id_word(id, 93, d == d->chan->drives ? 0x600b : 0x6b00); /* 80-wire cable, passed */
}

#endif
