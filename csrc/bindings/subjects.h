// What every binding file shares: functions on raw pointers, bound once per floating type.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>

namespace py = pybind11;

namespace moleflow {

void bind_metrics(py::module_& m);   // exact ranking metrics, Gaussian smoothing
void bind_flow(py::module_& m);      // what stands between the matrix products of the flow
void bind_images(py::module_& m);    // patch pooling, score aggregation, resizing
void bind_training(py::module_& m);  // losses, optimizer, routing

// Address of a tensor's first element, as torch.Tensor.data_ptr() gives it; 0 for an absent tensor.
template <typename T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

}  // namespace moleflow

// Bind `function<float>` as name_f32 and `function<double>` as name_f64; the interpreter lock is released inside.
#define MOLEFLOW_BIND_FLOATS(module, name, function)                                                   \
    (module).def(name "_f32", &function<float>, py::call_guard<py::gil_scoped_release>());             \
    (module).def(name "_f64", &function<double>, py::call_guard<py::gil_scoped_release>())
