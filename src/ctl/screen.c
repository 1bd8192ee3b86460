/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's screen as a PNG file, and keys by name to its keyboard. */
#include <errno.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"
#include "ctl/keysym.h"
#include "dev/vga.h"
#include "lib/log.h"

#define KEYS_MAX  4 /* held at once */
#define CODES_MAX 15

/* ---- pictures ---- */

/* To 24 bits a pixel, red first, in place of libpng's own formats that depend on byte order. */
static uint8_t *screen_rgb(const struct picture *pic)
{
    size_t nr = (size_t)pic->width * pic->height;
    uint8_t *rgb = malloc(3 * nr);

    for (size_t i = 0; rgb && i < nr; i++) {
        rgb[3 * i] = (uint8_t)(pic->pixels[i] >> 16);
        rgb[3 * i + 1] = (uint8_t)(pic->pixels[i] >> 8);
        rgb[3 * i + 2] = (uint8_t)pic->pixels[i];
    }
    return rgb;
}

/* Takes the file; NULL: by its name. */
static int write_png(struct vm *vm, FILE *f, const char *name)
{
    png_image png = { .version = PNG_IMAGE_VERSION, .format = PNG_FORMAT_RGB };
    struct picture pic;
    uint8_t *rgb;
    int err = vm_screen(vm, &pic);

    if (err) {
        log_error("no picture of the screen: %s", strerror(-err));
        if (f)
            (void)fclose(f);
        return err;
    }
    rgb = screen_rgb(&pic);
    png.width = pic.width;
    png.height = pic.height;
    if (!rgb) {
        err = -ENOMEM;
    } else if (f ? !png_image_write_to_stdio(&png, f, 0, rgb, 0, NULL)
                 : !png_image_write_to_file(&png, name, 0, rgb, 0, NULL)) {
        log_error("cannot write the picture '%s': %s", name, png.message);
        err = -EIO;
    }
    if (f && fclose(f) != 0 && !err) {
        log_error("cannot write the picture '%s': %s", name, strerror(errno));
        err = -EIO;
    }
    png_image_free(&png);
    free(rgb);
    free(pic.pixels);
    return err;
}

int ctl_write_screen(struct vm *vm, const char *path)
{
    return write_png(vm, NULL, path);
}

int ctl_write_screen_to(struct vm *vm, int fd, const char *name)
{
    int own = host_dup(fd);
    FILE *f = own < 0 ? NULL : fdopen(own, "w");

    if (f)
        return write_png(vm, f, name);
    if (own >= 0)
        host_close(own);
    return -EBADF;
}

/* ---- keys ---- */

/*
 * Names as the monitor commands of other machines have them; codes of scan-code set 2 (IBM Personal
 * System/2 Hardware Interface Technical Reference, "Keyboard"), 0xe000 for those with a prefix.
 */
static const struct {
    const char *name;
    uint16_t code;
} keys[] = {
    { "a", 0x1c },
    { "b", 0x32 },
    { "c", 0x21 },
    { "d", 0x23 },
    { "e", 0x24 },
    { "f", 0x2b },
    { "g", 0x34 },
    { "h", 0x33 },
    { "i", 0x43 },
    { "j", 0x3b },
    { "k", 0x42 },
    { "l", 0x4b },
    { "m", 0x3a },
    { "n", 0x31 },
    { "o", 0x44 },
    { "p", 0x4d },
    { "q", 0x15 },
    { "r", 0x2d },
    { "s", 0x1b },
    { "t", 0x2c },
    { "u", 0x3c },
    { "v", 0x2a },
    { "w", 0x1d },
    { "x", 0x22 },
    { "y", 0x35 },
    { "z", 0x1a },
    { "0", 0x45 },
    { "1", 0x16 },
    { "2", 0x1e },
    { "3", 0x26 },
    { "4", 0x25 },
    { "5", 0x2e },
    { "6", 0x36 },
    { "7", 0x3d },
    { "8", 0x3e },
    { "9", 0x46 },
    { "esc", 0x76 },
    { "ret", 0x5a },
    { "spc", 0x29 },
    { "tab", 0x0d },
    { "backspace", 0x66 },
    { "minus", 0x4e },
    { "equal", 0x55 },
    { "comma", 0x41 },
    { "dot", 0x49 },
    { "slash", 0x4a },
    { "backslash", 0x5d },
    { "semicolon", 0x4c },
    { "apostrophe", 0x52 },
    { "grave", 0x0e },
    { "bracket_left", 0x54 },
    { "bracket_right", 0x5b },
    { "f1", 0x05 },
    { "f2", 0x06 },
    { "f3", 0x04 },
    { "f4", 0x0c },
    { "f5", 0x03 },
    { "f6", 0x0b },
    { "f7", 0x83 },
    { "f8", 0x0a },
    { "f9", 0x01 },
    { "f10", 0x09 },
    { "f11", 0x78 },
    { "f12", 0x07 },
    { "shift", 0x12 },
    { "ctrl", 0x14 },
    { "alt", 0x11 },
    { "altgr", 0xe011 },
    { "up", 0xe075 },
    { "down", 0xe072 },
    { "left", 0xe06b },
    { "right", 0xe074 },
    { "home", 0xe06c },
    { "end", 0xe069 },
    { "pgup", 0xe07d },
    { "pgdn", 0xe07a },
    { "insert", 0xe070 },
    { "delete", 0xe071 },
};

/* 0: there is none of that name. */
static uint16_t key_code(const char *name, size_t len)
{
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
        if (strlen(keys[i].name) == len && !strncmp(name, keys[i].name, len))
            return keys[i].code;
    return 0;
}

int ctl_press(struct vm *vm, const char *text)
{
    uint16_t held[KEYS_MAX];
    uint8_t codes[KEYS_MAX * 5];
    unsigned nr = 0, nr_codes = 0;

    for (const char *at = text; at; at = strchr(at, '-')) {
        at += *at == '-';
        if (nr == KEYS_MAX)
            return -EINVAL;
        held[nr] = key_code(at, strcspn(at, "-"));
        if (!held[nr++])
            return -EINVAL;
    }
    for (unsigned i = 0; i < nr; i++)
        nr_codes += key_bytes(codes + nr_codes, held[i], true);
    for (unsigned i = nr; i--;)
        nr_codes += key_bytes(codes + nr_codes, held[i], false);
    return nr_codes > CODES_MAX ? -EINVAL : vm_key(vm, codes, nr_codes);
}
