#include "bindings/subjects.h"

namespace moleflow {

void bind_images(py::module_&) {}

}  // namespace moleflow
