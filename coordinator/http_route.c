/* http_route.c - which endpoint answers which path. */
#include <string.h>

#include "coordinator/api_endpoints.h"
#include "coordinator/http_conn.h"

static const struct sl_http_route routes[] = {
    {"/v1/chat/completions", SL_HTTP_POST, 0, sl_api_chat},
    {"/v1/completions", SL_HTTP_POST, 0, sl_api_completions},
    {"/v1/models", SL_HTTP_GET, 0, sl_api_models},
    {"/tokenize", SL_HTTP_POST, 0, sl_api_tokenize},
    {"/detokenize", SL_HTTP_POST, 0, sl_api_detokenize},
    {"/apply-template", SL_HTTP_POST, 0, sl_api_apply_template},
    {"/health", SL_HTTP_GET, 1, sl_api_health},
    {"/metrics", SL_HTTP_GET, 0, sl_api_metrics},
    {"/cluster", SL_HTTP_GET, 0, sl_api_cluster},
    {"/", SL_HTTP_GET, 0, sl_api_page},
};

const struct sl_http_route *sl_http_find_route(const char *path, size_t n)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(routes); i++)
        if (strlen(routes[i].path) == n && memcmp(routes[i].path, path, n) == 0) return &routes[i];
    return NULL;
}

void sl_http_dispatch(struct sl_http_conn *c)
{
    c->state = SL_HTTP_WORKING;
    c->route->serve(c);
}
