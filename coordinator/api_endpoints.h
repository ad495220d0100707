/* api_endpoints.h - the endpoints, one function each; http_route.c binds them to paths. */
#ifndef SL_COORDINATOR_API_ENDPOINTS_H
#define SL_COORDINATOR_API_ENDPOINTS_H

struct sl_http_conn;

void sl_api_chat(struct sl_http_conn *c);        /* api_chat.c */
void sl_api_completions(struct sl_http_conn *c); /* api_completions.c */
void sl_api_models(struct sl_http_conn *c);      /* api_models.c */
void sl_api_tokenize(struct sl_http_conn *c);    /* api_tokenize.c */
void sl_api_detokenize(struct sl_http_conn *c);
void sl_api_apply_template(struct sl_http_conn *c);
void sl_api_health(struct sl_http_conn *c); /* api_status.c */
void sl_api_metrics(struct sl_http_conn *c);
void sl_api_cluster(struct sl_http_conn *c);
void sl_api_page(struct sl_http_conn *c);

#endif
