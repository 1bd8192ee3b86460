/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C (Castagnoli), by which a snapshot's files are checked: against damage, not malice. */
#ifndef SNAP_CRC_H
#define SNAP_CRC_H

#include "lib/types.h"

/* Of `bytes` more bytes behind those whose checksum is crc (0: none). */
uint32_t crc32c(uint32_t crc, const void *buf, size_t bytes);

#endif
