/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the VNC server listens, and by which certificate.
 *
 * libneatvnc takes passwords only through TLS (RFB's security type VeNCrypt, X509Plain), and a key
 * and a certificate only as files: they are made here, at each start, in files without a name.
 */
#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <neatvnc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "lib/log.h"
#include "vnc/priv.h"

#define CERT_NAME    "doppel"
#define CERT_DAYS    3650
#define CERT_SLACK_S 86400 /* a client's clock may be behind */
#define PEM_MAX      8192

bool vnc_socket_free(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct stat st;
    bool lives;
    int fd;

    if (lstat(path, &st) < 0)
        return true; /* should it be unreachable, who makes it says so */
    if (!S_ISSOCK(st.st_mode) || strlen(path) >= sizeof(addr.sun_path)) {
        log_error("--display vnc=unix:%s: there is something else of that name", path);
        return false;
    }
    strcpy(addr.sun_path, path); /* NOLINT: it fits */
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    lives = fd >= 0 && connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0;
    if (fd >= 0)
        (void)close(fd);
    if (lives)
        log_error("--display vnc=unix:%s: somebody listens there already", path);
    return !lives;
}

/*
 * In place of the C library's, for libneatvnc: its versions to 0.5 close a client's connection when
 * TCP_NODELAY cannot be set, which is so for every Unix socket.
 */
int setsockopt(int fd, int level, int name, const void *val, socklen_t bytes)
{
    long rc = syscall(SYS_setsockopt, fd, level, name, val, bytes);

    if (rc < 0 && errno == EOPNOTSUPP && level == IPPROTO_TCP && name == TCP_NODELAY)
        rc = 0;
    return (int)rc;
}

/* ---- TLS ---- */

static int cert_make(gnutls_x509_privkey_t key, gnutls_x509_crt_t crt)
{
    time_t now = time(NULL);
    uint8_t serial[8];
    int err = gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof(serial));

    serial[0] &= 0x7f; /* a positive number */
    err = err ? err
              : gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
                                             GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
    err = err ? err : gnutls_x509_crt_set_version(crt, 3);
    err = err ? err : gnutls_x509_crt_set_serial(crt, serial, sizeof(serial));
    err = err ? err : gnutls_x509_crt_set_activation_time(crt, now - CERT_SLACK_S);
    err = err ? err : gnutls_x509_crt_set_expiration_time(crt, now + CERT_DAYS * 86400L);
    err = err ? err
              : gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, CERT_NAME,
                                              sizeof(CERT_NAME) - 1);
    err = err ? err : gnutls_x509_crt_set_key(crt, key);
    return err ? err : gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0);
}

/* Into a file that is only this process's; its path under /proc. False: errno. */
static bool pem_file(const char *text, size_t bytes, char *path, size_t path_bytes)
{
    int fd = memfd_create("pem", MFD_CLOEXEC);

    if (fd < 0 || write(fd, text, bytes) != (ssize_t)bytes)
        return false;
    (void)snprintf(path, path_bytes, "/proc/self/fd/%d", fd);
    return true;
}

static int pem_files(gnutls_x509_privkey_t key, gnutls_x509_crt_t crt, char *key_path,
                     char *crt_path, size_t path_bytes)
{
    char pem[PEM_MAX];
    size_t bytes = sizeof(pem);
    int err = gnutls_x509_privkey_export(key, GNUTLS_X509_FMT_PEM, pem, &bytes);

    if (!err && !pem_file(pem, bytes, key_path, path_bytes))
        err = GNUTLS_E_FILE_ERROR;
    bytes = sizeof(pem);
    err = err ? err : gnutls_x509_crt_export(crt, GNUTLS_X509_FMT_PEM, pem, &bytes);
    if (!err && !pem_file(pem, bytes, crt_path, path_bytes))
        err = GNUTLS_E_FILE_ERROR;
    gnutls_memset(pem, 0, sizeof(pem));
    return err;
}

bool vnc_enable_tls(struct nvnc *nvnc,
                    bool (*check)(const char *name, const char *password, void *userdata),
                    void *userdata)
{
    char key_path[64], crt_path[64];
    gnutls_x509_privkey_t key = NULL;
    gnutls_x509_crt_t crt = NULL;
    int err = gnutls_x509_privkey_init(&key);

    err = err ? err : gnutls_x509_crt_init(&crt);
    err = err ? err : cert_make(key, crt);
    err = err ? err : pem_files(key, crt, key_path, crt_path, sizeof(key_path));
    gnutls_x509_privkey_deinit(key);
    gnutls_x509_crt_deinit(crt);
    if (err)
        log_error("vnc: no certificate for TLS: %s", gnutls_strerror(err));
    else if (nvnc_enable_auth(nvnc, key_path, crt_path, check, userdata) == 0)
        return true;
    else
        log_error("vnc: this libneatvnc takes no passwords");
    return false;
}
