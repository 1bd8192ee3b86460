/* SPDX-License-Identifier: Apache-2.0 */
/* The same as in protected mode. */
#include "../m32/popf.c"
