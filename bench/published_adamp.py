"""The optimizer of the published arrangement: the package `adamp`, or our plain definition where that is missing."""

from __future__ import annotations

try:
    from adamp import AdamP
except ImportError:  # there is no wheel of it, so a machine without network may lack it
    from typing import Any

    from moleflow_fast.backend import use_backend
    from moleflow_fast.trainer.optimizer import AdamP as _AdamP

    class AdamP(_AdamP):  # type: ignore[no-redef]
        """As the package does, every matrix is asked for its projection by itself."""

        def step(self, *args: Any, **options: Any) -> Any:
            with use_backend("eager"):
                return super().step(*args, **options)


__all__ = ["AdamP"]
