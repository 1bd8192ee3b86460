# SPDX-License-Identifier: Apache-2.0
"""The work "python-loop": integers, floats, lists, dictionaries, text and objects."""


class Account:
    def __init__(self, name):
        self.name = name
        self.balance = 0

    def book(self, amount):
        self.balance += amount
        return self.balance


def primes(limit):
    sieve = bytearray([1]) * limit
    for i in range(2, limit):
        if sieve[i]:
            for j in range(i * i, limit, i):
                sieve[j] = 0
    return sum(sieve) - 2


def words(count):
    seen = {}
    x = 12345
    for _ in range(count):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        word = f"w{x % 997:x}"
        seen[word] = seen.get(word, 0) + 1
    return sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:5]


def bank(count):
    accounts = [Account(f"a{i}") for i in range(50)]
    for i in range(count):
        accounts[i * 7 % 50].book(i % 13 - 6)
    return [a.balance for a in accounts[:5]]


def series(count):
    total = 0.0
    for i in range(1, count):
        total += (-1.0) ** i / (2 * i - 1)
    return total


print(primes(600000), words(200000), bank(300000), series(300000), 7 ** 2000 % 1000003)
