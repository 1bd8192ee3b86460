/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of architectural bits and numbers, spelled as in the Intel SDM (volumes 3 and 4) or, where
 * only AMD has them, the AMD APM (volume 2). Constants only.
 */
#ifndef CPU_REGS_H
#define CPU_REGS_H

#include "lib/types.h"

/* SDM 1, "EFLAGS Register" */
#define RFLAGS_CF         BIT(0)
#define RFLAGS_FIXED1     BIT(1)
#define RFLAGS_PF         BIT(2)
#define RFLAGS_AF         BIT(4)
#define RFLAGS_ZF         BIT(6)
#define RFLAGS_SF         BIT(7)
#define RFLAGS_TF         BIT(8)
#define RFLAGS_IF         BIT(9)
#define RFLAGS_DF         BIT(10)
#define RFLAGS_OF         BIT(11)
#define RFLAGS_IOPL_SHIFT 12
#define RFLAGS_IOPL       (3u << RFLAGS_IOPL_SHIFT)
#define RFLAGS_NT         BIT(14)
#define RFLAGS_RF         BIT(16)
#define RFLAGS_VM         BIT(17)
#define RFLAGS_AC         BIT(18)
#define RFLAGS_VIF        BIT(19)
#define RFLAGS_VIP        BIT(20)
#define RFLAGS_ID         BIT(21)
#define RFLAGS_ARITH      (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)
#define RFLAGS_KNOWN      0x3f7fd7u

/* SDM 3, "Control Registers" */
#define CR0_PE BIT64(0)
#define CR0_MP BIT64(1)
#define CR0_EM BIT64(2)
#define CR0_TS BIT64(3)
#define CR0_ET BIT64(4)
#define CR0_NE BIT64(5)
#define CR0_WP BIT64(16)
#define CR0_AM BIT64(18)
#define CR0_NW BIT64(29)
#define CR0_CD BIT64(30)
#define CR0_PG BIT64(31)

#define CR3_PWT       BIT64(3)
#define CR3_PCD       BIT64(4)
#define CR3_PCID_MASK 0xfffull
#define CR3_NOFLUSH   BIT64(63)

#define CR4_VME        BIT64(0)
#define CR4_PVI        BIT64(1)
#define CR4_TSD        BIT64(2)
#define CR4_DE         BIT64(3)
#define CR4_PSE        BIT64(4)
#define CR4_PAE        BIT64(5)
#define CR4_MCE        BIT64(6)
#define CR4_PGE        BIT64(7)
#define CR4_PCE        BIT64(8)
#define CR4_OSFXSR     BIT64(9)
#define CR4_OSXMMEXCPT BIT64(10)
#define CR4_UMIP       BIT64(11)
#define CR4_LA57       BIT64(12)
#define CR4_VMXE       BIT64(13)
#define CR4_SMXE       BIT64(14)
#define CR4_FSGSBASE   BIT64(16)
#define CR4_PCIDE      BIT64(17)
#define CR4_OSXSAVE    BIT64(18)
#define CR4_SMEP       BIT64(20)
#define CR4_SMAP       BIT64(21)
#define CR4_PKE        BIT64(22)

#define EFER_SCE    BIT64(0)
#define EFER_LME    BIT64(8)
#define EFER_LMA    BIT64(10)
#define EFER_NXE    BIT64(11)
#define EFER_FFXSR  BIT64(14)
#define EFER_SVME   BIT64(12) /* APM 2, "Enabling SVM" */
#define EFER_AIBRSE BIT64(21) /* APM 2, "Automatic IBRS" */

/* SDM 4, IA32_SPEC_CTRL */
#define SPEC_CTRL_IBRS      BIT64(0)
#define SPEC_CTRL_STIBP     BIT64(1)
#define SPEC_CTRL_BHI_DIS_S BIT64(10)

/* SDM 1, "x87 FPU Status Register": an unmasked exception is pending */
#define FSW_ES BIT(7)

#define XCR0_X87 BIT64(0)
#define XCR0_SSE BIT64(1)
#define XCR0_AVX BIT64(2)

/* SDM 3, "Debug Registers" */
#define DR6_B0     BIT64(0)
#define DR6_BD     BIT64(13)
#define DR6_BS     BIT64(14)
#define DR6_BT     BIT64(15)
#define DR6_FIXED1 0xffff0ff0ull
#define DR7_FIXED1 0x400ull
#define DR7_GD     BIT64(13)

/* SDM 3, "Exception and Interrupt Reference" */
enum vector {
    VEC_DE = 0,
    VEC_DB = 1,
    VEC_NMI = 2,
    VEC_BP = 3,
    VEC_OF = 4,
    VEC_BR = 5,
    VEC_UD = 6,
    VEC_NM = 7,
    VEC_DF = 8,
    VEC_TS = 10,
    VEC_NP = 11,
    VEC_SS = 12,
    VEC_GP = 13,
    VEC_PF = 14,
    VEC_MF = 16,
    VEC_AC = 17,
    VEC_MC = 18,
    VEC_XM = 19,
};

/* SDM 3, "Page-Fault Error Code" */
#define PF_P    BIT(0)
#define PF_W    BIT(1)
#define PF_U    BIT(2)
#define PF_RSVD BIT(3)
#define PF_I    BIT(4)
#define PF_PK   BIT(5)

/* SDM 3, "Segment Descriptors": the attribute word is descriptor bits 40..55 with the limit bits
 * (8..11) cleared. */
#define SEG_TYPE             0xfu
#define SEG_TYPE_ACCESSED    BIT(0)
#define SEG_TYPE_WRITABLE    BIT(1) /* data */
#define SEG_TYPE_READABLE    BIT(1) /* code */
#define SEG_TYPE_EXPAND_DOWN BIT(2) /* data */
#define SEG_TYPE_CONFORMING  BIT(2) /* code */
#define SEG_TYPE_CODE        BIT(3)
#define SEG_S                BIT(4) /* 1: code or data, 0: system */
#define SEG_DPL_SHIFT        5
#define SEG_DPL              (3u << SEG_DPL_SHIFT)
#define SEG_P                BIT(7)
#define SEG_AVL              BIT(12)
#define SEG_L                BIT(13)
#define SEG_DB               BIT(14)
#define SEG_G                BIT(15)
#define SEG_UNUSABLE         BIT(16) /* ours, as in a VMCS: a null selector was loaded */

/* System descriptor types, SDM 3, "System Segment and Gate Descriptor Types" */
enum sysdesc_type {
    SYS_TSS16_AVAIL = 1,
    SYS_LDT = 2,
    SYS_TSS16_BUSY = 3,
    SYS_CALL_GATE16 = 4,
    SYS_TASK_GATE = 5,
    SYS_INT_GATE16 = 6,
    SYS_TRAP_GATE16 = 7,
    SYS_TSS_AVAIL = 9,
    SYS_TSS_BUSY = 11,
    SYS_CALL_GATE = 12,
    SYS_INT_GATE = 14,
    SYS_TRAP_GATE = 15,
};

/* MSRs, SDM 4 */
#define MSR_TSC            0x10
#define MSR_APIC_BASE      0x1b
#define MSR_TSC_ADJUST     0x3b
#define MSR_SPEC_CTRL      0x48
#define MSR_PRED_CMD       0x49
#define MSR_MTRRCAP        0xfe
#define MSR_SYSENTER_CS    0x174
#define MSR_SYSENTER_ESP   0x175
#define MSR_SYSENTER_EIP   0x176
#define MSR_MTRR_PHYSBASE0 0x200
#define MSR_PAT            0x277
#define MSR_MTRR_DEF_TYPE  0x2ff
#define MSR_TSC_DEADLINE   0x6e0
#define MSR_X2APIC_FIRST   0x800
#define MSR_X2APIC_LAST    0x8ff
#define MSR_EFER           0xc0000080
#define MSR_STAR           0xc0000081
#define MSR_LSTAR          0xc0000082
#define MSR_CSTAR          0xc0000083
#define MSR_SFMASK         0xc0000084
#define MSR_FS_BASE        0xc0000100
#define MSR_GS_BASE        0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX        0xc0000103

/* KVM's (Documentation/virt/kvm/x86/msr.rst in Linux' sources). */
#define MSR_KVM_WALL_CLOCK      0x11
#define MSR_KVM_SYSTEM_TIME     0x12
#define MSR_KVM_WALL_CLOCK_NEW  0x4b564d00
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
#define MSR_KVM_STEAL_TIME      0x4b564d03
#define MSR_KVM_PV_EOI          0x4b564d04

#define APIC_BASE_BSP     BIT64(8)
#define APIC_BASE_X2APIC  BIT64(10)
#define APIC_BASE_ENABLE  BIT64(11)
#define APIC_BASE_DEFAULT 0xfee00000ull

#endif
