# SPDX-License-Identifier: Apache-2.0
# Writes the big C file of the work "gcc-big": many functions with loops, switches and structures, no two alike.
BEGIN {
    print "#include <stdint.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
    for (i = 0; i < 28; i++) {
        printf "struct rec%d { uint32_t key; int16_t tag[%d]; double weight; struct rec%d *next; };\n\n", i, i % 7 + 2, i
        printf "static uint64_t step%d(uint64_t v, const struct rec%d *r)\n{\n    switch (v %% %d) {\n", i, i, i % 5 + 5
        for (k = 0; k < i % 5 + 4; k++)
            printf "    case %d: return v * %d + (r->key >> %d) + r->tag[%d];\n", k, (i * 37 + k * 11) % 251 + 3, k + 1, k % (i % 7 + 2)
        printf "    default: return v ^ (uint64_t)(r->weight * %d.5);\n    }\n}\n\n", i
        printf "uint64_t walk%d(struct rec%d *list, const char *text, size_t n)\n{\n    uint64_t sum = %d;\n", i, i, i * 77
        print "    for (size_t k = 0; k < n; k++) {\n        unsigned char c = (unsigned char)text[k];"
        printf "        if (c >= 'a' && c <= 'z')\n            sum = sum * %d + (c - 'a');\n", i % 9 + 29
        printf "        else if (c == '%d')\n            sum ^= sum >> %d;\n        else\n            sum += strlen(text + k) %% %d;\n    }\n", i % 10, i % 13 + 3, i + 2
        printf "    for (struct rec%d *r = list; r; r = r->next) {\n        double w = 0;\n", i
        printf "        for (int k = 0; k < %d; k++)\n            w += r->tag[k] * %d.25 / (1 + r->key);\n", i % 7 + 2, i + 1
        printf "        r->weight = w;\n        sum = step%d(sum, r);\n", i
        if (i)
            printf "        if (sum %% %d == 0)\n            sum += walk%d(NULL, text, n / 2);\n", i + 3, i - 1
        print "    }\n    return sum;\n}\n"
    }
}
