"""What a run is: the options that decide its numbers."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from moleflow_fast.config.option import options_in
from moleflow_fast.config.options import RunOptions


def result_options(options: RunOptions) -> dict[str, Any]:
    """The options that decide a run's numbers, paths as the places they lead to; the method's stand under one name."""
    known = options_in(type(options))
    values = {n: value for n, value in options.to_json().items() if n not in known or known[n].is_identity}
    places = {n: value for n, value in values.items() if n in known and known[n].is_path and value is not None}
    return values | {name: os.path.realpath(place) for name, place in places.items()}


def identity(options: RunOptions) -> str:
    """What a run is: equal for options that give the same numbers, whatever the run is called and wherever it lies."""
    text = json.dumps(result_options(options), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
