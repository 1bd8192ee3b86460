/* SPDX-License-Identifier: Apache-2.0 */
/* A NOR flash that keeps UEFI's variables: see flash.c. */
#ifndef DEV_FLASH_H
#define DEV_FLASH_H

#include "bus/bus.h"

#define FLASH_BLOCK_BYTES 4096u

struct flash {
    struct device dev;
    gpa_t at;
    uint8_t *data; /* the caller's, which keeps it */
    uint32_t bytes;
    uint8_t mode; /* what reads give: the command that chose it */
    uint8_t cmd;  /* the first cycle of a command that has more, or 0 */
    uint8_t status;
    uint32_t left;  /* of a buffered write: bytes that come yet */
    uint32_t block; /* that it is in */
    bool confirm;   /* it waits for its confirmation */
};

/* bytes: a multiple of FLASH_BLOCK_BYTES. */
int flash_init(struct flash *f, struct bus *bus, gpa_t at, uint8_t *data,
               uint32_t bytes) MUST_CHECK;
void flash_fini(struct flash *f);

#endif
