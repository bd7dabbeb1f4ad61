"""What systems other than Linux lack: the package is imported without it, and says what it does instead."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

OF_TRITON = {"engine", "kernels", "packing", "precompile"}  # packages of which modules may need it
# Libraries first: they have guards of their own.
LACKING = """
import logging, os, signal, sys
import timm, torch
for module in ("fcntl", "resource", "termios", "pwd", "grp", "triton"):
    sys.modules[module] = None
for name in list(sys.modules):
    if name.startswith("triton."):
        del sys.modules[name]
for name in ("fork", "register_at_fork", "memfd_create", "sched_getaffinity", "nice", "getuid", "sysconf", "getppid"):
    delattr(os, name)
del signal.SIGKILL
"""
IMPORTS = """
import importlib, pkgutil
import moleflow_fast
count, of_triton = 0, set()
for found in pkgutil.walk_packages(moleflow_fast.__path__, "moleflow_fast."):
    if found.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(found.name)
        count += 1
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        of_triton.add(found.name.split(".")[1])
print(count)
print(*sorted(of_triton))
"""
DECODES = """
from pathlib import Path
from moleflow_fast.data.decoder import Decoder
from moleflow_fast.data.requests import Picture
logging.basicConfig(format="%(message)s")
decoder = Decoder(num_workers=2)
print(next(decoder.pixels([[Picture(Path(sys.argv[1]), 8, 8)]])).shape)
"""


def _ran(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", script, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_every_module_is_imported_and_images_are_decoded(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    done = _ran(LACKING + IMPORTS + DECODES, str(tmp_path / "a.png"))
    assert done.returncode == 0, done.stderr
    count, of_triton, shape = done.stdout.splitlines()
    assert int(count) > 200 and set(of_triton.split()) <= OF_TRITON and shape == "(1, 3, 8, 8)"
    assert done.stderr.count("decoding processes need Linux") == 1 and "--num_workers 0" in done.stderr
