/* hf_writer.c - see hf_writer.h. */
#include "tests/lib/hf_writer.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *must(void *p)
{
    if (!p) abort();
    return p;
}

void hf_init(struct hf_writer *w)
{
    *w = (struct hf_writer){.n = 0};
}

void hf_close(struct hf_writer *w)
{
    for (size_t i = 0; i < w->n; i++) {
        free(w->tensors[i].name);
        free(w->tensors[i].data);
    }
    free(w->tensors);
    hf_init(w);
}

void hf_tensor(struct hf_writer *w, const char *name, const char *dtype, int rank,
               const int64_t *shape, const void *data, size_t bytes)
{
    w->tensors = must(realloc(w->tensors, (w->n + 1) * sizeof *w->tensors));
    struct hf_tensor *t = &w->tensors[w->n++];
    *t = (struct hf_tensor){
        .name = must(strdup(name)), .dtype = dtype, .rank = rank, .bytes = bytes};
    for (int i = 0; i < rank; i++) t->shape[i] = shape[i];
    t->data = must(calloc(1, bytes + 1));
    if (data) memcpy(t->data, data, bytes);
}

uint8_t *hf_build(const struct hf_writer *w, size_t *len)
{
    char *head = NULL;
    size_t n = 0, at = 0;
    FILE *f = must(open_memstream(&head, &n));
    fprintf(f, "{");
    for (size_t i = 0; i < w->n; i++) {
        const struct hf_tensor *t = &w->tensors[i];
        fprintf(f, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name, t->dtype);
        for (int d = 0; d < t->rank; d++) fprintf(f, "%s%" PRId64, d ? "," : "", t->shape[d]);
        fprintf(f, "],\"data_offsets\":[%zu,%zu]}", at, at + t->bytes);
        at += t->bytes;
    }
    fprintf(f, "}");
    fflush(f);
    for (size_t pad = (8 - n % 8) % 8 + w->pad; pad; pad--) fputc(' ', f);
    fclose(f);
    uint8_t *out = must(malloc(8 + n + at));
    uint64_t n64 = n;
    memcpy(out, &n64, 8);
    memcpy(out + 8, head, n);
    free(head);
    *len = 8 + n + at;
    at = 8 + n;
    for (size_t i = 0; i < w->n; at += w->tensors[i++].bytes)
        memcpy(out + at, w->tensors[i].data, w->tensors[i].bytes);
    return out;
}

static int write_file(const char *dir, const char *name, const void *data, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f) return -1;
    size_t done = n ? fwrite(data, 1, n, f) : 0;
    return fclose(f) == 0 && done == n ? 0 : -1;
}

int hf_save(const struct hf_writer *w, const char *dir, const char *name)
{
    size_t n;
    uint8_t *file = hf_build(w, &n);
    int r = write_file(dir, name, file, n);
    free(file);
    return r;
}

uint8_t *hf_raw(const char *header, size_t data, size_t *len)
{
    uint64_t n = strlen(header);
    uint8_t *out = must(calloc(1, 8 + n + data));
    memcpy(out, &n, 8);
    memcpy(out + 8, header, n);
    *len = 8 + n + data;
    return out;
}

void hf_text(const char *dir, const char *name, const char *text)
{
    if (write_file(dir, name, text, strlen(text)) != 0) abort();
}

char *hf_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    char path[512];
    snprintf(path, sizeof path, "%s/sluice-hf-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    return must(strdup(must(mkdtemp(path))));
}

void hf_folder_remove(const char *dir)
{
    char path[512 + 256];
    DIR *d = opendir(dir);
    for (const struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        unlink(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}
