/* hf_writer.h - writes small safetensors files and Hugging Face folders for tests and fuzzing
 * seeds.
 *
 * Knows the format only as its specification states it and shares no code with the reader. Values
 * are written as given, sensible or not. Out of memory aborts. */
#ifndef SL_TESTS_HF_WRITER_H
#define SL_TESTS_HF_WRITER_H

#include <stddef.h>
#include <stdint.h>

struct hf_tensor {
    char *name;
    const char *dtype; /* "BF16" */
    int rank;
    int64_t shape[8]; /* as the file has it: the last is the fastest */
    uint8_t *data;
    size_t bytes;
};

struct hf_writer {
    struct hf_tensor *tensors; /* in the order of their data */
    size_t n;
    size_t pad; /* spaces after the header beyond those that align the data to 8 bytes */
};

void hf_init(struct hf_writer *w);
void hf_close(struct hf_writer *w);

/* A tensor; `bytes` of data copied from `data`, or zeros when it is NULL. `shape` may be NULL when
 * rank is 0. */
void hf_tensor(struct hf_writer *w, const char *name, const char *dtype, int rank,
               const int64_t *shape, const void *data, size_t bytes);

/* The file; free() it. */
uint8_t *hf_build(const struct hf_writer *w, size_t *len);
int hf_save(const struct hf_writer *w, const char *dir, const char *name); /* 0 or -1 with errno */

/* A file around a header of any text: length, header, `data` bytes of zeros; free() it. */
uint8_t *hf_raw(const char *header, size_t data, size_t *len);

/* Writes text into dir/name, "%s/%s"; aborts when it cannot. */
void hf_text(const char *dir, const char *name, const char *text);

/* A new empty folder below the folder for temporary files, and its removal with all that is in it.
 */
char *hf_folder(void); /* free() it */
void hf_folder_remove(const char *dir);

#endif
