# SPDX-License-Identifier: Apache-2.0
# PCRE2's JIT by grep -P: grep.sh SIZE. A pattern is compiled to machine code each time.
LC_ALL=C
export LC_ALL
text=$(mktemp)
seq 1 "$(($1 * 2000))" | awk '{ printf "%d %x %s%d-%o\n", $1 * $1, $1 * 7919, ($1 % 3 ? "abc" : "foo"), $1 % 101, $1 }' >"$text"
for p in '^\d+7 (?=[a-f])\w+ (abc|foo)\d{2}' '(\d)(\d)\2\1' '(?<!9)abc(?>1+)(?!0)' '\b(?:[0-9a-f]{2}){3}\b.*-[0-7]*7$' \
    '(?i)FOO(\d+)-.*\1$' '^(?:(?=.*4)(?=.*7).)*8' '(?<y>\d\d) (?:f|(?&y))'; do
    grep -Po "$p" "$text" | cksum
    grep -Pvc "$p" "$text"
done
i=0
while [ $i -lt "$1" ]; do
    grep -Pc "(${i}[0-4]|a.{$((i % 7))}c)+$i\$" "$text"
    i=$((i + 1))
done
rm -f "$text"
