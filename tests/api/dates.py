# SPDX-License-Identifier: Apache-2.0
"""What a restored guest's clock says."""
import os
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "snap"))
from machine import put_back  # noqa: E402


def clock_realtime(c, shell):
    """A snapshot that seems an hour old: the guest's clock goes on by that, if the client wants it to."""
    files = {"snapshot_path": c.path("snap"), "mem_file_path": c.path("mem")}
    v = c.vmm("date")
    c.done(v, v.put("/boot-source", kernel_image_path=c.args.kernel, initrd_path=c.args.initramfs, boot_args=c.shell), "a guest")
    c.done(v, v.put("/machine-config", vcpu_count=1, mem_size_mib=160), "its machine")
    c.done(v, v.put("/actions", action_type="InstanceStart"), "starts")
    c.tap.ok(v.says("/root # ") and shell(v, "before=$(date +%s); echo re'ady'", "ready"), "and has a shell", v.out())
    c.done(v, v.patch("/vm", state="Paused"), "it is paused")
    c.done(v, v.put("/snapshot/create", **files), "a snapshot is made")
    v.proc.kill()
    v.end()
    put_back(files["snapshot_path"], 3600)
    for options, hours in ({}, 0), ({"clock_realtime": False}, 0), ({"clock_realtime": True}, 1):
        w = c.vmm(f"date-{len(options)}-{hours}")
        c.done(w, w.put("/snapshot/load", **files, **options), f"{options}: it is loaded")
        c.done(w, w.patch("/vm", state="Resumed"), f"{options}: it is resumed")
        shell(w, "echo ho'urs': $((($(date +%s) - before) / 3600)), up $(($(cut -d. -f1 /proc/uptime) / 3600)), th'en'", "then")
        c.tap.ok(f"hours: {hours}, up {hours}," in w.out(), f"{options}: its clock is {hours} hours ahead", w.out(), w.err())
        w.proc.kill()
        w.end()
