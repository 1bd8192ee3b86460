# SPDX-License-Identifier: Apache-2.0
"""The machines of bench/system: Debian's image under doppel and under QEMU's TCG, talked to by ssh."""
import os
import select
import shutil
import signal
import socket
import subprocess
import time

LOGIN = b"login:"
SSH_LIMIT_S = 180
IMAGE_LIMIT_S = 600


class Failed(Exception):
    """A machine or a program in it did not do what was asked of it."""


def free_port():
    """A TCP port of the loopback address that nobody uses now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Vm:
    """One running machine. Its disk is a copy of the image, so that all of them boot the same one."""

    def __init__(self, kind, args, tmp, name, cpus, cable=None):
        self.kind, self.args, self.name, self.cpus = kind, args, name, cpus
        self.port, self.cable, self.dir = free_port(), cable, os.path.join(tmp, name)
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        self.disk = os.path.join(self.dir, "disk.img")
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", args.prepared, self.disk], check=True)
        self.console = b""
        self.proc = None

    def mac(self, card):
        number = 0x10 + 2 * (self.name[-1] == "b") + card
        return f"52:54:00:be:0c:{number:02x}"

    def command(self):
        if self.kind == "tcg":
            return self.qemu()
        cmd = [self.args.doppel, "run", "--engine", self.kind, "--name", f"bench-{self.name}-{os.getpid()}", "--memory", "1G",
               "--cpus", str(self.cpus), "--firmware", "seabios", "--disk", f"path={self.disk}", "--device", "rng",
               "--net", f"user,hostfwd=tcp:127.0.0.1:{self.port}-:22,mac={self.mac(0)}"]
        if os.path.exists(self.args.data):
            cmd += ["--disk", f"path={self.args.data},readonly,serial=bench"]
        if self.cable:
            cmd += ["--net", f"socket={self.cable},mac={self.mac(1)}"]
        return cmd + self.args.doppel_args.split()

    def qemu(self):
        drive = "format=raw,if=none,media=disk"
        cmd = ["qemu-system-x86_64", "-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", str(self.cpus),
               "-display", "none", "-monitor", "none", "-serial", "stdio", "-drive", f"file={self.disk},{drive},id=d0",
               "-device", "virtio-blk-pci,drive=d0,bootindex=0", "-device", "virtio-rng-pci",
               "-netdev", f"user,id=n0,hostfwd=tcp:127.0.0.1:{self.port}-:22",
               "-device", f"virtio-net-pci,netdev=n0,mac={self.mac(0)}"]
        if os.path.exists(self.args.data):
            cmd += ["-drive", f"file={self.args.data},{drive},id=d1,readonly=on", "-device", "virtio-blk-pci,drive=d1,serial=bench"]
        if self.cable:
            server = "off" if os.path.exists(self.cable) else "on"
            cmd += ["-netdev", f"stream,id=n1,server={server},addr.type=unix,addr.path={self.cable}",
                    "-device", f"virtio-net-pci,netdev=n1,mac={self.mac(1)}"]
        return cmd

    def boot(self, limit_s):
        """Starts it. Seconds until its console asks for a login."""
        began = time.monotonic()
        with open(os.path.join(self.dir, "errors"), "wb") as err:
            self.proc = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err,
                                         env={**os.environ, "XDG_RUNTIME_DIR": self.dir}, start_new_session=True)
        while LOGIN not in self.console:
            if not self.read(began + limit_s):
                raise Failed(f"{self.name}: no login after {time.monotonic() - began:.0f} s: {self.said()}")
        return time.monotonic() - began

    def read(self, until):
        """Takes what its console says. False: it has ended, or the time has come."""
        left = until - time.monotonic()
        if left <= 0 or not select.select([self.proc.stdout], [], [], left)[0]:
            return False
        data = os.read(self.proc.stdout.fileno(), 65536)
        self.console += data
        return bool(data)

    def said(self):
        with open(os.path.join(self.dir, "errors"), errors="replace") as f:
            return (self.console.decode(errors="replace") + f.read())[-600:]

    def ssh(self, script, limit_s=120):
        """Runs it in a shell of root's there, and returns what it printed. Waits for sshd."""
        end = time.monotonic() + SSH_LIMIT_S
        cmd = ["ssh", "-p", str(self.port), "-i", self.args.key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
               "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60", "-o", "BatchMode=yes", "root@127.0.0.1", "sh -s"]
        while True:
            while select.select([self.proc.stdout], [], [], 0)[0] and self.read(time.monotonic() + 1):
                pass        # or its console would be full some day
            try:
                done = subprocess.run(cmd, input=script, capture_output=True, text=True, timeout=limit_s + 60)
            except subprocess.TimeoutExpired:
                raise Failed(f"{self.name}: no end after {limit_s + 60} s of: {script[-200:]}") from None
            if done.returncode == 0:
                return done.stdout
            if done.returncode != 255 or time.monotonic() > end or self.proc.poll() is not None:
                raise Failed(f"{self.name}: status {done.returncode} of {script[-200:]!r}: {(done.stderr + done.stdout)[-400:]}")
            time.sleep(0.3)

    def power_off(self):
        try:
            self.ssh("systemctl poweroff")
        except Failed:
            pass            # the connection may go first
        end = time.monotonic() + IMAGE_LIMIT_S
        while self.read(end):
            pass
        self.proc.wait(60)

    def stop(self):
        """Ends it and what it has started; its files go."""
        if self.proc:
            for sig in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(self.proc.pid, sig)
                except ProcessLookupError:
                    pass
                try:
                    self.proc.wait(10)
                    break
                except subprocess.TimeoutExpired:
                    pass
            self.proc.stdout.close()
        shutil.rmtree(self.dir, ignore_errors=True)


def prepare(args, tmp, say):
    """The image as it is after its first boot, which makes keys and the like: once for each image."""
    if os.path.exists(args.prepared) and os.path.getmtime(args.prepared) > os.path.getmtime(args.image):
        return
    say("the image's first boot")
    os.makedirs(os.path.dirname(args.prepared), exist_ok=True)
    subprocess.run(["cp", "--sparse=always", args.image, args.prepared + ".new"], check=True)
    final, args.prepared = args.prepared, args.prepared + ".new"
    vm = Vm(args.engine, args, tmp, "first-a", 1)
    try:
        vm.boot(IMAGE_LIMIT_S)
        if "yes" not in vm.ssh("command -v fio >/dev/null && command -v iperf3 >/dev/null && command -v make >/dev/null && echo yes"):
            raise Failed(f"{args.image} has no fio, iperf3 or make: `make image` builds one that has")
        vm.power_off()
        os.replace(vm.disk, final)
        os.unlink(args.prepared)
    finally:
        args.prepared = final
        vm.stop()
