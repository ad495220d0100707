/* json_read.h - JSON files of a model as jansson trees, read as hostile input; private to model/.
 *
 * jansson parses; before it does, one linear pass over the text bounds depth and the number of
 * values, which bounds the memory of the tree, and writes integers that pass 64 bits (tokenizer
 * configurations say 10^30 for "no limit") as reals. Duplicate keys are refused. */
#ifndef SL_MODEL_JSON_READ_H
#define SL_MODEL_JSON_READ_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct json_t;

#define SL_JSON_DEPTH_MAX 64           /* levels of nesting; model files have about 10 */
#define SL_JSON_VALUES_MAX (24u << 20) /* values of one file; large vocabularies have 2 million */

/* Parses text[0..n), which is changed, into *out (json_decref is the caller's). `where` begins
 * error messages. SL_EINPUT or SL_ENOMEM. */
int sl_json_parse(const char *where, char *text, size_t n, struct json_t **out, struct sl_err *err);

/* Reads and parses the file at `path` of at most max_bytes. SL_ENOTFOUND when it does not exist,
 * SL_EIO, SL_EINPUT (damaged, too large, a git-LFS pointer), SL_ENOMEM. */
int sl_json_file_read(const char *path, uint64_t max_bytes, struct json_t **out,
                      struct sl_err *err);

/* Is this a git-LFS pointer, the small text that a clone without LFS has in place of a file? */
int sl_is_lfs_pointer(const void *bytes, size_t n);
#define SL_LFS_REMEDY                                                                              \
    "this is a git-LFS pointer, not the file itself; run `git lfs pull` in the folder, or "        \
    "download the file"

#endif
