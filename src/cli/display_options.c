/* SPDX-License-Identifier: Apache-2.0 */
/* The value of `doppel run --display`: where the machine's screen is to be seen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

#define VNC_PORT      5900u /* of display 0 */
#define VNC_HOST      "127.0.0.1"
#define PASSWORD_KEY  ",password-file="
#define VNC_UNIX_PATH 108 /* as a socket's address holds, with the 0 at its end */

/* unix:PATH */
static bool vnc_unix(struct vnc_config *cfg, const char *text)
{
    size_t len = strlen(text + strlen("unix:"));

    if (!len || len >= VNC_UNIX_PATH) {
        log_error("--display vnc=%s: a socket's path has 1 to %d bytes", text, VNC_UNIX_PATH - 1);
        return false;
    }
    cfg->where = text;
    return true;
}

/* [HOST]:N, of which HOST may be an IPv6 address in brackets; text is cut up. */
static bool vnc_host(struct vnc_config *cfg, char *text)
{
    char *colon = strrchr(text, ':');
    uint64_t nr;
    size_t len;

    if (!colon || !value_uint(colon + 1, 0, UINT16_MAX - VNC_PORT, &nr)) {
        log_error("--display vnc=%s: it is vnc=[HOST]:N or vnc=unix:PATH; N is the display's "
                  "number, which is the port less %u",
                  text, VNC_PORT);
        return false;
    }
    *colon = 0;
    len = (size_t)(colon - text);
    if (*text == '[' && text[len - 1] == ']') {
        text[len - 1] = 0;
        text++;
    }
    cfg->where = *text ? text : VNC_HOST;
    cfg->port = (uint16_t)(VNC_PORT + nr);
    return true;
}

static bool display_vnc(struct run_options *o, const char *val)
{
    char *key;

    free(o->vnc_text);
    o->vnc = (struct vnc_config){ 0 };
    o->vnc_text = strdup(val);
    if (!o->vnc_text) {
        log_error("out of memory");
        return false;
    }
    key = strstr(o->vnc_text, PASSWORD_KEY);
    if (key) {
        *key = 0;
        o->vnc.password_file = key + strlen(PASSWORD_KEY);
        if (!*o->vnc.password_file) {
            log_error("--display vnc: password-file needs the name of a file");
            return false;
        }
    }
    return strncmp(o->vnc_text, "unix:", 5) ? vnc_host(&o->vnc, o->vnc_text)
                                            : vnc_unix(&o->vnc, o->vnc_text);
}

bool option_display(void *into, const char *val)
{
    struct run_options *o = into;

    o->display_file = !strncmp(val, "png=", 4) && val[4] ? val + 4 : NULL;
    o->vnc.where = NULL;
    o->vga = o->display_file || !strcmp(val, "vga") || !strncmp(val, "vnc=", 4);
    if (!strncmp(val, "vnc=", 4))
        return display_vnc(o, val + 4);
    if (o->vga || !strcmp(val, "none"))
        return true;
    log_error("--display '%s' is unknown; it can be none, vga, png=FILE, vnc=HOST:N or "
              "vnc=unix:PATH",
              val);
    return false;
}
