# SPDX-License-Identifier: Apache-2.0
"""A VNC client for tests (RFB 3.8, RFC 6143): raw pixels, new sizes, keys, pointer, passwords."""
import socket
import struct
import subprocess

SECURITY_NONE, SECURITY_VNC = 1, 2
ENCODING_RAW, ENCODING_SIZE = 0, -223


class Refused(Exception):
    pass


class Client:
    def __init__(self, where, password=None, limit_s=300, shy=False):
        """where: a Unix socket's path, or a pair of host and port. shy: introduce() is left to the caller."""
        if isinstance(where, str):
            self.s = socket.socket(socket.AF_UNIX)
        else:
            self.s = socket.socket()
        self.s.settimeout(limit_s)
        self.s.connect(where)
        if self.read(12) != b"RFB 003.008\n":
            raise Refused("no RFB 3.8")
        self.s.sendall(b"RFB 003.008\n")
        kinds = self.read(self.read(1)[0])
        if (SECURITY_VNC if password is not None else SECURITY_NONE) not in kinds:
            raise Refused(f"security types {list(kinds)}")
        if password is not None:
            self.authenticate(password)
        else:
            self.s.sendall(bytes([SECURITY_NONE]))
        if self.read(4) != bytes(4):
            raise Refused("security result")
        self.s.sendall(b"\1")  # others may stay
        self.width, self.height = struct.unpack(">HH", self.read(4))
        self.format = self.read(16)
        self.name = self.read(struct.unpack(">I", self.read(4))[0]).decode()
        self.pixels = bytearray(4 * self.width * self.height)
        if not shy:
            self.introduce()

    def introduce(self):
        """Says what it understands."""
        # 32 bits a pixel, little endian, 8 bits a colour: red at bit 16
        self.s.sendall(struct.pack(">B3x BBBBHHHBBB3x", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0))
        self.s.sendall(struct.pack(">BxHii", 2, 2, ENCODING_RAW, ENCODING_SIZE))

    def authenticate(self, password):
        """"VNC Authentication": DES of 16 bytes; each byte of the key is read from its lowest bit on."""
        self.s.sendall(bytes([SECURITY_VNC]))
        key = password.encode()[:8].ljust(8, b"\0")
        key = bytes(int(f"{b:08b}"[::-1], 2) for b in key).hex()
        r = subprocess.run(["openssl", "enc", "-des-ede3-ecb", "-nopad", "-K", 3 * key], input=self.read(16), capture_output=True)
        if len(r.stdout) != 16:
            raise RuntimeError(f"openssl: {r.stderr}")
        self.s.sendall(r.stdout)

    def read(self, nr):
        got = b""
        while len(got) < nr:
            try:
                part = self.s.recv(nr - len(got))
            except ConnectionResetError:
                part = b""
            if not part:
                raise Refused("the server has closed the connection")
            got += part
        return got

    def close(self):
        self.s.close()

    def ask(self, incremental):
        self.s.sendall(struct.pack(">BBHHHH", 3, incremental, 0, 0, self.width, self.height))

    def update(self, incremental=False):
        """Asks for pixels and takes them. One that only tells a new size is followed by another."""
        self.ask(incremental)
        while True:
            kind = self.read(1)[0]
            if kind == 0:
                if self.take_update():
                    return
            elif kind == 3:  # cut text
                self.read(struct.unpack(">3xI", self.read(7))[0])
            elif kind != 2:  # bell
                raise Refused(f"message {kind}")

    def take_update(self):
        """True: there were pixels in it."""
        pixels = False
        for _ in range(struct.unpack(">xH", self.read(3))[0]):
            x, y, w, h, encoding = struct.unpack(">HHHHi", self.read(12))
            if encoding == ENCODING_SIZE:
                self.width, self.height = w, h
                self.pixels = bytearray(4 * w * h)
            elif encoding == ENCODING_RAW:
                data = self.read(4 * w * h)
                pixels = True
                for row in range(h):
                    at = 4 * ((y + row) * self.width + x)
                    self.pixels[at:at + 4 * w] = data[4 * w * row:4 * w * (row + 1)]
            else:
                raise Refused(f"encoding {encoding}")
        return pixels

    def rows(self):
        """As of a PNG: rows of (red, green, blue)."""
        p = self.pixels
        return [[(p[i + 2], p[i + 1], p[i]) for i in range(4 * self.width * y, 4 * self.width * (y + 1), 4)]
                for y in range(self.height)]

    def key(self, keysym, down):
        self.s.sendall(struct.pack(">BBxxI", 4, down, keysym))

    def type(self, text):
        for c in text:
            keysym = 0xff0d if c == "\n" else ord(c)
            self.key(keysym, True)
            self.key(keysym, False)

    def pointer(self, x, y, buttons=0):
        self.s.sendall(struct.pack(">BBHH", 5, buttons, x, y))
