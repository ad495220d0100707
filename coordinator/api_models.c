/* api_models.c - GET /v1/models: the one model this server has, and its LoRA adapters. */
#include <string.h>

#include "base/env.h"
#include "coordinator/api_endpoints.h"
#include "coordinator/api_prompt.h"
#include "coordinator/http_conn.h"

static json_t *entry(const char *name, const char *parent, uint64_t created_s, int context)
{
    json_t *o =
        json_pack("{s:o,s:s,s:I,s:s,s:i}", "id", sl_api_text(name, strlen(name)), "object", "model",
                  "created", (json_int_t)created_s, "owned_by", "sluice", "max_model_len", context);
    if (parent) json_object_set_new(o, "parent", sl_api_text(parent, strlen(parent)));
    return o;
}

void sl_api_models(struct sl_http_conn *c)
{
    static uint64_t started_s; /* "created" is when the server first told about it */
    struct sl_service *s = sl_http_api(c)->service;
    const char *name = sl_service_model_name(s);
    if (!started_s) started_s = sl_env_wall_ms() / 1000;
    const struct sl_cluster *cluster = sl_service_cluster(s);
    json_t *data = json_array();
    json_array_append_new(data, entry(name, NULL, started_s, sl_service_context(s)));
    for (int i = 0; cluster && i < cluster->n_adapters; i++)
        json_array_append_new(
            data, entry(cluster->adapters[i].name, name, started_s, sl_service_context(s)));
    sl_http_reply_json(c, 200, json_pack("{s:s,s:o}", "object", "list", "data", data));
}
