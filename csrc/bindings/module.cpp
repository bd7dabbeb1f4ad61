// The Python module; each subject binds its functions in a file of its own.
#include <string>

#include "bindings/subjects.h"

namespace {

py::dict build_info() {
    py::dict info;
    info["compiler"] = MOLEFLOW_COMPILER;
#ifdef _OPENMP
    info["openmp"] = true;
#else
    info["openmp"] = false;
#endif
    return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Compiled part of moleflow_fast; use it through moleflow_fast._compiled.";
    moleflow::bind_metrics(m);
    moleflow::bind_flow(m);
    moleflow::bind_images(m);
    moleflow::bind_training(m);
    m.def("build_info", &build_info, "The compiler, and whether it had OpenMP.");
}
