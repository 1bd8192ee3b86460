# SPDX-License-Identifier: Apache-2.0
"""Everything that CPython does with memory, processes and threads: load.py SIZE. What it prints depends on SIZE alone."""
import hashlib
import json
import os
import random
import re
import struct
import sys
import threading
import zlib

size = int(sys.argv[1])
rng = random.Random(1)


def digest(data):
    return hashlib.sha256(data if isinstance(data, bytes) else str(data).encode()).hexdigest()[:16]


text = " ".join("".join(rng.choice("abcdefgh") for _ in range(rng.randrange(1, 9))) for _ in range(size * 500))
print("re", len(re.findall(r"\b(?:a[bc]+|(?P<x>d+e?)f(?!g))\w*\b", text)), digest(re.sub(r"(\w)(\w)", r"\2\1", text)))
tree = {w: [len(w), {"hash": zlib.crc32(w.encode())}] for w in text.split()}
print("json", digest(json.dumps(json.loads(json.dumps(tree, sort_keys=True)), indent=1, sort_keys=True)))
print("zlib", digest(zlib.decompress(zlib.compress(text.encode(), 6))), digest(zlib.compress(text.encode(), 9)))
print("float", repr(sum(struct.unpack("<d", struct.pack("<d", rng.gauss(0, 1)))[0] ** 3 for _ in range(size * 300))))
print("int", digest(str(pow(3, size * 400) % (1 << 2000))))

# Processes that inherit a heap and change it.
results = []
for n in range(size):
    r, w = os.pipe()
    if not os.fork():
        for k in list(tree)[n::7]:
            tree[k] = n
        os.write(w, digest(json.dumps(tree, sort_keys=True)).encode())
        os._exit(0)
    os.close(w)
    results.append(os.read(r, 100))
    os.close(r)
    os.wait()
print("fork", digest(b"".join(results)))

sums = [0] * 8


def count(n):
    for i in range(size * 500):
        sums[n] = (sums[n] * 31 + i) % 1000003


threads = [threading.Thread(target=count, args=(n,)) for n in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print("threads", sums)
