#include "bindings/array.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace moleflow {
namespace {

using Api = const dlpack::ExchangeApi*;

// Of a type; null where it has none. Few types come here, and a type never changes its table.
Api exchange_api(PyTypeObject* type) {
    static std::vector<std::pair<PyTypeObject*, Api>> known;
    for (const auto& [other, api] : known) {
        if (other == type) return api;
    }
    Api api = nullptr;
    const py::handle handle(reinterpret_cast<PyObject*>(type));
    if (py::hasattr(handle, "__dlpack_c_exchange_api__")) {
        const py::object capsule = handle.attr("__dlpack_c_exchange_api__");
        api = static_cast<Api>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
        if (!api) throw py::error_already_set();
        if (api->version.major != 1 || !api->tensor_from_object) api = nullptr;
    }
    Py_INCREF(type);  // so that no other type takes its address
    known.emplace_back(type, api);
    return api;
}

Array of_tensor(Api api, py::handle object) {
    dlpack::Tensor tensor{};
    if (api->tensor_from_object(object.ptr(), &tensor) != 0) throw py::error_already_set();
    Array a;
    a.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
    a.dtype = tensor.dtype;
    a.on_cpu = tensor.device.type == dlpack::kCpu;
    a.axes = tensor.ndim;
    for (int i = 0; i < std::min(a.axes, Array::kMostAxes); ++i) {
        a.shape[i] = tensor.shape[i];
        a.strides[i] = tensor.strides[i];
    }
    return a;
}

uint8_t type_code(char kind) {
    return kind == 'f'   ? dlpack::kFloat
           : kind == 'i' ? dlpack::kInt
           : kind == 'u' ? dlpack::kUInt
           : kind == 'b' ? dlpack::kBool
                         : 255;
}

Array of_numpy(const py::array& array) {
    Array a;
    a.data = const_cast<char*>(static_cast<const char*>(array.data()));
    const auto size = static_cast<int64_t>(array.itemsize());
    a.dtype = {type_code(array.dtype().kind()), static_cast<uint8_t>(8 * size), 1};
    a.writable = array.writeable();
    a.axes = static_cast<int>(array.ndim());
    for (int i = 0; i < std::min(a.axes, Array::kMostAxes); ++i) {
        a.shape[i] = array.shape(i);
        const bool whole = size > 0 && array.strides(i) % size == 0;
        a.strides[i] = whole ? array.strides(i) / size : -1;  // a field of records lies between elements
    }
    return a;
}

std::string text(dlpack::DataType type) {
    const char* names[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
    const std::string name = type.code < std::size(names) ? names[type.code] : "other";
    return name == "bool" ? name : name + std::to_string(type.bits);
}

std::string text(const int64_t* shape, int axes) {
    std::string all = "(";
    for (int i = 0; i < axes; ++i) all += std::to_string(shape[i]) + (i + 1 < axes ? ", " : axes == 1 ? "," : "");
    return all + ")";
}

std::string shape_text(const Array& a) {
    if (a.axes > Array::kMostAxes) return std::to_string(a.axes) + " axes";
    return text(a.shape.data(), a.axes);
}

bool same(dlpack::DataType a, dlpack::DataType b) { return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes; }

}  // namespace

Array Array::of(py::handle object) {
    if (const Api api = exchange_api(Py_TYPE(object.ptr()))) return of_tensor(api, object);
    if (py::isinstance<py::array>(object)) return of_numpy(py::reinterpret_borrow<py::array>(object));
    throw py::type_error("expected a tensor (of torch 2.11 or newer) or a NumPy array, got " +
                         std::string(Py_TYPE(object.ptr())->tp_name));
}

void refuse(const char* name, const std::string& why) { throw py::value_error(std::string(name) + " " + why); }

void require(bool holds, const char* name, const char* why) {
    if (!holds) refuse(name, why);
}

void require_dtype(const Array& a, const char* name, dlpack::DataType wanted, bool writes) {
    if (!a.on_cpu) refuse(name, "must be on the CPU");
    if (!same(a.dtype, wanted)) refuse(name, "must be " + text(wanted) + ", got " + text(a.dtype));
    if (writes && !a.writable) refuse(name, "is written to, and is read-only");
}

void require_shape(const Array& a, const char* name, const int64_t* shape, int axes) {
    if (a.axes == axes && std::equal(shape, shape + axes, a.shape.begin())) return;
    refuse(name, "must be " + text(shape, axes) + ", got " + shape_text(a));
}

void require_contiguous(const Array& a, const char* name) {
    int64_t step = 1;
    for (int i = a.axes - 1; i >= 0; --i) {
        if (a.shape[i] == 0) return;
        if (a.shape[i] > 1 && a.strides[i] != step) refuse(name, "must be contiguous");
        step *= a.shape[i];
    }
}

bool is_float32(const Array& a, const char* name) {
    if (same(a.dtype, dtype_of<float>())) return true;
    if (!same(a.dtype, dtype_of<double>())) refuse(name, "must be float32 or float64, got " + text(a.dtype));
    return false;
}

int64_t leading(const Array& a) {
    int64_t count = 1;
    for (int i = 0; i + 1 < a.axes; ++i) count *= a.shape[i];
    return count;
}

void require_axes(const Array& a, const char* name, int axes, const char* names) {
    if (a.axes != axes) refuse(name, std::string("must be ") + names + ", got " + shape_text(a));
}

}  // namespace moleflow
