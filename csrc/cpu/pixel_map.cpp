#include "cpu/pixel_map.h"

#include <algorithm>
#include <vector>

#include "cpu/vector_clones.h"

namespace moleflow::cpu {
namespace {

struct Span {
    int begin, end;
};

// Where each row of a matrix has values that are not zero.
template <typename T>
std::vector<Span> spans(const T* matrix, int rows, int columns) {
    std::vector<Span> found;
    for (const T* row = matrix; row != matrix + static_cast<int64_t>(rows) * columns; row += columns) {
        int begin = 0, end = columns;
        while (begin < end && row[begin] == 0) ++begin;
        while (end > begin && row[end - 1] == 0) --end;
        found.push_back({begin, end});
    }
    return found;
}

template <typename T>
struct Matrix {
    const T* values;
    std::vector<Span> spans;
};

template <typename T>
MOLEFLOW_INLINE void add_scaled(T* out, const T* in, T factor, int begin, int end) {
#pragma GCC ivdep
    for (int x = begin; x < end; ++x) out[x] += factor * in[x];
}

// wide (height, size) is scratch.
template <typename T>
MOLEFLOW_INLINE void map_body(const T* map, const Matrix<T>& rows, const Matrix<T>& columns, T* wide, T* out,
                              const PixelMapShape& shape) {
    const int64_t size = shape.size;
    for (int y = 0; y < shape.height; ++y) {
        T* line = wide + y * size;
        std::fill_n(line, size, T(0));
        for (int x = 0; x < shape.width; ++x) {
            const Span span = columns.spans[x];
            add_scaled(line, columns.values + x * size, map[y * shape.width + x], span.begin, span.end);
        }
    }
    for (int y = 0; y < size; ++y) {
        T* line = out + y * size;
        std::fill_n(line, size, T(0));
        for (int v = rows.spans[y].begin; v < rows.spans[y].end; ++v) {
            add_scaled(line, wide + v * size, rows.values[static_cast<int64_t>(y) * shape.height + v], 0, shape.size);
        }
    }
}

MOLEFLOW_VECTOR_CLONES void one_map(const float* map, const Matrix<float>& rows, const Matrix<float>& columns,
                                    float* wide, float* out, const PixelMapShape& shape) {
    map_body(map, rows, columns, wide, out, shape);
}
MOLEFLOW_VECTOR_CLONES void one_map(const double* map, const Matrix<double>& rows, const Matrix<double>& columns,
                                    double* wide, double* out, const PixelMapShape& shape) {
    map_body(map, rows, columns, wide, out, shape);
}

}  // namespace

template <typename T>
void pixel_map(const T* maps, const T* rows, const T* columns, T* out, const PixelMapShape& shape, int threads) {
    const Matrix<T> down{rows, spans(rows, shape.size, shape.height)};
    const Matrix<T> across{columns, spans(columns, shape.width, shape.size)};
    const int64_t patches = static_cast<int64_t>(shape.height) * shape.width;
    const int64_t pixels = static_cast<int64_t>(shape.size) * shape.size;
#pragma omp parallel num_threads(threads)
    {
        std::vector<T> wide(static_cast<int64_t>(shape.height) * shape.size);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < shape.images; ++i) {
            one_map(maps + i * patches, down, across, wide.data(), out + i * pixels, shape);
        }
    }
}

template void pixel_map(const float*, const float*, const float*, float*, const PixelMapShape&, int);
template void pixel_map(const double*, const double*, const double*, double*, const PixelMapShape&, int);

}  // namespace moleflow::cpu
