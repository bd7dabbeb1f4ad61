"""Every CUDA file, and every header that CPU and CUDA share, in device code and without a warning."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "csrc"
KERNELS = sorted(SOURCES.glob("cuda/*.cu"))
SHARED = sorted(SOURCES.glob("common/*.h"))
TARGETS = ["arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a", "arch=compute_90,code=compute_90"]
STRICT = ["-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror"]
CALLS = """
using namespace moleflow;
__global__ void call(const float* x, float* y, double* z, int n) {
    const Clamping<float> narrow{1, 2, 3};
    const Clamping<double> wide{1, 2, 3};
    const double d = x[threadIdx.x];
    y[0] = exponential(x[0]) + hyperbolic_tangent(x[1]) + log_scale(x[2], narrow) + log_scale_slope(x[3], narrow);
    z[0] = exponential(d) + hyperbolic_tangent(d) + log_scale(d, wide) + log_scale_slope(d, wide);
    z[1] = gaussian_weight(n, d) + gaussian_radius(d) + reflect(n, 3);
    z[2] = static_cast<double>(pooling_window(n, 5, 3).end) + bilinear_source(n, 5, 3).share;
}
"""

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc, of the CUDA toolkit, is not installed")


def compile_strictly(source: Path, out: Path) -> None:
    targets = [f"--generate-code={target}" for target in TARGETS]
    command = ["nvcc", "-c", "-std=c++17", "-O3", f"-I{SOURCES}", *targets, *STRICT, str(source), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and out.exists()


@pytest.mark.parametrize("source", KERNELS, ids=lambda source: source.name)
def test_kernels_compile_without_a_warning(source: Path, tmp_path: Path) -> None:
    compile_strictly(source, tmp_path / "kernel.o")


def test_shared_functions_compile_for_the_device(tmp_path: Path) -> None:
    source = tmp_path / "shared.cu"
    source.write_text("".join(f'#include "common/{header.name}"\n' for header in SHARED) + CALLS)
    compile_strictly(source, tmp_path / "shared.o")


def test_the_build_can_be_as_strict() -> None:
    text = (SOURCES.parent / "CMakeLists.txt").read_text()
    strict = text[text.index("if(MOLEFLOW_WERROR)") :]
    assert KERNELS and "-Xcompiler=-Wall,-Wextra" in text
    assert "-Werror=all-warnings -Xcompiler=-Werror" in strict
