// A task is one image and a block of output channels. Only the input channels under the block are unpacked, to planes
// with a border of zeros: there a neighbour is an offset, so each output channel is a sum of a few shifted planes, long
// runs whatever C and D are. The pooled planes go back to channels-last, where the resize blends whole blocks.
#include "cpu/patch_pool.h"

#include <algorithm>

#include "cpu/pooling.h"
#include "cpu/vector_clones.h"

namespace moleflow::cpu {
namespace {

constexpr int kSide = 3;
constexpr int kTaps = kSide * kSide;
constexpr int kBlock = 32;          // output channels of a task
constexpr int kBlockChannels = 64;  // input channels of a task, about

// out = the sum of the terms, whose number is a multiple of four. By fours, a window of a thousand values stays within
// 1e-6 of its sum in fp32.
template <typename T>
MOLEFLOW_INLINE void sum_body(T* out, const T* const* terms, size_t count, int64_t n) {
    for (size_t t = 0; t < count; t += 4) {
        const T *a = terms[t], *b = terms[t + 1], *c = terms[t + 2], *d = terms[t + 3];
        if (t == 0) {
#pragma GCC ivdep
            for (int64_t i = 0; i < n; ++i) out[i] = (a[i] + b[i]) + (c[i] + d[i]);
            continue;
        }
#pragma GCC ivdep
        for (int64_t i = 0; i < n; ++i) out[i] += (a[i] + b[i]) + (c[i] + d[i]);
    }
}

template <typename T>
MOLEFLOW_INLINE void blend_body(T* out, const T* a, const T* b, T share, int64_t n) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = (1 - share) * a[i] + share * b[i];
}

template <typename T>
MOLEFLOW_INLINE void add_blend_body(T* out, const T* a, const T* b, T share, int64_t n) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] += (1 - share) * a[i] + share * b[i];
}

MOLEFLOW_VECTOR_CLONES void sum(float* out, const float* const* terms, size_t count, int64_t n) {
    sum_body(out, terms, count, n);
}
MOLEFLOW_VECTOR_CLONES void sum(double* out, const double* const* terms, size_t count, int64_t n) {
    sum_body(out, terms, count, n);
}
MOLEFLOW_VECTOR_CLONES void blend(float* out, const float* a, const float* b, float share, int64_t n) {
    blend_body(out, a, b, share, n);
}
MOLEFLOW_VECTOR_CLONES void blend(double* out, const double* a, const double* b, double share, int64_t n) {
    blend_body(out, a, b, share, n);
}
MOLEFLOW_VECTOR_CLONES void add_blend(float* out, const float* a, const float* b, float share, int64_t n) {
    add_blend_body(out, a, b, share, n);
}
MOLEFLOW_VECTOR_CLONES void add_blend(double* out, const double* a, const double* b, double share, int64_t n) {
    add_blend_body(out, a, b, share, n);
}

// `count` planes, each with a border of one; an odd number of cache lines apart, so that one pixel of every plane does
// not fall into the same few cache sets.
template <typename T>
struct Planes {
    std::vector<T> values;
    int64_t row = 0, stride = 0;

    void shape(int count, int height, int width) {
        constexpr int64_t line = 64 / sizeof(T);
        row = width + 2;
        stride = ((height + 2) * row + line - 1) / line;
        stride = (stride + 1 - stride % 2) * line;
        if (values.size() < static_cast<size_t>(count * stride)) values.resize(count * stride);
    }
    T* operator[](int64_t i) { return values.data() + i * stride; }
};

template <typename T>
struct Scratch {
    Planes<T> channels, outputs;
    std::vector<const T*> terms;
    std::vector<T> zeros;                // as long as a plane
    std::vector<std::vector<T>> pooled;  // per layer (H_l, W_l, block)
    std::vector<T> rows, sums;           // (W_l, block); (W, block)
};

struct Block {
    int64_t image;
    int begin, size;  // output channels
};

template <typename T>
void clear_border(T* plane, int64_t row, int height, int width) {
    std::fill_n(plane, row, T(0));
    std::fill_n(plane + (height + 1) * row, row, T(0));
    for (int y = 1; y <= height; ++y) plane[y * row] = plane[y * row + width + 1] = 0;
}

// Channels begin..begin+count of one image, to planes.
template <typename T>
void unpack(const FeatureMap<T>& map, int64_t image, int64_t begin, int count, Planes<T>& planes) {
    planes.shape(count, map.height, map.width);
    for (int c = 0; c < count; ++c) clear_border(planes[c], planes.row, map.height, map.width);
    const T* values = map.values + image * map.channels * map.height * map.width;
    for (int y = 0; y < map.height; ++y) {
        T* to = planes[0] + (y + 1) * planes.row + 1;
        if (!map.channels_last) {
            const T* from = values + (begin * map.height + y) * map.width;
            const int64_t plane = static_cast<int64_t>(map.height) * map.width;
            for (int c = 0; c < count; ++c) std::copy_n(from + c * plane, map.width, to + c * planes.stride);
            continue;
        }
        const T* from = values + static_cast<int64_t>(y) * map.width * map.channels + begin;
        for (int x = 0; x < map.width; ++x, from += map.channels, ++to) {
            for (int c = 0; c < count; ++c) to[c * planes.stride] = from[c];
        }
    }
}

// Planes of sums to (height, width, block), scaled.
template <typename T>
void pack(Planes<T>& planes, const T* scales, int block, int height, int width, T* out) {
    for (int y = 0; y < height; ++y) {
        const T* from = planes[0] + y * planes.row;
        for (int x = 0; x < width; ++x, ++from, out += block) {
            for (int i = 0; i < block; ++i) out[i] = scales[i] * from[i * planes.stride];
        }
    }
}

// The block's mean over each window of the C*9 values of a patch, times `weight`.
template <typename T>
void pool_block(const FeatureMap<T>& map, const Block& block, int dim, double weight, Scratch<T>& scratch, T* out) {
    const int64_t inputs = static_cast<int64_t>(map.channels) * kTaps;
    const int64_t first = pooling_window(block.begin, inputs, dim).begin / kTaps;
    const int64_t last = (pooling_window(block.begin + block.size - 1, inputs, dim).end - 1) / kTaps;
    Planes<T>& channels = scratch.channels;
    Planes<T>& outputs = scratch.outputs;
    unpack(map, block.image, first, static_cast<int>(last - first + 1), channels);
    outputs.shape(block.size, map.height, map.width);

    // rows run into one another: what stands at their two border columns is never read
    const int64_t run = (map.height - 1) * channels.row + map.width;
    const auto neighbour = [&](int64_t value) -> const T* {
        const int64_t tap = value % kTaps;
        return channels[value / kTaps - first] + tap / kSide * channels.row + tap % kSide;
    };
    T scales[kBlock];
    for (int i = 0; i < block.size; ++i) {
        const Window window = pooling_window(block.begin + i, inputs, dim);
        scratch.terms.clear();
        for (int64_t v = window.begin; v < window.end; ++v) scratch.terms.push_back(neighbour(v));
        while (scratch.terms.size() % 4) scratch.terms.push_back(scratch.zeros.data());
        sum(outputs[i], scratch.terms.data(), scratch.terms.size(), run);
        scales[i] = static_cast<T>(weight / static_cast<double>(window.end - window.begin));
    }
    pack(outputs, scales, block.size, map.height, map.width, out);
}

// sums (width, block) += row y of a pooled layer, resized.
template <typename T>
void add_row(const FeatureMap<T>& map, const T* pooled, const PatchGrid& grid, int y, int block, Scratch<T>& scratch) {
    const int64_t row = static_cast<int64_t>(map.width) * block;
    T* sums = scratch.sums.data();
    if (map.height == grid.height && map.width == grid.width) {
        for (int64_t i = 0; i < row; ++i) sums[i] += pooled[y * row + i];
        return;
    }
    T* blended = scratch.rows.data();
    const Blend v = bilinear_source(y, map.height, grid.height);
    blend(blended, pooled + v.first * row, pooled + v.second * row, static_cast<T>(v.share), row);
    for (int x = 0; x < grid.width; ++x) {
        const Blend h = bilinear_source(x, map.width, grid.width);
        add_blend(sums + static_cast<int64_t>(x) * block, blended + static_cast<int64_t>(h.first) * block,
                  blended + static_cast<int64_t>(h.second) * block, static_cast<T>(h.share), block);
    }
}

template <typename T>
void run_block(const std::vector<FeatureMap<T>>& maps, T* out, const PatchGrid& grid, const Block& block,
               Scratch<T>& scratch) {
    for (size_t l = 0; l < maps.size(); ++l) {
        pool_block(maps[l], block, grid.dim, 1.0 / static_cast<double>(maps.size()), scratch, scratch.pooled[l].data());
    }
    for (int y = 0; y < grid.height; ++y) {
        std::fill(scratch.sums.begin(), scratch.sums.end(), T(0));
        for (size_t l = 0; l < maps.size(); ++l) {
            add_row(maps[l], scratch.pooled[l].data(), grid, y, block.size, scratch);
        }
        for (int x = 0; x < grid.width; ++x) {
            const int64_t cell = static_cast<int64_t>(y) * grid.width + x;
            T* to = out + (block.image * grid.height * grid.width + cell) * grid.dim + block.begin;
            std::copy_n(scratch.sums.data() + static_cast<int64_t>(x) * block.size, block.size, to);
        }
    }
}

template <typename T>
Scratch<T> make_scratch(const std::vector<FeatureMap<T>>& maps, const PatchGrid& grid, int block) {
    Scratch<T> scratch;
    int64_t longest = 0;
    for (const auto& map : maps) {
        const int64_t row = static_cast<int64_t>(map.width) * block;
        longest = std::max(longest, static_cast<int64_t>(map.height + 2) * (map.width + 2));
        scratch.pooled.emplace_back(map.height * row);
        scratch.rows.resize(std::max(scratch.rows.size(), static_cast<size_t>(row)));
    }
    scratch.zeros.assign(longest, T(0));
    scratch.sums.resize(static_cast<size_t>(grid.width) * block);
    return scratch;
}

// Output channels of a task: fewer where each reads many input channels.
template <typename T>
int block_size(const std::vector<FeatureMap<T>>& maps, int dim) {
    int most = 1;
    for (const auto& map : maps) most = std::max(most, map.channels);
    const int64_t fitting = static_cast<int64_t>(kBlockChannels) * dim / most;
    return static_cast<int>(std::clamp<int64_t>(fitting, 1, std::min(kBlock, dim)));
}

}  // namespace

template <typename T>
void patch_pool(const std::vector<FeatureMap<T>>& maps, T* out, const PatchGrid& grid, int threads) {
    const int block = block_size(maps, grid.dim);
    const int64_t blocks = (grid.dim + block - 1) / block;
#pragma omp parallel num_threads(threads)
    {
        Scratch<T> scratch = make_scratch(maps, grid, block);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < grid.batch * blocks; ++task) {
            const int begin = static_cast<int>(task % blocks) * block;
            run_block(maps, out, grid, {task / blocks, begin, std::min(block, grid.dim - begin)}, scratch);
        }
    }
}

template void patch_pool(const std::vector<FeatureMap<float>>&, float*, const PatchGrid&, int);
template void patch_pool(const std::vector<FeatureMap<double>>&, double*, const PatchGrid&, int);

}  // namespace moleflow::cpu
