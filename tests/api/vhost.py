# SPDX-License-Identifier: Apache-2.0
"""A vhost-user drive, served by qemu-storage-daemon."""
import os
import shutil
import subprocess
import time

SHELL = "console=ttyS0 quiet reboot=k panic=-1 pci=off doppel.cmd=sh"
LIMIT_S = 300


class Daemon:
    """The process that serves the drive."""

    def __init__(self, c, name, mib):
        self.image, self.sock, pid_file = c.disk(name + ".img", mib), c.path(name + ".vhost"), c.path(name + ".pid")
        with open(c.path(name + ".log"), "wb") as log:
            self.proc = subprocess.Popen([
                "qemu-storage-daemon", "--pidfile", pid_file, "--blockdev", f"driver=file,node-name=f,filename={self.image}",
                "--export", f"type=vhost-user-blk,id=x,node-name=f,addr.type=unix,addr.path={self.sock},writable=on"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        end = time.monotonic() + LIMIT_S
        while not os.path.exists(pid_file) and self.proc.poll() is None and time.monotonic() < end:
            time.sleep(0.02)

    def kill(self):
        self.proc.kill()
        self.proc.wait()


def vhost_drive(c, shell):
    """PUT with a socket; the guest's data; PATCH; a snapshot; the process dies."""
    if not shutil.which("qemu-storage-daemon"):
        c.tap.skip("a vhost-user drive", "needs qemu-storage-daemon")
        return
    d = Daemon(c, "served", 8)
    try:
        walk(c, shell, d)
    finally:
        d.kill()


def walk(c, shell, d):
    v = c.vmm("vhost")
    c.done(v, v.put("/machine-config", vcpu_count=1, mem_size_mib=160), "a machine")
    c.done(v, v.put("/boot-source", kernel_image_path=c.args.kernel, initrd_path=c.args.initramfs, boot_args=SHELL), "its kernel")
    c.done(v, v.put("/drives/scratch", drive_id="scratch", socket=d.sock, is_root_device=False), "a vhost-user drive")
    drive = v.get("/vm/config")[1]["drives"][0]
    c.tap.ok(drive["socket"] == d.sock and drive["path_on_host"] is None and drive["io_engine"] is None, "it is in the configuration", drive)
    c.done(v, v.put("/actions", action_type="InstanceStart"), "the start")
    c.tap.ok(v.says("/root # "), "the guest has a shell", v.out(), v.err())
    c.tap.ok(shell(v, "head -c 3000000 /dev/urandom >/tmp/a; dd if=/tmp/a of=/dev/vda conv=fsync 2>/dev/null; "
                   "echo 3 >/proc/sys/vm/drop_caches; head -c 3000000 /dev/vda | cmp - /tmp/a && echo it is the sa'me'", "it is the same"),
             "what the guest writes is there", v.out(), v.err())
    shell(v, "md5sum </tmp/a >/tmp/sum; cat /tmp/sum; echo su'mmed'", "summed")
    with open(d.image, "rb") as f:
        c.tap.ok(any(f.read(3000000)), "and in the process's file")
    c.refused(v.patch("/drives/scratch", drive_id="scratch", path_on_host=d.image), "it gets no file", "vhost-user")
    c.refused(v.patch("/drives/scratch", drive_id="scratch", rate_limiter={"ops": {"size": 1, "refill_time": 1}}), "and no limits", "vhost-user")
    # Another size would be seen then; Debian's daemon does not tell of one (store_vhost_test.c has a process that does).
    c.done(v, v.patch("/drives/scratch", drive_id="scratch"), "its configuration is looked at again")
    c.done(v, v.patch("/vm", state="Paused"), "a pause")
    files = {"snapshot_path": c.path("vhost.snap"), "mem_file_path": c.path("vhost.mem")}
    c.done(v, v.put("/snapshot/create", **files), "a snapshot")
    v.proc.kill()
    v.end()
    v = c.vmm("vhost2")
    c.done(v, v.put("/snapshot/load", resume_vm=True, **files), "is loaded")
    c.tap.ok(shell(v, "echo 3 >/proc/sys/vm/drop_caches; head -c 3000000 /dev/vda | md5sum | cmp - /tmp/sum && echo still the sa'me'", "still the same"),
             "the drive is what it was", v.out(), v.err())
    d.kill()
    c.tap.ok(shell(v, "echo 3 >/proc/sys/vm/drop_caches; head -c 4096 /dev/vda >/dev/null || echo it fai'led'", "it failed"),
             "when the process is gone the guest gets errors", v.out(), v.err())
    c.tap.ok("is lost" in v.err() + v.out(), "and that is told", v.err())
    c.refused(v.patch("/drives/scratch", drive_id="scratch"), "a PATCH then is refused")
    v.type("reboot -f\n")
    c.tap.ok(v.end() == 0, "the machine ends", v.proc.returncode, v.err())
