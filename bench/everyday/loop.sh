# SPDX-License-Identifier: Apache-2.0
# The work "shell": a loop of built-ins, with arithmetic, tests, case, functions and text.
f() {
    case $1 in
    *7) n=$((n + 3)) ;;
    *[02468]) n=$((n + $1 % 5)) ;;
    *) n=$((n ^ 1)) ;;
    esac
}
i=0
n=0
text=
while [ "$i" -lt 60000 ]; do
    f "$i"
    text=${text#*.}$i.${i#?}.
    [ ${#text} -lt 400 ] || text=
    i=$((i + 1))
done
echo "$n ${#text} ${text%%.*}"
