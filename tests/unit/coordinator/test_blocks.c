/* test_blocks.c - the KV block allocator against a naive set. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/env.h"
#include "coordinator/blocks.h"

#define N 97

static void test_naive(void **state)
{
    (void)state;
    struct sl_blocks b;
    char held[N] = {0};
    int32_t mine[N], n = 0;
    uint64_t rng = 1;
    assert_int_equal(sl_blocks_init(&b, N), 0);
    for (int i = 0; i < 20000; i++) {
        rng = sl_mix64(rng);
        if (rng % 2) {
            int take = (int)(rng / 2 % 7);
            if (take > b.n_free) continue;
            sl_blocks_take(&b, take, mine + n);
            for (int k = n; k < n + take; k++) {
                assert_in_range(mine[k], 0, N - 1);
                assert_false(held[mine[k]]);
                held[mine[k]] = 1;
            }
            n += take;
        } else {
            int give = n ? (int)(rng / 2 % (uint64_t)n) + 1 : 0,
                from = (int)(rng / 1024 % (uint64_t)(n - give + 1));
            for (int k = from; k < from + give; k++) held[mine[k]] = 0;
            sl_blocks_give(&b, give, mine + from);
            memmove(mine + from, mine + from + give, (size_t)(n - from - give) * sizeof *mine);
            n -= give;
        }
        assert_int_equal(b.n_free, N - n);
    }
    sl_blocks_close(&b);
}

static void test_all_and_none(void **state)
{
    (void)state;
    struct sl_blocks b;
    int32_t v[5];
    assert_int_equal(sl_blocks_init(&b, 5), 0);
    sl_blocks_take(&b, 5, v);
    for (int i = 0; i < 5; i++) assert_int_equal(v[i], i);
    assert_int_equal(b.n_free, 0);
    sl_blocks_take(&b, 0, v);
    sl_blocks_give(&b, 5, v);
    sl_blocks_take(&b, 1, v);
    assert_int_equal(v[0], 4); /* last back, first out */
    sl_blocks_close(&b);
    assert_int_equal(sl_blocks_init(&b, 0), 0);
    sl_blocks_close(&b);
    assert_int_equal(sl_blocks_for(0, 16), 0);
    assert_int_equal(sl_blocks_for(1, 16), 1);
    assert_int_equal(sl_blocks_for(16, 16), 1);
    assert_int_equal(sl_blocks_for(17, 16), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_naive),
                                       cmocka_unit_test(test_all_and_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
