/* control.h - control messages as plain structs; protobuf-c stays inside proto/.
 *
 * Strings and arrays of a decoded message live in its arena and die with sl_ctl_free. See
 * control.proto for meanings. */
#ifndef SL_PROTO_CONTROL_H
#define SL_PROTO_CONTROL_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_CTL_VERSION 3
#define SL_CTL_MESSAGE_MAX (1u << 20) /* bytes of one packed message */
#define SL_CTL_REPORT_MS 200          /* heartbeat */
#define SL_CTL_DEAD_MS 3000           /* silence after which a peer is dead */
#define SL_CTL_STEPS_MAX 512          /* Step records in one Report */
#define SL_CTL_ADDRESS_MAX 4096       /* bytes of one port's address */
#define SL_CTL_PORTS_MAX 16           /* ports in one Hello or Ports */
#define SL_CTL_PEERS_MAX 256          /* peers in one Wire, links in one Report */
#define SL_CTL_COORD 255              /* Peer.stage of the coordinator */

enum sl_ctl_kind {
    SL_CTL_HELLO = 1,
    SL_CTL_LOAD,
    SL_CTL_PROGRESS,
    SL_CTL_READY,
    SL_CTL_WIRE,
    SL_CTL_WIRED,
    SL_CTL_REPORT,
    SL_CTL_FAIL,
    SL_CTL_DRAIN,
    SL_CTL_PING,
    SL_CTL_REOPEN,
    SL_CTL_PORTS
};

struct sl_ctl_port {
    const char *transport;
    const void *address;
    size_t address_len;
};
struct sl_ctl_hello {
    uint32_t version;
    const char *program, *key, *device, *host_id, *process_id, *cpu, *backend,
        *gpu; /* never NULL when decoded */
    uint32_t pid, threads;
    uint64_t memory_bytes;
    double bandwidth;
    size_t n_ports;
    const struct sl_ctl_port *ports;
};
struct sl_ctl_load {
    uint32_t stage, n_stages;
    const char *model, *kv_type;
    uint32_t layer_from, layer_to, block_tokens, n_blocks, max_seqs, max_rows;
    uint64_t memory_bytes;
    const char *const *adapters; /* [n_adapters], at most SL_ADAPTERS_MAX */
    size_t n_adapters;
};
struct sl_ctl_progress {
    uint64_t done_bytes, total_bytes;
};
struct sl_ctl_ready {
    uint32_t n_blocks;
    uint64_t weight_bytes, kv_bytes, workspace_bytes, load_ns;
};
struct sl_ctl_peer {
    uint32_t stage;
    const char *transport;
    const void *address;
    size_t address_len;
    const char *lane; /* "": none; never NULL when decoded */
    const void *lane_address;
    size_t lane_address_len;
    uint32_t activations; /* enum sl_dtype: F32, BF16 or F8_E4M3 */
};
struct sl_ctl_wire {
    uint32_t epoch;
    int lane_in;
    size_t n_peers;
    const struct sl_ctl_peer *peers;
};
struct sl_ctl_wired {
    uint32_t epoch;
};
struct sl_ctl_ports {
    size_t n_ports;
    const struct sl_ctl_port *ports;
};
struct sl_ctl_step {
    uint64_t slot, recv_ns, start_ns, end_ns;
    uint32_t rows, epoch;
};
struct sl_ctl_link {
    uint32_t stage;
    uint64_t frames, bytes, busy_ns;
    const char *transport;
};
struct sl_ctl_report {
    uint64_t now_ns, busy_ns, steps, rows;
    uint64_t layers;
    uint32_t queued;
    size_t n_links, n_recent;
    const struct sl_ctl_link *links;
    const struct sl_ctl_step *recent;
};
struct sl_ctl_fail {
    int32_t code;
    const char *message;
};

struct sl_ctl {
    enum sl_ctl_kind kind;
    union {
        struct sl_ctl_hello hello;
        struct sl_ctl_load load;
        struct sl_ctl_progress progress;
        struct sl_ctl_ready ready;
        struct sl_ctl_wire wire;
        struct sl_ctl_wired wired;
        struct sl_ctl_ports ports;
        struct sl_ctl_report report;
        struct sl_ctl_fail fail;
    };
    void *storage; /* private: owns what a decoded message points to */
};

/* Appends 4-byte length and message. 0, SL_ELIMIT or SL_ENOMEM. */
int sl_ctl_pack(const struct sl_ctl *m, struct sl_buf *out);

/* Takes the first whole message of in[0..n): sets *used to the bytes eaten and returns 0; SL_EAGAIN
 * when more bytes are needed; SL_EPROTO when the bytes cannot become a message (drop the peer). A
 * message of an unknown kind is skipped; *used may therefore be above 0 with SL_EAGAIN too: those
 * bytes are done with. */
int sl_ctl_unpack(const void *in, size_t n, struct sl_ctl *out, size_t *used, struct sl_err *err);
void sl_ctl_free(struct sl_ctl *m); /* only decoded messages */

#ifdef __cplusplus
}
#endif
#endif
