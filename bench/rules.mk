# SPDX-License-Identifier: Apache-2.0
# make bench: doppel beside the bare host, QEMU TCG and Bochs. Prints a table; nothing fails because something is slow.

BENCH_WORK := build/bench/work

# Not with SAN: the host's and the guests' program is the same plain one. -fno-math-errno: sqrt as an instruction.
$(BENCH_WORK): bench/work.c | deps
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu17 -O2 -g -fno-math-errno -static -Wall -Wextra -Wshadow $(if $(WERROR),-Werror) -o $@ $<

.PHONY: bench
bench:
	@tools/deps install bench || echo "make bench: goes on with what is there" >&2
	$(Q)$(MAKE) --no-print-directory all guest $(BENCH_WORK) >&2
	$(Q)bench/run --doppel $(O)/doppel --kernel $(GUEST_KERNEL) --initramfs $(GUEST_INITRAMFS) --work $(BENCH_WORK) $(BENCH_ARGS)
