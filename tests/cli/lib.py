# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command share: TAP, tiny guests, a terminal to run doppel on, gdb's protocol."""
import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

# For whatever should take a moment: the host may be busy with something else.
LIMIT_S = 120
LOAD_AT = 0x100000


class Tap:
    def __init__(self):
        self.nr = self.failed = 0

    def ok(self, good, text, *details):
        self.nr += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.nr} - {text}", flush=True)
        for d in details if not good else ():
            for line in str(d).splitlines()[-20:]:
                print(f"# {line}", flush=True)
        return good

    def skip(self, text, why):
        self.nr += 1
        print(f"ok {self.nr} - {text} # SKIP {why}", flush=True)


# 32-bit code of guests that are a few instructions long; loaded by a multiboot header with addresses.
def out8(port, val):
    return bytes([0x66, 0xBA]) + struct.pack("<H", port) + bytes([0xB0, val, 0xEE])


def say(text, port=0x3F8):
    return b"".join(out8(port, c) for c in text.encode())


SPIN = bytes([0xEB, 0xFE])
HALT = bytes([0xFA, 0xF4, 0xEB, 0xFD])
TRIPLE = bytes([0x0F, 0x0B])  # an undefined instruction, without an IDT
POWEROFF = bytes.fromhex("66ba0406 66b80034 66ef") + SPIN
# The power button: PM1_EN at PM1 event + 2, PM1_STS at + 0 (bit 8 of both is bit 0 of the next byte).
COUNT_32 = bytes.fromhex("40 ebfd")  # inc %eax; jmp
LISTEN = out8(0x603, 1) + SPIN
BUTTON = out8(0x603, 1) + bytes.fromhex("66ba0106 ec a801 74fb") + POWEROFF
RESET = out8(0xCF9, 6) + SPIN
# Sends what the serial port receives back; 'q' powers off.
ECHO = bytes.fromhex(
    "66baf803"      # mov $0x3f8, %dx
    "66bafd03 ec"   # 1: mov $0x3fd, %dx; in
    "a801 74f7"     # test $1, %al; jz 1b
    "66baf803 ec"   # mov $0x3f8, %dx; in
    "3c71 7403"     # cmp $'q', %al; je 2f
    "ee ebeb"       # out; jmp 1b
) + POWEROFF        # 2:


def long_mode(code):
    """64-bit code, at CPL 0 with the first 2 MB mapped; its own address is what is_at says."""
    tables = b"".join(b"\xc7\x05" + struct.pack("<II", at, val) for at, val in [(0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x83)])
    enter = tables + bytes.fromhex(
        "b800100000 0f22d8"               # CR3
        "b820000000 0f22e0"               # CR4.PAE
        "b9800000c0 0f32 0d00010000 0f30" # EFER.LME
        "0f20c0 0d00000080 0f22c0"        # CR0.PG
    )
    gdt = struct.pack("<QQ", 0, 0x00AF9B000000FFFF)
    at = LOAD_AT + 32 + len(enter) + 14
    enter += b"\x0f\x01\x15" + struct.pack("<I", at + 16)
    enter += b"\xea" + struct.pack("<IH", at + 16 + 6, 8)
    return enter + gdt + struct.pack("<HI", 15, at) + code


def is_at(code, inner):
    """The address of the 64-bit code inner in long_mode(inner)."""
    return LOAD_AT + 32 + len(code) - len(inner)


def debug_exit(val):
    return bytes([0xB0, val, 0xE6, 0xF4]) + SPIN


def image(path, code):
    magic, flags = 0x1BADB002, 0x10000
    head = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, LOAD_AT, LOAD_AT, 0, 0, LOAD_AT + 32)
    with open(path, "wb") as f:
        f.write(head + code)
    return path


def is_listening(path):
    """Somebody listens on that Unix socket: its name is there a moment before."""
    with open("/proc/net/unix") as f:
        rows = [line.split() for line in f]
    return any(row[3] == "00010000" and row[-1] == path for row in rows)


def connect(path, limit_s):
    """A client of a Unix socket."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(limit_s)
    s.connect(path)
    return s


class Terminal:
    """doppel on a terminal of its own, as its session's foreground job."""

    def __init__(self, cmd, env, size=None):
        self.master, slave = pty.openpty()
        if size:
            self.resize(*size)
        self.cooked = termios.tcgetattr(slave)
        self.slave = slave  # kept open: the modes are looked at afterwards
        self.seen = b""
        self.proc = subprocess.Popen(cmd, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
                                     preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def child(self):
        """The pid of its first child, once there is one."""
        pid = self.proc.pid
        for _ in range(100 * LIMIT_S):
            with open(f"/proc/{pid}/task/{pid}/children") as f:
                children = f.read().split()
            if children:
                return int(children[0])
            time.sleep(0.01)
        raise OSError("no child")

    def resize(self, rows, cols):
        """The kernel tells the processes that are on it."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def modes(self):
        return termios.tcgetattr(self.slave)

    def is_raw(self):
        return not self.modes()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def is_cooked(self):
        return self.modes() == self.cooked

    def wait_until(self, good, limit_s=LIMIT_S):
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if good():
                return True
            time.sleep(0.01)
        return good()

    def type(self, text):
        os.write(self.master, text.encode())

    def wait_for(self, text, limit_s=LIMIT_S):
        """Reads until the text was shown; True if it was."""
        end = time.monotonic() + limit_s
        while text.encode() not in self.seen and time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.master, 4096)
                except OSError:
                    break
        found = text.encode() in self.seen
        if found:
            self.seen = self.seen[self.seen.index(text.encode()) + len(text):]
        return found

    def end(self, limit_s=LIMIT_S):
        """Its exit status; None if it does not end."""
        try:
            return self.proc.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None

    def close(self):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGKILL)
            self.proc.wait()
        os.close(self.master)
        os.close(self.slave)


class Remote:
    """The gdb side of the remote protocol, bare."""

    def __init__(self, path, limit_s=LIMIT_S):
        end = time.monotonic() + limit_s
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(path)
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        self.sock.settimeout(limit_s)
        self.buf = b""

    def raw(self, data):
        self.sock.sendall(data)

    def send(self, payload):
        data = payload if isinstance(payload, bytes) else payload.encode()
        self.raw(b"$" + data + b"#%02x" % (sum(data) & 0xFF))

    def receive(self):
        """One packet's payload."""
        while True:
            start = self.buf.find(b"$")
            end = self.buf.find(b"#", start)
            if start >= 0 and 0 <= end <= len(self.buf) - 3:
                payload = self.buf[start + 1:end]
                self.buf = self.buf[end + 3:]
                try:
                    self.raw(b"+")
                except OSError:
                    pass  # the end of the VM was told, and nobody waits for our thanks
                return payload.decode("latin-1")
            more = self.sock.recv(65536)
            if not more:
                raise EOFError("the stub hung up")
            self.buf += more

    def ask(self, payload):
        self.send(payload)
        return self.receive()

    def close(self):
        self.sock.close()
