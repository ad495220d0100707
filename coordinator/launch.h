/* launch.h - starts stage processes: children of this process and, through the system's ssh, on
 * other hosts.
 *
 * A child dies with the coordinator (PR_SET_PDEATHSIG and the closed control connection); its
 * stderr is passed on line by line with its name in front. Its exit is reported once. The join key
 * travels in the environment (local) or on ssh's standard input, never on a command line. */
#ifndef SL_COORDINATOR_LAUNCH_H
#define SL_COORDINATOR_LAUNCH_H

#include "base/err.h"
#include "topology/cluster.h"

#ifdef __cplusplus
extern "C" {
#endif

struct uv_loop_s;
struct sl_child;

/* The process ended: exit status, or -signal. Called once, from the loop; the child is freed
 * afterwards. */
typedef void (*sl_child_exit_fn)(void *arg, int status, const char *last_line);

struct sl_launch_params {
    const char *program; /* this executable */
    const char *control; /* "host:port" to join */
    const char *join_key;
    const struct sl_node *node;
    const struct sl_device *device;
    sl_child_exit_fn on_exit;
    void *arg;
};

/* node->launch is LOCAL or SSH. */
int sl_launch(struct uv_loop_s *loop, const struct sl_launch_params *p, struct sl_child **out,
              struct sl_err *err);
int sl_child_pid(const struct sl_child *c);
/* No report any more: detaches the callback, kills the process unless it ends by itself within
 * grace_ms (0: now), frees when it is gone. */
void sl_child_abandon(struct sl_child *c, int grace_ms);

#ifdef __cplusplus
}
#endif
#endif
