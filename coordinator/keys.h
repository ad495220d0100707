/* keys.h - API keys: who may use the front ends.
 *
 * A key file has one key a line; empty lines and lines that begin with '#' are skipped, blanks
 * around a key are cut. Without a file everybody who reaches the port may use it. Comparing takes
 * the same time wherever a wrong key differs. */
#ifndef SL_COORDINATOR_KEYS_H
#define SL_COORDINATOR_KEYS_H

#include <stddef.h>

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_KEYS_MAX 4096            /* keys in one file */
#define SL_KEY_LEN_MAX 512          /* bytes of one key */
#define SL_KEYS_FILE_MAX (1u << 20) /* bytes of the file */

struct sl_keys;

/* Reads a key file. SL_EINPUT names file and line: too long, a blank or control character inside,
 * no key at all. */
int sl_keys_read(const char *path, struct sl_keys **out, struct sl_err *err);
/* The same from memory; `name` stands for the file in messages. */
int sl_keys_parse(const char *name, const char *text, size_t n, struct sl_keys **out,
                  struct sl_err *err);
void sl_keys_free(struct sl_keys *k); /* NULL is fine; wipes the keys */
size_t sl_keys_count(const struct sl_keys *k);

/* 1 when key[0..n) is one of the keys, or when k is NULL (no keys are asked for). */
int sl_keys_check(const struct sl_keys *k, const char *key, size_t n);
/* The same for the value of an Authorization header: "Bearer KEY". */
int sl_keys_check_bearer(const struct sl_keys *k, const char *header, size_t n);

#ifdef __cplusplus
}
#endif
#endif
