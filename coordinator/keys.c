/* keys.c - reads API keys and compares them in constant time. */
#include "coordinator/keys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"

struct key {
    size_t len;
    char text[SL_KEY_LEN_MAX];
};

struct sl_keys {
    size_t count, cap;
    struct key *v;
};

static int add_key(struct sl_keys *k, const char *name, int line, const char *s, size_t n,
                   struct sl_err *err)
{
    if (n > SL_KEY_LEN_MAX)
        return sl_err_set(err, SL_EINPUT, "%s:%d: the key is longer than %d bytes; shorten it",
                          name, line, SL_KEY_LEN_MAX);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] <= ' ' || (unsigned char)s[i] >= 0x7f)
            return sl_err_set(err, SL_EINPUT,
                              "%s:%d: the key has a blank or a character outside printable ASCII; "
                              "write one key a line",
                              name, line);
    if (k->count == SL_KEYS_MAX)
        return sl_err_set(err, SL_EINPUT, "%s:%d: more than %d keys", name, line, SL_KEYS_MAX);
    if (k->count == k->cap) {
        size_t cap = k->cap ? k->cap * 2 : 8;
        struct key *v = realloc(k->v, cap * sizeof(*v));
        if (!v) return sl_err_set(err, SL_ENOMEM, "%s: no memory for the keys", name);
        k->v = v;
        k->cap = cap;
    }
    struct key *key = &k->v[k->count++];
    memset(key, 0, sizeof(*key));
    key->len = n;
    memcpy(key->text, s, n);
    return 0;
}

int sl_keys_parse(const char *name, const char *text, size_t n, struct sl_keys **out,
                  struct sl_err *err)
{
    struct sl_keys *k = calloc(1, sizeof(*k));
    if (!k) return sl_err_set(err, SL_ENOMEM, "%s: no memory for the keys", name);
    int line = 0, rc = 0;
    for (size_t pos = 0; pos < n && !rc;) {
        const char *s = text + pos, *end = memchr(s, '\n', n - pos);
        size_t len = end ? (size_t)(end - s) : n - pos;
        pos += len + (end != NULL);
        line++;
        while (len && (*s == ' ' || *s == '\t')) s++, len--;
        while (len && (s[len - 1] == ' ' || s[len - 1] == '\t' || s[len - 1] == '\r')) len--;
        if (len && *s != '#') rc = add_key(k, name, line, s, len, err);
    }
    if (!rc && !k->count)
        rc = sl_err_set(
            err, SL_EINPUT,
            "%s: no key in it; write one key a line, or leave the key file out to let everybody in",
            name);
    if (rc) {
        sl_keys_free(k);
        return rc;
    }
    *out = k;
    return 0;
}

int sl_keys_read(const char *path, struct sl_keys **out, struct sl_err *err)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return sl_err_set(err, SL_EINPUT, "%s: cannot read the API keys: %s", path,
                          strerror(errno));
    struct sl_buf text;
    sl_buf_init(&text, SL_KEYS_FILE_MAX);
    int rc = sl_buf_read(&text, f);
    if (rc == SL_EIO)
        rc = sl_err_set(err, SL_EINPUT, "%s: cannot read the API keys: %s", path, strerror(errno));
    else if (rc)
        rc = sl_err_set(err, SL_EINPUT, "%s: larger than %u bytes; a key file has one key a line",
                        path, SL_KEYS_FILE_MAX);
    fclose(f);
    if (!rc) rc = sl_keys_parse(path, sl_buf_str(&text), text.len, out, err);
    if (text.data) explicit_bzero(text.data, text.cap);
    sl_buf_close(&text);
    return rc;
}

void sl_keys_free(struct sl_keys *k)
{
    if (!k) return;
    if (k->v) explicit_bzero(k->v, k->cap * sizeof(*k->v));
    free(k->v);
    free(k);
}

size_t sl_keys_count(const struct sl_keys *k)
{
    return k ? k->count : 0;
}

/* Looks at every byte of the stored key whatever the offered one holds, so that time tells nothing
 * about it. */
static unsigned differs(const struct key *key, const char *s, size_t n)
{
    unsigned diff = key->len != n;
    for (size_t i = 0; i < SL_KEY_LEN_MAX; i++) {
        unsigned char c = i < n ? (unsigned char)s[i] : 0;
        diff |= (unsigned char)key->text[i] ^ c;
    }
    return diff;
}

int sl_keys_check(const struct sl_keys *k, const char *key, size_t n)
{
    if (!k) return 1;
    unsigned found = 0;
    for (size_t i = 0; i < k->count; i++) found |= differs(&k->v[i], key, n) == 0;
    return (int)found;
}

int sl_keys_check_bearer(const struct sl_keys *k, const char *header, size_t n)
{
    if (!k) return 1;
    if (n < 7 || strncasecmp(header, "bearer ", 7) != 0) return 0;
    header += 7, n -= 7;
    while (n && *header == ' ') header++, n--;
    while (n && header[n - 1] == ' ') n--;
    return sl_keys_check(k, header, n);
}
