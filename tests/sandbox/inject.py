# SPDX-License-Identifier: Apache-2.0
"""System calls made in a thread of another process, by ptrace(2): what would its sandbox say to them?"""
import ctypes
import errno
import os
import signal

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
LIBC.ptrace.restype = ctypes.c_long
GETREGS, SETREGS, SINGLESTEP, DETACH, SEIZE, INTERRUPT = 12, 13, 9, 17, 0x4206, 0x4207
REGS = ("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs").split()
WALL, MMAP, PAGE = 0x40000000, 9, 4096


class Regs(ctypes.Structure):
    _fields_ = [(r, ctypes.c_ulonglong) for r in REGS]


def ptrace(what, tid, addr=None, data=None):
    if LIBC.ptrace(what, tid, addr, data) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


class Thread:
    """Stopped from here to release()."""

    def __init__(self, pid, tid):
        self.pid, self.tid = pid, tid
        ptrace(SEIZE, tid)
        ptrace(INTERRUPT, tid)
        self.wait()
        self.old = Regs()
        ptrace(GETREGS, tid, None, ctypes.byref(self.old))
        self.mem = open(f"/proc/{pid}/mem", "r+b", buffering=0)
        self.gadget = self.find_gadget()
        # A vCPU's stack pointer may be its guest's.
        self.page = 0
        self.page = self.call(MMAP, 0, PAGE, 3, 0x22, -1, 0)

    def wait(self):
        _, status = os.waitpid(self.tid, WALL)
        if not os.WIFSTOPPED(status):
            raise ChildProcessError(f"thread {self.tid} ended: {status:#x}")
        return os.WSTOPSIG(status)

    def find_gadget(self):
        """A SYSCALL instruction of the C library's."""
        for line in open(f"/proc/{self.pid}/maps"):
            f = line.split()
            if "x" in f[1] and "libc.so" in line:
                start, end = (int(x, 16) for x in f[0].split("-"))
                self.mem.seek(start)
                return start + self.mem.read(end - start).index(b"\x0f\x05")
        raise LookupError("no libc")

    def call(self, nr, *args):
        """The result (negative: -errno), or "SIGSYS". Strings are put into a page of ours."""
        regs = Regs.from_buffer_copy(self.old)
        at = self.page + PAGE
        values = []
        for a in args:
            if isinstance(a, (bytes, str)):
                data = a.encode() + b"\0" if isinstance(a, str) else a
                at -= len(data) + 15 & ~15
                self.mem.seek(at)
                self.mem.write(data)
                a = at
            values.append(a & (1 << 64) - 1)
        for name, val in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), values + [0] * 6):
            setattr(regs, name, val)
        regs.rax, regs.orig_rax, regs.rip = nr, (1 << 64) - 1, self.gadget
        ptrace(SETREGS, self.tid, None, ctypes.byref(regs))
        for _ in range(8):
            ptrace(SINGLESTEP, self.tid)
            sig = self.wait()
            ptrace(GETREGS, self.tid, None, ctypes.byref(regs))
            # A step that was due already ends before the first instruction.
            if sig != signal.SIGTRAP or regs.rip != self.gadget:
                break
        if sig == signal.SIGSYS:
            result = "SIGSYS"  # taken away: the process goes on
        elif sig == signal.SIGTRAP:
            result = regs.rax - (1 << 64) if regs.rax >> 63 else regs.rax
        else:
            result = f"signal {sig}"
        ptrace(SETREGS, self.tid, None, ctypes.byref(self.old))
        return result

    def release(self):
        self.mem.close()
        ptrace(DETACH, self.tid)


def refused(result, hidden=False):
    """hidden: what was asked for may also not be there, where it looks."""
    return result == "SIGSYS" or isinstance(result, int) and -result in (errno.EACCES, errno.EPERM, *([errno.ENOENT, errno.ESRCH] if hidden else []))
