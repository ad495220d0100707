/* test_sched.c - the scheduler's rules one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "coordinator/sched.h"
#include "tests/unit/coordinator/toy.h"

static struct sl_sched S;
static uint64_t n_ids;

static void open_sched(int slots, int block_tokens, int n_blocks, int micro_batches, int chunk,
                       int max_rows)
{
    assert_int_equal(sl_sched_init(&S, slots, block_tokens, TOY_VOCAB), 0);
    assert_int_equal(sl_sched_set_plan(&S, micro_batches, chunk, max_rows), 0);
    assert_int_equal(sl_sched_set_blocks(&S, n_blocks), 0);
}

static struct sl_request *add(int n_tokens, int max_tokens, int priority, uint64_t now_ns)
{
    static int32_t tokens[8192];
    struct sl_submit s = {.id = ++n_ids,
                          .tokens = tokens,
                          .n_tokens = n_tokens,
                          .max_tokens = max_tokens,
                          .ignore_eos = 1};
    struct sl_request *r;
    sl_sampling_default(&s.sampling);
    assert_int_equal(sl_request_create(&s, 8192, S.block_tokens, now_ns, &r), 0);
    sl_sched_add(&S, r, priority);
    return r;
}

/* A result for every share that was to be sampled. */
static void land(struct sl_flight *f)
{
    f = sl_sched_land(&S, f->slot);
    for (int i = 0; i < f->batch.n_seqs; i++) {
        struct sl_request *r = sl_sched_owner(&S, &f->shares[i]);
        struct sl_request_out o;
        if (!r || !(f->shares[i].flags & SL_SEQ_SAMPLE)) continue;
        assert_int_equal(sl_request_push(r, NULL, 7, &o), 0);
        sl_sched_wake(&S, r);
    }
    sl_sched_audit(&S);
}

/* Equal cohorts, also after an uneven start, and as many micro-batches in flight as there is place.
 */
static void test_cohorts(void **state)
{
    (void)state;
    open_sched(32, 16, 4000, 4, 64, 256);
    for (int i = 0; i < 9; i++) add(5, 1000, 0, 0);
    struct sl_flight *f[4] = {sl_sched_form(&S, 0)};
    assert_int_equal(f[0]->batch.n_rows, 45); /* all prompts fit into one chunk */
    assert_null(sl_sched_form(&S, 0));
    land(f[0]);
    static const int want[] = {3, 2, 2, 2};
    for (int i = 0; i < 4; i++) {
        f[i] = sl_sched_form(&S, 0);
        assert_non_null(f[i]);
        assert_int_equal(f[i]->batch.n_seqs, want[i]);
    }
    assert_null(sl_sched_form(&S, 0));
    for (int i = 0; i < 12; i++)
        add(5, 1000, 0, 0); /* all of them join the cohort of the first that returns */
    int least = 99, most = 0;
    for (int round = 0; round < 40; round++)
        for (int i = 0; i < 4; i++) {
            land(f[i]);
            f[i] = sl_sched_form(&S, 0);
            assert_non_null(f[i]);
            if (round < 20) continue;
            least = SL_MIN(least, f[i]->batch.n_rows);
            most = SL_MAX(most, f[i]->batch.n_rows);
        }
    assert_int_equal(S.n_decoding, 21);
    assert_in_range(least, 3, 5); /* 21 rows in 4 */
    assert_int_equal(most, 6);
    sl_sched_close(&S);
}

/* The chunks of one prompt go into consecutive micro-batches at once; decode rows shorten them. */
static void test_chunks(void **state)
{
    (void)state;
    open_sched(8, 16, 40000, 3, 64, 256);
    struct sl_request *r = add(150, 10, 0, 0);
    struct sl_flight *f[3];
    static const int want[] = {64, 64, 22};
    for (int i = 0; i < 3; i++) {
        f[i] = sl_sched_form(&S, 0);
        assert_int_equal(f[i]->batch.n_rows, want[i]);
        assert_int_equal(f[i]->batch.seqs[0].flags,
                         (i == 0 ? SL_SEQ_REGISTER : 0) | (i == 2 ? SL_SEQ_SAMPLE : 0));
    }
    for (int i = 0; i < 3; i++) land(f[i]);
    assert_int_equal(r->state, SL_REQUEST_READY);
    add(150, 10, 0, 0);
    f[0] = sl_sched_form(&S, 0);
    assert_int_equal(f[0]->batch.n_seqs, 2);
    assert_int_equal(f[0]->batch.n_rows, 64); /* one decode row and 63 of the prompt */
    sl_sched_close(&S);
    open_sched(8, 16, 40, 1, 64, 256);
    add(300, 10, 0, 0);
    for (int i = 0; i < 5; i++)
        land(sl_sched_form(&S, 0)); /* alone: full chunks while the cache fills to half */
    assert_int_equal(S.n_decoding, 1);
    add(150, 10, 0, 0);
    f[0] = sl_sched_form(&S, 0);
    assert_in_range(f[0]->batch.n_rows, 1 + SL_PREFILL_MIN, 40); /* throttled */
    sl_sched_close(&S);
}

/* Short prompts pass a long one, which goes on with what they leave of the micro-batch. */
static void test_short_passes_long(void **state)
{
    (void)state;
    open_sched(8, 16, 40000, 1, 64, 256);
    struct sl_request *l = add(1000, 10, 0, 0);
    land(sl_sched_form(&S, 0));
    struct sl_request *a = add(20, 10, 0, 1), *b = add(10, 10, 0, 2), *c = add(20, 10, 0, 3);
    struct sl_flight *f = sl_sched_form(&S, 4);
    assert_true(f->batch.n_seqs == 3 && f->batch.n_rows == 64 && l->n_sent == 64 + 34);
    assert_true(a->state == SL_REQUEST_AWAITS && b->state == SL_REQUEST_AWAITS);
    assert_int_equal(c->state, SL_REQUEST_WAITING); /* half of it is taken */
    land(f);
    assert_int_equal(a->state, SL_REQUEST_READY);
    sl_sched_close(&S);
    open_sched(8, 16, 64, 1, 64, 256); /* the long one needs 63 blocks: one to spare */
    add(1000, 10, 0, 0);
    land(sl_sched_form(&S, 0));
    a = add(10, 10, 0, 1), b = add(10, 10, 0, 2);
    sl_sched_form(&S, 4);
    assert_int_equal(a->state, SL_REQUEST_AWAITS);
    assert_int_equal(b->state, SL_REQUEST_WAITING);
    sl_sched_close(&S);
}

/* Priority counts as waiting time, no more: who waits long enough goes before later arrivals of
 * higher priority. */
static void test_ageing(void **state)
{
    (void)state;
    open_sched(1, 16, 400, 1, 64, 256);
    struct sl_request *low = add(5, 10, 0, 0), *high = add(5, 10, 2, 5000000000ull),
                      *late = add(5, 10, 2, 25000000000ull);
    struct sl_request *order[] = {high, low, late};
    for (int i = 0; i < 3; i++) {
        struct sl_flight *f = sl_sched_form(&S, 0);
        assert_int_equal(f->batch.n_seqs, 1);
        assert_ptr_equal(S.slots[0].request, order[i]);
        sl_sched_land(&S, f->slot);
        sl_sched_remove(&S, order[i]);
        sl_request_destroy(order[i]);
    }
    sl_sched_close(&S);
}

/* The youngest goes back to the queue, with its result on the way; it is computed again with all
 * its tokens. */
static void test_preempt(void **state)
{
    (void)state;
    open_sched(4, 4, 6, 2, 64, 64);
    struct sl_request *a = add(8, 12, 0, 0), *b = add(8, 12, 0, 1);
    struct sl_flight *f = sl_sched_form(&S, 2), *g;
    assert_int_equal(f->batch.n_rows, 16); /* 2 blocks each, 2 free */
    land(f);
    for (int i = 0; S.preemptions == 0; i++) {
        assert_in_range(i, 0, 8);
        if ((f = sl_sched_form(&S, 3))) {
            g = sl_sched_form(&S, 3);
            land(f);
            if (g) land(g);
        }
    }
    assert_int_equal(b->state, SL_REQUEST_WAITING);
    assert_true(a->state != SL_REQUEST_WAITING);
    int had = b->n_tokens;
    assert_true(had > 8);
    while (S.n_in_flight) /* a runs alone now */
        for (int i = 0; i < 2; i++)
            if (S.flights[i].slot) sl_sched_land(&S, S.flights[i].slot);
    sl_sched_remove(&S, a);
    sl_request_destroy(a);
    f = sl_sched_form(&S, 4);
    assert_int_equal(f->batch.n_rows, had);
    assert_int_equal(f->batch.seqs[0].flags, SL_SEQ_REGISTER | SL_SEQ_SAMPLE);
    assert_int_equal(f->batch.seqs[0].prompt_len, 8);
    sl_sched_close(&S);
}

/* A sequence that grows beyond far_from is computed again as a far one; one that begins beyond it
 * is far at once. */
static void test_far(void **state)
{
    (void)state;
    open_sched(4, 4, 40, 1, 64, 64);
    S.far_from = 8;
    struct sl_request *a = add(6, 10, 0, 0), *b = add(9, 10, 0, 1);
    struct sl_flight *f = sl_sched_form(&S, 2);
    assert_int_equal(f->batch.n_rows, 15);
    assert_int_equal(f->batch.seqs[0].flags, SL_SEQ_REGISTER | SL_SEQ_SAMPLE);
    assert_int_equal(f->batch.seqs[1].flags, SL_SEQ_REGISTER | SL_SEQ_SAMPLE | SL_SEQ_FAR);
    land(f);
    sl_sched_remove(&S, b);
    sl_request_destroy(b);
    for (int n = 7; n <= 8; n++) { /* as many tokens as the model was first trained for: near */
        f = sl_sched_form(&S, 3);
        assert_int_equal(a->n_tokens, n);
        assert_int_equal(f->batch.n_rows, 1);
        land(f);
    }
    f = sl_sched_form(&S, 4);
    if (!f) f = sl_sched_form(&S, 4);
    assert_int_equal(S.preemptions, 1);
    assert_int_equal(f->batch.n_rows, 9);
    assert_int_equal(f->batch.seqs[0].pos, 0);
    assert_int_equal(f->batch.seqs[0].flags, SL_SEQ_REGISTER | SL_SEQ_SAMPLE | SL_SEQ_FAR);
    land(f);
    f = sl_sched_form(&S, 5);
    assert_int_equal(f->batch.n_rows, 1);
    sl_sched_close(&S);
}

/* A text to be scored is cut like any prompt; each piece brings the token that follows it. */
static void test_score_pieces(void **state)
{
    (void)state;
    open_sched(8, 16, 400, 1, 32, 40);
    add(70, 1, 0, 1)->score = 1;
    for (int at = 0; at < 70;) {
        struct sl_flight *f = sl_sched_form(&S, 2);
        const struct sl_batch_seq *q = &f->batch.seqs[0];
        assert_int_equal(q->pos, at);
        assert_true(q->flags & SL_SEQ_SCORE && !(q->flags & SL_SEQ_SAMPLE));
        at += q->n_tokens;
        assert_int_equal(q->next, at < 70 ? sl_sched_owner(&S, f->shares)->tokens[at] : -1);
        if (at < 70) assert_int_equal(q->n_tokens, 32);
        sl_sched_land(&S, f->slot);
    }
    sl_sched_close(&S);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cohorts),      cmocka_unit_test(test_short_passes_long),
        cmocka_unit_test(test_chunks),       cmocka_unit_test(test_ageing),
        cmocka_unit_test(test_preempt),      cmocka_unit_test(test_far),
        cmocka_unit_test(test_score_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
