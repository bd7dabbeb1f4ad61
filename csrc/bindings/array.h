// Tensors as arguments: read where they lie, and checked by name, shape, strides and dtype before they are touched.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>

#include "bindings/dlpack.h"
#include "cpu/rows.h"

namespace moleflow {

// What Python gave, a tensor or an array, not yet looked at. It belongs to the caller, who keeps it during the call.
struct Array {
    static constexpr int kMostAxes = 8;

    char* data = nullptr;
    dlpack::DataType dtype{};
    bool on_cpu = true, writable = true;
    int axes = 0;
    std::array<int64_t, kMostAxes> shape{}, strides{};  // in elements

    // Raises TypeError for what is neither.
    static Array of(pybind11::handle object);
};

template <typename T>
constexpr dlpack::DataType dtype_of() {
    using Value = std::remove_const_t<T>;
    const auto code = std::is_floating_point_v<Value> ? dlpack::kFloat
                      : std::is_signed_v<Value>       ? dlpack::kInt
                                                      : dlpack::kUInt;
    return {static_cast<uint8_t>(code), static_cast<uint8_t>(8 * sizeof(Value)), 1};
}

// Every error is a ValueError that names the argument.
[[noreturn]] void refuse(const char* name, const std::string& why);
void require(bool holds, const char* name, const char* why);
void require_dtype(const Array& a, const char* name, dlpack::DataType wanted, bool writes);
void require_shape(const Array& a, const char* name, const int64_t* shape, int axes);
void require_axes(const Array& a, const char* name, int axes, const char* names);
void require_contiguous(const Array& a, const char* name);
bool is_float32(const Array& a, const char* name);  // false is float64

using Shape = std::initializer_list<int64_t>;

// Axes before the last one, as one.
int64_t leading(const Array& a);

// A contiguous array of this shape. `T` says what its elements are, and const that they are only read.
template <typename T>
T* packed(const Array& a, const char* name, const int64_t* shape, int axes) {
    require_dtype(a, name, dtype_of<T>(), !std::is_const_v<T>);
    require_shape(a, name, shape, axes);
    require_contiguous(a, name);
    return reinterpret_cast<T*>(a.data);
}

template <typename T>
T* packed(const Array& a, const char* name, Shape shape) {
    return packed<T>(a, name, shape.begin(), static_cast<int>(shape.size()));
}

// As `packed`, of the shape of another array.
template <typename T>
T* packed_like(const Array& a, const char* name, const Array& other) {
    return packed<T>(a, name, other.shape.data(), other.axes);
}

// As `packed`, of the shape of another array without its last axis.
template <typename T>
T* packed_by_row(const Array& a, const char* name, const Array& other) {
    return packed<T>(a, name, other.shape.data(), other.axes - 1);
}

// A matrix (n, width) of contiguous rows, any distance apart; rows that are written to do not overlap.
template <typename T>
cpu::Rows<T> rows(const Array& a, const char* name, int64_t n, int64_t width) {
    const int64_t shape[] = {n, width};
    require_dtype(a, name, dtype_of<T>(), !std::is_const_v<T>);
    require_shape(a, name, shape, 2);
    require(width <= 1 || a.strides[1] == 1, name, "must have contiguous rows");
    require(n <= 1 || std::is_const_v<T> || a.strides[0] >= width, name, "must have rows that do not overlap");
    return {reinterpret_cast<T*>(a.data), a.strides[0]};
}

// body(zero) with a zero of the type of `a`, float or double.
template <typename Body>
auto by_dtype(const Array& a, const char* name, Body body) {
    return is_float32(a, name) ? body(float{}) : body(double{});
}

}  // namespace moleflow

namespace pybind11::detail {

template <>
struct type_caster<moleflow::Array> {
    PYBIND11_TYPE_CASTER(moleflow::Array, const_name("torch.Tensor | numpy.ndarray"));

    bool load(handle object, bool) {
        value = moleflow::Array::of(object);
        return true;
    }
};

}  // namespace pybind11::detail
