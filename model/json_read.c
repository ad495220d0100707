/* json_read.c - see json_read.h. */
#include "model/json_read.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#define SHOWN_MAX 160 /* bytes of jansson's own message that we repeat */

static const char int_max[] = "9223372036854775807"; /* jansson's integers end here */

int sl_is_lfs_pointer(const void *bytes, size_t n)
{
    static const char start[] = "version https://git-lfs";
    return n >= sizeof start - 1 && memcmp(bytes, start, sizeof start - 1) == 0;
}

/* text[at..] begins a number with a sign or a digit: an integer that is too large becomes a real of
 * the same length, its last three digits an exponent. Returns where its digits end, past `at`. */
static size_t widen_number(char *text, size_t n, size_t at)
{
    size_t i = at + (text[at] == '-'), first = i;
    while (i < n && text[i] >= '0' && text[i] <= '9') i++;
    size_t digits = i - first, most = sizeof int_max - 1;
    int whole = i == n || (text[i] != '.' && text[i] != 'e' && text[i] != 'E');
    int large = digits > most || (digits == most && memcmp(text + first, int_max, most) > 0);
    if (whole && large && text[first] != '0') memcpy(text + i - 3, "e03", 3);
    return i;
}

/* The pass before parsing: strings are skipped, brackets and separators counted. */
static int scan(const char *where, char *text, size_t n, struct sl_err *err)
{
    size_t values = 1;
    int depth = 0, in_string = 0;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = 0;
        } else if (c == '"') {
            in_string = 1;
        } else if (c == '{' || c == '[') {
            values++;
            if (++depth > SL_JSON_DEPTH_MAX)
                return sl_err_set(
                    err, SL_EINPUT,
                    "%s: byte %zu: nested deeper than %d levels; the file is damaged, "
                    "download it again",
                    where, i, SL_JSON_DEPTH_MAX);
        } else if (c == '}' || c == ']') {
            depth--;
        } else if (c == ',' || c == ':') {
            values++;
        } else if (c == '-' || (c >= '0' && c <= '9')) {
            i = widen_number(text, n, i) - 1; /* at least one byte: the sign or a digit */
        }
        if (values > SL_JSON_VALUES_MAX)
            return sl_err_set(err, SL_EINPUT,
                              "%s: more than %u values; the file is damaged, download it again",
                              where, SL_JSON_VALUES_MAX);
    }
    return 0;
}

/* jansson's message may repeat bytes of the file: made printable. */
static void printable(const char *s, char out[SHOWN_MAX])
{
    size_t n = 0;
    for (; *s && n < SHOWN_MAX - 1; s++)
        out[n++] = (unsigned char)*s < 0x20 || (unsigned char)*s > 0x7e ? '?' : *s;
    out[n] = 0;
}

int sl_json_parse(const char *where, char *text, size_t n, struct json_t **out, struct sl_err *err)
{
    json_error_t e;
    char shown[SHOWN_MAX];
    int r = scan(where, text, n, err);
    if (r) return r;
    json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (j) {
        *out = j;
        return 0;
    }
    if (json_error_code(&e) == json_error_out_of_memory)
        return sl_err_set(err, SL_ENOMEM, "%s: out of memory", where);
    printable(e.text, shown);
    return sl_err_set(err, SL_EINPUT,
                      "%s: line %d, byte %d: not valid JSON: %s; the file is damaged, download it "
                      "again",
                      where, e.line, e.position, shown);
}

/* The whole regular file, with its length. */
static int slurp(const char *path, uint64_t max_bytes, char **text, size_t *n, struct sl_err *err)
{
    struct stat st;
    int r = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    if (fd < 0)
        return sl_err_set(err, errno == ENOENT ? SL_ENOTFOUND : SL_EIO, "%s: cannot open: %s", path,
                          strerror(errno));
    *text = NULL;
    *n = 0;
    if (fstat(fd, &st) < 0)
        r = sl_err_set(err, SL_EIO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        r = sl_err_set(err, SL_EINPUT, "%s: not a regular file", path);
    else if ((uint64_t)st.st_size > max_bytes)
        r = sl_err_set(err, SL_EINPUT,
                       "%s: %" PRIu64 " bytes, at most %" PRIu64
                       " are read; is it the file of this name?",
                       path, (uint64_t)st.st_size, max_bytes);
    else if (!(*text = malloc((size_t)st.st_size + 1)))
        r = sl_err_set(err, SL_ENOMEM, "%s: out of memory", path);
    while (!r && *n < (size_t)st.st_size) {
        ssize_t got = read(fd, *text + *n, (size_t)st.st_size - *n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) r = sl_err_set(err, SL_EIO, "%s: cannot read: %s", path, strerror(errno));
        if (got <= 0) break; /* shorter than it was: the parser will say so */
        *n += (size_t)got;
    }
    close(fd);
    if (r) free(*text);
    return r;
}

int sl_json_file_read(const char *path, uint64_t max_bytes, struct json_t **out, struct sl_err *err)
{
    char *text = NULL;
    size_t n = 0;
    int r = slurp(path, max_bytes, &text, &n, err);
    if (r) return r;
    if (sl_is_lfs_pointer(text, n))
        r = sl_err_set(err, SL_EINPUT, "%s: %s", path, SL_LFS_REMEDY);
    else
        r = sl_json_parse(path, text, n, out, err);
    free(text);
    return r;
}
