"""Makes the helpers beside this file importable in importlib mode, where pytest leaves sys.path alone."""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

if torch.cuda.is_available():
    # Torch's default lets convolutions round to tf32, and definitions are to be exact.
    torch.backends.cudnn.allow_tf32 = False
else:
    # Read when a kernel is decorated, so before any test imports one: without a GPU kernels run in the interpreter.
    os.environ["TRITON_INTERPRET"] = "1"

# Ray's workers are nice to everything else: beside other tests on every core they would wait for ever.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's spelling)
