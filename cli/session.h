/* session.h - a cluster brought up for one command: `run`, `bench`, `logits`, `ppl`, `chat`.
 *
 * From MODEL (stages in this process) or a topology file, through the same service that `serve`
 * runs. Only cli/ joins the coordinator with stages of its own process. */
#ifndef SL_CLI_SESSION_H
#define SL_CLI_SESSION_H

#include <uv.h>

#include "base/conf.h"
#include "coordinator/service.h"

#define SL_SESSION_THREADS_MAX 256

/* The options every such command shares; embed it first in the command's settings and put
 * SL_SESSION_ROWS in its table. */
struct sl_session_options {
    const char *chat_template, *tool_parser, *reasoning_parser;
    const char *model, *cpus, *backend, *kv_format, *memory, *log_level;
    int64_t threads, stages, context, sequences, queue, chunk, micro_batches;
    int quiet;
    struct sl_conf_list lora;
    const char *adapter;
};

/* clang-format off */
#define SL_SESSION_ROWS(T)                                                                         \
    {SL_CONF_HEADING, NULL, NULL, 0, "Model and machine (with a topology file, it decides):", 0,   \
     0},                                                                                           \
    {SL_CONF_STRING, "-m --model", "MODEL", offsetof(T, session.model),                            \
     "a .gguf file, a Hugging Face folder, or smollm2", 0, 0},                                                            \
    {SL_CONF_INT, "-t --threads", "N", offsetof(T, session.threads),                               \
     "threads (default: one per CPU)", 1, SL_SESSION_THREADS_MAX},                                 \
    {SL_CONF_STRING, "--cpus", "LIST", offsetof(T, session.cpus),                                  \
     "logical CPUs to use, e.g. 0-3,8", 0, 0},                                                     \
    {SL_CONF_INT, "--stages -pp --pipeline-parallel-size", "N", offsetof(T, session.stages),       \
     "cut the model into N stages in this process (default 1)", 1, SL_DEVICES_MAX},                \
    {SL_CONF_STRING, "--backend", "ROW", offsetof(T, session.backend),                             \
     "kernels: cuda:N (a card), cpu (best), ref, portable, avx2, avx512, amx", 0, 0},              \
    {SL_CONF_INT, "-c --context --ctx-size --max-model-len", "N", offsetof(T, session.context),    \
     "longest sequence in tokens (default: the model's)", 1, 1 << 24},                             \
    {SL_CONF_INT, "-np --parallel --max-num-seqs", "N", offsetof(T, session.sequences),            \
     "concurrent sequences", 1, SL_SEQS_MAX},                                                      \
    {SL_CONF_INT, "--chunk -ub --ubatch-size", "N", offsetof(T, session.chunk),                    \
     "prompt tokens in one micro-batch (default: planned)", 1, SL_BATCH_ROWS_MAX},                 \
    {SL_CONF_INT, "--micro-batches", "N", offsetof(T, session.micro_batches),                      \
     "micro-batches in flight (default: planned)", 1, 64},                                         \
    {SL_CONF_STRING, "--kv-format -ctk --kv-cache-dtype", "TYPE", offsetof(T,                      \
     session.kv_format), "auto, f32, f16, bf16, or fp8 on cards", 0, 0},                           \
    {SL_CONF_STRING, "--memory", "BYTES", offsetof(T, session.memory),                             \
     "limit for weights and KV of each stage, e.g. 4GiB", 0, 0},                                   \
    {SL_CONF_LIST, "--lora --lora-modules", "NAME=PATH", offsetof(T, session.lora),                \
     "a LoRA adapter (PEFT folder), asked for as model NAME; may be given again", 0, 0},           \
    {SL_CONF_STRING, "--adapter", "NAME", offsetof(T, session.adapter),                            \
     "the adapter to use here (default: the first --lora; serve: each request says)", 0, 0},       \
    {SL_CONF_STRING, "--chat-template --chat-template-file", "FILE",                               \
     offsetof(T, session.chat_template), "a Jinja chat template, instead of the model's own", 0,   \
     0},                                                                                           \
    {SL_CONF_STRING, "--tool-parser --tool-call-parser", "STYLE",                                  \
     offsetof(T, session.tool_parser),                                                             \
     "how the model calls tools: hermes, llama3_json ... (default: see its template)", 0, 0},      \
    {SL_CONF_STRING, "--reasoning-parser", "STYLE", offsetof(T, session.reasoning_parser),         \
     "how it marks reasoning: qwen3, deepseek_r1 ... (default: see its template)", 0, 0},          \
    {SL_CONF_STRING, "--log-level", "LEVEL", offsetof(T, session.log_level),                       \
     "error, warn, info, debug, trace", 0, 0}
/* clang-format on */

struct sl_session {
    uv_loop_t loop;
    struct sl_cluster cluster;
    struct sl_service *service;
    struct thread_stage *threads; /* stages of this process */
    int serving, failed, open;
    int closed;                  /* the service has stopped: set by whoever stopped it */
    struct sl_err stop;          /* sl_session_interrupt's reason, code 0: none */
    uint64_t start_ns, ready_ns; /* monotonic: opened, first served */
    struct sl_err err;           /* why it failed */
    void (*on_state)(void *arg, const struct sl_err *err); /* the command's own, may be NULL */
    void *on_state_arg;
};

/* Makes the cluster description: `yaml` a topology file or NULL. Options given beside a topology
 * file override its numbers (context, sequences ...), not its devices. */
int sl_session_cluster(const struct sl_session_options *o, const char *yaml, struct sl_cluster *out,
                       struct sl_err *err);

/* Starts the service and runs the loop until it serves or has failed. Takes *cluster over in every
 * case. */
int sl_session_open(struct sl_session *s, struct sl_cluster *cluster, struct sl_err *err);
/* The same without waiting: the caller runs s->loop. */
int sl_session_start(struct sl_session *s, struct sl_cluster *cluster, struct sl_err *err);
/* Stops stages and service (draining first unless `now`) and closes the loop. */
void sl_session_close(struct sl_session *s, int now);

/* Submits and runs the loop until the request has ended; replies go to fn. The request's failure is
 * returned. */
int sl_session_run(struct sl_session *s, const struct sl_submit *req, sl_reply_fn fn, void *arg,
                   struct sl_err *err);

/* From inside a reply: the running sl_session_run cancels its request and returns this error. */
void sl_session_interrupt(struct sl_session *s, const struct sl_err *why);

/* Runs the loop until every stage has reported what it did up to now. */
void sl_session_settle(struct sl_session *s);

/* Applies --log-level or SLUICE_LOG. */
int sl_session_log_level(const char *level, struct sl_err *err);

/* The logical CPUs that --cpus and --threads leave, into cpus[SL_SESSION_THREADS_MAX]; the count or
 * an error. */
int sl_session_cpus(const struct sl_session_options *o, int *cpus, struct sl_err *err);

/* The path of this executable, for child processes. Static storage. */
const char *sl_session_program(void);

#endif
