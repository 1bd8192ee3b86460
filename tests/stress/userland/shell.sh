# SPDX-License-Identifier: Apache-2.0
# Pipelines and short processes: shell.sh SIZE.
LC_ALL=C
export LC_ALL
i=0
while [ $i -lt "$(($1 * 4))" ]; do
    seq $i 3 $((i + 900)) | sort -r | uniq | tac | head -n 50 | tr 0-4 a-e | cksum
    (exit $((i % 7))) || echo "status $?"
    sh -c 'kill -USR1 $$' || echo "killed: $?"
    x=$(echo "$(expr $i \* 3)" | sed 's/1/one/g')
    echo "$x"
    i=$((i + 1))
done
seq 1 "$(($1 * 3000))" | sort -R --random-source=/bin/seq 2>/dev/null | sha256sum
seq 1 "$(($1 * 5000))" | md5sum
