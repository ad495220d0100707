/* sched.c - see sched.h. */
#include "coordinator/sched.h"

#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"

/* ---- life ------------------------------------------------------------------------------------ */

int sl_sched_init(struct sl_sched *s, int n_slots, int block_tokens, int n_vocab)
{
    SL_ASSERT(n_slots > 0 && n_slots <= SL_SEQS_MAX && block_tokens > 0 && n_vocab > 0);
    memset(s, 0, sizeof *s);
    s->n_slots = n_slots;
    s->block_tokens = block_tokens;
    s->n_vocab = n_vocab;
    sl_list_init(&s->waiting);
    sl_list_init(&s->prefill);
    sl_list_init(&s->ready);
    sl_list_init(&s->awaits);
    s->slots = calloc((size_t)n_slots, sizeof *s->slots);
    s->free_slots = malloc((size_t)n_slots * sizeof *s->free_slots);
    if (!s->slots || !s->free_slots || sl_blocks_init(&s->blocks, 0) != 0) {
        sl_sched_close(s);
        return SL_ENOMEM;
    }
    s->n_free_slots = n_slots;
    for (int i = 0; i < n_slots; i++) s->free_slots[i] = n_slots - 1 - i;
    return 0;
}

static void destroy_all(struct sl_sched *s, struct sl_list *head)
{
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, head)
    {
        struct sl_request *r = sl_container_of(it, struct sl_request, link);
        sl_sched_remove(s, r);
        sl_request_destroy(r);
    }
}

static void free_flights(struct sl_sched *s)
{
    for (int i = 0; s->flights && i < s->micro_batches; i++) {
        free(s->flights[i].batch.seqs);
        free(s->flights[i].shares);
        free(s->flights[i].tokens);
        free(s->flights[i].blocks);
    }
    free(s->flights);
    s->flights = NULL;
}

void sl_sched_close(struct sl_sched *s)
{
    if (s->waiting.next) {
        destroy_all(s, &s->waiting);
        destroy_all(s, &s->prefill);
        destroy_all(s, &s->ready);
        destroy_all(s, &s->awaits);
    }
    free_flights(s);
    sl_blocks_close(&s->blocks);
    free(s->slots);
    free(s->free_slots);
    memset(s, 0, sizeof *s);
}

int sl_sched_set_plan(struct sl_sched *s, int micro_batches, int chunk, int max_rows)
{
    SL_ASSERT(!s->flights && micro_batches > 0 && chunk > 0 && max_rows >= chunk &&
              max_rows <= SL_BATCH_ROWS_MAX);
    s->micro_batches = micro_batches;
    s->chunk = chunk;
    s->max_rows = max_rows;
    s->flights = calloc((size_t)micro_batches, sizeof *s->flights);
    if (!s->flights) return SL_ENOMEM;
    /* A share of n tokens brings at most n/block_tokens + 1 blocks. */
    size_t n_blocks = (size_t)(max_rows / s->block_tokens + s->n_slots + 1);
    for (int i = 0; i < micro_batches; i++) {
        struct sl_flight *f = &s->flights[i];
        f->batch.seqs = calloc((size_t)s->n_slots, sizeof *f->batch.seqs);
        f->shares = calloc((size_t)s->n_slots, sizeof *f->shares);
        f->tokens = malloc((size_t)max_rows * sizeof *f->tokens);
        f->blocks = malloc(n_blocks * sizeof *f->blocks);
        if (!f->batch.seqs || !f->shares || !f->tokens || !f->blocks) return SL_ENOMEM;
    }
    return 0;
}

int sl_sched_set_blocks(struct sl_sched *s, int n_blocks)
{
    SL_ASSERT(s->n_running == 0 && s->n_in_flight == 0 && s->blocks.n_free == s->blocks.n_total);
    sl_blocks_close(&s->blocks);
    return sl_blocks_init(&s->blocks, n_blocks);
}

/* ---- the queue and the sequence slots -------------------------------------------------------- */

static struct sl_request *of_link(const struct sl_list *l)
{
    return sl_container_of((struct sl_list *)l, struct sl_request, link);
}

static int goes_before(const struct sl_request *a, const struct sl_request *b)
{
    return a->key != b->key ? a->key < b->key : a->order < b->order;
}

/* From the back, where new ones nearly always belong. */
static void insert_by_key(struct sl_list *head, struct sl_request *r)
{
    struct sl_list *at = head;
    while (at->prev != head && goes_before(r, of_link(at->prev))) at = at->prev;
    sl_list_insert(at, &r->link);
}

void sl_sched_add(struct sl_sched *s, struct sl_request *r, int priority)
{
    priority = SL_MAX(-SL_PRIORITY_MAX, SL_MIN(SL_PRIORITY_MAX, priority));
    r->key = (int64_t)r->submit_ns - priority * SL_PRIORITY_NS;
    r->order = ++s->n_orders;
    r->state = SL_REQUEST_WAITING;
    insert_by_key(&s->waiting, r);
    s->n_waiting++;
}

static void give_blocks(struct sl_sched *s, struct sl_request *r)
{
    sl_blocks_give(&s->blocks, r->n_blocks, r->blocks);
    r->n_blocks = 0;
}

/* Leaves the list of its state and, when it runs, its sequence slot and blocks. */
static void detach(struct sl_sched *s, struct sl_request *r)
{
    sl_list_remove(&r->link);
    if (r->state == SL_REQUEST_WAITING) {
        s->n_waiting--;
        return;
    }
    if (r->state == SL_REQUEST_READY) s->n_ready--;
    if (r->established) s->n_decoding--;
    r->established = 0;
    give_blocks(s, r);
    s->slots[r->seq].request = NULL;
    s->free_slots[s->n_free_slots++] = r->seq;
    r->seq = -1;
    r->n_sent = 0;
    s->n_running--;
}

void sl_sched_remove(struct sl_sched *s, struct sl_request *r)
{
    SL_ASSERT(r->state != SL_REQUEST_ENDED);
    detach(s, r);
    r->state = SL_REQUEST_ENDED;
}

static void preempt(struct sl_sched *s, struct sl_request *r)
{
    detach(s, r);
    r->state = SL_REQUEST_WAITING;
    r->preempted = 1;
    insert_by_key(&s->waiting, r);
    s->n_waiting++;
    s->preemptions++;
}

static void admit(struct sl_sched *s, struct sl_request *r)
{
    SL_ASSERT(r->state == SL_REQUEST_WAITING && s->n_free_slots > 0);
    sl_list_remove(&r->link);
    s->n_waiting--;
    r->seq = s->free_slots[--s->n_free_slots];
    s->slots[r->seq].request = r;
    s->slots[r->seq].gen++;
    s->n_running++;
    r->state = SL_REQUEST_PREFILL;
    r->n_sent = 0;
    insert_by_key(&s->prefill, r);
}

/* The last running sequence in the order that is not in micro-batch `slot` and comes after `r`;
 * NULL when there is none. */
static struct sl_request *find_victim(const struct sl_sched *s, const struct sl_request *r,
                                      uint64_t slot)
{
    struct sl_request *last = NULL;
    for (int i = 0; i < s->n_slots; i++) {
        struct sl_request *x = s->slots[i].request;
        if (x && x != r && x->mark != slot && goes_before(r, x) && (!last || goes_before(last, x)))
            last = x;
    }
    return last;
}

/* ---- one micro-batch ------------------------------------------------------------------------- */

static int blocks_missing(const struct sl_sched *s, const struct sl_request *r, int n_tokens)
{
    return SL_MAX(0, sl_blocks_for(r->n_sent + n_tokens, s->block_tokens) - r->n_blocks);
}

static int is_far(const struct sl_sched *s, const struct sl_request *r)
{
    return s->far_from > 0 && r->n_tokens > s->far_from;
}

static uint32_t share_flags(const struct sl_request *r, int n_tokens)
{
    uint32_t flags = r->n_sent > 0 ? 0 : r->far ? SL_SEQ_REGISTER | SL_SEQ_FAR : SL_SEQ_REGISTER;
    if (r->score) return flags | SL_SEQ_SCORE;
    if (r->logits) return flags | SL_SEQ_LOGITS;
    return r->n_sent + n_tokens == r->n_tokens ? flags | SL_SEQ_SAMPLE : flags;
}

/* The next n tokens of r; their blocks are there. */
static void add_share(struct sl_sched *s, struct sl_flight *f, struct sl_request *r, int n,
                      uint64_t now_ns)
{
    int n_blocks = blocks_missing(s, r, n);
    SL_ASSERT(n > 0 && r->n_sent + n <= r->n_tokens && f->batch.n_rows + n <= s->max_rows &&
              r->mark != f->slot);
    int32_t *tokens = f->tokens + f->batch.n_rows, *blocks = f->blocks + f->n_blocks;
    memcpy(tokens, r->tokens + r->n_sent, (size_t)n * sizeof *tokens);
    sl_blocks_take(&s->blocks, n_blocks, blocks);
    memcpy(r->blocks + r->n_blocks, blocks, (size_t)n_blocks * sizeof *blocks);
    if (r->n_sent == 0) r->far = is_far(s, r);
    uint32_t flags = share_flags(r, n);
    int32_t next = r->n_sent + n < r->n_tokens ? r->tokens[r->n_sent + n] : -1;
    f->shares[f->batch.n_seqs] = (struct sl_share){.seq = (uint32_t)r->seq,
                                                   .flags = flags,
                                                   .gen = s->slots[r->seq].gen,
                                                   .pos = r->n_sent,
                                                   .n_tokens = n};
    f->batch.seqs[f->batch.n_seqs++] = (struct sl_batch_seq){.seq = (uint32_t)r->seq,
                                                             .flags = flags,
                                                             .pos = r->n_sent,
                                                             .n_tokens = n,
                                                             .n_blocks = n_blocks,
                                                             .tokens = tokens,
                                                             .blocks = blocks,
                                                             .next = next,
                                                             .adapter = r->adapter,
                                                             .prompt_len = r->n_prompt,
                                                             .sampling = &r->sampling};
    f->batch.n_rows += n;
    f->n_blocks += n_blocks;
    r->n_blocks += n_blocks;
    r->n_sent += n;
    r->mark = f->slot;
    if (!r->first_chunk_ns) r->first_chunk_ns = now_ns;
    int prompt_sent = SL_MIN(r->n_sent, r->n_prompt);
    s->prompt_tokens +=
        (uint64_t)SL_MAX(0, prompt_sent - r->n_counted); /* not again after a preemption */
    r->n_counted = SL_MAX(r->n_counted, prompt_sent);
    if (r->n_sent == r->n_tokens) {
        sl_list_remove(&r->link);
        if (r->state == SL_REQUEST_READY) s->n_ready--;
        r->state = SL_REQUEST_AWAITS;
        sl_list_append(&s->awaits, &r->link);
    }
}

static int fits_first(const struct sl_sched *s, const struct sl_request *r, int first_chunk)
{
    if (s->n_free_slots == 0) return 0;
    int n = r->preempted ? r->n_tokens : SL_MIN(first_chunk, r->n_tokens);
    return sl_blocks_for(n, s->block_tokens) + s->n_decoding <= s->blocks.n_free;
}

/* 1: the block for r's next token is there. 0: not now. */
static int make_room(struct sl_sched *s, struct sl_flight *f, struct sl_request *r)
{
    while (s->blocks.n_free < blocks_missing(s, r, 1)) {
        struct sl_request *victim = find_victim(s, r, f->slot);
        if (!victim) {
            if (f->batch.n_seqs > 0)
                return 0; /* they come back with blocks or without; then r is asked again */
            victim = r;
        }
        preempt(s, victim);
        if (victim == r) return 0;
    }
    return 1;
}

static int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

static void take_decodes(struct sl_sched *s, struct sl_flight *f, uint64_t now_ns)
{
    /* Equal cohorts; and of those that are ready now, no more than leaves the other free places an
     * equal share (9 in 4 micro-batches are 3 2 2 2, where the first bound alone gives 3 3 3 0). */
    int cap = ceil_div(s->n_decoding, s->micro_batches);
    cap = SL_MIN(cap, ceil_div(s->n_ready, s->micro_batches - s->n_in_flight));
    /* Preemption changes the list under us, but only by taking away: every turn of the loop takes
     * the first ready one out of it (a row, or thrown out itself) or ends the loop. */
    while (cap > 0 && !sl_list_empty(&s->ready) && f->batch.n_rows < s->max_rows) {
        struct sl_request *r = of_link(s->ready.next);
        if (is_far(s, r) && !r->far) {
            preempt(s, r);
            continue;
        }
        if (!make_room(s, f, r)) {
            if (r->state == SL_REQUEST_WAITING) continue;
            break;
        }
        add_share(s, f, r, 1, now_ns);
        cap--;
    }
}

/* Tokens of prefill for a micro-batch that has `rows` decode rows. Where nobody decodes, nobody is
 * to be protected. */
static int prefill_budget(const struct sl_sched *s, int rows)
{
    int64_t x = s->chunk - rows;
    int64_t free = s->blocks.n_free, total = s->blocks.n_total;
    int64_t low = total * SL_KV_LOW_PERCENT / 100;
    if (s->n_decoding > 0 && total > low)
        x = SL_MIN(x, (int64_t)s->chunk * (free - low) / (total - low));
    return (int)SL_MIN(SL_MAX(x, SL_PREFILL_MIN), s->max_rows - rows);
}

static int chunk_max(const struct sl_sched *s, const struct sl_request *r)
{
    if (!r->logits) return s->max_rows;
    return (int)SL_MAX(1, SL_LOGITS_BYTES / 4 / s->n_vocab);
}

/* The next chunk of r within `budget` tokens and `spare` blocks; returns its length. */
static int take_chunk(struct sl_sched *s, struct sl_flight *f, struct sl_request *r, int budget,
                      int spare, uint64_t now_ns)
{
    int64_t room = (int64_t)(r->n_blocks + spare) * s->block_tokens - r->n_sent;
    int64_t n = SL_MIN(SL_MIN(budget, r->n_tokens - r->n_sent), SL_MIN(room, chunk_max(s, r)));
    if (n <= 0) return 0;
    add_share(s, f, r, (int)n, now_ns);
    return (int)n;
}

/* Short prompts that wait behind a long one: whole ones pass it, in up to half of the budget, as
 * long as the cache keeps room for all the long one still needs. Returns the tokens taken. */
static int pass_long_one(struct sl_sched *s, struct sl_flight *f, int budget, uint64_t now_ns)
{
    if (sl_list_empty(&s->prefill)) return 0;
    const struct sl_request *first = of_link(s->prefill.next);
    int rest = first->n_tokens - first->n_sent, taken = 0;
    if (rest <= budget) return 0;
    while (!sl_list_empty(&s->waiting)) {
        struct sl_request *r = of_link(s->waiting.next);
        if (r->score || r->logits || r->n_tokens > budget / 2 - taken || s->n_free_slots == 0)
            break;
        int need = sl_blocks_for(r->n_tokens, s->block_tokens) + blocks_missing(s, first, rest);
        if (need + s->n_decoding > s->blocks.n_free) break;
        taken += r->n_tokens;
        admit(s, r);
        add_share(s, f, r, r->n_tokens, now_ns);
    }
    return taken;
}

static void take_prefills(struct sl_sched *s, struct sl_flight *f, uint64_t now_ns)
{
    int budget = prefill_budget(s, f->batch.n_rows);
    budget -= pass_long_one(s, f, budget, now_ns);
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, &s->prefill)
    {
        if (budget <= 0) return;
        int spare = s->blocks.n_free -
                    s->n_decoding; /* the next block of every answer comes before prompts */
        budget -= take_chunk(s, f, of_link(it), budget, SL_MAX(spare, 0), now_ns);
    }
    while (budget > 0 && sl_list_empty(&s->prefill) && !sl_list_empty(&s->waiting)) {
        struct sl_request *r = of_link(s->waiting.next);
        if (!fits_first(s, r, s->chunk)) return;
        admit(s, r);
        int n = take_chunk(s, f, r, budget, s->blocks.n_free - s->n_decoding, now_ns);
        SL_ASSERT(n > 0);
        budget -= n;
    }
}

/* Nothing could be taken, nothing is on its way, yet sequences run: all of them are prompts stuck
 * for blocks. The first in the order throws out from the back until it can go on. */
static void unblock(struct sl_sched *s, struct sl_flight *f, uint64_t now_ns)
{
    SL_ASSERT(s->n_decoding == 0 && !sl_list_empty(&s->prefill));
    struct sl_request *first = of_link(s->prefill.next);
    int ok = make_room(s, f, first);
    SL_ASSERT(ok && first->state == SL_REQUEST_PREFILL);
    take_prefills(s, f, now_ns);
    SL_ASSERT(f->batch.n_seqs > 0);
}

struct sl_flight *sl_sched_form(struct sl_sched *s, uint64_t now_ns)
{
    if (s->n_in_flight >= s->micro_batches || s->n_waiting + s->n_running == 0) return NULL;
    struct sl_flight *f = s->flights;
    while (f->slot) f++;
    f->slot = s->last_slot + 1;
    f->batch.n_seqs = f->batch.n_rows = f->n_blocks = 0;
    take_decodes(s, f, now_ns);
    take_prefills(s, f, now_ns);
    if (f->batch.n_seqs == 0 && s->n_in_flight == 0 && s->n_running > 0) unblock(s, f, now_ns);
    if (f->batch.n_seqs == 0) {
        f->slot = 0;
        return NULL;
    }
    s->last_slot = f->slot;
    f->sent_ns = now_ns;
    s->n_in_flight++;
    s->batches++;
    return f;
}

struct sl_flight *sl_sched_land(struct sl_sched *s, uint64_t slot)
{
    for (int i = 0; slot != 0 && s->flights && i < s->micro_batches; i++)
        if (s->flights[i].slot == slot) {
            s->flights[i].slot = 0;
            s->n_in_flight--;
            return &s->flights[i];
        }
    return NULL;
}

const struct sl_flight *sl_sched_oldest(const struct sl_sched *s)
{
    const struct sl_flight *oldest = NULL;
    for (int i = 0; s->flights && i < s->micro_batches; i++) {
        const struct sl_flight *f = &s->flights[i];
        if (f->slot && (!oldest || f->slot < oldest->slot)) oldest = f;
    }
    return oldest;
}

void sl_sched_drop_flights(struct sl_sched *s)
{
    for (int i = 0; s->flights && i < s->micro_batches; i++) s->flights[i].slot = 0;
    s->n_in_flight = 0;
}

struct sl_request *sl_sched_owner(const struct sl_sched *s, const struct sl_share *share)
{
    const struct sl_seq_slot *slot = &s->slots[share->seq];
    return slot->gen == share->gen ? slot->request : NULL;
}

void sl_sched_wake(struct sl_sched *s, struct sl_request *r)
{
    SL_ASSERT(r->state == SL_REQUEST_AWAITS && r->n_tokens == r->n_sent + 1);
    if (!r->established) s->n_decoding++;
    r->established = 1;
    sl_list_remove(&r->link);
    r->state = SL_REQUEST_READY;
    s->n_ready++;
    sl_list_append(&s->ready, &r->link);
}

/* ---- audit ----------------------------------------------------------------------------------- */

static int count_state(const struct sl_sched *s, const struct sl_list *head,
                       enum sl_request_state state)
{
    int n = 0;
    for (const struct sl_list *it = head->next; it != head; it = it->next, n++) {
        const struct sl_request *r = of_link(it);
        SL_ASSERT(r->state == state);
        if (state == SL_REQUEST_WAITING) {
            SL_ASSERT(r->seq == -1 && r->n_blocks == 0 && r->n_sent == 0);
            continue;
        }
        SL_ASSERT(s->slots[r->seq].request == r);
        SL_ASSERT(r->n_blocks == sl_blocks_for(r->n_sent, s->block_tokens));
        SL_ASSERT(state != SL_REQUEST_PREFILL || r->n_sent < r->n_tokens);
        SL_ASSERT(state != SL_REQUEST_READY || (r->n_sent + 1 == r->n_tokens && r->established));
        SL_ASSERT(state != SL_REQUEST_AWAITS || r->n_sent == r->n_tokens);
    }
    return n;
}

void sl_sched_audit(const struct sl_sched *s)
{
    int ready = count_state(s, &s->ready, SL_REQUEST_READY);
    int running = ready + count_state(s, &s->prefill, SL_REQUEST_PREFILL) +
                  count_state(s, &s->awaits, SL_REQUEST_AWAITS);
    SL_ASSERT(count_state(s, &s->waiting, SL_REQUEST_WAITING) == s->n_waiting);
    SL_ASSERT(ready == s->n_ready && running == s->n_running &&
              running + s->n_free_slots == s->n_slots);
    int held = 0, decoding = 0, flights = 0;
    for (int i = 0; i < s->n_slots; i++) {
        const struct sl_request *r = s->slots[i].request;
        if (!r) continue;
        held += r->n_blocks;
        decoding += r->established;
        for (int k = 0; k < r->n_blocks; k++) SL_ASSERT(s->blocks.used[r->blocks[k]]);
    }
    SL_ASSERT(held + s->blocks.n_free == s->blocks.n_total && decoding == s->n_decoding);
    for (int i = 0; s->flights && i < s->micro_batches; i++) flights += s->flights[i].slot != 0;
    SL_ASSERT(flights == s->n_in_flight);
}
