/* test_safetensors.c - safetensors files and Hugging Face folders: what must open, what is mapped,
 * and the one line that each bad one gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/sl_assert.h"
#include "model/weights.h"
#include "tests/lib/hf_writer.h"

#define MEMORY "small.safetensors"

static void expect(int r, const struct sl_err *err, int code, const char *says)
{
    if (r != code || !strstr(err->msg, says))
        fail_msg("wanted %d \"%s\", got %d \"%s\"", code, says, r, r ? err->msg : "");
    assert_int_equal(err->code, code);
}

/* Opens and closes; the line must be there exactly when it fails. */
static int try_memory(const void *data, size_t n, struct sl_err *err)
{
    struct sl_weights *w = NULL;
    *err = (struct sl_err){0};
    int r = sl_weights_open_memory(MEMORY, data, n, &w, err);
    assert_int_equal(r == 0, w != NULL);
    assert_int_equal(err->code, r);
    assert_int_equal(r == 0, err->msg[0] == 0);
    if (w) {
        volatile unsigned sum = 0;
        for (size_t i = 0; i < sl_weights_count(w); i++) {
            const struct sl_tensor *t = sl_weights_at(w, i);
            const uint8_t *p = sl_weights_map(w, t, err);
            assert_non_null(p);
            for (uint64_t j = 0; j < t->bytes; j++) sum += p[j];
            sl_weights_unmap(w, t);
        }
    }
    sl_weights_close(w);
    return r;
}

static void opens_small_file(void **state)
{
    (void)state;
    struct hf_writer f;
    struct sl_weights *w;
    struct sl_err err = {0};
    size_t n;
    hf_init(&f);
    hf_tensor(&f, "a", "F32", 2, (int64_t[]){2, 3}, (float[]){1, 2, 3, 4, 5, 6}, 24);
    hf_tensor(&f, "scalar", "F32", 0, NULL, (float[]){7}, 4);
    hf_tensor(&f, "empty", "BF16", 2, (int64_t[]){0, 5}, NULL, 0);
    hf_tensor(&f, "packed", "F4", 2, (int64_t[]){2, 8}, NULL, 8);
    hf_tensor(&f, "odd", "F8_E4M3FNUZ", 1, (int64_t[]){3}, NULL, 3);
    hf_tensor(&f, "new", "F5_E2M2", 1, (int64_t[]){8}, NULL, 5);
    uint8_t *file = hf_build(&f, &n);
    hf_close(&f);
    assert_int_equal(sl_weights_open_memory(MEMORY, file, n, &w, &err), 0);
    assert_int_equal(sl_weights_count(w), 6);
    assert_null(sl_weights_dir(w));
    assert_null(sl_weights_json(w, SL_JSON_CONFIG));
    assert_int_equal(sl_weights_meta_count(w), 0);
    const struct sl_tensor *t = sl_weights_find(w, "a");
    assert_non_null(t);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->ne[0], 3); /* the row length comes first */
    assert_int_equal(t->ne[1], 2);
    assert_int_equal(t->ne[2], 1);
    assert_true(t->known && t->type == SL_F32);
    assert_memory_equal(sl_weights_map(w, t, &err), ((float[]){1, 2, 3, 4, 5, 6}), 24);
    assert_true(*(const float *)sl_weights_map(w, sl_weights_find(w, "scalar"), &err) == 7);
    assert_int_equal(sl_weights_find(w, "scalar")->n_dims, 0);
    assert_int_equal(sl_weights_find(w, "empty")->bytes, 0);
    assert_int_equal(sl_weights_find(w, "packed")->ne[0], 8); /* logical elements */
    assert_int_equal(sl_weights_find(w, "odd")->known, 0);
    assert_string_equal(sl_weights_find(w, "odd")->type_name, "F8_E4M3FNUZ");
    assert_int_equal(sl_weights_find(w, "new")->known, 0);
    sl_weights_close(w);
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_small_file),
    };
    (void)expect;
    (void)try_memory;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
