/* internal.h - what stage.c, load.c, exec.c and seqs.c share. Private to stage/. */
#ifndef SL_STAGE_INTERNAL_H
#define SL_STAGE_INTERNAL_H

#include "base/arena.h"
#include "base/buf.h"
#include "model/config.h"
#include "model/linear.h"
#include "model/lora.h"
#include "proto/batch.h"
#include "stage/sample.h"
#include "stage/stage.h"

#define SL_STAGE_BERTHS                                                                            \
    6 /* micro-batches in a card's memory: coming, waiting, at work, leaving                       \
       */
#define SL_STAGE_SMALL_MAX (64u << 20) /* bytes of norms, biases and tables of one stage */
/* Rows that go through the output matrix together: on the host, on a device. */
#define SL_LOGIT_ROWS 32
#define SL_LOGIT_ROWS_DEVICE 128

/* The weights of one layer, by role (model/config.h); a role that it lacks is all zero. */
struct sl_layer {
    struct sl_weight w[SL_ROLE_LAYER_COUNT];     /* roles of which there is one */
    struct sl_weight *many[SL_ROLE_LAYER_COUNT]; /* one per expert or head; owned */
    const float *v[SL_ROLE_VECTORS];             /* vectors, float32 */
    int flags;                                   /* enum sl_layer_flag */
    struct sl_moe moe;                           /* with SL_LAYER_MOE */
    struct sl_kv_view kv;
    struct sl_latent_view latent; /* instead, for latent attention */
    struct sl_low *low;           /* what adapters add, lora.c's; NULL without any */
};

/* A row that needs logits: `row` of a share, where its score goes, where its logits go (or NULL).
 */
struct sl_pick {
    int share, row;
    float *score, *logits;
    int host; /* its logits are wanted here, not only what the device makes of them */
};

/* Neighbouring rows of a micro-batch with one adapter. */
struct sl_lora_run {
    int row, n, adapter;
};

/* Numbers that stay because a backend points into them. */
struct sl_stage_kept {
    struct sl_linear *linears; /* open */
    void **made;               /* from malloc */
    int n_linears, cap_linears, n_made, cap_made;
};

/* One registered sequence. */
struct sl_stage_seq {
    int used;
    int pos; /* positions [0, pos) are in the cache */
    int prompt_len;
    int adapter;     /* 0: none */
    int far;         /* turns by LongRoPE's frequencies for long sequences */
    uint64_t batch;  /* number of the last micro-batch it had a share in */
    int32_t *blocks; /* block table; owned */
    int n_blocks, cap_blocks;
    struct sl_sampling sampling; /* last stage only */
    struct sl_history *history;  /* last stage, when penalties are on; NULL otherwise */
};

struct sl_stage {
    struct sl_backend *b;
    const struct sl_backend_ops *ops;
    struct sl_stage_params p;
    struct sl_config c;
    struct sl_stage_info info;
    enum sl_act act;            /* c.act, as kernels name it */
    struct sl_weights *weights; /* open while a backend keeps pointers into the file */
    struct sl_arena small;      /* norms, biases, rope table */
    struct sl_layer *layers;    /* [layer_to - layer_from] */
    struct sl_weight embed, head;
    int one_edge; /* embed is head */
    struct sl_stage_kept kept;
    const float *out_norm;
    struct sl_rope ropes[2], far; /* as in config.h; `far` instead of ropes[0] for long sequences */
    void *kv;                     /* all layers' K and V */
    size_t kv_mapped;
    uint64_t kv_wanted; /* blocks */
    enum sl_dtype kv_type;

    struct sl_stage_seq *seqs; /* [max_seqs] */
    uint64_t n_batches;        /* micro-batches applied so far */

    /* one micro-batch */
    struct sl_batch_in in;
    enum sl_dtype send_as;     /* the format of activations on the edge behind this stage */
    struct sl_berths *berths;  /* for payloads in the device's memory; NULL: none */
    struct sl_seq_view *views; /* [SL_BATCH_SEQS_MAX] */
    int32_t *pos;              /* [max_rows] */
    /* workspace in the backend's memory, for [max_rows] of the widths of config.h; float, or
     * product rows (void). Where product rows are floats, the pairs on one line are one and the
     * same. */
    float *x;       /* the residual stream on a device; on the host it is the frame's payload */
    void *packed_x; /* on a device: activations as they travel, on their way to and from x */
    void *norm;
    float *q, *k, *v, *up, *half, *latent, *q_latent, *o_latent;
    float *values, *gate, *q_a, *low, *picked;
    void *attn, *hidden, *q_a_rows, *low_rows, *picked_rows;
    float *logits; /* [logit_rows][n_vocab]; last stage; low: between the products of an adapter */
    int logit_rows;
    void *workspace;
    size_t workspace_mapped;
    struct sl_sampler *sampler;
    struct sl_results results; /* storage for the last stage's answer */
    struct sl_buf packed;

    /* what the last stage does with rows of logits: pick i of the step */
    struct sl_step step;
    struct sl_pick *picks; /* [max_rows], as are the next five */
    int32_t *ids, *pick_rows, *nexts;
    struct sl_draw *draws;
    float *scores;
    struct sl_adjust *adjusts; /* [SL_ADJUSTS_MAX], on a device */
    float *logits_host;        /* [n_vocab], on a device */
    float *all_logits;         /* of a micro-batch that asks for them */

    struct sl_lora **adapters; /* [p.n_adapters] */
    int low_rank;              /* the largest of any adapter */
    struct sl_lora_run *runs;  /* [SL_BATCH_SEQS_MAX], n_runs of this micro-batch */
    int n_runs;
};

static inline int sl_stage_is_first(const struct sl_stage *s)
{
    return s->p.stage == 0;
}

static inline int sl_stage_is_last(const struct sl_stage *s)
{
    return s->p.stage == s->p.n_stages - 1;
}

/* load.c: weights of the stage's layers into s->layers, embed, head; reports progress. */
int sl_stage_load_weights(struct sl_stage *s, struct sl_err *err);
void sl_stage_unload_weights(struct sl_stage *s);
/* Bytes in the file that this stage will load. */
int sl_stage_weight_bytes(struct sl_stage *s, uint64_t *bytes, struct sl_err *err);

/* load_matrix.c: one weight after another; slices of the same fused tensor in a row open it once.
 */
struct sl_matrix_loader {
    struct sl_stage *s;
    char name[SL_TENSOR_NAME_MAX]; /* what is open; "": nothing */
    int expert, keep;              /* keep: a backend points into it */
    struct sl_linear open;
};
/* Loads the numbers of one slot of a role. *bytes: in the file, of what had to be opened, 0 when it
 * was open already. A role that the layer lacks leaves *w alone. */
int sl_matrix_load(struct sl_matrix_loader *l, enum sl_role role, int layer, int slot,
                   enum sl_use use, struct sl_weight *w, uint64_t *bytes, struct sl_err *err);
int sl_matrix_flush(struct sl_matrix_loader *l, struct sl_err *err); /* nothing stays open */
void sl_stage_let_go(struct sl_stage *s);                            /* closes what was kept */

/* lora.c: adapters. Opened before memory is reserved (*bytes: what they will take), read layer by
 * layer with the weights; begin() finds the rows of a micro-batch that have one, add() adds to out
 * [n_rows][rows of role] what they add to the product of role and x. */
int sl_stage_lora_open(struct sl_stage *s, uint64_t *bytes, struct sl_err *err);
int sl_stage_lora_load(struct sl_stage *s, int layer, struct sl_layer *y, uint64_t *bytes,
                       struct sl_err *err);
void sl_stage_lora_unload(struct sl_stage *s, struct sl_layer *y);
void sl_stage_lora_close(struct sl_stage *s);
void sl_stage_lora_begin(struct sl_stage *s, const struct sl_batch *b);
void sl_stage_lora_add(struct sl_stage *s, const struct sl_layer *y, enum sl_role role,
                       const void *x, float *out);

/* reserve.c: workspace and KV cache; fills info. On a device weights have other sizes than in the
 * file, so the cache is taken after them, of what is left (sl_stage_reserve_cache). */
int sl_stage_reserve(struct sl_stage *s, uint64_t weight_bytes, struct sl_err *err);
int sl_stage_reserve_cache(struct sl_stage *s, struct sl_err *err);
/* Berths for lanes, where a stage on a card has neighbours: before all else, and off its limit. */
int sl_stage_reserve_berths(struct sl_stage *s, struct sl_err *err);
void sl_stage_unreserve(struct sl_stage *s);

/* seqs.c: applies a descriptor to the block tables and fills views and pos. */
int sl_stage_apply(struct sl_stage *s, const struct sl_batch *b, struct sl_err *err);
void sl_stage_forget(struct sl_stage_seq *q);

/* carry.c: the activations of one micro-batch on their way through. open() finds or makes the
 * frames and says where the stream x is; in() fills it (but on the first stage), out() empties it
 * (but on the last). close() frees all frames but the one to send on, which it returns when that is
 * to be kept. in() and out() belong between begin() and end() of a device's step. */
struct sl_carry {
    struct sl_frame *in, *out; /* out: NULL on the last stage */
    struct sl_frame *stream;   /* on the host: whose payload x is; may be in or out */
    float *x;                  /* [n_rows][n_embd] */
};
int sl_carry_open(struct sl_stage *s, struct sl_frame *in, struct sl_carry *c, struct sl_err *err);
void sl_carry_in(struct sl_stage *s, struct sl_carry *c);
void sl_carry_out(struct sl_stage *s, struct sl_carry *c);
struct sl_frame *sl_carry_close(struct sl_carry *c, int keep);

/* exec_layer.c: the layers over x [n_rows][n_embd], in place. */
void sl_exec_layers(struct sl_stage *s, const struct sl_batch *b, float *x);

/* step.c: what a micro-batch asks of the kernels: s->step, picks, places of the results. */
int sl_stage_plan(struct sl_stage *s, const struct sl_batch *b, struct sl_err *err);
/* The results of the micro-batch, packed. */
int sl_stage_answer(struct sl_stage *s, const struct sl_batch *b, struct sl_err *err);

/* exec.c: what comes before and after the layers. */
/* Is what the shares ask for something that can be answered? SL_EPROTO. */
int sl_exec_check(const struct sl_stage *s, const struct sl_batch *b, struct sl_err *err);
/* The first stage: embeddings of the tokens into x. */
void sl_exec_embed(struct sl_stage *s, float *x);
/* The last stage: from x to tokens, scores and logits. */
void sl_exec_head(struct sl_stage *s, const struct sl_batch *b, const float *x);

#endif
