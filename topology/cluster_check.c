/* cluster_check.c - what the values of a topology file mean together: defaults that depend on other
 * keys, names that must differ or exist, keys that would do nothing, addresses, paths. */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "topology/cluster_file.h"

#define NAME_MAX_BYTES 63  /* of a node */
#define HOST_MAX_BYTES 255 /* of a host name or address */
#define JOIN_KEY_MIN 8     /* characters */
#define JOIN_KEY_MAX 64    /* characters: fits the coordinator's field */
#define SSH_OPTIONS_MAX 24 /* words */

static int is_loopback(const char *host)
{
    struct in_addr ip;
    if (strcmp(host, "localhost") == 0) return 1;
    return inet_pton(AF_INET, host, &ip) == 1 && ntohl(ip.s_addr) >> 24 == 127;
}

/* ---- paths ----------------------------------------------------------------------------------- */

/* Relative paths count from the topology file's folder, wherever the program was started. */
static int resolve(struct sl_cluster_file *f, const struct sl_yaml *v, const char **path)
{
    const char *slash = strrchr(f->name, '/');
    if (**path == '~')
        return SL_FAIL(f, v, "~ means nothing outside a shell; write the whole path");
    if (**path == '/' || !slash) return 0;
    size_t dir = (size_t)(slash - f->name) + 1, n = strlen(*path);
    char *whole = sl_arena_alloc(&f->c->arena, dir + n + 1);
    if (!whole) return sl_err_set(f->err, SL_ENOMEM, "%s: no memory", f->name);
    memcpy(whole, f->name, dir);
    memcpy(whole + dir, *path, n + 1);
    *path = whole;
    return 0;
}

static int ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

/* Else it is the name of a model that the program knows, like smollm2. */
static int is_path(const char *model)
{
    return *model == '~' || strchr(model, '/') || ends_with(model, ".gguf") ||
           ends_with(model, ".safetensors");
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static int check_name(struct sl_cluster_file *f, int i)
{
    const struct sl_node *n = &f->c->nodes[i];
    const struct sl_yaml *v = sl_yaml_get(f->nodes[i], "name");
    char shown[SL_YAML_EXCERPT + 4];
    size_t len = strlen(n->name), good = 0;
    while (isalnum((unsigned char)n->name[good]) ||
           (good && n->name[good] && strchr("._-", n->name[good])))
        good++;
    if (good < len || len > NAME_MAX_BYTES)
        return SL_FAIL(f, v, "'%s' is no name; use letters, digits, '.', '_', '-', at most %d",
                       sl_yaml_excerpt(n->name, shown), NAME_MAX_BYTES);
    for (int k = 0; k < i; k++)
        if (strcmp(f->c->nodes[k].name, n->name) == 0)
            return SL_FAIL(f, v, "'%s' is the name of the node in line %d already; choose another",
                           n->name, sl_yaml_get(f->nodes[k], "name")->line);
    return 0;
}

/* A host goes into ssh's command line and into getaddrinfo. */
static int check_host(struct sl_cluster_file *f, const struct sl_yaml *v, const char *host)
{
    char shown[SL_YAML_EXCERPT + 4];
    if (*host == '-' || strpbrk(host, " \"'/,;") || strlen(host) > HOST_MAX_BYTES)
        return SL_FAIL(f, v, "'%s' is no host name or address", sl_yaml_excerpt(host, shown));
    return 0;
}

static const char *launch_name(enum sl_launch l)
{
    static const char *const names[] = {"local", "thread", "ssh", "external"};
    return names[l];
}

/* A key that this way of launching would not look at. */
static int check_useless(struct sl_cluster_file *f, int i)
{
    enum sl_launch l = f->c->nodes[i].launch;
    static const char *const ssh_keys[] = {"ssh", "ssh_port", "ssh_options"};
    for (size_t k = 0; k < SL_ARRAY_LEN(ssh_keys); k++) {
        const struct sl_yaml *v = sl_yaml_get(f->nodes[i], ssh_keys[k]);
        if (v && l != SL_LAUNCH_SSH)
            return SL_FAIL(f, v, "does nothing with launch: %s; write launch: ssh, or leave it out",
                           launch_name(l));
    }
    const struct sl_yaml *v = sl_yaml_get(f->nodes[i], "program");
    if (v && (l == SL_LAUNCH_THREAD || l == SL_LAUNCH_EXTERNAL))
        return SL_FAIL(f, v, "does nothing with launch: %s; leave it out", launch_name(l));
    return 0;
}

static int check_ssh(struct sl_cluster_file *f, int i)
{
    const struct sl_node *n = &f->c->nodes[i];
    int words = 0, in_word = 0;
    if (n->ssh && (*n->ssh == '-' || strchr(n->ssh, ' ')))
        return SL_FAIL(f, sl_yaml_get(f->nodes[i], "ssh"),
                       "is no destination; write user@host, and options in `ssh_options`");
    for (const char *p = n->ssh_options ? n->ssh_options : ""; *p; p++) {
        words += *p != ' ' && !in_word;
        in_word = *p != ' ';
    }
    if (words > SSH_OPTIONS_MAX)
        return SL_FAIL(f, sl_yaml_get(f->nodes[i], "ssh_options"),
                       "has more than %d words; put options into ssh's own config file",
                       SSH_OPTIONS_MAX);
    return 0;
}

/* Paths on this host are resolved; on another one a relative path would count from who knows where.
 */
static int check_node_paths(struct sl_cluster_file *f, int i)
{
    struct sl_node *n = &f->c->nodes[i];
    int here = n->launch == SL_LAUNCH_LOCAL || n->launch == SL_LAUNCH_THREAD;
    const struct sl_yaml *v = sl_yaml_get(f->nodes[i], "model");
    if (v && !here && *n->model_path != '/')
        return SL_FAIL(f, v, "is a path on another host; write it whole, from the first /");
    int r = v && here ? resolve(f, v, &n->model_path) : 0;
    if (r) return r;
    v = sl_yaml_get(f->nodes[i], "program");
    if (v && *n->program == '~')
        return SL_FAIL(f, v, "~ means nothing outside a shell; write the whole path");
    if (v && here && strchr(n->program, '/')) return resolve(f, v, &n->program);
    return 0;
}

static int check_node(struct sl_cluster_file *f, int i)
{
    struct sl_node *n = &f->c->nodes[i];
    const struct sl_yaml *v = f->nodes[i], *launch = sl_yaml_get(v, "launch");
    int r = check_name(f, i);
    if (r == 0 && n->host) r = check_host(f, sl_yaml_get(v, "host"), n->host);
    if (r) return r;
    if (!n->host) n->host = "127.0.0.1";
    if (!launch) n->launch = is_loopback(n->host) ? SL_LAUNCH_LOCAL : SL_LAUNCH_EXTERNAL;
    if (n->launch == SL_LAUNCH_THREAD && !is_loopback(n->host))
        return SL_FAIL(f, launch,
                       "a thread of this process cannot be on %s; write launch: ssh, "
                       "or external",
                       n->host);
    r = check_useless(f, i);
    if (r == 0) r = check_ssh(f, i);
    if (r == 0) r = check_node_paths(f, i);
    if (r == 0 && n->launch == SL_LAUNCH_EXTERNAL && !f->c->join_key)
        return SL_FAIL(f, launch ? launch : v,
                       "a stage on %s joins by itself and needs the key for that; add "
                       "`join_key:` at the top level%s",
                       n->host, launch ? "" : ", or launch: ssh here");
    return r;
}

/* ---- devices --------------------------------------------------------------------------------- */

static int name_device(struct sl_cluster_file *f, int i)
{
    struct sl_device *d = &f->c->devices[i];
    char name[NAME_MAX_BYTES + 16];
    snprintf(name, sizeof name, "%s/%d", f->c->nodes[d->node].name, f->devices[i]->index);
    d->name = sl_arena_strdup(&f->c->arena, name);
    return d->name ? 0 : sl_err_set(f->err, SL_ENOMEM, "%s: no memory", f->name);
}

static int check_device(struct sl_cluster_file *f, int i)
{
    const struct sl_device *d = &f->c->devices[i];
    const struct sl_yaml *v = f->devices[i];
    int r = name_device(f, i);
    if (r) return r;
    if (d->memory_bytes && d->reserve_bytes >= d->memory_bytes)
        return SL_FAIL(f, sl_yaml_get(v, "reserve"),
                       "takes all of the device's memory; "
                       "keep it below `memory`");
    for (int k = 0; k < i && d->layer_from >= 0; k++) {
        const struct sl_device *o = &f->c->devices[k];
        if (o->layer_from < 0 || d->layer_from >= o->layer_to || o->layer_from >= d->layer_to)
            continue;
        return SL_FAIL(f, sl_yaml_get(v, "layers"),
                       "[%d, %d] overlaps [%d, %d] of %s in line %d; a layer runs in one stage",
                       d->layer_from, d->layer_to - 1, o->layer_from, o->layer_to - 1, o->name,
                       sl_yaml_get(f->devices[k], "layers")->line);
    }
    return 0;
}

/* ---- links ----------------------------------------------------------------------------------- */

static int find_node(struct sl_cluster_file *f, const struct sl_yaml *v, int *out)
{
    const char *names[SL_NODES_MAX];
    char shown[SL_YAML_EXCERPT + 4];
    for (int i = 0; i < f->c->n_nodes; i++) {
        names[i] = f->c->nodes[i].name;
        if (strcmp(names[i], v->text) != 0) continue;
        *out = i;
        return 0;
    }
    const char *near = sl_nearest(v->text, names, (size_t)f->c->n_nodes);
    return SL_FAIL(f, v, "no node is named '%s'; did you mean %s?", sl_yaml_excerpt(v->text, shown),
                   near ? near : names[0]);
}

static int check_link(struct sl_cluster_file *f, int i)
{
    struct sl_link_spec *l = &f->c->links[i];
    const struct sl_yaml *between = sl_yaml_get(f->links[i], "between");
    int a, b, r = find_node(f, between->first, &a);
    if (r == 0) r = find_node(f, between->last, &b);
    if (r) return r;
    l->node_a = a;
    l->node_b = b;
    for (int k = 0; k < i; k++) {
        const struct sl_link_spec *o = &f->c->links[k];
        if ((o->node_a == a && o->node_b == b) || (o->node_a == b && o->node_b == a))
            return SL_FAIL(f, between, "the link of these two stands in line %d already; join them",
                           f->links[k]->line);
    }
    if (a != b && strcmp(l->transport, "ucx-shm") == 0 &&
        strcmp(f->c->nodes[a].host, f->c->nodes[b].host) != 0)
        return SL_FAIL(f, sl_yaml_get(f->links[i], "transport"),
                       "ucx-shm is shared memory and ends at the host; write ucx-tcp or auto");
    return 0;
}

/* ---- the top level --------------------------------------------------------------------------- */

static int check_address(struct sl_cluster_file *f, const struct sl_yaml *v, const char *address)
{
    char host[HOST_MAX_BYTES + 1], shown[SL_YAML_EXCERPT + 4];
    int port;
    if (sl_parse_hostport(address, host, sizeof host, &port))
        return SL_FAIL(f, v, "'%s' is no address; write HOST:PORT in quotes, like \"0.0.0.0:8080\"",
                       sl_yaml_excerpt(address, shown));
    return *host ? check_host(f, v, host) : 0;
}

static int check_socket(struct sl_cluster_file *f, const struct sl_yaml *v)
{
    if (!strchr(f->c->socket, '/') && strchr(f->c->socket, ':'))
        return check_address(f, v, f->c->socket);
    if (!strchr(f->c->socket, '/')) {
        char shown[SL_YAML_EXCERPT + 4];
        return SL_FAIL(f, v, "'%s' is neither HOST:PORT nor a path; write ./%s for a file here",
                       sl_yaml_excerpt(f->c->socket, shown), shown);
    }
    int r = resolve(f, v, &f->c->socket);
    size_t max = sizeof((struct sockaddr_un *)0)->sun_path - 1;
    if (r == 0 && strlen(f->c->socket) > max)
        return SL_FAIL(f, v,
                       "the path has more than the %zu bytes of a socket's name; "
                       "choose a shorter one",
                       max);
    return r;
}

static int check_serve(struct sl_cluster_file *f)
{
    struct sl_cluster *c = f->c;
    const struct sl_yaml *v = sl_yaml_get(f->root, "serve");
    int r = 0;
    if (c->http && strcmp(c->http, "off") != 0)
        r = check_address(f, sl_yaml_get(v, "http"), c->http);
    if (r == 0 && c->socket) r = check_socket(f, sl_yaml_get(v, "socket"));
    if (r == 0 && c->api_keys) r = resolve(f, sl_yaml_get(v, "api_keys"), &c->api_keys);
    if (r == 0 && c->control) r = check_address(f, sl_yaml_get(f->root, "control"), c->control);
    return r;
}

static int check_join_key(struct sl_cluster_file *f)
{
    const char *key = f->c->join_key;
    if (!key) return 0;
    const struct sl_yaml *v = sl_yaml_get(f->root, "join_key");
    size_t n = strlen(key);
    if (n < JOIN_KEY_MIN || n > JOIN_KEY_MAX || strchr(key, ' '))
        return SL_FAIL(f, v, "a join key has %d to %d characters without spaces", JOIN_KEY_MIN,
                       JOIN_KEY_MAX);
    return 0;
}

static int check_adapter(struct sl_cluster_file *f, int i)
{
    struct sl_adapter_spec *a = &f->c->adapters[i];
    const struct sl_yaml *v = sl_yaml_get(f->adapters[i], "name");
    if (!*a->name || strlen(a->name) > SL_ADAPTER_NAME_MAX)
        return SL_FAIL(f, v, "an adapter's name has 1 to %d characters", SL_ADAPTER_NAME_MAX);
    for (int k = 0; k < i; k++)
        if (strcmp(f->c->adapters[k].name, a->name) == 0)
            return SL_FAIL(f, v,
                           "'%s' is the name of the adapter in line %d already; choose another",
                           a->name, sl_yaml_get(f->adapters[k], "name")->line);
    return resolve(f, sl_yaml_get(f->adapters[i], "path"), &a->path);
}

int sl_cluster_check(struct sl_cluster_file *f)
{
    struct sl_cluster *c = f->c;
    int r = 0;
    if (c->chat_template)
        r = resolve(f, sl_yaml_get(sl_yaml_get(f->root, "model"), "chat_template"),
                    &c->chat_template);
    if (r == 0 && is_path(c->model_path))
        r = resolve(f, sl_yaml_get(sl_yaml_get(f->root, "model"), "path"), &c->model_path);
    for (int i = 0; r == 0 && i < c->n_adapters; i++) r = check_adapter(f, i);
    if (r == 0) r = check_serve(f);
    if (r == 0) r = check_join_key(f);
    for (int i = 0; r == 0 && i < c->n_nodes; i++) r = check_node(f, i);
    for (int i = 0; r == 0 && i < c->n_devices; i++) r = check_device(f, i);
    for (int i = 0; r == 0 && i < c->n_links; i++) r = check_link(f, i);
    return r;
}
