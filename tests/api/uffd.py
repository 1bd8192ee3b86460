# SPDX-License-Identifier: Apache-2.0
"""A server of a snapshot's memory, as Firecracker's documentation describes them: hears of pages by a userfaultfd, and copies them
from the memory file."""
import array
import ctypes
import fcntl
import json
import mmap
import os
import select
import socket
import struct
import threading

PAGE = 4096
UFFDIO_COPY = 0xC028AA03
EVENT_PAGEFAULT = 0x12


class Server(threading.Thread):
    def __init__(self, path, memory):
        super().__init__(daemon=True)
        self.pages, self.regions, self.error = 0, None, None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        with open(memory, "rb") as f:
            self.memory = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
        self.memory_at = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.start()

    def run(self):
        try:
            s, _ = self.listener.accept()
            data, control, _, _ = s.recvmsg(65536, socket.CMSG_SPACE(4))
            fds = array.array("i")
            fds.frombytes(control[0][2][:4])
            self.regions = json.loads(data)
            while True:
                for fd, events in self.wait(fds[0], s):
                    if fd == s.fileno():  # the other end is gone
                        return
                    self.fault(fds[0])
        except OSError as e:
            self.error = e

    @staticmethod
    def wait(fd, s):
        p = select.poll()
        p.register(fd, select.POLLIN)
        p.register(s.fileno(), select.POLLIN)
        return p.poll()

    def fault(self, fd):
        try:
            event, address = struct.unpack("<B15xQ8x", os.read(fd, 32))
        except BlockingIOError:
            return
        at = address & ~(PAGE - 1)
        r = next(r for r in self.regions if r["base_host_virt_addr"] <= at < r["base_host_virt_addr"] + r["size"])
        source = self.memory_at + r["offset"] + at - r["base_host_virt_addr"]
        try:
            fcntl.ioctl(fd, UFFDIO_COPY, bytearray(struct.pack("<QQQQq", at, source, r["page_size"], 0, 0)))
            self.pages += event == EVENT_PAGEFAULT
        except FileExistsError:  # another thread's fault brought it
            pass


def possible():
    fd = ctypes.CDLL(None, use_errno=True).syscall(323, os.O_CLOEXEC)
    if fd >= 0:
        os.close(fd)
    return fd >= 0 or os.access("/dev/userfaultfd", os.R_OK | os.W_OK)
