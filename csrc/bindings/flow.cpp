#include "bindings/subjects.h"

namespace moleflow {

void bind_flow(py::module_&) {}

}  // namespace moleflow
