# SPDX-License-Identifier: Apache-2.0
"""What the tests of disks share: TAP, guests whose console is read, images."""
import hashlib
import os
import queue
import re
import subprocess
import threading

LIMIT_S = 900
os.environ["PATH"] += ":/usr/sbin:/sbin"


class Tap:
    def __init__(self):
        self.nr = self.failed = 0

    def ok(self, good, text, *details):
        self.nr += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.nr} - {text}", flush=True)
        for d in details if not good else ():
            for line in str(d).splitlines()[-30:]:
                print(f"# {line}", flush=True)
        return good

    def skip(self, text, why):
        self.nr += 1
        print(f"ok {self.nr} - {text} # SKIP {why}", flush=True)


class Vm:
    """A running guest whose console and messages are read line by line."""

    def __init__(self, c, command, disks, *, options=(), wrap=None):
        args = [c.args.doppel, "run", "--kernel", c.args.kernel, "--initrd", c.args.initramfs, "--append",
                f'console=ttyS0 quiet doppel.cmd="{command}"', *options]
        for d in disks:
            args += ["--disk", d]
        self.p = subprocess.Popen(wrap(args) if wrap else args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, errors="replace")
        self.out, self.err, self.lines = [], [], queue.Queue()
        self.readers = [threading.Thread(target=self.read, args=a, daemon=True)
                        for a in ((self.p.stdout, self.out), (self.p.stderr, self.err))]
        for r in self.readers:
            r.start()

    def read(self, f, to):
        for line in f:
            line = line.replace("\r", "").rstrip("\n")
            to.append(line)
            self.lines.put(line)
        self.lines.put(None)

    def wait_line(self, pattern):
        """The match of the first new line with that; None at the end."""
        ends = 0
        while ends < 2:
            try:
                line = self.lines.get(timeout=LIMIT_S)
            except queue.Empty:
                return None
            if line is None:
                ends += 1
            elif m := re.search(pattern, line):
                return m
        return None

    def type(self, text):
        self.p.stdin.write(text)
        self.p.stdin.flush()

    def kill(self):
        self.p.kill()
        return self.end()

    def end(self):
        """The exit status; all output is there."""
        try:
            status = self.p.wait(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
            status = None
        for r in self.readers:
            r.join()
        return status

    def log(self):
        return "\n".join(self.out + ["--- messages ---"] + self.err)


class Context:
    def __init__(self, args, tap, tmp):
        self.args, self.tap, self.tmp = args, tap, tmp

    def image(self, name, mib, fs=True):
        path = os.path.join(self.tmp, name)
        with open(path, "wb") as f:
            f.truncate(mib << 20)
        if fs:
            subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", path], check=True)
        return path

    def run(self, command, disks, **more):
        vm = Vm(self, command, disks, **more)
        return vm.end(), vm

    def refused(self, text, disks, want, **more):
        """That this run ends with status 1 and says why."""
        status, vm = self.run("true", disks, **more)
        self.tap.ok(status == 1 and all(w in vm.log() for w in want), text, status, vm.log())


def sum_of(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def fsck_clean(path):
    done = subprocess.run(["e2fsck", "-fn", path], capture_output=True, text=True)
    return done.returncode == 0, done.stdout + done.stderr
