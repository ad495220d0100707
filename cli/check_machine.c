/* check_machine.c - what this machine and this build are: CPU, cards, drivers, transports, and what
 * is wrong with them. */
#include <stdio.h>
#include <string.h>

#include "base/cpu.h"
#include "base/host.h"
#include "base/text.h"
#include "cli/check.h"
#include "kernels/card.h"
#include "kernels/kernels.h"
#include "transport/link.h"
#include "transport/versions.h"

#define NAMES_MAX 256 /* bytes of the list of transports */

static void problem(json_t *problems, const char *text)
{
    json_array_append_new(problems, json_string(text));
}

static json_t *describe_cpu(void)
{
    int cpus[SL_HOST_CPUS_MAX], n;
    json_t *list = json_array();
    const char *const *rows = sl_backend_rows(&n);
    for (int i = 0; i < n; i++) json_array_append_new(list, json_string(rows[i]));
    return json_pack("{s:s, s:i, s:I, s:o}", "name", sl_cpu_name(), "cpus",
                     sl_host_cpus(cpus, SL_HOST_CPUS_MAX), "memory_available",
                     (json_int_t)sl_host_memory_available(), "rows", list);
}

static json_t *cuda_version(int v)
{
    char text[16];
    snprintf(text, sizeof text, "%d.%d", v / 1000, v % 1000 / 10);
    return v ? json_string(text) : json_null();
}

static json_t *describe_card(int number, json_t *problems)
{
    struct sl_card card;
    struct sl_err err = {0};
    char kind[24], capability[16], text[SL_ERR_MSG_MAX];
    snprintf(kind, sizeof kind, "cuda:%d", number);
    if (sl_card_describe(number, &card, &err)) {
        problem(problems, err.msg);
        return json_pack("{s:s, s:s}", "kind", kind, "why", err.msg);
    }
    snprintf(capability, sizeof capability, "%d.%d", card.capability / 10, card.capability % 10);
    if (card.capability < SL_CARD_CAPABILITY_LEAST) {
        snprintf(text, sizeof text,
                 "%s (%s) has compute capability %s; kernels are made for 8.9 and later, so that "
                 "this card cannot take a stage",
                 kind, card.name, capability);
        problem(problems, text);
    }
    return json_pack("{s:s, s:s, s:s, s:i, s:I, s:I, s:I}", "kind", kind, "name", card.name,
                     "capability", capability, "multiprocessors", card.multiprocessors, "memory",
                     (json_int_t)card.memory_bytes, "memory_free", (json_int_t)card.free_bytes,
                     "l2", (json_int_t)card.l2_bytes);
}

static json_t *describe_cuda(json_t *problems)
{
    struct sl_cuda_versions v;
    char text[SL_ERR_MSG_MAX];
    json_t *cards = json_array();
    int n = sl_backend_cards();
    sl_cuda_versions(&v);
    /* Minor versions of one major are compatible: CUDA compatibility guide, minor versions. */
    if (v.built && v.driver && v.driver / 1000 < v.runtime / 1000) {
        snprintf(
            text, sizeof text,
            "the NVIDIA driver can do CUDA %d.%d, this sluice uses CUDA %d.%d: install a newer "
            "driver",
            v.driver / 1000, v.driver % 1000 / 10, v.runtime / 1000, v.runtime % 1000 / 10);
        problem(problems, text);
    } else if (v.built && v.driver && !n) {
        problem(problems,
                "an NVIDIA driver is here, but no card is visible; look at nvidia-smi and "
                "CUDA_VISIBLE_DEVICES");
    }
    for (int i = 0; i < n; i++) json_array_append_new(cards, describe_card(i, problems));
    return json_pack("{s:o, s:o, s:o, s:o}", "built", cuda_version(v.built), "runtime",
                     cuda_version(v.runtime), "driver", cuda_version(v.driver), "cards", cards);
}

static json_t *nccl_version(void)
{
    int v = sl_nccl_version();
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", v / 10000, v / 100 % 100, v % 100);
    return v ? json_string(text) : json_null();
}

static json_t *describe_transports(json_t *problems)
{
    char names[NAMES_MAX], text[SL_ERR_MSG_MAX], *save = NULL;
    json_t *list = json_array();
    snprintf(names, sizeof names, "%s", sl_transport_list());
    for (char *name = strtok_r(names, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
        json_t *link = sl_check_link(name);
        if (!json_is_true(json_object_get(link, "works"))) {
            snprintf(text, sizeof text, "transport %s: %s", name,
                     json_string_value(json_object_get(link, "why")));
            problem(problems, text);
        }
        json_array_append_new(list, link);
    }
    return list;
}

json_t *sl_check_machine(void)
{
    json_t *problems = json_array();
    json_t *j = json_pack("{s:s, s:o, s:o, s:o, s:s, s:o}", "sluice", SLUICE_VERSION, "cpu",
                          describe_cpu(), "cuda", describe_cuda(problems), "nccl", nccl_version(),
                          "ucx", sl_ucx_version(), "transports", describe_transports(problems));
    json_object_set_new(j, "problems", problems);
    return j;
}
