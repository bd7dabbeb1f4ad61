// Scores in descending order, each with the number of its defect, by a stable least-significant-digit radix sort.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/huge_array.h"

namespace moleflow::cpu {

template <typename T>
struct Ranked {
    using Key = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    Key key;         // ascending keys are descending scores
    int32_t defect;  // its number from 1; 0: normal
};

template <typename T>
using Ranking = HugeArray<Ranked<T>>;

template <typename T>
typename Ranked<T>::Key descending_key(T score) {
    using Key = typename Ranked<T>::Key;
    constexpr Key sign = Key{1} << (8 * sizeof(Key) - 1);
    if (std::isnan(score)) score = std::numeric_limits<T>::infinity();
    score += T{0};  // -0 and 0 tie
    Key bits;
    std::memcpy(&bits, &score, sizeof bits);
    return bits & sign ? bits : static_cast<Key>(~bits & ~sign);
}

template <typename T>
T score_of(typename Ranked<T>::Key key) {
    using Key = typename Ranked<T>::Key;
    constexpr Key sign = Key{1} << (8 * sizeof(Key) - 1);
    const Key bits = key & sign ? key : static_cast<Key>(~key & ~sign);
    T score;
    std::memcpy(&score, &bits, sizeof score);
    return score;
}

// A stable order is unique: the number of threads does not change it.
template <typename T>
void radix_sort(Ranking<T>& items, int threads) {
    using Key = typename Ranked<T>::Key;
    constexpr int kBits = 11, kDigits = 1 << kBits;
    constexpr int kPasses = (8 * sizeof(Key) + kBits - 1) / kBits;
    constexpr int64_t kEnough = 1 << 16;  // items that are worth a thread
    const int64_t n = items.size(), parts = std::clamp<int64_t>(n / kEnough, 1, std::max(threads, 1));
    std::vector<std::array<int64_t, kDigits>> counts(parts);
    Ranking<T> other(n);
    for (int pass = 0; pass < kPasses; ++pass) {
        const auto digit = [&](const Ranked<T>& item) { return (item.key >> (pass * kBits)) & (kDigits - 1); };
#pragma omp parallel for num_threads(parts) schedule(static)
        for (int64_t part = 0; part < parts; ++part) {
            auto& count = counts[part];
            count.fill(0);
            for (int64_t i = n * part / parts; i < n * (part + 1) / parts; ++i) ++count[digit(items[i])];
        }
        int64_t start = 0;  // by digit, then by part: what comes first stays first
        for (int d = 0; d < kDigits; ++d) {
            for (auto& count : counts) start += std::exchange(count[d], start);
        }
#pragma omp parallel for num_threads(parts) schedule(static)
        for (int64_t part = 0; part < parts; ++part) {
            auto& place = counts[part];
            for (int64_t i = n * part / parts; i < n * (part + 1) / parts; ++i) {
                other[place[digit(items[i])]++] = items[i];
            }
        }
        items.swap(other);
    }
}

}  // namespace moleflow::cpu
