/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lies where in a worker's home: the one region of its address space that is not the guest's.
 *
 * A home is one memfd. The monitor maps all of it writable; the worker maps each part with the
 * rights given here, and has nothing else but guest pages. Offsets are used by stub.c's assembly
 * too, so this is plain macros.
 */
#ifndef ENGINE_BT_DIRECT_LAYOUT_H
#define ENGINE_BT_DIRECT_LAYOUT_H

#define HOME_STUB        0x0 /* r-x: the only code that makes system calls */
#define HOME_STUB_BYTES  0x1000
#define HOME_IN          0x1000 /* r--: what the monitor tells the worker */
#define HOME_IN_BYTES    0x3000
#define HOME_OUT         0x4000 /* rw-: scratch and signal frames; values of the guest's own */
#define HOME_OUT_BYTES   0xc000
#define HOME_TABLE       0x10000 /* r--: lookup table of indirect branches */
#define HOME_TABLE_BYTES 0x80000
#define HOME_HASH        0x90000  /* r--: its second level */
#define HOME_HASH_BYTES  0x100040 /* a power of two entries, and as many more as are looked at */
#define HOME_CODE        0x200000 /* r-x: translations */
#define HOME_CODE_BYTES  0x4000000
#define HOME_BYTES       (HOME_CODE + HOME_CODE_BYTES)

/* struct door_in, in HOME_IN. */
#define IN_FD_WAIT  0
#define IN_FD_TELL  4
#define IN_NR_CMDS  8
#define IN_GO       12
#define IN_MSG      16
#define IN_TSC      24 /* what RDTSC adds to the host's */
#define IN_TSC_AUX  32 /* what RDTSCP gives in ECX */
#define IN_SCRUB    40 /* GO_EXIT: so many bytes at the end of OUT are to be zeroed first */
#define IN_CMDS     64
#define IN_CMD_SIZE 56
#define IN_MAX_CMDS 120

#define IN_REGS  0x2000 /* struct door_regs: what to resume with after an exit */
#define IN_XSAVE 0x2100

/* IN_GO */
#define GO_NOWHERE 0 /* only the commands */
#define GO_SIGNAL  1 /* return from the signal, with the frame as it is now */
#define GO_EXIT    2 /* from the registers in IN_REGS and IN_XSAVE */

/* struct door_regs */
#define REGS_FLAGS 128
#define REGS_PC    136
#define REGS_ID    136

/* struct door_out, in HOME_OUT. */
#define OUT_KIND     0
#define OUT_NR_DONE  4
#define OUT_UCONTEXT 8
#define OUT_TRASH    16
#define OUT_RESULT   24
#define OUT_SIGNAL   32
#define OUT_KICKED   36 /* a kick was swallowed since the monitor was told */
#define OUT_BEGAN    40 /* TSC when guest code was entered */
#define OUT_ENDED    48 /* and when it was left */
#define OUT_SCRATCH  64
#define OUT_REGS     0x100 /* struct door_regs: as an exit left them */
#define OUT_XSAVE    0x200
#define OUT_PUSH     0xff0  /* where the stub pushes and pops flags */
#define OUT_STACK    0x1000 /* to the end: the signal stack */

#define KIND_SIGNAL 1 /* guest code was stopped by a signal: see the frame */
#define KIND_DONE   2 /* commands are done, or one failed: nr_done, result */
#define KIND_EXIT   3 /* guest code left through the stub: OUT_REGS, OUT_XSAVE */
#define KIND_BACK   4 /* a kick came before guest code was entered by GO_EXIT: nothing was run */

#endif
