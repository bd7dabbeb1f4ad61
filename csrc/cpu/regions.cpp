#include "cpu/regions.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

namespace moleflow::cpu {
namespace {

int32_t find_root(std::vector<int32_t>& parent, int32_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
}

int32_t join(std::vector<int32_t>& parent, int32_t a, int32_t b) {
    a = find_root(parent, a);
    b = find_root(parent, b);
    return parent[a < b ? b : a] = a < b ? a : b;
}

// Labels of a row of a mask, joined with those of the row above, null for the first one; 0 outside.
void label_row(const uint8_t* mask, const int32_t* above, int32_t* row, int width, std::vector<int32_t>& parent) {
    for (int x = 0; x < width; ++x) {
        row[x] = 0;
        if (!mask[x]) continue;
        int32_t label = x > 0 ? row[x - 1] : 0;
        for (int dx = -1; above && dx <= 1; ++dx) {
            if (x + dx < 0 || x + dx >= width) continue;
            const int32_t other = above[x + dx];
            if (other) label = label ? join(parent, label, other) : other;
        }
        if (!label) {
            label = static_cast<int32_t>(parent.size());
            parent.push_back(label);
        }
        row[x] = label;
    }
}

Region merged(const Region& a, const Region& b) {
    return {std::min(a.left, b.left), std::min(a.top, b.top), std::max(a.right, b.right),
            std::max(a.bottom, b.bottom), a.area + b.area, std::max(a.peak, b.peak)};
}

}  // namespace

int32_t label_regions(const uint8_t* mask, int32_t* regions, int height, int width) {
    std::vector<int32_t> parent{0};
    for (int y = 0; y < height; ++y) {
        int32_t* row = regions + static_cast<ptrdiff_t>(y) * width;
        label_row(mask + static_cast<ptrdiff_t>(y) * width, y > 0 ? row - width : nullptr, row, width, parent);
    }
    // Roots come before what they root: one pass numbers them without gaps.
    int32_t count = 0;
    std::vector<int32_t> number(parent.size(), 0);
    for (size_t i = 1; i < parent.size(); ++i) {
        const int32_t root = find_root(parent, static_cast<int32_t>(i));
        number[i] = root == static_cast<int32_t>(i) ? ++count : number[root];
    }
    const ptrdiff_t pixels = static_cast<ptrdiff_t>(height) * width;
    for (ptrdiff_t i = 0; i < pixels; ++i) regions[i] = number[regions[i]];
    return count;
}

template <typename T>
std::vector<Region> find_regions(const T* values, const uint8_t* mask, int height, int width) {
    std::vector<int32_t> parent{0}, row(width), above(width);
    std::vector<Region> found{{}};  // by label
    for (int y = 0; y < height; ++y) {
        const ptrdiff_t start = static_cast<ptrdiff_t>(y) * width;
        label_row(mask + start, y > 0 ? above.data() : nullptr, row.data(), width, parent);
        for (int x = 0; x < width; ++x) {
            if (!row[x]) continue;
            const Region pixel{x, y, x + 1, y + 1, 1, static_cast<double>(values[start + x])};
            if (row[x] < static_cast<int32_t>(found.size())) {
                found[row[x]] = merged(found[row[x]], pixel);
            } else {
                found.push_back(pixel);
            }
        }
        row.swap(above);
    }
    for (size_t i = found.size(); i-- > 1;) {
        const int32_t root = find_root(parent, static_cast<int32_t>(i));
        if (root != static_cast<int32_t>(i)) found[root] = merged(found[root], found[i]);
    }
    std::vector<Region> regions;
    for (size_t i = 1; i < found.size(); ++i) {
        if (parent[i] == static_cast<int32_t>(i)) regions.push_back(found[i]);
    }
    return regions;
}

template std::vector<Region> find_regions(const float*, const uint8_t*, int, int);
template std::vector<Region> find_regions(const double*, const uint8_t*, int, int);

DefectivePixels defective_pixels(const uint8_t* masks, int64_t images, int height, int width, int threads) {
    const int64_t pixels = static_cast<int64_t>(height) * width;
    std::vector<DefectivePixels> parts(images);
    std::vector<int32_t> counts(images);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < images; ++i) {
        std::vector<int32_t> regions(pixels);
        counts[i] = label_regions(masks + i * pixels, regions.data(), height, width);
        std::vector<int64_t> sizes(counts[i] + 1, 0);
        for (const int32_t region : regions) ++sizes[region];
        for (int64_t p = 0; p < pixels; ++p) {
            if (!regions[p]) continue;
            parts[i].places.push_back(i * pixels + p);
            parts[i].weights.push_back(static_cast<double>(sizes[regions[p]]));
        }
    }
    const auto region_count = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    DefectivePixels all;
    for (const auto& part : parts) {
        all.places.insert(all.places.end(), part.places.begin(), part.places.end());
        for (const double size : part.weights) all.weights.push_back(1.0 / (size * region_count));
    }
    return all;
}

}  // namespace moleflow::cpu
