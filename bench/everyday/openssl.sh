# SPDX-License-Identifier: Apache-2.0
# The work "openssl": hashes, a cipher, and big numbers; nothing in it is random.
set -e
for hash in sha256 sha512 md5; do
    openssl dgst -$hash /bench/data
done
for i in 1 2 3 4; do
    openssl enc -aes-256-cbc -K 000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f \
        -iv 000102030405060708090a0b0c0d0e0f -in /bench/data | openssl dgst -sha1
done
# 2^1279 - 1 is a prime.
openssl prime -checks 12 -hex "7$(printf %0319d 0 | tr 0 F)"
