#include "bindings/subjects.h"

namespace moleflow {

void bind_training(py::module_&) {}

}  // namespace moleflow
