/* moe_mma.cuh - the multiply-accumulate of the grouped product: a tile of 128 weight rows times N
 * activation rows, both halfs in shared memory, 64 columns at a time. In two bodies, chosen by the
 * card: wgmma (Hopper, sm_90a: one warpgroup takes 64 weight rows), or mma.sync (a warp takes 64
 * by 32). What differs is which sums a thread holds; for_each() hides it.
 *
 * Both operands lie as rows of 128 bytes whose eight 16-byte chunks are permuted by the row's
 * number: chunk c of row r at c ^ (r % 8). That is wgmma's 128-byte swizzle (PTX ISA, "asynchronous
 * warpgroup level matrix shared memory layout"), and ldmatrix reads it without bank conflicts. */
#ifndef SL_KERNELS_CUDA_MOE_MMA_CUH
#define SL_KERNELS_CUDA_MOE_MMA_CUH

#include <stdint.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && !defined(SL_MOE_NO_WGMMA)
#define SL_MOE_WGMMA 1
#else
#define SL_MOE_WGMMA 0
#endif

#define SL_TILE_WEIGHTS 128 /* rows of the tile */
#define SL_TILE_K 64        /* columns: 128 bytes of halfs */
#define SL_TILE_THREADS 256

/* Byte offset of chunk c of row r in a tile. */
static __device__ __forceinline__ uint32_t sl_tile_at(int r, int c)
{
    return (uint32_t)(r * 128 + ((c ^ (r & 7)) << 4));
}

#if SL_MOE_WGMMA

/* Start address, 16 bytes the unit; 1024 bytes between groups of 8 rows; 128-byte swizzle. */
static __device__ __forceinline__ uint64_t sl_tile_descriptor(uint32_t shared)
{
    return (uint64_t)(shared >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)64 << 32 |
           (uint64_t)1 << 62;
}

#define SL_ACC4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SL_ACC16(d, i) SL_ACC4(d, i), SL_ACC4(d, i + 4), SL_ACC4(d, i + 8), SL_ACC4(d, i + 12)

/* d (+)= A [64 rows][16] * B [N rows][16]^T, of this warpgroup. */
template <int N>
static __device__ __forceinline__ void sl_wgmma(float *d, uint64_t a, uint64_t b, int add);

template <> __device__ __forceinline__ void sl_wgmma<32>(float *d, uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
                 "%15"
                 "}, %16, %17, p, 1, 1, 0, 0;\n}"
                 : SL_ACC16(d, 0)
                 : "l"(a), "l"(b), "r"(add));
}

template <> __device__ __forceinline__ void sl_wgmma<64>(float *d, uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
                 "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "
                 "%28, %29, %30, %31"
                 "}, %32, %33, p, 1, 1, 0, 0;\n}"
                 : SL_ACC16(d, 0), SL_ACC16(d, 16)
                 : "l"(a), "l"(b), "r"(add));
}

template <> __device__ __forceinline__ void sl_wgmma<96>(float *d, uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %50, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n96k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
                 "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "
                 "%28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "
                 "%41, %42, %43, %44, %45, %46, %47"
                 "}, %48, %49, p, 1, 1, 0, 0;\n}"
                 : SL_ACC16(d, 0), SL_ACC16(d, 16), SL_ACC16(d, 32)
                 : "l"(a), "l"(b), "r"(add));
}

template <> __device__ __forceinline__ void sl_wgmma<128>(float *d, uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
                 "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "
                 "%28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "
                 "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, "
                 "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, %64, %65, p, 1, 1, 0, 0;\n}"
                 : SL_ACC16(d, 0), SL_ACC16(d, 16), SL_ACC16(d, 32), SL_ACC16(d, 48)
                 : "l"(a), "l"(b), "r"(add));
}

/* Sums of one thread. */
struct sl_tile_sums {
    float acc[64];

    template <int N> __device__ __forceinline__ void start_all(uint64_t a, uint64_t b, int add)
    {
        hold();
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int k = 0; k < SL_TILE_K / 16; k++) sl_wgmma<N>(acc, a + 2 * k, b + 2 * k, add || k);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    }

    /* Starts the product of all 64 columns for activation rows below n; `a` and `b`: shared
     * addresses of both tiles. */
    __device__ __forceinline__ void start(uint32_t a, uint32_t b, int n, int add)
    {
        uint64_t da = sl_tile_descriptor(a + threadIdx.x / 128 * 64 * 128);
        uint64_t db = sl_tile_descriptor(b);
        if (n <= 32)
            start_all<32>(da, db, add);
        else if (n <= 64)
            start_all<64>(da, db, add);
        else if (n <= 96)
            start_all<96>(da, db, add);
        else
            start_all<128>(da, db, add);
    }

    __device__ __forceinline__ void finish()
    {
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        hold();
    }

    /* Keeps the compiler from moving sums while the tensor cores own them. */
    __device__ __forceinline__ void hold()
    {
#pragma unroll
        for (int i = 0; i < 64; i++) asm volatile("" : "+f"(acc[i]));
    }

    /* f(row, column, sums): 16 weight rows from `row`, 8 activation rows from `column` < n; a
     * lane's four are those of mma.m16n8. */
    template <class F> __device__ __forceinline__ void for_each(int n, const F &f)
    {
        int warp = threadIdx.x / 32;
#pragma unroll
        for (int j = 0; j < 16; j++)
            if (8 * j < n) f(16 * warp, 8 * j, acc + 4 * j);
    }
};

/* Ordinary stores to shared memory that wgmma reads next. */
static __device__ __forceinline__ void sl_tile_publish()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#else

static __device__ __forceinline__ void sl_ldmatrix(uint32_t (&r)[4], uint32_t shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}

struct sl_tile_sums {
    float acc[4][4][4]; /* 64 weight rows, 32 activation rows */

    __device__ __forceinline__ void start(uint32_t a, uint32_t b, int n, int add)
    {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        int row = warp / 4 * 64, column = warp % 4 * 32;
        if (!add) clear();
        if (column >= n) return;
#pragma unroll
        for (int k = 0; k < SL_TILE_K / 16; k++) {
            uint32_t x[2][4], w[4];
#pragma unroll
            for (int j = 0; j < 2; j++) /* columns 16j..: two n8, each both halves of k */
                sl_ldmatrix(x[j], b + sl_tile_at(column + 16 * j + lane % 8 + lane / 16 * 8,
                                                 2 * k + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sl_ldmatrix(w, a + sl_tile_at(row + 16 * i + lane % 16, 2 * k + lane / 16));
#pragma unroll
                for (int j = 0; j < 4; j++) multiply(acc[i][j], w, x[j / 2] + j % 2 * 2);
            }
        }
    }

    static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                    const uint32_t *b)
    {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) acc[i][j][e] = 0;
    }

    __device__ __forceinline__ void finish()
    {
    }

    template <class F> __device__ __forceinline__ void for_each(int n, const F &f)
    {
        int warp = threadIdx.x / 32, column = warp % 4 * 32;
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (column + 8 * j < n) f(warp / 4 * 64 + 16 * i, column + 8 * j, acc[i][j]);
    }
};

static __device__ __forceinline__ void sl_tile_publish()
{
}

#endif

#endif
