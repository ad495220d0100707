/* api_status.c - GET /health, /metrics, /cluster and the page at /. */
#include <string.h>

#include "coordinator/api_endpoints.h"
#include "coordinator/api_prompt.h"
#include "coordinator/http_conn.h"

void sl_api_health(struct sl_http_conn *c)
{
    int ok = sl_service_is_serving(sl_http_api(c)->service);
    static const char yes[] = "{\"status\":\"ok\"}", no[] = "{\"status\":\"loading\"}";
    if (ok)
        sl_http_reply(c, 200, "application/json", NULL, yes, sizeof(yes) - 1);
    else
        sl_http_reply(c, 503, "application/json", "Retry-After: 1\r\n", no, sizeof(no) - 1);
}

void sl_api_metrics(struct sl_http_conn *c)
{
    struct sl_http_api *api = sl_http_api(c);
    struct sl_api_error e;
    struct sl_buf text;
    sl_buf_init(&text, SL_METRICS_MAX);
    int rc = sl_metrics_write(api->metrics, api->service, &text);
    if (rc) {
        sl_api_from_code(&e, SL_ENOMEM, "the metrics do not fit their buffer");
        sl_http_reply_error(c, &e);
    } else {
        sl_http_reply(c, 200, "text/plain; version=0.0.4; charset=utf-8", NULL, text.data,
                      text.len);
    }
    sl_buf_close(&text);
}

void sl_api_cluster(struct sl_http_conn *c)
{
    sl_http_reply_json(c, 200, sl_service_cluster_json(sl_http_api(c)->service));
}

/* ---- the page -------------------------------------------------------------------------------- */

static void put_text(struct sl_buf *b, const char *s)
{
    for (; s && *s; s++) {
        if (*s == '<')
            sl_buf_puts(b, "&lt;");
        else if (*s == '&')
            sl_buf_puts(b, "&amp;");
        else
            sl_buf_putc(b, *s);
    }
}

static void put_stages(struct sl_buf *b, const struct sl_service *s)
{
    struct sl_stage_status st[SL_DEVICES_MAX];
    int n = sl_service_stages(s, st, SL_DEVICES_MAX);
    sl_buf_puts(b, "<table><tr><th>stage<th>device<th>state<th>layers<th>weights MiB<th>KV "
                   "MiB<th>busy<th>bubble"
                   "<th>restarts</tr>\n");
    for (int i = 0; i < n; i++) {
        sl_buf_printf(b, "<tr><td>%d<td>", st[i].stage);
        put_text(b, st[i].device);
        sl_buf_printf(b, "<td>%s<td>%d-%d<td>%.1f<td>%.1f<td>%.0f %%<td>%.0f %%<td>%d</tr>\n",
                      sl_member_state_name(st[i].state), st[i].layer_from, st[i].layer_to - 1,
                      (double)st[i].weight_bytes / 1048576, (double)st[i].kv_bytes / 1048576,
                      100 * st[i].busy_ratio, 100 * st[i].bubble_ratio, st[i].restarts);
    }
    sl_buf_puts(b, "</table>\n");
}

void sl_api_page(struct sl_http_conn *c)
{
    static const char style[] =
        "<style>body{font:15px system-ui,sans-serif;margin:2em}table{border-collapse:collapse}"
        "td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ccc}</style>";
    struct sl_service *s = sl_http_api(c)->service;
    struct sl_coord_status st;
    struct sl_buf b;
    sl_buf_init(&b, SL_METRICS_MAX);
    sl_service_get_status(s, &st);
    sl_buf_puts(&b, "<!doctype html><meta charset=utf-8><meta http-equiv=refresh "
                    "content=5><title>sluice</title>");
    sl_buf_puts(&b, style);
    sl_buf_puts(&b, "<h1>");
    put_text(&b, sl_service_model_name(s));
    sl_buf_printf(&b,
                  "</h1><p>%s; %d running, %d waiting; KV blocks %d of %d in use; %llu tokens "
                  "generated.</p>\n",
                  sl_service_is_serving(s) ? "serving" : "not serving", st.running, st.waiting,
                  st.blocks_total - st.blocks_free, st.blocks_total,
                  (unsigned long long)st.generated_tokens);
    put_stages(&b, s);
    sl_buf_puts(
        &b,
        "<p><a href=/health>health</a> <a href=/metrics>metrics</a> <a href=/cluster>cluster</a> "
        "<a href=/v1/models>models</a></p>\n");
    sl_http_reply(c, 200, "text/html; charset=utf-8", NULL, sl_buf_str(&b), b.len);
    sl_buf_close(&b);
}
