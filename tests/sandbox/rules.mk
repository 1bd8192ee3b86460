# SPDX-License-Identifier: Apache-2.0
# What a VM's process may still do, once its guest runs.

TESTS += $(O)/tests/sandbox/run
$(O)/tests/sandbox/run: $(O)/doppel $(O)/doppel-vnc $(O)/firecracker tests/sandbox/run tests/sandbox/inject.py tests/cli/lib.py tests/api/client.py tests/sandbox/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/sandbox/run --doppel $(O)/doppel "$$@"\n' >$@
	$(Q)chmod +x $@
