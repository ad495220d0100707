/* draw_find.cuh - where in the order of logits a count or a mass is reached, without sorting.
 *
 * The row's elements, best first (of equal ones the lower id), have values: 1 each, or their
 * weights. find() gives the element at which the sum of values reaches what is wanted: the k-th
 * best, the last of the nucleus, the token that chance meets. It is a radix selection with digits
 * fitted to the data (after Knuth 5.2.5 and the bucket passes of GPU radix sorts): a histogram of
 * values over 1024 bins, the bin where the sum is reached, then the same within that bin, until few
 * candidates are left to be compared each with each or all that are left are equal. The first digit
 * goes by the distance to the maximum, which spreads logits evenly; it is kept and serves every
 * find() of the same measure. */
#ifndef SL_KERNELS_CUDA_DRAW_FIND_CUH
#define SL_KERNELS_CUDA_DRAW_FIND_CUH

#include "kernels/cuda/draw.cuh"

namespace sl_draw_device
{

enum measure { COUNT, MASS };

static __device__ __forceinline__ uint64_t value_of(const row &r, int measure, float x)
{
    return measure == COUNT ? 1 : fixed_of(weight_of(r, x));
}

/* The first digit: 32 bins to a unit of the logit, all from 32 units below the best in the last. */
static __device__ __forceinline__ int distance_digit(const row &r, float x)
{
    return min(__float2int_rz((r.max - x) * 32), BINS - 1); /* inf - inf: 0 */
}

/* ---- histograms ------------------------------------------------------------------------------ */

/* bins[to] = sum over the row of the values of elements by digit(x); below 0: not counted. */
template <typename D> static __device__ void histogram(row &r, int measure, int to, D digit)
{
    shared *s = r.s;
    for (int i = threadIdx.x; i < BINS; i += THREADS) s->mine[i] = {0, 0};
    __syncthreads();
    each(r, [&](float x, int) {
        int d = digit(x);
        if (d < 0) return;
        uint64_t v = value_of(r, measure, x);
        if (!v) return;
        uint32_t low = (uint32_t)v, old = atomicAdd(&s->mine[d].low, low);
        uint32_t high = (uint32_t)(v >> 32) + (old + low < old);
        if (high) atomicAdd(&s->mine[d].high, high);
    });
    meet(r);
    int share = BINS / r.blocks; /* each block adds some bins of all blocks and tells them all */
    for (int i = r.rank * share + (int)threadIdx.x; i < (r.rank + 1) * share; i += THREADS) {
        uint64_t sum = 0;
#pragma unroll
        for (int b = 0; b < CLUSTER; b++) {
            if (b >= r.blocks) break;
            halves h = *of_block(r, &s->mine[i], b);
            sum += ((uint64_t)h.high << 32) + h.low;
        }
#pragma unroll
        for (int b = 0; b < CLUSTER; b++)
            if (b < r.blocks) *of_block(r, &s->bins[to][i], b) = sum;
    }
    meet(r);
}

static __device__ __forceinline__ uint64_t warp_scan(uint64_t v)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        uint64_t below = __shfl_up_sync(~0u, v, d);
        if (lane >= d) v += below;
    }
    return v;
}

/* The sum of v over the threads before this one; warp_sum holds the warps' sums afterwards. */
static __device__ uint64_t scan_before(shared *s, uint64_t v)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint64_t upto = warp_scan(v);
    if (lane == 31) s->warp_sum[warp] = upto;
    __syncthreads();
    uint64_t before = upto - v;
    for (int w = 0; w < warp; w++) before += s->warp_sum[w];
    return before;
}

/* The bin in which the sum, being *above before the first, reaches `want`; *above then is the sum
 * before that bin. -1: it never does, *above is the sum of all. */
static __device__ int crossing(row &r, int from, uint64_t want, uint64_t *above)
{
    constexpr int PER = BINS / THREADS;
    shared *s = r.s;
    uint64_t v[PER], sum = 0;
    for (int i = 0; i < PER; i++) sum += v[i] = s->bins[from][threadIdx.x * PER + i];
    if (threadIdx.x == 0) s->bin = -1;
    uint64_t before = *above + scan_before(s, sum);
    if (before < want && want <= before + sum) {
        int i = 0;
        for (; before + v[i] < want; i++) before += v[i];
        s->bin = threadIdx.x * PER + i;
        s->above = before;
    } else if (threadIdx.x == THREADS - 1 && before + sum < want) {
        s->above = before + sum;
    }
    __syncthreads();
    int bin = s->bin;
    *above = s->above;
    __syncthreads();
    return bin;
}

/* ---- few candidates -------------------------------------------------------------------------- */

struct gathered {
    uint32_t n, least, most; /* how many in the row; range of their keys */
    static __device__ __forceinline__ gathered none()
    {
        return {0, ~0u, 0};
    }
    static __device__ __forceinline__ gathered join(gathered a, gathered b)
    {
        return {a.n + b.n, min(a.least, b.least), max(a.most, b.most)};
    }
};

/* Lists the elements that `take(x, id)` wants; each block's are in its list, as far as they fit,
 * and everybody knows how many those are. */
template <typename P> static __device__ gathered gather(row &r, P take)
{
    shared *s = r.s;
    gathered g = gathered::none();
    if (threadIdx.x == 0) s->n_list = 0;
    __syncthreads();
    each(r, [&](float x, int i) {
        if (!(x > -INFINITY) || !take(x, r.first + i)) return;
        uint32_t key = key_of(x);
        int at = atomicAdd(&s->n_list, 1);
        if (at < LIST) s->list[at] = place_of(key, r.first + i);
        g = gathered::join(g, {1, key, key});
    });
    __syncthreads();
    if (threadIdx.x < (unsigned)r.blocks)
        *of_block(r, &s->listed[r.rank], (int)threadIdx.x) = s->n_list;
    return reduce(r, g); /* all have met */
}

/* The lists of all blocks, together n <= LIST, into every block's `merged`. */
static __device__ void merge(row &r, int n)
{
    int t = threadIdx.x;
    if (t < n) {
        int at = t, from = 0;
        for (; from < r.blocks - 1; from++) {
            if (at < r.s->listed[from]) break;
            at -= r.s->listed[from];
        }
        r.s->merged[t] = of_block(r, r.s->list, from)[at];
    }
    meet(r); /* lists may be made anew */
}

struct found {
    place cut;     /* the element */
    uint64_t upto; /* sum of values up to and with it; cut 0: of the whole row */
};

/* The element of `merged` at which the sum, being `above` before the first of them, reaches
 * `want`. Each thread sums what comes before its own: with so few that beats sorting. */
static __device__ found resolve(row &r, int measure, int n, uint64_t above, uint64_t want)
{
    shared *s = r.s;
    int t = threadIdx.x;
    place mine = 0;
    uint64_t value = 0;
    if (t < n) {
        mine = s->merged[t];
        value = s->value[t] = value_of(r, measure, logit_of((uint32_t)(mine >> 32)));
    }
    __syncthreads();
    if (t < n) {
        for (int i = 0; i < n; i++) above += s->merged[i] > mine ? s->value[i] : 0;
        if (above < want && want <= above + value) {
            s->cut = mine;
            s->above = above + value;
        }
    }
    __syncthreads();
    found f = {s->cut, s->above};
    __syncthreads();
    return f;
}

/* ---- by id ----------------------------------------------------------------------------------- */

/* The lowest id at which the sum of value(x), over ids in ascending order, reaches `want`, which
 * it does. */
template <typename V> static __device__ int walk(row &r, uint64_t want, V value)
{
    shared *s = r.s;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint64_t mine = 0, before = 0;
    each(r, [&](float x, int) { mine += value(x); });
    mine = warp_reduce(sum64{mine}).sum;
    if (lane == 0) s->warp_sum[warp] = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
        s->above = 0;
        s->cell = -1;
        for (int w = 0; w < WARPS; w++) s->above += s->warp_sum[w];
    }
    meet(r);
    for (int b = 0; b < r.rank; b++) before += *of_block(r, &s->above, b);
    for (int w = 0; w < warp; w++) before += s->warp_sum[w];
    if (before < want && want <= before + mine) { /* it is in this warp's piece */
        for (int i = warp * r.per_warp + lane * 4;; i += STRIDE) {
            float4 f =
                i < r.n ? load4(r, i) : make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
            uint64_t v[4] = {value(f.x), value(f.y), value(f.z), value(f.w)};
            uint64_t four = v[0] + v[1] + v[2] + v[3], upto = before + warp_scan(four);
            before = upto - four;
            if (before < want && want <= upto) {
                int e = 0;
                for (; before + v[e] < want; e++) before += v[e];
                s->cell = r.first + i + e;
            }
            before = __shfl_sync(~0u, upto, 31);
            if (before >= want) break;
        }
    }
    meet(r);
    int id = -1;
    for (int b = 0; b < r.blocks; b++) id = max(id, *of_block(r, &s->cell, b));
    meet(r);
    return id;
}

/* ---- find ------------------------------------------------------------------------------------ */

/* The element at which the sum of values reaches want >= 1. When the whole row has less: cut 0,
 * which every element is at or above. */
static __device__ found find(row &r, int measure, uint64_t want)
{
    uint64_t above = 0;
    if (r.binned != measure)
        histogram(r, measure, 0,
                  [&](float x) { return x > -INFINITY ? distance_digit(r, x) : -1; });
    r.binned = measure;
    int bin = crossing(r, 0, want, &above);
    if (bin < 0) return {0, above};
    gathered g = gather(r, [&](float x, int) { return distance_digit(r, x) == bin; });
    while (g.n > LIST && g.least < g.most) {
        uint32_t least = g.least, most = g.most;
        int shift = max(0, 32 - __clz(most - least) - 10);
        histogram(r, measure, 1, [&](float x) {
            uint32_t key = key_of(x);
            return key >= least && key <= most ? (int)((most - key) >> shift) : -1;
        });
        uint32_t digit = (uint32_t)crossing(r, 1, want, &above);
        g = gather(r, [&](float x, int) {
            uint32_t key = key_of(x);
            return key >= least && key <= most && (most - key) >> shift == digit;
        });
    }
    if (g.n <= LIST) {
        merge(r, (int)g.n);
        return resolve(r, measure, (int)g.n, above, want);
    }
    float x = logit_of(g.most); /* many equal ones: those of the lowest ids come first */
    uint64_t value = value_of(r, measure, x), nth = (want - above + value - 1) / value;
    int id = walk(r, nth, [&](float y) { return (uint64_t)(y == x); });
    return {place_of(g.most, id), above + nth * value};
}

} // namespace sl_draw_device

#endif
