# SPDX-License-Identifier: Apache-2.0
# A compiler at work: gcc.sh SIZE, in the folder with stress's source.
dir=$(mktemp -d)
for o in -O0 -O2; do
    for f in main code memory process signals threads; do
        gcc -std=gnu17 -D_GNU_SOURCE "$o" -c -o "$dir/$f.o" "$f.c" || echo "gcc $o $f.c: $?"
        cksum <"$dir/$f.o"
    done
    gcc -o "$dir/stress" "$dir"/*.o -l:libm.so.6 || echo "link: $?"
    "$dir/stress" generate 5 "$1"
    "$dir/stress" maps 5 "$1"
    "$dir/stress" faults 5 "$1"
done
rm -r "$dir"
