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

}  // namespace

int32_t label_regions(const uint8_t* mask, int32_t* regions, int height, int width) {
    std::vector<int32_t> parent{0};
    for (int y = 0; y < height; ++y) {
        const uint8_t* pixels = mask + static_cast<ptrdiff_t>(y) * width;
        int32_t* row = regions + static_cast<ptrdiff_t>(y) * width;
        for (int x = 0; x < width; ++x) {
            row[x] = 0;
            if (!pixels[x]) continue;
            int32_t label = x > 0 ? row[x - 1] : 0;
            for (int dx = -1; y > 0 && dx <= 1; ++dx) {
                if (x + dx < 0 || x + dx >= width) continue;
                const int32_t above = row[x + dx - width];
                if (above) label = label ? join(parent, label, above) : above;
            }
            if (!label) {
                label = static_cast<int32_t>(parent.size());
                parent.push_back(label);
            }
            row[x] = label;
        }
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
    const int64_t pixels = static_cast<int64_t>(height) * width;
    std::vector<int32_t> labels(pixels);
    const int32_t count = label_regions(mask, labels.data(), height, width);
    std::vector<Region> regions(count, {width, height, 0, 0, 0, -std::numeric_limits<double>::infinity()});
    for (int64_t p = 0; p < pixels; ++p) {
        if (!labels[p]) continue;
        const auto x = static_cast<int>(p % width), y = static_cast<int>(p / width);
        Region& region = regions[labels[p] - 1];
        region.left = std::min(region.left, x);
        region.top = std::min(region.top, y);
        region.right = std::max(region.right, x + 1);
        region.bottom = std::max(region.bottom, y + 1);
        region.peak = std::max(region.peak, static_cast<double>(values[p]));
        ++region.area;
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
