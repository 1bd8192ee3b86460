# SPDX-License-Identifier: Apache-2.0
# doppel top, Prometheus' text, traces for viewers, static probes.

TESTS += $(O)/tests/observe/run
$(O)/tests/observe/run: $(O)/doppel tests/observe/run tests/cli/lib.py tests/observe/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/observe/run --doppel $(O)/doppel "$$@"\n' >$@
	$(Q)chmod +x $@
