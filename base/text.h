/* text.h - small text helpers: UTF-8, nearest name, sizes and durations for people. */
#ifndef SL_BASE_TEXT_H
#define SL_BASE_TEXT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Length in bytes of the longest prefix of s[0..n) that ends on a UTF-8 character boundary: what
 * may be sent to a client now. Invalid bytes count as whole characters, so the result never lags by
 * more than 3 bytes. */
size_t sl_utf8_whole(const char *s, size_t n);

/* Replaces every invalid sequence in s[0..n) by U+FFFD (3 bytes); writes at most 3*n bytes to out
 * (no NUL); returns the length written. */
size_t sl_utf8_scrub(const char *s, size_t n, char *out);

/* Appends codepoint cp as UTF-8 to out (at least 4 bytes); returns its length. */
int sl_utf8_put(uint32_t cp, char *out);

/* Decodes one character at s[0..n), n > 0: returns its length and sets *cp; an invalid byte gives
 * length 1, U+FFFD. */
int sl_utf8_get(const char *s, size_t n, uint32_t *cp);

/* The entry of names[0..n) nearest to `word` by edit distance, NULL when none is near enough to
 * suggest. */
const char *sl_nearest(const char *word, const char *const *names, size_t n);

/* "4.0 GiB", "312 B"; returns out. */
char *sl_format_bytes(uint64_t bytes, char out[32]);

/* Parses "96GiB", "512 MiB", "2GB", "1048576" into bytes. 0 or SL_EINPUT. */
int sl_parse_bytes(const char *s, uint64_t *bytes);

/* Parses "25Gbit/s", "1.5GB/s", "100Mbit/s" into bytes per second. 0 or SL_EINPUT. */
int sl_parse_bandwidth(const char *s, double *bytes_per_s);

/* Parses "40us", "2ms", "1s" into nanoseconds. 0 or SL_EINPUT. */
int sl_parse_duration(const char *s, uint64_t *ns);

/* Splits "host:port", "[::1]:port", ":port"; the host part may be empty. 0 or SL_EINPUT. */
int sl_parse_hostport(const char *s, char *host, size_t host_cap, int *port);

#ifdef __cplusplus
}
#endif
#endif
