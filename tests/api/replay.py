# SPDX-License-Identifier: Apache-2.0
"""What other people's clients send, request by request and in their order, with the members that they send and those they leave
null. Written from what they were seen to do; none of them is needed here."""
import json
import os
import select
import signal
import socket
import subprocess
import tempfile

from client import LIMIT_S
import lib


class Wire:
    """A connection that is kept open, as Go's and hyper's clients keep theirs, and the bytes on it."""

    def __init__(self, path, *headers):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(LIMIT_S)
        self.s.connect(path)
        self.headers = "".join(h + "\r\n" for h in headers)
        self.rest = b""

    def more(self):
        data = self.s.recv(65536)
        if not data:
            raise OSError("the connection was closed")
        self.rest += data

    def ask(self, method, path, body=None):
        """(status, headers, body as text)"""
        text = "" if body is None else body if isinstance(body, str) else json.dumps(body)
        length = f"Content-Length: {len(text)}\r\n" if body is not None else ""
        self.s.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{self.headers}{length}\r\n{text}".encode())
        while b"\r\n\r\n" not in self.rest:
            self.more()
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}
        nr = int(headers.get("content-length", 0))
        while len(self.rest) < nr:
            self.more()
        body, self.rest = self.rest[:nr].decode(), self.rest[nr:]
        return int(lines[0].split()[1]), headers, body


def go(path):
    return Wire(path, "User-Agent: Go-http-client/1.1", "Accept: application/json", "Content-Type: application/json", "Accept-Encoding: gzip")


def done(c, answer, text):
    status, headers, body = answer
    c.tap.ok(status == 204 and body == "" and headers.get("content-length", "0") == "0", text, answer)


def found(c, answer, text, **members):
    status, headers, body = answer
    got = json.loads(body) if status == 200 else {}
    c.tap.ok(status == 200 and headers["content-type"] == "application/json" and all(got.get(k) == v for k, v in members.items()), text, answer)
    return got


class Fifo:
    """A named pipe whose reader comes first, as the SDK's and Kata's."""

    def __init__(self, path):
        os.mkfifo(path, 0o700)
        self.path, self.fd, self.text = path, os.open(path, os.O_RDONLY | os.O_NONBLOCK), ""

    def has(self, text):
        while select.select([self.fd], [], [], 0)[0]:
            data = os.read(self.fd, 65536)
            if not data:
                break
            self.text += data.decode("latin-1")
        return text in self.text


def bucket(size):
    return {"one_time_burst": 0, "refill_time": 100, "size": size}


def go_sdk(c, shell):
    """firecracker-go-sdk, and firecracker-containerd, Ignite and Nomad's driver on top of it: NewMachine, Start, patches, a
    snapshot, Shutdown, StopVMM."""
    log, metrics = Fifo(c.path("sdk-log")), Fifo(c.path("sdk-metrics"))
    v = c.vmm("sdk", "--no-seccomp", "--id", "b5a2a7b0-1f67-4a3e-8d0a-0a4f5ad2e3c1")
    w = go(v.sock)
    found(c, w.ask("GET", "/machine-config"), "SDK: it waits until the machine's defaults are told", vcpu_count=1, mem_size_mib=128)
    done(c, w.ask("PUT", "/logger", {"level": "Debug", "log_path": log.path, "show_level": True, "show_log_origin": False}), "SDK: logger")
    done(c, w.ask("PUT", "/metrics", {"metrics_path": metrics.path}), "SDK: metrics")
    machine = {"cpu_template": "T2", "mem_size_mib": 160, "smt": False, "track_dirty_pages": True, "vcpu_count": 1}
    done(c, w.ask("PUT", "/machine-config", json.dumps(machine) + "\n"), "SDK: machine")
    found(c, w.ask("GET", "/machine-config"), "SDK: and reads it again", **machine)
    done(c, w.ask("PUT", "/boot-source", {"boot_args": c.shell, "initrd_path": c.args.initramfs, "kernel_image_path": c.args.kernel}),
         "SDK: boot source")
    drive = {"cache_type": "Unsafe", "drive_id": "root_drive", "io_engine": "Sync", "is_read_only": False, "is_root_device": True,
             "path_on_host": c.disk("sdk-root"), "rate_limiter": {"bandwidth": bucket(1 << 20), "ops": bucket(1000)}}
    done(c, w.ask("PUT", "/drives/root_drive", drive), "SDK: root drive")
    stub = c.path("ctrstub0")
    with open(stub, "wb") as f:
        f.truncate(512)
    done(c, w.ask("PUT", "/drives/MN2HE43UOVRDA", {"drive_id": "MN2HE43UOVRDA", "is_read_only": False, "is_root_device": False,
                                                   "path_on_host": stub}), "firecracker-containerd: a stub drive of one sector")
    done(c, w.ask("PUT", "/network-interfaces/1", {"guest_mac": "AA:FC:00:00:00:01", "host_dev_name": "user:", "iface_id": "1"}),
         "SDK: network interface")
    done(c, w.ask("PUT", "/vsock", {"guest_cid": 3, "uds_path": c.path("sdk-vsock"), "vsock_id": "agent_api"}), "SDK: vsock")
    done(c, w.ask("PUT", "/mmds/config", {"imds_compat": False, "ipv4_address": "169.254.169.254", "network_interfaces": ["1"],
                                          "version": "V2"}), "SDK: metadata service")
    done(c, w.ask("PUT", "/mmds", {"latest": {"meta-data": {"hostname": "sdk"}}}), "SDK: metadata")
    done(c, w.ask("PUT", "/balloon", {"amount_mib": 0, "deflate_on_oom": True, "stats_polling_interval_s": 1}), "SDK: balloon")
    done(c, w.ask("PUT", "/actions", {"action_type": "InstanceStart"}), "SDK: start")
    found(c, w.ask("GET", "/"), "SDK: DescribeInstance", state="Running", app_name="Firecracker", id="b5a2a7b0-1f67-4a3e-8d0a-0a4f5ad2e3c1")
    found(c, w.ask("GET", "/version"), "SDK: GetFirecrackerVersion", firecracker_version="1.14.0")
    config = found(c, w.ask("GET", "/vm/config"), "SDK: GetExportVMConfig")
    c.tap.ok(config["drives"][0]["drive_id"] == "root_drive" and config["drives"][1]["cache_type"] == "Unsafe" and config["metrics"] and
             config["entropy"] is None, "SDK: which has all members", config)
    c.tap.ok(log.has("[b5a2a7b0-1f67-4a3e-8d0a-0a4f5ad2e3c1:"), "SDK: the log comes by the pipe", log.text)
    c.tap.ok(v.says("/root # "), "SDK: the guest runs", v.out(), v.err())
    with open(c.path("container"), "wb") as f:
        f.write(b"container's rootfs")
        f.truncate(8 << 20)
    done(c, w.ask("PATCH", "/drives/MN2HE43UOVRDA", {"drive_id": "MN2HE43UOVRDA", "path_on_host": c.path("container"),
                                                     "rate_limiter": {"bandwidth": bucket(1 << 24), "ops": bucket(10000)}}),
         "firecracker-containerd: the stub becomes a container's")
    c.tap.ok(shell(v, "while [ $(cat /sys/block/vdb/size) != 16384 ]; do sleep 0.1; done; dd if=/dev/vdb bs=18 count=1 2>/dev/null; echo",
                   "container's rootfs"), "firecracker-containerd: which the guest sees", v.out())
    done(c, w.ask("PATCH", "/network-interfaces/1", {"iface_id": "1", "rx_rate_limiter": {"bandwidth": bucket(1 << 20)}}), "SDK: its limits")
    done(c, w.ask("PATCH", "/mmds", {"latest": {"meta-data": {"more": "1"}}}), "SDK: UpdateMetadata")
    c.tap.ok(json.loads(w.ask("GET", "/mmds")[2]) == {"latest": {"meta-data": {"hostname": "sdk", "more": "1"}}}, "SDK: GetMetadata")
    found(c, w.ask("GET", "/balloon"), "SDK: GetBalloonConfig", amount_mib=0, deflate_on_oom=True, stats_polling_interval_s=1)
    done(c, w.ask("PATCH", "/balloon", {"amount_mib": 4}), "SDK: UpdateBalloon")
    c.tap.ok(json.loads(w.ask("GET", "/balloon/statistics")[2])["target_pages"] == 1024, "SDK: GetBalloonStats")
    done(c, w.ask("PATCH", "/balloon/statistics", {"stats_polling_interval_s": 2}), "SDK: UpdateBalloonStats")
    shell(v, "x=kept; echo mar'ked'", "marked")
    done(c, w.ask("PATCH", "/vm", {"state": "Paused"}), "SDK: PauseVM")
    done(c, w.ask("PUT", "/snapshot/create", {"mem_file_path": c.path("sdk-mem"), "snapshot_path": c.path("sdk-snap")}), "SDK: CreateSnapshot")
    done(c, w.ask("PATCH", "/vm", {"state": "Resumed"}), "SDK: ResumeVM")
    done(c, w.ask("PUT", "/actions", {"action_type": "SendCtrlAltDel"}), "SDK: Shutdown")
    v.proc.send_signal(signal.SIGTERM)
    c.tap.ok(v.end() is not None and not os.path.exists(v.sock), "SDK: StopVMM ends it, and the socket is gone", v.proc.returncode)
    c.tap.ok(metrics.has("actions_count"), "SDK: metrics came by the pipe", metrics.text)
    go_sdk_load(c, shell)


def go_sdk_load(c, shell):
    """WithSnapshot(): a new process, and nothing of a machine set before."""
    v = c.vmm("sdk-load", "--no-seccomp", "--id", "restored")
    w = go(v.sock)
    found(c, w.ask("GET", "/machine-config"), "SDK: a machine to load into")
    done(c, w.ask("PUT", "/logger", {"level": "Info", "log_path": c.path("sdk-load.log"), "show_level": True, "show_log_origin": False}),
         "SDK: its logger")
    done(c, w.ask("PUT", "/snapshot/load", {"enable_diff_snapshots": True, "resume_vm": True, "snapshot_path": c.path("sdk-snap"),
                                            "mem_backend": {"backend_path": c.path("sdk-mem"), "backend_type": "File"},
                                            "vsock_override": {"uds_path": c.path("sdk-vsock2")}}), "SDK: LoadSnapshot, and go on")
    found(c, w.ask("GET", "/"), "SDK: it runs", state="Running")
    c.tap.ok(shell(v, "echo here: $x", "here: kept"), "SDK: the guest goes on where it was", v.out(), v.err())
    v.proc.send_signal(signal.SIGTERM)
    c.tap.ok(v.end() == 0, "SDK: and ends", v.proc.returncode)


def kata_go(c, shell):
    """Kata's first driver: all in a file, metrics and messages by pipes, nine drives of which eight are empty files."""
    log, metrics = Fifo(c.path("kata-log")), Fifo(c.path("kata-metrics"))
    drives = [("rootfs", c.disk("kata-rootfs"), True)]
    for i in range(8):
        path = c.path(f"drive_{i}")
        open(path, "wb").close()
        drives.append((f"drive_{i}", path, False))
    # With acpi=off, too; but Debian's kernels have no MP tables, and would find no device.
    args = "reboot=k panic=1 iommu=off net.ifnames=0 random.trust_cpu=on console=ttyS0 quiet doppel.cmd=sh pci=off"
    config = {"boot-source": {"boot_args": args, "kernel_image_path": c.args.kernel, "initrd_path": c.args.initramfs},
              "machine-config": {"mem_size_mib": 192, "smt": False, "vcpu_count": 1},
              "drives": [{"drive_id": i, "is_read_only": ro, "is_root_device": False, "path_on_host": p} for i, p, ro in drives],
              "vsock": {"guest_cid": 3, "uds_path": c.path("kata.hvsock"), "vsock_id": "root"},
              "network-interfaces": [{"guest_mac": "02:42:ac:11:00:02", "host_dev_name": "user:", "iface_id": "eth0", "rx_rate_limiter": {},
                                      "tx_rate_limiter": {"bandwidth": {"refill_time": 1000, "size": 1 << 20}}}],
              "logger": {"level": "Error", "log_path": log.path}, "metrics": {"metrics_path": metrics.path}}
    with open(c.path("fcConfig.json"), "w") as f:
        json.dump(config, f, indent="\t")
    v = c.vmm("kata", "--config-file", c.path("fcConfig.json"))
    w = go(v.sock)
    c.tap.ok(v.wait(lambda: json.loads(w.ask("GET", "/")[2])["state"] == "Running"), "Kata: it waits until the machine runs", v.err())
    os.chmod(c.path("kata.hvsock"), 0o640)
    c.tap.ok(v.says("/root # "), "Kata: the guest runs", v.out(), v.err())
    c.tap.ok(shell(v, "cat /sys/block/vda/ro /sys/block/vdi/size; echo si'zes'", "1\r\n0\r\nsizes"), "Kata: empty files are drives", v.out())
    disk = c.disk("kata-block", 16)
    done(c, w.ask("PATCH", "/drives/drive_7", {"drive_id": "drive_7", "path_on_host": disk}), "Kata: a drive gets a file")
    c.tap.ok(shell(v, "while [ $(cat /sys/block/vdi/size) != 32768 ]; do sleep 0.1; done; echo sees'it'", "seesit"), "Kata: the guest sees it", v.out())
    done(c, w.ask("PATCH", "/drives/drive_7", {"drive_id": "drive_7", "path_on_host": c.path("drive_7")}), "Kata: and is taken away")
    v.proc.send_signal(signal.SIGTERM)
    c.tap.ok(v.end() == 0, "Kata: SIGTERM ends it", v.proc.returncode)


def kata_rs(c, shell):
    """Kata's second driver: the same by requests, each tried until it is good, from before the socket is there."""
    v = c.vmm("kata-rs")
    w = Wire(v.sock, "accept: application/json", "content-type: application/json")
    kernel = c.guest("kata-hello", lib.say("kata here\n") + lib.SPIN)
    done(c, w.ask("PUT", "/boot-source", {"boot_args": "pci=off iommu=off", "kernel_image_path": kernel}), "Kata 2: boot source")
    done(c, w.ask("PUT", "/machine-config", {"mem_size_mib": 64, "vcpu_count": 1}), "Kata 2: machine")
    done(c, w.ask("PUT", "/drives/rootfs", {"drive_id": "rootfs", "is_read_only": True, "is_root_device": False,
                                            "path_on_host": c.disk("kata-rs-root")}), "Kata 2: root file system")
    for i in range(1, 6):
        path = c.path(f"drive{i}")
        open(path, "wb").close()
        done(c, w.ask("PUT", f"/drives/drive{i}", {"drive_id": f"drive{i}", "is_read_only": False, "is_root_device": False, "path_on_host": path}),
             f"Kata 2: drive {i}")
    done(c, w.ask("PUT", "/vsock", {"guest_cid": 3, "uds_path": c.path("kata-rs.hvsock"), "vsock_id": "root"}), "Kata 2: vsock")
    done(c, w.ask("PUT", "/network-interfaces/eth0", {"guest_mac": None, "host_dev_name": "user:", "iface_id": "eth0"}), "Kata 2: network")
    done(c, w.ask("PUT", "/actions", {"action_type": "InstanceStart"}), "Kata 2: start")
    c.tap.ok(v.says("kata here"), "Kata 2: the guest runs", v.out(), v.err())
    done(c, w.ask("PATCH", "/drives/drive1", {"drive_id": "drive1", "path_on_host": c.disk("kata-rs-ctr"),
                                              "rate_limiter": {"bandwidth": None, "ops": {"one_time_burst": None, "refill_time": 1000, "size": 500}}}),
         "Kata 2: a container's root file system, with limits that are null in part")
    v.proc.kill()
    v.end()


def flintlock(c, shell):
    """flintlock: a file, metadata from another, no socket, standard input empty, output to files."""
    kernel = c.guest("flint", lib.say("flint here\n") + lib.RESET)
    config = {"boot-source": {"kernel_image_path": kernel, "boot_args": "console=ttyS0 reboot=k panic=1 pci=off", "initrd_path": None},
              "drives": [{"drive_id": "root", "path_on_host": c.disk("flint-root"), "is_root_device": True, "partuuid": None,
                          "is_read_only": False, "cache_type": "Unsafe", "rate_limiter": None}],
              "machine-config": {"vcpu_count": 2, "mem_size_mib": 64, "smt": True, "track_dirty_pages": False},
              "balloon": None, "network-interfaces": [{"iface_id": "eth0", "host_dev_name": "user:", "guest_mac": "AA:FF:00:00:00:01"}],
              "vsock": None, "logger": {"log_path": c.path("flint.log"), "level": "Debug", "show_level": True, "show_log_origin": True},
              "metrics": {"metrics_path": c.path("flint.metrics")}, "mmds-config": {"version": "V1", "network_interfaces": ["eth0"]}}
    for name, content in (("firecracker.cfg", config), ("metadata.json", {"latest": {"meta-data": "aW5zdGFuY2U="}})):
        with open(c.path(name), "w") as f:
            json.dump(content, f)
    for name in ("flint.log", "flint.metrics"):
        open(c.path(name), "ab").close()
    with tempfile.TemporaryFile() as out:
        r = subprocess.run([c.args.firecracker, "--id", "01FZZN26B6Z2T5RQ6SM4SRJ2Z5", "--boot-timer", "--no-api", "--config-file",
                            c.path("firecracker.cfg"), "--metadata", c.path("metadata.json")], stdin=subprocess.DEVNULL, stdout=out,
                           stderr=subprocess.PIPE, timeout=LIMIT_S)
        out.seek(0)
        c.tap.ok(r.returncode == 0 and b"flint here" in out.read(), "flintlock: the guest runs and ends", r.returncode, r.stderr)
    with open(c.path("flint.metrics")) as f:
        c.tap.ok(all(json.loads(line) for line in f), "flintlock: metrics are there")


CASES = (go_sdk, kata_go, kata_rs, flintlock)
