# SPDX-License-Identifier: Apache-2.0
"""A client of the control API, and a process that serves it."""
import http.client
import json
import os
import socket
import subprocess
import time

# For what should take a moment: the host may be busy with something else.
LIMIT_S = 300


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=LIMIT_S)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Vmm:
    """A firecracker (or doppel api) that runs, with its serial port on pipes."""

    def __init__(self, cmd, tmp, name, options=(), sock=True, env=None):
        self.sock = os.path.join(tmp, name + ".sock")
        self.out_path = os.path.join(tmp, name + ".out")
        self.err_path = os.path.join(tmp, name + ".err")
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.proc = subprocess.Popen([*cmd, *(["--api-sock", self.sock] if sock else []), *options],
                                         stdin=subprocess.PIPE, stdout=out, stderr=err, env=env)
        if sock:
            self.wait(self.listens)

    def listens(self):
        """Its socket is there before somebody listens on it."""
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(self.sock) == 0

    def wait(self, good, limit_s=LIMIT_S):
        """Until that is so; False: the process has ended before, or it took too long."""
        end = time.monotonic() + limit_s
        while not good():
            if self.proc.poll() is not None or time.monotonic() > end:
                return bool(good())
            time.sleep(0.02)
        return True

    def out(self):
        with open(self.out_path, "rb") as f:
            return f.read().decode("latin-1")

    def err(self):
        with open(self.err_path, "rb") as f:
            return f.read().decode("latin-1")

    def says(self, text):
        return self.wait(lambda: text in self.out())

    def type(self, text):
        self.proc.stdin.write(text.encode())
        self.proc.stdin.flush()

    def ask(self, method, path, body=None, headers=None):
        """(status, the body as JSON or None)"""
        c = UnixConnection(self.sock)
        try:
            text = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
            c.request(method, path, text, headers or {})
            r = c.getresponse()
            data = r.read()
            return r.status, json.loads(data) if data else None
        finally:
            c.close()

    def get(self, path):
        return self.ask("GET", path)

    def put(self, path, **body):
        return self.ask("PUT", path, body)

    def patch(self, path, **body):
        return self.ask("PATCH", path, body)

    def end(self):
        """Waits for its end; its status."""
        try:
            return self.proc.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            return None

    def close(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        self.proc.stdin.close()
