# SPDX-License-Identifier: Apache-2.0
"""The machines that bench/run measures: the host itself, doppel's engines, QEMU's TCG, User Mode Linux, Bochs.

Each runs bench/work with a list of works and gives what it printed, line by line. A guest that dies or says nothing any
more is started again with what is left.
"""
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time

FIRST = "bench: first process"
END = "bench: end"
APPEND = "console=ttyS0 quiet"
RESTARTS = 8
BOOT_STALL_S = 120       # Bochs reads a CD
LINE = re.compile(r"bench: (begin|done|unsupported|failed) (\S+) ?(.*)")

BOCHSRC = """
config_interface: textconfig
display_library: term
megs: 1024
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=corei7_skylake_x, ips=50000000, reset_on_triple_fault=0
clock: sync=none
ata0-master: type=cdrom, path={dir}/guest.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={dir}/serial
log: {dir}/log
speaker: enabled=0
sound: waveoutdrv=dummy
"""


class Result:
    """What one machine did."""

    def __init__(self):
        self.works = {}       # name: {"sum", "first", "samples"} (nanoseconds for one operation), or {"why"}
        self.boot = []        # seconds from the start of the machine to its first process, one of each boot
        self.shell = []       # the same to the first command of the guest of `make run`
        self.clock = []       # (work, guest's seconds, host's seconds)
        self.speed = []       # millions of guest instructions a second, of each machine that counts them
        self.notes = []
        self.no = None        # why this machine cannot be measured at all


class Machine:
    """One way to run the guest. Subclasses say how it is started and where its lines come from."""

    host_clock = False        # the guest's own clock is not to be trusted

    def __init__(self, name, title, args):
        self.name, self.title, self.args = name, title, args
        self.tries_left = RESTARTS

    def missing(self):
        """What is not there to run it."""
        return []

    def command(self, tmp, guest, words):
        """guest: kernel, initrd, memory in MB; words: of the kernel's command line."""
        raise NotImplementedError

    def ended(self, tmp, res):
        """A run is over."""

    def start(self, tmp, guest, words):
        """Returns the process and the file descriptor of its serial output."""
        with open(f"{tmp}/stderr", "wb") as err:
            proc = subprocess.Popen(self.command(tmp, guest, words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                    stderr=err, env={**os.environ, "XDG_RUNTIME_DIR": tmp}, start_new_session=True)
        return proc, proc.stdout.fileno()

    def lines(self, guest, words, stall_s, res):
        """Yields (seconds since the start, line) until the end, or until nothing came for stall_s."""
        with tempfile.TemporaryDirectory() as tmp:
            proc, fd = self.start(tmp, guest, words)
            began, last, buf, tail = time.monotonic(), time.monotonic(), b"", []
            try:
                while True:
                    if not select.select([fd], [], [], 0.2)[0]:
                        if proc.poll() is not None:
                            res.why = f"ended early, status {proc.returncode}"
                            break
                        if time.monotonic() - last > stall_s:
                            res.why = f"said nothing for {stall_s:.0f} s"
                            break
                        continue
                    data = os.read(fd, 65536)
                    last = time.monotonic()
                    if not data:
                        proc.wait(10)
                        res.why = f"ended early, status {proc.returncode}"
                        break
                    *got, buf = (buf + data).split(b"\n")
                    for line in got:
                        text = line.decode(errors="replace").strip()
                        tail = (tail + [text])[-12:]
                        yield last - began, text
            finally:
                stop(proc)
                self.ended(tmp, res)
            if os.path.exists(f"{tmp}/stderr"):
                with open(f"{tmp}/stderr", errors="replace") as f:
                    tail += f.read().splitlines()[-12:]
            res.tail = tail + [t for t in [buf.decode(errors="replace").strip()] if t]


class Doppel(Machine):
    def __init__(self, engine, args):
        super().__init__(engine, f"doppel {engine}", args)

    def missing(self):
        return [self.args.doppel] if not shutil.which(self.args.doppel) else []

    def command(self, tmp, guest, words):
        return [self.args.doppel, "run", "--engine", self.name, "--memory", f"{guest.megs}M", "--no-reboot",
                "--kernel", guest.kernel, "--initrd", guest.initrd, "--append", f"{APPEND} {words}", "--stats", f"{tmp}/stats"] + \
            self.args.doppel_args.split()

    def ended(self, tmp, res):
        """Only interp counts all of them."""
        try:
            with open(f"{tmp}/stats", encoding="ascii") as f:
                stats = json.load(f)
        except (OSError, ValueError):
            return
        if self.name == "interp" and stats["seconds"] > 0:
            res.speed.append(stats["vcpus"][0]["instructions"] / stats["seconds"] / 1e6)


class Tcg(Machine):
    def __init__(self, args):
        super().__init__("tcg", "QEMU TCG", args)

    def missing(self):
        return [] if shutil.which("qemu-system-x86_64") else ["qemu-system-x86_64"]

    def command(self, tmp, guest, words):
        return ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", str(guest.megs), "-nographic",
                "-no-reboot", "-kernel", guest.kernel, "-initrd", guest.initrd, "-append", f"{APPEND} {words}"]


class Uml(Machine):
    """User Mode Linux: a kernel of its own, the same initial file system."""

    def __init__(self, args):
        super().__init__("uml", "UML", args)

    def missing(self):
        return [] if shutil.which("linux.uml") else ["linux.uml"]

    def command(self, tmp, guest, words):
        return ["linux.uml", f"mem={guest.megs}M", f"initrd={guest.initrd}", "con=null", "con0=null,fd:1", "quiet",
                f"uml_dir={tmp}", f"umid=bench{os.getpid()}"] + words.split()


class Bochs(Machine):
    """Boots from a CD. Its clock counts instructions."""

    host_clock = True

    def __init__(self, args):
        super().__init__("bochs", "Bochs", args)

    def missing(self):
        files = ("/usr/share/bochs/BIOS-bochs-latest", "/usr/lib/grub/i386-pc/linux.mod")
        return [n for n in ("bochs", "grub-mkrescue", "script") if not shutil.which(n)] + \
            [f for f in files if not os.path.exists(f)]

    def start(self, tmp, guest, words):
        grub = os.path.join(tmp, "iso", "boot", "grub")
        os.makedirs(grub)
        shutil.copy(guest.kernel, f"{tmp}/iso/vmlinuz")
        shutil.copy(guest.initrd, f"{tmp}/iso/initrd")
        with open(f"{grub}/grub.cfg", "w", encoding="ascii") as f:
            f.write(f"linux /vmlinuz {APPEND} {words}\ninitrd /initrd\nboot\n")
        subprocess.run(["grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", f"{tmp}/guest.iso", f"{tmp}/iso"],
                       check=True, capture_output=True)
        # A pipe with a name: lines come when they are written, not when somebody looks.
        os.mkfifo(f"{tmp}/serial")
        fd = os.open(f"{tmp}/serial", os.O_RDWR)
        for name, text in (("bochsrc", BOCHSRC.format(dir=tmp)), ("commands", "c\n")):
            with open(f"{tmp}/{name}", "w", encoding="ascii") as f:
                f.write(text)
        # It wants a terminal.
        cmd = ["script", "-qec", f"exec bochs -q -f {tmp}/bochsrc -rc {tmp}/commands", "/dev/null"]
        proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                env={**os.environ, "TERM": "vt100"}, start_new_session=True)
        return proc, fd


class Native(Machine):
    """The host: in a chroot of the guest's root for everyday work, with a file system in memory like the guest's."""

    IN_TREE = """set -e
mount -t tmpfs -o mode=755 bench "$1"
cp -a "$2/." "$1"
mount --bind /dev "$1/dev"
mount -t proc proc "$1/proc"
dir=$1
shift 2
exec chroot "$dir" /bin/busybox env -i sh -c 'cd /tmp && exec /bench/work "$@"' work "$@"
"""

    def __init__(self, args):
        super().__init__("native", "native", args)

    def start(self, tmp, guest, words):
        args = words.replace("-- ", "", 1).split()
        os.mkdir(f"{tmp}/root")
        # Without root's rights in a user namespace of its own, where the host allows one.
        cmd = ["unshare", "-m"] + ([] if os.geteuid() == 0 else ["-r"]) + \
            ["sh", "-c", self.IN_TREE, "sh", f"{tmp}/root", guest.tree, "-p"] + args
        if not guest.everyday:
            cmd = [self.args.work, "-p"] + args
        with open(f"{tmp}/stderr", "wb") as err:
            proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err,
                                    cwd="/dev/shm" if os.path.isdir("/dev/shm") else tmp, start_new_session=True)
        return proc, proc.stdout.fileno()


def stop(proc):
    """Ends what we started and what that started (script has Bochs below it)."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(proc.pid, sig)
        except ProcessLookupError:
            pass
        try:
            proc.wait(5)
            break
        except subprocess.TimeoutExpired:
            pass
    if proc.stdout:
        proc.stdout.close()


def take(machine, res, what, name, rest, seconds):
    """One line about a work, "begin" aside. seconds: the host's since its "begin"."""
    if what == "unsupported":
        res.works[name] = {"why": "unsupported"}
    elif what == "failed":
        res.works[name] = {"why": rest}
    else:
        checksum, total, first, *samples = rest.split()
        scale = 1.0
        if machine.host_clock:
            scale = seconds / float(total)
        elif machine.name != "native":
            res.clock.append((name, float(total), seconds))
        res.works[name] = {"sum": checksum, "first": float(first) * scale, "samples": [float(s) * scale for s in samples]}


def run_once(machine, guest, works, options, res, say):
    """Runs the works until the end or until the machine is at its own. Returns whether it came to the end."""
    open_work, begun = None, 0.0
    res.why, res.tail = "ended early", []
    words = f"-- {' '.join(options)} {','.join(works)}" if works else ""
    stall = BOOT_STALL_S if machine.name == "bochs" else machine.args.stall
    for at, line in machine.lines(guest, words, stall, res):
        if FIRST in line:
            # Boots for works come when the host's caches know the kernel, or with a big file system: not the same.
            if not works:
                res.boot.append(at)
            say(f"first process after {at:.2f} s")
        if END in line:
            return True
        m = LINE.search(line)
        if not m:
            continue
        what, name, rest = m.groups()
        if what == "begin":
            open_work, begun = name, at
        else:
            try:
                take(machine, res, what, name, rest, at - begun)
            except ValueError:
                res.works[name] = {"why": f"garbled: {rest}"}
            open_work = None
            say(f"{name}: {rest.split()[3] if what == 'done' and len(rest.split()) > 3 else what + ' ' + rest}")
        if machine.name == "native" and works and len([w for w in works if w in res.works]) == len(works):
            return True
    if open_work:
        res.works[open_work] = {"why": res.why}
    return False


def run_works(machine, guest, works, options, res, say):
    """The works, with new machines for what is left where one ends too early. Returns whether any was begun."""
    left = list(works)
    while left and machine.tries_left:
        ended = run_once(machine, guest, left, options, res, say)
        before, left = len(left), [w for w in left if w not in res.works]
        if ended and not left:
            return True
        machine.tries_left -= 1
        say(f"{res.why}; its last lines:\n    " + "\n    ".join(res.tail))
        if len(left) == before:
            # Not one work was begun: another try would end the same way.
            break
    for w in left:
        res.works[w] = {"why": f"not run: {res.why}"}
    if left:
        res.notes.append(f"{len(left)} works not run: {res.why}: {res.tail[-1] if res.tail else 'no output'}")
    return len(left) < len(works)


def run_boot(machine, guest, res, say):
    """Start to the first process, once; no works. (run_once notes the time.)"""
    if not run_once(machine, guest, [], [], res, say) and not res.boot:
        res.notes.append(f"does not boot: {res.why}: {res.tail[-1] if res.tail else 'no output'}")
        return False
    return True


def run_shell(machine, guest, res, say):
    """Start to the first command of the guest of `make run`, with its modules loaded: where a user's prompt is."""
    for at, line in machine.lines(guest, 'doppel.cmd="echo bench: shell"', machine.args.stall, res):
        if "bench: shell" in line:
            res.shell.append(at)
            say(f"shell after {at:.2f} s")
            return
