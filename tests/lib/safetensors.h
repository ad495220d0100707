/* safetensors.h - reads golden tensors for tests: one file, whole in memory, tensors by name. */
#ifndef SL_TESTS_SAFETENSORS_H
#define SL_TESTS_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

struct json_t;

struct safetensors {
    struct json_t *head;
    unsigned char *bytes; /* the file */
    size_t data_at, len;
};

int safetensors_open(const char *path,
                     struct safetensors *out); /* 0, or -1 when it is absent or malformed */
void safetensors_close(struct safetensors *s);

/* A tensor of the type named ("F32", "I32"): its elements and, in shape[2], its rows and columns (1
 * row when it is a vector). NULL when the file has no such tensor. Lives as long as the file. */
const void *safetensors_find(const struct safetensors *s, const char *name, const char *type,
                             int shape[2]);

#endif
