/* sched.h - which sequences form the next micro-batch: continuous batching with chunked prefill.
 *
 * Pure: no clock, no chance; the same calls give the same micro-batches. At most `micro_batches`
 * are in flight, so that every stage has one to work on. A micro-batch holds decode rows (one token
 * each, of sequences whose last token has come back) and prefill chunks. A sequence has one decode
 * row in flight at most, as its next token needs the result; the chunks of a prompt need no result,
 * so several may be in flight behind each other.
 *
 * Rules
 * - order: every request has a key: its arrival, moved forward by SL_PRIORITY_NS for each step of
 *   priority. All choices (who is admitted, who is preempted) go by (key, arrival number). Keys
 *   never change and later arrivals get later keys, so whoever waits long enough is first: nobody
 *   starves.
 * - decode: ceil(running decodes / micro_batches) rows a micro-batch, so that all stages carry
 *   equal cohorts; sequences that finish their prefill in it are not counted. First ready, first
 *   served.
 * - prefill: `chunk` tokens a micro-batch less its decode rows, but SL_PREFILL_MIN at least; less
 *   again as the cache fills while others decode (gLLM's rule), so that a long prompt does not
 *   push out running answers.
 * - admit: while a sequence slot is free and the blocks of its first chunk and one block for
 *   every decoding sequence are; one that was preempted waits until all it had fits.
 * - pass: a prompt that fits whole into half of the budget need not wait for the many chunks of a
 *   long one before it, as long as the cache keeps room for all the long one needs.
 * - preempt: a decode row that finds no block throws out the last running sequence in the order
 *   above (or waits, if all that come later are in the micro-batch being formed; or leaves
 *   itself, being the last). The sequence keeps its log, goes back to the queue at its old place
 *   and is computed again later: since chance is a hash of seed and position, it continues as if
 *   nothing had happened. Results still on their way to it are dropped by the slot's generation.
 *   The first in the order is never thrown out and fits alone, so there is always progress.
 *
 * A step costs O(rows of the micro-batch + sequences). */
#ifndef SL_COORDINATOR_SCHED_H
#define SL_COORDINATOR_SCHED_H

#include <stdint.h>

#include "base/list.h"
#include "coordinator/blocks.h"
#include "coordinator/request.h"
#include "proto/batch.h"

#define SL_PRIORITY_NS 10000000000ll /* one step of priority is worth that much waiting */
#define SL_PRIORITY_MAX 1000         /* steps, up or down; more counts as this */
#define SL_PREFILL_MIN 32            /* tokens: progress next to any number of decode rows */
#define SL_KV_LOW_PERCENT 5          /* free share of the cache that leaves SL_PREFILL_MIN */
#define SL_LOGITS_BYTES (16 << 20)   /* of logits asked from one micro-batch */

/* One sequence's share, remembered until its result comes. */
struct sl_share {
    uint32_t seq, flags;
    uint64_t gen; /* of the slot when it was sent */
    int pos, n_tokens;
};

/* A micro-batch on its way; owns all that `batch` points to but the sampling parameters (the
 * request's). */
struct sl_flight {
    uint64_t slot; /* 0 = free */
    uint64_t sent_ns;
    struct sl_batch batch;
    struct sl_share *shares; /* [batch.n_seqs] */
    int32_t *tokens, *blocks;
    int n_blocks;
};

struct sl_seq_slot {
    struct sl_request *request; /* NULL: free */
    uint64_t gen;               /* counts the sequences that held this slot */
};

struct sl_sched {
    /* fixed */
    int n_slots, block_tokens, n_vocab;
    int far_from; /* sequences of more tokens are registered as FAR; one that grows beyond is
                     computed again from its beginning, as every position changes. 0: never */
    int micro_batches, chunk, max_rows; /* from the plan; micro_batches 0 before */
    /* state */
    struct sl_blocks blocks;
    struct sl_seq_slot *slots; /* [n_slots] */
    int *free_slots, n_free_slots;
    struct sl_list waiting, prefill; /* by (key, order) */
    struct sl_list ready;            /* first ready first */
    struct sl_list awaits;
    int n_waiting, n_running, n_ready,
        n_decoding;            /* decoding: established, whether ready or awaiting */
    struct sl_flight *flights; /* [micro_batches] */
    int n_in_flight;
    uint64_t last_slot; /* micro-batches are numbered from 1 over the coordinator's whole life */
    uint64_t n_orders;
    /* counters */
    uint64_t prompt_tokens, batches, preemptions;
};

int sl_sched_init(struct sl_sched *s, int n_slots, int block_tokens,
                  int n_vocab);          /* 0 or SL_ENOMEM */
void sl_sched_close(struct sl_sched *s); /* destroys the requests it still has */
/* The plan is known: once. 0 or SL_ENOMEM. */
int sl_sched_set_plan(struct sl_sched *s, int micro_batches, int chunk, int max_rows);
/* A new epoch with so many blocks; nothing runs. 0 or SL_ENOMEM. */
int sl_sched_set_blocks(struct sl_sched *s, int n_blocks);

/* Takes over r and queues it. */
void sl_sched_add(struct sl_sched *s, struct sl_request *r, int priority);
/* r leaves, wherever it is; the caller owns it again. */
void sl_sched_remove(struct sl_sched *s, struct sl_request *r);
/* Forgets everything in flight (a stage died). */
void sl_sched_drop_flights(struct sl_sched *s);

/* The next micro-batch, already counted as in flight, or NULL: no work or no room. Its contents
 * stay until sl_sched_land. */
struct sl_flight *sl_sched_form(struct sl_sched *s, uint64_t now_ns);
/* Its results came: the flight with this number, no longer in flight (contents good until the next
 * form), or NULL. */
struct sl_flight *sl_sched_land(struct sl_sched *s, uint64_t slot);
/* The one in flight for longest, NULL when there is none. */
const struct sl_flight *sl_sched_oldest(const struct sl_sched *s);
/* The request a share belongs to, NULL when it has left the slot since. */
struct sl_request *sl_sched_owner(const struct sl_sched *s, const struct sl_share *share);
/* r has got its next token: it may decode on. */
void sl_sched_wake(struct sl_sched *s, struct sl_request *r);

/* Every invariant that can be checked from the inside, by assertion; O(everything), for tests. */
void sl_sched_audit(const struct sl_sched *s);

#endif
