/* test_map.c - the hash map against a plain array, over a long random sequence of calls. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/env.h"
#include "base/map.h"
#include "base/sl_assert.h"

#define KEYS 300 /* few, so that they are removed and come back */

static uint64_t key_of(size_t i)
{
    return i * 0x100000001u; /* 0 is a key like any other */
}

static void check_all(const struct sl_map *m, char *const *model)
{
    size_t n = 0, pos = 0, seen = 0;
    uint64_t key;
    for (size_t i = 0; i < KEYS; i++) {
        assert_ptr_equal(sl_map_get(m, key_of(i)), model[i]);
        n += model[i] != NULL;
    }
    assert_int_equal(m->len, n);
    for (void *v; (v = sl_map_next(m, &pos, &key)); seen++)
        assert_ptr_equal(model[key / 0x100000001u], v);
    assert_int_equal(seen, n);
}

static void agrees_with_an_array(void **state)
{
    (void)state;
    static char values[KEYS * 2];
    char *model[KEYS] = {0};
    struct sl_map m;
    sl_map_init(&m);
    assert_null(sl_map_get(&m, 1));
    assert_null(sl_map_remove(&m, 1));
    for (uint64_t step = 0; step < 60000; step++) {
        uint64_t r = sl_mix64(step);
        size_t i = (size_t)(r % KEYS);
        /* phases of growing and of shrinking */
        if ((r >> 32) % 8 < (step / 5000 % 2 ? 2 : 6)) {
            model[i] = &values[(r >> 40) % sizeof values];
            assert_int_equal(sl_map_put(&m, key_of(i), model[i]), 0);
        } else {
            assert_ptr_equal(sl_map_remove(&m, key_of(i)), model[i]);
            model[i] = NULL;
        }
        if (step % 97 == 0) check_all(&m, model);
    }
    check_all(&m, model);
    sl_map_close(&m);
    assert_int_equal(m.len, 0);
}

static void iterates_in_the_order_of_calls(void **state)
{
    (void)state;
    struct sl_map a, b;
    sl_map_init(&a);
    sl_map_init(&b);
    static char v1[1000], v2[1000];
    for (size_t i = 0; i < 1000; i++) {
        sl_map_put(&a, i * 7, &v1[i]);
        sl_map_put(&b, i * 7, &v2[i]);
    }
    for (size_t i = 0; i < 1000; i += 3) {
        sl_map_remove(&a, i * 7);
        sl_map_remove(&b, i * 7);
    }
    size_t pa = 0, pb = 0;
    for (uint64_t ka, kb;;) {
        void *x = sl_map_next(&a, &pa, &ka), *y = sl_map_next(&b, &pb, &kb);
        assert_int_equal(x == NULL, y == NULL);
        if (!x) break;
        assert_int_equal(ka, kb);
    }
    sl_map_close(&a);
    sl_map_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_an_array),
                                       cmocka_unit_test(iterates_in_the_order_of_calls)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
