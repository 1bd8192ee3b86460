#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs inside the guest: what a user of a shell does, each with a result that is known. Prints TAP; tests/boot/run reads it.
n=0

is() { # is WHAT GOT WANT
    n=$((n + 1))
    if [ "$2" = "$3" ]; then echo "ok $n - $1"; else echo "not ok $n - $1: got '$2', want '$3'"; fi
}

between() { # between WHAT GOT LOW HIGH
    n=$((n + 1))
    if [ "$2" -ge "$3" ] && [ "$2" -le "$4" ]; then echo "ok $n - $1"; else echo "not ok $n - $1: $2 is not in $3..$4"; fi
}

cd /tmp || exit
# The kernel's news must not end up in the middle of our lines.
dmesg -n 4

# Processes.
i=0 pids=
while [ $i -lt 20 ]; do
    (exit $i) &
    pids="$pids $!"
    i=$((i + 1))
done
sum=0
for p in $pids; do
    wait "$p"
    sum=$((sum + $?))
done
is "20 processes and their exit statuses" $sum 190
is "a command that does not exist" "$(nosuchcommand 2>/dev/null; echo $?)" 127
is "nested substitutions" "$(echo "$(echo "$(echo deep)")")" deep

# Signals.
got=
trap 'got="$got usr1"' USR1
kill -USR1 $$
kill -USR1 $$
trap - USR1
is "a trapped signal, twice" "$got" " usr1 usr1"
sleep 60 &
kill -9 $!
wait $!
is "SIGKILL" $? 137
sleep 60 &
kill -TERM $!
wait $!
is "SIGTERM" $? 143
timeout 1 sleep 60
is "an alarm ends a process" $? 143
sh -c 'kill -SEGV $$'
is "SIGSEGV" $? 139

# Pipes.
is "a pipe of three" "$(seq 1 5000 | grep 7 | wc -l)" 1355
is "a reader that leaves early" "$(yes | head -n 1000 | wc -l)" 1000
mkfifo fifo
cat fifo | tr a-z A-Z >upper &
echo hello >fifo
wait
is "a FIFO" "$(cat upper)" HELLO

# tmpfs.
seq 1 200000 >numbers
is "size of a file" "$(wc -c <numbers)" 1288895
cp numbers copy
cmp numbers copy
is "a copy is equal" $? 0
echo x >>copy
cmp -s numbers copy
is "and different after a change" $? 1
mkdir -p a/b/c && mv copy a/b/c/ && ln -s a/b/c/copy link && rm numbers
is "a symbolic link" "$(tail -n 1 link)" x
is "find" "$(find . -name copy)" ./a/b/c/copy
rm -r a link

# Checksums: integer code over generated data.
is "md5sum" "$(seq 1 100000 | md5sum)" "dea9193b768319cbb4ff1a137ac03113  -"
is "sha256sum" "$(seq 1 20000 | sha256sum | cut -c1-16)" f6351f5ead9a700e
is "sort" "$(seq 1 5000 | sort | md5sum | cut -c1-8)" 491d451e
seq 1 30000 | gzip | gunzip | md5sum >sum
is "gzip and back" "$(cat sum)" "$(seq 1 30000 | md5sum)"

# Floating point.
is "a series for pi" "$(awk 'BEGIN { for (i = 0; i < 20000; i++) s += (i % 2 ? -4 : 4) / (2 * i + 1); printf "%.9f", s }')" 3.141542654
root='function root(x,  y, i) { y = x; for (i = 0; i < 60; i++) y = (y + x / y) / 2; return y }'
is "square roots" "$(awk "$root"' BEGIN { printf "%.15f %.12f", root(2), root(1e6) }')" "1.414213562373095 1000.000000000000"
is "large and small" "$(awk 'BEGIN { x = y = 1; for (i = 0; i < 100; i++) { x *= 2; y /= 2 } printf "%g %g", x, y }')" \
    "1.26765e+30 7.88861e-31"

# Time: a second is one, by the clock that interrupts drive and by the one that counts.
# On a busy host we may wake late, but not always; never early.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    before=$(cut -d' ' -f1 /proc/uptime | tr -d .)
    sleep 1
    after=$(cut -d' ' -f1 /proc/uptime | tr -d .)
    [ $((after - before)) -le 250 ] && break
done
between "sleep 1, in 1/100 s" $((after - before)) 100 250
source=/sys/devices/system/clocksource/clocksource0/current_clocksource
for _ in $(seq 60); do # Linux measures again and again where it was disturbed
    [ "$(cat $source)" = tsc ] && break
    sleep 1
done
is "the clocksource" "$(cat $source)" tsc
between "the year" "$(date +%Y)" 2024 2100
between "local timer interrupts" "$(awk '/LOC:/ { print $2 }' /proc/interrupts)" 10 100000000
is "spurious and error interrupts" "$(awk '/^ (ERR|MIS):/ { s += $2 } END { print s + 0 }' /proc/interrupts)" 0

# A module, a file system of its own, the network inside.
modprobe loop
is "modprobe" $? 0
dd if=/dev/zero of=disk bs=1k count=2048 2>/dev/null
mke2fs -F disk >/dev/null 2>&1
mkdir mnt
mount -t ext2 -o loop disk mnt
is "mount" $? 0
seq 1 10000 >mnt/file
umount mnt
mount -t ext2 -o loop disk mnt
is "a file that was written, unmounted and mounted" "$(md5sum <mnt/file)" "$(seq 1 10000 | md5sum)"
umount mnt
is "ping" "$(ping -c 1 -W 60 127.0.0.1 | grep -c ' 0% packet loss')" 1

echo "1..$n"
