"""Prints the kernels of a small run with their constants, as they are found on meta tensors."""

import json
import sys

from moleflow_fast.config import AblationConfig
from moleflow_fast.config.options import RunOptions
from moleflow_fast.precompile.launches import launches
from moleflow_fast.precompile.workload import Workload

if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    options = RunOptions(**request["options"], ablation=AblationConfig(**request.get("ablation", {})))
    found = launches(Workload(options, request["dim"], tuple(request["grid"])).run, 90)
    print(json.dumps([[it.kernel.__name__, it.scalars] for it in found]))
