"""What every piece of a run goes by: its options and console, the device, and who reads and keeps files."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from moleflow_fast.backend import use_backend, use_precision
from moleflow_fast.config.options import RunOptions
from moleflow_fast.data.decoder import Decoder
from moleflow_fast.errors import UserError
from moleflow_fast.extractors.cache import FeatureCache
from moleflow_fast.run.console import RunConsole
from moleflow_fast.trainer.loader_features import feature_cache


class RunContext:
    """
    Args:
        decoder: where its processes were started earlier than now.
    """

    def __init__(self, options: RunOptions, console: RunConsole | None = None, decoder: Decoder | None = None) -> None:
        self.options = options
        self.console = console or RunConsole(options.quiet)
        self.logger = logging.getLogger("moleflow_fast")
        if decoder is not None:
            self.decoder = decoder

    def with_options(self, **changes: Any) -> RunContext:
        """The same, but for some options that are of the machine, such as the backend."""
        other = copy.copy(self)
        other.options = replace(self.options, **changes)
        return other

    @contextmanager
    def as_chosen(self) -> Iterator[None]:
        """The backend and the precision of the options, on the run's device.

        Triton launches on the current device, which every thread has of its own: 0 until it is told another.
        """
        on_device = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        with use_backend(self.options.backend), use_precision(self.options.precision), on_device:
            yield

    def close(self) -> None:
        """End what goes on beside the run; features that are being written are written first."""
        self.decoder.close()
        self.cache.settle()

    @cached_property
    def device(self) -> torch.device:
        """
        Raises:
            UserError: none that works here.
        """
        if self.options.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if not re.fullmatch(r"(cpu|cuda)(:\d+)?", self.options.device):
            raise UserError(f"--device {self.options.device} does not work here: it must be auto, cpu, cuda or cuda:N")
        try:
            device = torch.device(self.options.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--device {self.options.device} does not work here ({reason}); use cpu or auto") from error
        return device

    @cached_property
    def cache(self) -> FeatureCache:
        return feature_cache(self.options, self.device)

    @cached_property
    def decoder(self) -> Decoder:
        """One for the whole run."""
        return Decoder(self.options.num_workers)
