// Scores in descending order with the region each pixel belongs to, by a stable least-significant-digit radix sort.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

namespace moleflow::cpu {

template <typename T>
struct Ranked {
    using Key = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    Key key;         // ascending keys are descending scores
    int32_t region;  // 0: normal
};

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

template <typename T>
void radix_sort(std::vector<Ranked<T>>& items) {
    using Key = typename Ranked<T>::Key;
    constexpr int kBits = 11;
    constexpr int kPasses = (8 * sizeof(Key) + kBits - 1) / kBits;
    constexpr Key kMask = (Key{1} << kBits) - 1;
    std::vector<std::array<int64_t, 1 << kBits>> counts(kPasses);
    for (auto& count : counts) count.fill(0);
    for (const auto& item : items) {
        for (int pass = 0; pass < kPasses; ++pass) ++counts[pass][(item.key >> (pass * kBits)) & kMask];
    }
    std::vector<Ranked<T>> other(items.size());
    for (int pass = 0; pass < kPasses; ++pass) {
        auto& place = counts[pass];
        const Key first_digit = items.empty() ? 0 : (items[0].key >> (pass * kBits)) & kMask;
        if (place[first_digit] == static_cast<int64_t>(items.size())) continue;  // all alike: nothing to move
        int64_t start = 0;
        for (auto& entry : place) start += std::exchange(entry, start);
        for (const auto& item : items) other[place[(item.key >> (pass * kBits)) & kMask]++] = item;
        items.swap(other);
    }
}

}  // namespace moleflow::cpu
