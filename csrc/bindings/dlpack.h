// The part of DLPack 1.3 that says where a tensor lies without owning it (https://dmlc.github.io/dlpack/latest/).
#pragma once

#include <cstdint>

namespace moleflow::dlpack {

constexpr int32_t kCpu = 1;
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };

struct Device {
    int32_t type, id;
};

struct DataType {
    uint8_t code, bits;
    uint16_t lanes;
};

struct Tensor {
    void* data;
    Device device;
    int32_t ndim;
    DataType dtype;
    int64_t *shape, *strides;  // strides in elements
    uint64_t byte_offset;
};

struct Version {
    uint32_t major, minor;
};

// A type's table of functions, in the capsule "dlpack_exchange_api" of its attribute __dlpack_c_exchange_api__.
struct ExchangeApi {
    Version version;
    ExchangeApi* previous;
    void *allocator, *managed_from_object, *managed_to_object;
    int (*tensor_from_object)(void* object, Tensor* out);  // 0, or -1 with a Python error set; may be null
    void* current_stream;
};

}  // namespace moleflow::dlpack
