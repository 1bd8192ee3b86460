# SPDX-License-Identifier: Apache-2.0
"""Guests that answer on vsock (responder.c), snapshots of them, and what goes on from there."""
import json
import os
import re
import socket
import struct
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.join(HERE, "..", "..", "tools")
PORT = 7
# For what should take a moment: the host may be busy with something else.
LIMIT_S = int(os.environ.get("SNAP_LIMIT_S", "300"))
COMMANDS = f"""
modprobe -a vmw_vsock_virtio_transport virtio_rng virtio_balloon
exec /bin/responder {PORT}
"""


def make_initramfs(base, responder, out):
    script = out + ".commands"
    with open(script, "w") as f:
        f.write(COMMANDS)
    subprocess.run([os.path.join(TOOLS, "make-initramfs"), "--add", base, out, f"etc/commands={script}",
                    f"bin/responder={responder}"], check=True)
    return out


class Call:
    """A connection to the guest's responder."""

    def __init__(self, path, limit_s=LIMIT_S, proc=None):
        """Waits until the guest answers; proc: unless that ends."""
        end = time.monotonic() + limit_s
        while True:
            try:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.settimeout(limit_s)
                self.sock.connect(path)
                self.sock.sendall(f"CONNECT {PORT}\n".encode())
                self.buf = b""
                answer = self.line()
                if answer.startswith("OK "):
                    self.port = int(answer[3:])
                    return
            except OSError as e:
                if isinstance(e, TimeoutError):
                    raise
            self.sock.close()
            if time.monotonic() > end or (proc and proc.poll() is not None):
                raise OSError("the guest does not answer")
            time.sleep(0.005)

    def line(self):
        while b"\n" not in self.buf:
            more = self.sock.recv(65536)
            if not more:
                raise ConnectionResetError("the guest hung up")
            self.buf += more
        line, self.buf = self.buf.split(b"\n", 1)
        return line.decode("latin-1")

    def ask(self, question):
        self.sock.sendall(question.encode() + b"\n")
        return self.line()

    def close(self):
        self.sock.close()


class Machine:
    """A doppel that runs, with a responder in its guest."""

    def __init__(self, doppel, tmp, name, options):
        self.doppel, self.name = doppel, name
        self.vsock = os.path.join(tmp, name + ".v")
        self.log = os.path.join(tmp, name + ".log")
        with open(self.log, "wb") as log:
            self.proc = subprocess.Popen([doppel, "run", "--name", name, *options], stdin=subprocess.DEVNULL,
                                         stdout=log, stderr=subprocess.STDOUT)

    def call(self):
        return Call(self.vsock, proc=self.proc)

    def ask(self, question):
        c = self.call()
        self.port = c.port
        try:
            answer = c.ask(question)
        except OSError as e:
            raise OSError(f"{self.name}: no answer to '{question}'; it said:\n{self.said()}") from e
        c.close()
        return answer

    def command(self, *words):
        return subprocess.run([self.doppel, words[0], self.name, *words[1:]], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S)

    def snapshot(self, path, *more):
        return self.command("snapshot", path, *more)

    def said(self):
        with open(self.log, "rb") as f:
            return f.read().decode("latin-1")

    def kill(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()


def boot(args, tmp, name, options, initramfs):
    """A fresh one."""
    m = Machine(args.doppel, tmp, name, [
        "--kernel", args.kernel, "--initrd", initramfs, "--append", "console=ttyS0 quiet panic=-1",
        "--vsock", f"cid=3,path={os.path.join(tmp, name + '.v')}", "--timeout", str(LIMIT_S * 2), *options])
    m.call().close()
    return m


def restore(args, tmp, name, snapshot, options=(), cid=3):
    """One that goes on."""
    return Machine(args.doppel, tmp, name, ["--restore", snapshot, "--clone", "--vsock",
                                            f"cid={cid},path={os.path.join(tmp, name + '.v')}",
                                            "--timeout", str(LIMIT_S * 2), *options])


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


# Of struct doc_head (src/snap/doc.c): the text's length and checksum, the head's checksum; the head's length.
HEAD_JSON_BYTES, HEAD_JSON_CRC, HEAD_CRC, HEAD_BYTES = 20, 32, 60, 64


def change_machine(state, change):
    """Changes the description of the machine in a state file: a function of that dictionary."""
    with open(state, "rb") as f:
        head, rest = bytearray(f.read(HEAD_BYTES)), f.read()
    old, = struct.unpack_from("<I", head, HEAD_JSON_BYTES)
    described = json.loads(rest[:old])
    change(described["machine"])
    text = json.dumps(described).encode() + b"\n"
    struct.pack_into("<I", head, HEAD_JSON_BYTES, len(text))
    struct.pack_into("<I", head, HEAD_JSON_CRC, crc32c(text))
    struct.pack_into("<I", head, HEAD_CRC, crc32c(head[:HEAD_CRC]))
    with open(state, "wb") as f:
        f.write(head + text + rest[old:])


def put_back(state, seconds):
    """As if the snapshot were older by that."""
    change_machine(state, lambda machine: machine.update(real_ns=machine["real_ns"] - seconds * 10**9))


def smaps(pid):
    """Private and proportional memory of a process, in KiB."""
    with open(f"/proc/{pid}/smaps_rollup") as f:
        text = f.read()
    return {k: int(v) for k, v in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
