"""Ray, started here or found at an address, for as long as it is needed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from moleflow_fast.errors import UserError
from moleflow_fast.system.interruption import handlers_kept

# Workers search the folder in which Ray starts, whatever `python -P` says: they shall find the same package as we.
_OUR_FOLDER = Path(__file__).parents[2]
_OBJECT_STORE_BYTES = 2**27  # runs exchange files and a few numbers; Ray would take a third of the memory


def ray_module() -> Any:
    """The module `ray`, not yet connected.

    Raises:
        UserError: it is not installed, or in use in this process.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # tasks without a GPU leave CUDA's variables be
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise UserError("this needs Ray: pip install 'moleflow_fast[sweep]'") from error
    if ray.is_initialized():
        raise UserError("Ray is running in this process already; runs inside a sweep cannot spread over workers too")
    return ray


@contextmanager
def ray_session(address: str | None = None, cpus: int | None = None) -> Iterator[Any]:
    """The module `ray`, connected.

    Args:
        address: of a running cluster (`host:port`, or `auto`); None starts Ray on this machine alone and ends it.
        cpus: how many this machine's Ray may use; all if left out.

    Raises:
        UserError: Ray is not installed, or there is nothing at the address.
    """
    ray = ray_module()
    try:
        with handlers_kept(), chdir(_OUR_FOLDER):
            ray.init(
                address=address or "local",
                num_cpus=None if address else cpus,
                object_store_memory=None if address else _OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                namespace="moleflow_fast",
            )
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster answers at {address}: start one with `ray start --head`, or leave the address out; "
            "one with token authentication wants RAY_AUTH_MODE=token here, and its token (`ray get-auth-token`)"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
