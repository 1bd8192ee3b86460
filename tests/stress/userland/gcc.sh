# SPDX-License-Identifier: Apache-2.0
# A compiler that is compiled for: gcc.sh SIZE, in a folder with stress's source.
dir=$(mktemp -d)
for o in -O0 -O2 -O3; do
    for f in main code memory process signals; do
        gcc -std=gnu17 -D_GNU_SOURCE "$o" -c -o "$dir/$f.o" "$STRESS/$f.c" || echo "gcc $o $f.c: $?"
        objcopy -S "$dir/$f.o"
        cksum <"$dir/$f.o"
    done
    gcc -pthread -o "$dir/stress" "$dir"/*.o -lm || echo "link: $?"
    "$dir/stress" generate 5 "$1"
    "$dir/stress" maps 5 "$1"
    "$dir/stress" faults 5 "$1"
done
rm -r "$dir"
