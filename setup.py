"""Builds moleflow_fast._C with CMake and ninja; everything else is in pyproject.toml."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        # Outside the source tree: a stale cache there breaks the next isolated build, whose cmake lives elsewhere.
        with tempfile.TemporaryDirectory(prefix="moleflow-build-") as build:
            configure = [
                "cmake", "-S", str(ROOT), "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                f"-DCMAKE_INSTALL_PREFIX={target}", f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                f"-DMOLEFLOW_WERROR={os.environ.get('MOLEFLOW_WERROR', 'off')}",
            ]  # fmt: skip
            subprocess.run(configure, check=True)
            subprocess.run(["cmake", "--build", build], check=True)
            subprocess.run(["cmake", "--install", build], check=True)


setup(
    packages=sorted({*find_packages(include=["moleflow_fast*"]), "moleflow_fast.kernels"}),
    package_data={
        "moleflow_fast": ["_C.pyi", "py.typed"],
        "moleflow_fast.config": ["presets.csv"],
        "moleflow_fast.kernels": ["tables/*.json"],
        "moleflow_fast.pages": ["*.html", "*.css"],
        "moleflow_fast.predict": ["*.html", "*.css", "*.js"],
        "moleflow_fast.report": ["*.html"],
    },
    package_dir={"moleflow_fast.kernels": "kernels"},
    ext_modules=[Extension("moleflow_fast._C", [])],
    cmdclass={"build_ext": CMakeBuild},
)
