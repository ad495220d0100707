/* safetensors.c - see safetensors.h. The format: u64 length of a JSON header, the header, the
 * tensors' bytes. */
#include "tests/lib/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

static unsigned char *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    unsigned char *bytes = NULL;
    long n = fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
    if (n >= 8 && fseek(f, 0, SEEK_SET) == 0) bytes = malloc((size_t)n);
    if (bytes && fread(bytes, 1, (size_t)n, f) != (size_t)n) {
        free(bytes);
        bytes = NULL;
    }
    fclose(f);
    *len = (size_t)n;
    return bytes;
}

int safetensors_open(const char *path, struct safetensors *out)
{
    uint64_t n;
    *out = (struct safetensors){.head = NULL};
    out->bytes = read_file(path, &out->len);
    if (!out->bytes) return -1;
    memcpy(&n, out->bytes, sizeof n);
    if (n <= out->len - 8) out->head = json_loadb((const char *)out->bytes + 8, (size_t)n, 0, NULL);
    out->data_at = 8 + (size_t)n;
    if (out->head) return 0;
    safetensors_close(out);
    return -1;
}

void safetensors_close(struct safetensors *s)
{
    json_decref(s->head);
    free(s->bytes);
    *s = (struct safetensors){.head = NULL};
}

const void *safetensors_find(const struct safetensors *s, const char *name, const char *type,
                             int shape[2])
{
    const json_t *t = json_object_get(s->head, name), *dims = json_object_get(t, "shape");
    const char *dtype = json_string_value(json_object_get(t, "dtype"));
    size_t rank = json_array_size(dims), count = 1;
    if (!dtype || strcmp(dtype, type) || rank < 1) return NULL;
    for (size_t i = 0; i < rank; i++) count *= (size_t)json_integer_value(json_array_get(dims, i));
    int columns = (int)json_integer_value(json_array_get(dims, rank - 1));
    shape[0] = columns ? (int)(count / (size_t)columns) : 0;
    shape[1] = columns;
    size_t at = s->data_at +
                (size_t)json_integer_value(json_array_get(json_object_get(t, "data_offsets"), 0));
    return at + 4 * count <= s->len ? s->bytes + at : NULL; /* both types have 4 bytes */
}
