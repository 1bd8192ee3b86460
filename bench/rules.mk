# SPDX-License-Identifier: Apache-2.0
# make bench: doppel beside the bare host and other machines. Prints a table; nothing fails because something is slow.
#   make bench BENCH="int fork boot" ENGINES="bt interp" PEERS="tcg uml bochs"; bench/run --help has more, for BENCH_ARGS.

BENCH_WORK := build/bench/work
BENCH_SMALL := build/bench/small.cpio
BENCH_EVERYDAY := build/bench/everyday.cpio
BENCH :=
ENGINES := bt
PEERS := tcg
BENCH_ARGS :=

# Not with SAN: the host's and the guests' program is the same plain one. -fno-math-errno: sqrt as an instruction.
$(BENCH_WORK): $(wildcard bench/works/*.c bench/works/*.h)
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu17 -D_GNU_SOURCE -O2 -g -fno-math-errno -static -Wall -Wextra -Wshadow $(if $(WERROR),-Werror) \
		-o $@ $(filter %.c,$^)

$(BENCH_SMALL): $(BENCH_WORK) bench/init tools/make-initramfs
	$(Q)tools/make-initramfs --add /dev/null $@ init=bench/init bin/busybox=$$(command -v busybox) bench/work=$(BENCH_WORK)

$(BENCH_EVERYDAY): $(BENCH_WORK) bench/init bench/make-tree tools/debian-tree tools/make-initramfs $(wildcard bench/everyday/*)
	$(Q)bench/make-tree build/bench/tree $(BENCH_WORK)
	$(Q)tools/make-initramfs --tree build/bench/tree $@

.PHONY: bench
bench:
	@tools/deps install bench </dev/null >&2 || echo "make bench: goes on with what is there" >&2
	$(Q)$(MAKE) --no-print-directory -s all guest $(BENCH_SMALL) $(BENCH_EVERYDAY) >&2
	$(Q)bench/run --doppel $(O)/doppel --kernel $(GUEST_KERNEL) --initrd $(BENCH_SMALL) --initrd-everyday $(BENCH_EVERYDAY) \
		--initrd-run $(GUEST_INITRAMFS) --work $(BENCH_WORK) --bench "$(BENCH)" --engines "$(ENGINES)" --peers "$(PEERS)" \
		$(BENCH_ARGS)
	$(Q)$(MAKE) --no-print-directory bench-clones

# What a restored guest costs, and a hundred of them: also by itself.
.PHONY: bench-clones
bench-clones: all guest $(O)/tests/snap/responder
	$(Q)bench/clones --doppel $(O)/doppel --kernel $(GUEST_KERNEL) --initramfs $(GUEST_INITRAMFS) \
		--responder $(O)/tests/snap/responder $(CLONES_ARGS)

# A whole Debian from its disk: boot, disk, network, a build. About 7 minutes on a quiet host, and once the image's making.
#   make bench-system SYSTEM_ARGS="--only fio,build"; bench/system --help has more.
SYSTEM_ARGS :=
.PHONY: bench-system
bench-system:
	@tools/deps install bench image </dev/null >&2 || echo "make bench-system: goes on with what is there" >&2
	$(Q)$(MAKE) --no-print-directory -s all build/image/debian.img >&2
	$(Q)bench/system --doppel $(O)/doppel $(SYSTEM_ARGS)
