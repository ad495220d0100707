/* text.c - see text.h. */
#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/err.h"
#include "base/sl_assert.h"

static int seq_len(unsigned char c)
{
    if (c < 0x80) return 1;
    if (c >= 0xc2 && c <= 0xdf) return 2;
    if (c >= 0xe0 && c <= 0xef) return 3;
    if (c >= 0xf0 && c <= 0xf4) return 4;
    return 0;
}

/* Is s[0..n) (n < full length) a possible beginning of the character that s[0] announces? */
static int valid_prefix(const unsigned char *s, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        unsigned char lo = 0x80, hi = 0xbf;
        if (i == 1) { /* overlong forms, surrogates and values past U+10FFFF (RFC 3629) */
            if (s[0] == 0xe0) lo = 0xa0;
            if (s[0] == 0xed) hi = 0x9f;
            if (s[0] == 0xf0) lo = 0x90;
            if (s[0] == 0xf4) hi = 0x8f;
        }
        if (s[i] < lo || s[i] > hi) return 0;
    }
    return 1;
}

int sl_utf8_get(const char *text, size_t n, uint32_t *cp)
{
    const unsigned char *s = (const unsigned char *)text;
    int len = seq_len(s[0]);
    *cp = 0xfffd;
    if (len == 0 || (size_t)len > n || !valid_prefix(s, (size_t)len)) return 1;
    static const unsigned char first_mask[5] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t v = s[0] & first_mask[len];
    for (int i = 1; i < len; i++) v = v << 6 | (s[i] & 0x3f);
    *cp = v;
    return len;
}

int sl_utf8_put(uint32_t cp, char *out)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    int len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (int i = len - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)(lead[len] | cp);
    return len;
}

size_t sl_utf8_whole(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        size_t len = (size_t)seq_len(s[n - back]);
        if (len > back && valid_prefix(s + n - back, back)) return n - back;
        if (len > 0) break;
    }
    return n;
}

size_t sl_utf8_scrub(const char *s, size_t n, char *out)
{
    size_t w = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = sl_utf8_get(s + i, n - i, &cp);
        w += (size_t)sl_utf8_put(cp, out + w);
        i += (size_t)len;
    }
    return w;
}

#define NEAREST_WORD_MAX 64 /* characters; longer words get no suggestion */

static int distance(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b);
    if (la > NEAREST_WORD_MAX || lb > NEAREST_WORD_MAX) return INT_MAX;
    int row[NEAREST_WORD_MAX + 1];
    for (size_t j = 0; j <= lb; j++) row[j] = (int)j;
    for (size_t i = 1; i <= la; i++) {
        int diag = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= lb; j++) {
            int up = row[j];
            int sub = diag + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
            row[j] = SL_MIN(sub, SL_MIN(up, row[j - 1]) + 1);
            diag = up;
        }
    }
    return row[lb];
}

const char *sl_nearest(const char *word, const char *const *names, size_t n)
{
    const char *best = NULL;
    int best_d = 1 + (int)strlen(word) / 3; /* one slip in short words, a third of long ones */
    for (size_t i = 0; i < n; i++) {
        int d = distance(word, names[i]);
        if (d < best_d || (d == best_d && !best)) {
            best = names[i];
            best_d = d;
        }
    }
    return best;
}

char *sl_format_bytes(uint64_t bytes, char out[32])
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    size_t u = 0;
    while (v >= 1024 && u + 1 < SL_ARRAY_LEN(unit)) {
        v /= 1024;
        u++;
    }
    snprintf(out, 32, u == 0 ? "%.0f %s" : "%.1f %s", v, unit[u]);
    return out;
}

struct unit {
    const char *name;
    double factor;
};

/* "<number> <unit>" with an optional space; the number must be finite and not negative. */
static int parse_unit(const char *s, const struct unit *units, size_t n, double *value)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)s[0]) && s[0] != '.')
        return SL_EINPUT; /* no signs, "inf" or "nan" */
    double v = strtod(s, &end);
    if (end == s || errno || !isfinite(v)) return SL_EINPUT;
    while (*end == ' ') end++;
    for (size_t i = 0; i < n; i++) {
        if (strcasecmp(end, units[i].name) == 0) {
            *value = v * units[i].factor;
            return 0;
        }
    }
    return SL_EINPUT;
}

int sl_parse_bytes(const char *s, uint64_t *bytes)
{
    static const struct unit units[] = {
        {"", 1},
        {"B", 1},
        {"KiB", 1024},
        {"MiB", 1048576.0},
        {"GiB", 1073741824.0},
        {"TiB", 1099511627776.0},
        {"KB", 1e3},
        {"MB", 1e6},
        {"GB", 1e9},
        {"TB", 1e12},
    };
    double v;
    if (parse_unit(s, units, SL_ARRAY_LEN(units), &v) || v > 1e18) return SL_EINPUT;
    *bytes = (uint64_t)v;
    return 0;
}

int sl_parse_bandwidth(const char *s, double *bytes_per_s)
{
    static const struct unit units[] = {
        {"bit/s", 0.125}, {"kbit/s", 125.0}, {"Mbit/s", 125e3},    {"Gbit/s", 125e6},
        {"B/s", 1},       {"KB/s", 1e3},     {"MB/s", 1e6},        {"GB/s", 1e9},
        {"TB/s", 1e12},   {"KiB/s", 1024},   {"MiB/s", 1048576.0}, {"GiB/s", 1073741824.0},
    };
    return parse_unit(s, units, SL_ARRAY_LEN(units), bytes_per_s);
}

int sl_parse_duration(const char *s, uint64_t *ns)
{
    static const struct unit units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}};
    double v;
    if (parse_unit(s, units, SL_ARRAY_LEN(units), &v) || v > 1e18) return SL_EINPUT;
    *ns = (uint64_t)v;
    return 0;
}

int sl_parse_hostport(const char *s, char *host, size_t host_cap, int *port)
{
    const char *colon = strrchr(s, ':'), *from = s, *to = colon;
    if (!colon) return SL_EINPUT;
    if (s[0] == '[') {
        from = s + 1;
        to = colon - 1;
        if (to < from || *to != ']') return SL_EINPUT;
    } else if (memchr(s, ':', (size_t)(colon - s))) {
        return SL_EINPUT; /* a bare IPv6 address: which colon is the port's? */
    }
    if (!isdigit((unsigned char)colon[1]))
        return SL_EINPUT; /* strtol would take signs and spaces */
    char *end;
    long p = strtol(colon + 1, &end, 10);
    if (end == colon + 1 || *end || p < 0 || p > 65535) return SL_EINPUT;
    if ((size_t)(to - from) >= host_cap) return SL_EINPUT;
    memcpy(host, from, (size_t)(to - from));
    host[to - from] = 0;
    *port = (int)p;
    return 0;
}
