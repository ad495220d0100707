/* chat_peer.h - whom `sluice chat` talks to: a coordinator over the socket API, or a session in
 * this process. */
#ifndef SL_CLI_CHAT_PEER_H
#define SL_CLI_CHAT_PEER_H

#include <jansson.h>
#include <stdio.h>

#include "cli/generate.h"

struct sl_chat_peer;

enum sl_chat_part { SL_CHAT_TEXT, SL_CHAT_REASONING };

/* The answer as it comes; nonzero stops it. */
typedef int (*sl_chat_text_fn)(void *arg, enum sl_chat_part part, const char *text, size_t n);

/* key NULL: SLUICE_API_KEY, or none. The options must outlive the peer. */
int sl_chat_peer_connect(const char *address, const char *key, const struct sl_generate_options *g,
                         struct sl_chat_peer **out, struct sl_err *err);
int sl_chat_peer_start(const struct sl_session_options *o, const char *yaml,
                       const struct sl_generate_options *g, struct sl_chat_peer **out,
                       struct sl_err *err);
void sl_chat_peer_close(struct sl_chat_peer *p);

/* Asks for the answer to an OpenAI message array. 0 also when the callback stopped it. */
int sl_chat_peer_ask(struct sl_chat_peer *p, const json_t *messages, sl_chat_text_fn fn, void *arg,
                     struct sl_err *err);

/* Waits until fd can be read, and lets a session of this process live meanwhile: its stages expect
 * to be heard. */
void sl_chat_peer_wait(struct sl_chat_peer *p, int fd);

/* The stage table of the cluster. */
int sl_chat_peer_table(struct sl_chat_peer *p, FILE *out, struct sl_err *err);

#endif
