/* api_models.c - GET /v1/models: the one model this server has. */
#include <string.h>

#include "base/env.h"
#include "coordinator/api_endpoints.h"
#include "coordinator/api_prompt.h"
#include "coordinator/http_conn.h"

void sl_api_models(struct sl_http_conn *c)
{
    static uint64_t started_s; /* "created" is when the server first told about it */
    struct sl_service *s = sl_http_api(c)->service;
    const char *name = sl_service_model_name(s);
    if (!started_s) started_s = sl_env_wall_ms() / 1000;
    sl_http_reply_json(c, 200,
                       json_pack("{s:s,s:[{s:o,s:s,s:I,s:s,s:i}]}", "object", "list", "data", "id",
                                 sl_api_text(name, strlen(name)), "object", "model", "created",
                                 (json_int_t)started_s, "owned_by", "sluice", "max_model_len",
                                 sl_service_context(s)));
}
