/* test_arena.c - alignment, zeroing, disjointness and the cap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/env.h"
#include "base/sl_assert.h"

static void hands_out_disjoint_zeroed_blocks(void **state)
{
    (void)state;
    enum { N = 2000 };
    static unsigned char *block[N];
    static size_t size[N];
    struct sl_arena a;
    sl_arena_init(&a, 1u << 30);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) { /* small ones, and now and then one larger than a chunk */
            size[i] = (size_t)(sl_mix64((uint64_t)i) % (i % 50 == 0 ? 100000 : 200));
            block[i] = sl_arena_alloc(&a, size[i]);
            assert_non_null(block[i]);
            assert_int_equal((uintptr_t)block[i] % 16, 0);
            for (size_t j = 0; j < size[i]; j++) assert_int_equal(block[i][j], 0);
            memset(block[i], i & 0xff, size[i]);
        }
        for (int i = 0; i < N; i++)
            for (size_t j = 0; j < size[i]; j++) assert_int_equal(block[i][j], i & 0xff);
        sl_arena_close(&a);
        assert_int_equal(a.used, 0);
    }
}

static void keeps_its_cap(void **state)
{
    (void)state;
    struct sl_arena a;
    sl_arena_init(&a, 100);
    assert_non_null(sl_arena_alloc(&a, 50));
    assert_null(sl_arena_alloc(&a, 50)); /* 50 rounds up to 64 */
    assert_non_null(sl_arena_alloc(&a, 32));
    assert_null(sl_arena_alloc(&a, 16));
    assert_null(sl_arena_alloc(&a, SIZE_MAX));
    sl_arena_close(&a);
    assert_non_null(sl_arena_alloc(&a, 96));
    sl_arena_close(&a);
    sl_arena_init(&a, SIZE_MAX);
    assert_null(sl_arena_alloc(&a, SIZE_MAX));
    assert_null(sl_arena_alloc(&a, SIZE_MAX - 15));
    assert_null(sl_arena_strndup(&a, "x", SIZE_MAX));
    assert_non_null(sl_arena_alloc(&a, 0));
    sl_arena_close(&a);
}

static void copies_strings(void **state)
{
    (void)state;
    struct sl_arena a;
    sl_arena_init(&a, 1000);
    assert_string_equal(sl_arena_strdup(&a, "hello"), "hello");
    assert_string_equal(sl_arena_strndup(&a, "hello", 2), "he");
    assert_string_equal(sl_arena_strndup(&a, NULL, 0), "");
    sl_arena_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(hands_out_disjoint_zeroed_blocks),
                                       cmocka_unit_test(keeps_its_cap),
                                       cmocka_unit_test(copies_strings)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
