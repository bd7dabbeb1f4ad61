// What every file of bindings shares. One name a function: it looks at the dtype of its tensors itself.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "bindings/array.h"

namespace py = pybind11;

namespace moleflow {

void bind_metrics(py::module_& m);   // exact ranking metrics, regions
void bind_flow(py::module_& m);      // what stands between the matrix products of the flow
void bind_images(py::module_& m);    // patch pooling, score aggregation, resizing, smoothing
void bind_training(py::module_& m);  // losses, optimizer

}  // namespace moleflow
