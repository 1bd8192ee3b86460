/* SPDX-License-Identifier: Apache-2.0 */
/* --trace-format, and what goes together with it. */
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

bool option_trace_format(void *into, const char *val)
{
    struct run_options *o = into;

    o->trace_format_given = true;
    if (!strcmp(val, "text") || !strcmp(val, "chrome")) {
        o->trace_format = *val == 'c' ? TRACE_CHROME : TRACE_TEXT;
        return true;
    }
    log_error("--trace-format '%s' is neither text nor chrome", val);
    return false;
}

bool trace_options_check(struct run_options *o)
{
    size_t len = o->trace_file ? strlen(o->trace_file) : 0;

    if (!o->trace_format_given && len > 5 && !strcmp(o->trace_file + len - 5, ".json"))
        o->trace_format = TRACE_CHROME;
    if (o->trace_format != TRACE_CHROME || o->trace_file)
        return true;
    log_error("--trace-format chrome needs a --trace-file: nobody reads that on a terminal");
    return false;
}
