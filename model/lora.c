/* lora.c - reads LoRA adapters; see lora.h. */
#include "model/lora.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/arch.h"
#include "model/json_read.h"
#include "model/safetensors.h"

#define MODULES_MAX 24 /* kinds of adapted linear layers in one family */
#define MODULE_LEN 64  /* bytes of "self_attn.q_proj" */
#define PATH_LEN 4096

/* A and B of one kind of layer, by number of the layer. */
struct module {
    char name[MODULE_LEN];
    const struct sl_tensor **a, **b; /* [n_layers], NULL where the layer is left alone */
};

struct sl_lora {
    char path[PATH_LEN]; /* of the weights, for messages */
    struct sl_config c;
    const struct sl_arch *arch;
    struct sl_safetensors file;
    json_t *config;
    double alpha;
    int rank, rs; /* of the configuration; of any pair it may differ (rank_pattern) */
    int rank_max;
    struct module modules[MODULES_MAX];
    int n_modules;
};

/* ---- adapter_config.json --------------------------------------------------------------------- */

/* Keys whose presence (true, or not empty) means arithmetic that is not run here. */
static const struct {
    const char *key, *what;
} refused[] = {
    {"use_dora", "DoRA (magnitudes beside the low-rank matrices)"},
    {"modules_to_save", "fully trained layers beside the low-rank ones"},
    {"trainable_token_indices", "trained token embeddings"},
    {"layer_replication", "replicated layers"},
    {"megatron_config", "Megatron's layout"},
    {"use_bdlora", "block-diagonal LoRA"},
    {"kasa_config", "KaSA"},
    {"monteclora_config", "MonteCLoRA"},
    {"lora_bias", "biases of the low-rank matrices"},
    {"use_qalora", "QALoRA"},
    {"arrow_config", "Arrow routing"},
    {"alora_invocation_tokens", "activated LoRA"},
    {"target_parameters", "adapted parameters (experts)"},
};

static int is_set(const json_t *v)
{
    if (!v || json_is_null(v) || json_is_false(v)) return 0;
    if (json_is_array(v)) return json_array_size(v) > 0;
    if (json_is_object(v)) return json_object_size(v) > 0;
    return 1;
}

/* lora_alpha of a module: PEFT matches the keys of alpha_pattern against the end of its name, after
 * a dot or from its start. */
static double alpha_of(const struct sl_lora *l, int layer, const char *module)
{
    char name[MODULE_LEN + 32];
    size_t n = (size_t)snprintf(name, sizeof name, "model.layers.%d.%s", layer, module);
    const char *key;
    json_t *v;
    json_object_foreach(json_object_get(l->config, "alpha_pattern"), key, v)
    {
        size_t k = strlen(key);
        if (k <= n && strcmp(name + n - k, key) == 0 && (k == n || name[n - k - 1] == '.'))
            return json_number_value(v);
    }
    return l->alpha;
}

/* Ways to begin training that take a part out of the base model's weights: what is saved then
 * belongs to weights that the base's folder does not hold. */
static int check_start(const struct sl_lora *l, const char *path, struct sl_err *err)
{
    static const char *const ways[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};
    const json_t *v = json_object_get(l->config, "init_lora_weights");
    for (size_t i = 0; json_is_string(v) && i < SL_ARRAY_LEN(ways); i++)
        if (strncmp(json_string_value(v), ways[i], strlen(ways[i])) == 0)
            return sl_err_set(err, SL_EUNSUPPORTED,
                              "%s: init_lora_weights: '%.20s' adapters belong to changed base "
                              "weights; save it converted to plain LoRA, or merged",
                              path, json_string_value(v));
    return 0;
}

/* Keys of alpha_pattern may be regular expressions; those are not run. */
static int check_patterns(const struct sl_lora *l, const char *path, struct sl_err *err)
{
    const char *key;
    json_t *v;
    json_object_foreach(json_object_get(l->config, "alpha_pattern"), key, v)
    {
        if (strpbrk(key, "\\^$*+?()[]{}|") || !json_is_number(v))
            return sl_err_set(
                err, SL_EUNSUPPORTED,
                "%s: alpha_pattern: '%.60s': only plain module names with numbers are "
                "understood; merge the adapter into its model",
                path, key);
    }
    return 0;
}

static int read_config(struct sl_lora *l, const char *dir, struct sl_err *err)
{
    char path[PATH_LEN];
    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    int r = sl_json_file_read(path, SL_LORA_CONFIG_MAX, &l->config, err);
    if (r == SL_ENOTFOUND)
        return sl_err_set(err, r, "%s: not there; give the folder of a PEFT LoRA adapter", path);
    if (r) return r;
    const json_t *type = json_object_get(l->config, "peft_type");
    if (!json_is_object(l->config) || !json_is_string(type) ||
        strcmp(json_string_value(type), "LORA") != 0)
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "%s: peft_type is not LORA; only LoRA adapters are run here", path);
    for (size_t i = 0; i < SL_ARRAY_LEN(refused); i++)
        if (is_set(json_object_get(l->config, refused[i].key)))
            return sl_err_set(err, SL_EUNSUPPORTED,
                              "%s: %s: %s is not run here; merge the adapter into its model", path,
                              refused[i].key, refused[i].what);
    const json_t *bias = json_object_get(l->config, "bias");
    if (json_is_string(bias) && strcmp(json_string_value(bias), "none") != 0)
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "%s: bias: trained biases are not run here; merge the adapter into its "
                          "model",
                          path);
    const json_t *rank = json_object_get(l->config, "r"),
                 *alpha = json_object_get(l->config, "lora_alpha");
    if (!json_is_integer(rank) || json_integer_value(rank) < 1 ||
        json_integer_value(rank) > SL_LORA_RANK_MAX || !json_is_number(alpha) ||
        !isfinite(json_number_value(alpha)))
        return sl_err_set(err, SL_EINPUT,
                          "%s: r should be an integer from 1 to %d and lora_alpha a number", path,
                          SL_LORA_RANK_MAX);
    l->rank = (int)json_integer_value(rank);
    l->alpha = json_number_value(alpha);
    l->rs = json_is_true(json_object_get(l->config, "use_rslora"));
    int e = check_start(l, path, err);
    return e ? e : check_patterns(l, path, err);
}

/* ---- names ----------------------------------------------------------------------------------- */

/* Is `module` a linear layer of the family's recipe that may be adapted? */
static int is_adaptable(const struct sl_lora *l, const char *module)
{
    for (int role = SL_ROLE_VECTORS; role < SL_ROLE_LAYER_COUNT; role++)
        for (int i = 0; i < SL_SOURCES; i++) {
            const struct sl_source *s = &l->arch->names[role].hf[i];
            if (s->name && strcmp(s->name, module) == 0)
                return role != SL_ROLE_K_B && role != SL_ROLE_V_B && role != SL_ROLE_ROUTER &&
                       !(role >= SL_ROLE_GATE_EXPS && role <= SL_ROLE_DOWN_EXPS);
        }
    return 0;
}

/* The kind of that name, made when it is new; NULL: no memory, or too many. */
static struct module *get_module(struct sl_lora *l, const char *name)
{
    for (int i = 0; i < l->n_modules; i++)
        if (strcmp(l->modules[i].name, name) == 0) return &l->modules[i];
    if (l->n_modules == MODULES_MAX) return NULL;
    struct module *m = &l->modules[l->n_modules];
    m->a = calloc((size_t)l->c.n_layers, sizeof *m->a);
    m->b = calloc((size_t)l->c.n_layers, sizeof *m->b);
    if (!m->a || !m->b) {
        free(m->a);
        free(m->b);
        return NULL;
    }
    snprintf(m->name, sizeof m->name, "%s", name);
    l->n_modules++;
    return m;
}

static int refuse_tensor(struct sl_lora *l, const char *name, struct sl_err *err)
{
    return sl_err_set(err, SL_EUNSUPPORTED,
                      "%s: tensor %s: only linear layers of a '%s' model can be adapted here "
                      "(attention and dense feed-forward); merge the adapter into its model",
                      l->path, name, l->arch->name);
}

/* "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight" into its parts. */
static int take_tensor(struct sl_lora *l, const struct sl_tensor *t, struct sl_err *err)
{
    static const char word[] = "layers.";
    const char *at = strstr(t->name, word), *end, *tail;
    if (!at) return refuse_tensor(l, t->name, err);
    at += sizeof word - 1;
    int layer = 0, digits = 0;
    for (; at[digits] >= '0' && at[digits] <= '9' && digits < 5; digits++)
        layer = layer * 10 + at[digits] - '0';
    if (!digits || at[digits] != '.' || layer >= l->c.n_layers)
        return sl_err_set(
            err, SL_EINPUT,
            "%s: tensor %s: the base model has layers 0 to %d; the adapter belongs to "
            "another model",
            l->path, t->name, l->c.n_layers - 1);
    at += digits + 1;
    int is_a = (end = strstr(at, ".lora_A.")) != NULL;
    if (!end) end = strstr(at, ".lora_B.");
    if (!end || (size_t)(end - at) >= MODULE_LEN) return refuse_tensor(l, t->name, err);
    tail = end + strlen(".lora_A.");
    if (strcmp(tail, "weight") != 0 && strcmp(tail, "default.weight") != 0)
        return refuse_tensor(l, t->name, err);
    char module[MODULE_LEN];
    snprintf(module, sizeof module, "%.*s", (int)(end - at), at);
    if (!is_adaptable(l, module)) return refuse_tensor(l, t->name, err);
    struct module *m = get_module(l, module);
    if (!m) return sl_err_set(err, SL_ENOMEM, "%s: no memory", l->path);
    const struct sl_tensor **to = is_a ? &m->a[layer] : &m->b[layer];
    if (*to)
        return sl_err_set(err, SL_EINPUT, "%s: tensor %s stands there twice", l->path, t->name);
    *to = t;
    return 0;
}

/* ---- shapes ---------------------------------------------------------------------------------- */

/* The role's rows of a module, when the role is kept in it. */
static int place_in(const struct sl_lora *l, const struct module *m, enum sl_role role, int layer,
                    struct sl_place *p)
{
    if (sl_config_slots(&l->c, role, layer) != 1) return 0;
    for (int i = 0; i < SL_SOURCES; i++) {
        const struct sl_source *s = &l->arch->names[role].hf[i];
        if (!s->name || strcmp(s->name, m->name) != 0) continue;
        sl_arch_slice(&l->c, s, role, 0, p);
        return 1;
    }
    return 0;
}

static int check_pair(struct sl_lora *l, const struct module *m, int layer, struct sl_err *err)
{
    const struct sl_tensor *a = m->a[layer], *b = m->b[layer];
    if (!a && !b) return 0;
    struct sl_place p;
    int found = 0;
    for (int role = SL_ROLE_VECTORS; !found && role < SL_ROLE_LAYER_COUNT; role++)
        found = place_in(l, m, (enum sl_role)role, layer, &p);
    if (!found) return refuse_tensor(l, (a ? a : b)->name, err);
    if (!a || !b)
        return sl_err_set(err, SL_EINPUT, "%s: tensor %s has no partner; the file is incomplete",
                          l->path, (a ? a : b)->name);
    for (int i = 0; i < 2; i++) {
        const struct sl_tensor *t = i ? b : a;
        if (!t->known || sl_dtype_kind(t->type) != SL_KIND_FLOAT)
            return sl_err_set(err, SL_EUNSUPPORTED,
                              "%s: tensor %s is %s; low-rank matrices are F32, F16 or BF16",
                              l->path, t->name, t->type_name);
    }
    int64_t rank = a->ne[1];
    if (a->n_dims != 2 || b->n_dims != 2 || rank < 1 || rank > SL_LORA_RANK_MAX ||
        b->ne[0] != rank || a->ne[0] != p.cols || b->ne[1] != p.stored_rows)
        return sl_err_set(
            err, SL_EINPUT,
            "%s: tensors %s and its partner are %lld x %lld and %lld x %lld for a layer "
            "of %lld x %lld; the adapter belongs to another model",
            l->path, a->name, (long long)a->ne[1], (long long)a->ne[0], (long long)b->ne[1],
            (long long)b->ne[0], (long long)p.stored_rows, (long long)p.cols);
    if (rank != l->rank && !is_set(json_object_get(l->config, "rank_pattern")))
        return sl_err_set(err, SL_EINPUT,
                          "%s: tensor %s has rank %lld, adapter_config.json says %d", l->path,
                          a->name, (long long)rank, l->rank);
    l->rank_max = SL_MAX(l->rank_max, (int)rank);
    return 0;
}

int sl_lora_open(const char *dir, const struct sl_config *c, struct sl_lora **out,
                 struct sl_err *err)
{
    struct sl_lora *l = calloc(1, sizeof *l);
    if (!l) return sl_err_set(err, SL_ENOMEM, "no memory for adapter %s", dir);
    l->c = *c;
    l->arch = sl_arch_find(c->arch);
    SL_ASSERT(l->arch);
    l->file.fd = -1;
    snprintf(l->path, sizeof l->path, "%s/adapter_model.safetensors", dir);
    l->file.path = l->path;
    int r = read_config(l, dir, err);
    if (r == 0) r = sl_safetensors_read(&l->file, 0, err);
    for (size_t i = 0; r == 0 && i < l->file.n; i++) r = take_tensor(l, &l->file.entries[i].t, err);
    if (r == 0 && l->n_modules == 0)
        r = sl_err_set(err, SL_EINPUT, "%s: no tensors; the adapter is empty", l->path);
    for (int m = 0; r == 0 && m < l->n_modules; m++)
        for (int layer = 0; r == 0 && layer < c->n_layers; layer++)
            r = check_pair(l, &l->modules[m], layer, err);
    if (r) {
        sl_lora_close(l);
        return r;
    }
    *out = l;
    return 0;
}

void sl_lora_close(struct sl_lora *l)
{
    if (!l) return;
    for (int i = 0; i < l->n_modules; i++) {
        free(l->modules[i].a);
        free(l->modules[i].b);
    }
    l->file.path = NULL; /* ours */
    sl_safetensors_close(&l->file);
    json_decref(l->config);
    free(l);
}

int sl_lora_rank(const struct sl_lora *l)
{
    return l->rank_max;
}

uint64_t sl_lora_bytes(const struct sl_lora *l, int from, int to)
{
    uint64_t sum = 0;
    for (int i = 0; i < l->n_modules; i++)
        for (int layer = from; layer < to; layer++) {
            const struct module *m = &l->modules[i];
            if (m->a[layer]) sum += m->a[layer]->bytes + m->b[layer]->bytes;
        }
    return sum;
}

/* ---- numbers --------------------------------------------------------------------------------- */

/* The stored row behind row r of a role: its slice of a fused layer, and the order of the container
 * (GGUF keeps rotation pairs of q and k side by side: row 2i + j of a head is row j*d/2 + i). */
static int64_t stored_row(const struct sl_lora *l, enum sl_role role, const struct sl_place *p,
                          int64_t r)
{
    int turns =
        (role == SL_ROLE_Q || role == SL_ROLE_K) && !l->c.hf && l->arch->rope != l->arch->rope_hf;
    int64_t d = l->c.head_dim, in = r % d;
    if (turns) r = r - in + in % 2 * (d / 2) + in / 2;
    return sl_place_row(p, r);
}

int sl_lora_read(struct sl_lora *l, enum sl_role role, int layer, struct sl_lora_pair *out,
                 struct sl_err *err)
{
    struct sl_place p;
    const struct module *m = NULL;
    *out = (struct sl_lora_pair){0};
    for (int i = 0; !m && i < l->n_modules; i++)
        if (l->modules[i].a[layer] && place_in(l, &l->modules[i], role, layer, &p))
            m = &l->modules[i];
    if (!m) return 0;
    int r = sl_safetensors_open(&l->file, err);
    if (r) return r;
    const struct sl_tensor *a = m->a[layer], *b = m->b[layer];
    size_t row = (size_t)sl_dtype_row_bytes(b->type, (uint64_t)b->ne[0]);
    char *whole = malloc((size_t)b->bytes);
    out->bytes[0] = malloc((size_t)a->bytes);
    out->bytes[1] = malloc((size_t)p.rows * row);
    if (!whole || !out->bytes[0] || !out->bytes[1])
        r = sl_err_set(err, SL_ENOMEM, "%s: no memory for %s", l->path, a->name);
    if (r == 0) r = sl_safetensors_pread(&l->file, out->bytes[0], (size_t)a->bytes, a->offset, err);
    if (r == 0) r = sl_safetensors_pread(&l->file, whole, (size_t)b->bytes, b->offset, err);
    for (int64_t i = 0; r == 0 && i < p.rows; i++)
        memcpy((char *)out->bytes[1] + (size_t)i * row,
               whole + (size_t)stored_row(l, role, &p, i) * row, row);
    free(whole);
    if (r) return r;
    double alpha = alpha_of(l, layer, m->name), rank = (double)a->ne[1];
    out->rank = (int)a->ne[1];
    out->a = sl_matrix_plain(a->type, a->ne[1], a->ne[0], out->bytes[0]);
    out->b = sl_matrix_plain(b->type, p.rows, b->ne[0], out->bytes[1]);
    out->b.factor = (float)(alpha / (l->rs ? sqrt(rank) : rank));
    return 0;
}

void sl_lora_pair_close(struct sl_lora_pair *p)
{
    free(p->bytes[0]);
    free(p->bytes[1]);
    *p = (struct sl_lora_pair){0};
}
