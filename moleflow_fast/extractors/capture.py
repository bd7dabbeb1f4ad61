"""Outputs of named submodules of a model, and leaving out what runs after the last of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from .backbone_error import BackboneError

logger = logging.getLogger(__name__)

# Where the hooks of the running forward pass put their outputs; each thread has its own.
_outputs: ContextVar[dict[str, Tensor] | None] = ContextVar("captured_outputs", default=None)


class LayerCapture:
    """Run a model and return the outputs of the named submodules, in the order of the names.

    Raises:
        BackboneError: a name is no submodule (the message lists candidates), or its output is not one tensor.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        modules = dict(model.named_modules())
        unknown = [name for name in names if name not in modules or not name]
        if unknown or not names:
            raise BackboneError(
                f"no such layers: {', '.join(map(repr, unknown)) or '(none given)'}; "
                f"candidates are {', '.join(layer_candidates(model))}"
            )
        self.model = model
        self.names = tuple(names)
        self.entry = "forward_features" if hasattr(model, "forward_features") else "forward"
        """The method that runs the model."""
        self._run: Callable[[Tensor], Any] = getattr(model, "forward_features", model)
        for name in names:
            modules[name].register_forward_hook(self._hook(name))

    def __call__(self, images: Tensor) -> list[Tensor]:
        outputs: dict[str, Tensor] = {}
        token = _outputs.set(outputs)
        try:
            self._run(images)
        finally:
            _outputs.reset(token)
        missing = [name for name in self.names if name not in outputs]
        if missing:
            raise BackboneError(f"the forward pass does not run the layers {', '.join(missing)}")
        return [outputs[name] for name in self.names]

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            outputs = _outputs.get()
            if outputs is None:  # the model is called or traced, not captured
                return
            if not isinstance(output, Tensor):
                raise BackboneError(f"layer {name!r} returns {type(output).__name__}, not a tensor: name another layer")
            outputs[name] = output

        return keep


def layer_candidates(model: nn.Module, limit: int = 60) -> list[str]:
    """Names of the submodules worth naming as layers: the two upper levels of the module tree."""
    return [name for name, _ in model.named_modules() if name and name.count(".") <= 1][:limit]


def drop_unused_tail(capture: LayerCapture, probe: Tensor) -> list[str]:
    """Replace the submodules that run only after the last named layer by pass-throughs; return their names.

    Everything after the named layers is wasted work and memory: layer4 of a WideResNet-50-2 holds 63% of its
    parameters. Whether a model bears it is not knowable in general, so the named outputs on `probe` are
    compared before and after, bit for bit, and the model is restored where they differ.
    """
    expected, tail = _trace_tail(capture, probe)
    originals = {name: capture.model.get_submodule(name) for name in tail}
    for name in tail:
        _set_submodule(capture.model, name, _PassThrough().eval())
    if matches(capture, probe, expected):
        return tail
    for name, module in originals.items():
        _set_submodule(capture.model, name, module)
    return []


class _PassThrough(nn.Module):
    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return x


def _trace_tail(capture: LayerCapture, probe: Tensor) -> tuple[list[Tensor], list[str]]:
    model, names = capture.model, capture.names
    pending = set(names)
    before: set[str] = set()
    after: dict[str, None] = {}  # a set that keeps the order

    def on_start(name: str) -> Callable[..., None]:
        def note(*_: Any) -> None:
            if pending:
                before.add(name)
            else:
                after[name] = None

        return note

    def on_end(name: str) -> Callable[..., None]:
        return lambda *_: pending.discard(name)

    handles = [unit.register_forward_pre_hook(on_start(name)) for name, unit in _units_outside(model, names, "")]
    handles += [model.get_submodule(name).register_forward_hook(on_end(name)) for name in names]
    try:
        expected = capture(probe)
    finally:
        for handle in handles:
            handle.remove()
    return expected, [name for name in after if name not in before]


def _units_outside(module: nn.Module, names: Sequence[str], prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The largest submodules that neither are nor contain a named layer."""
    for child_name, child in module.named_children():
        path = f"{prefix}{child_name}"
        if path in names:
            continue
        if any(name.startswith(f"{path}.") for name in names):
            yield from _units_outside(child, names, f"{path}.")
            continue
        yield path, child


def matches(capture: LayerCapture, probe: Tensor, expected: list[Tensor], tolerance: float = 0.0) -> bool:
    """Whether a changed model still runs, its outputs within `tolerance` x the largest magnitude of each."""
    try:
        outputs = capture(probe)
    except Exception as error:  # any model may use a replaced submodule in its own way
        logger.debug("the backbone does not bear the change: %s", error)
        return False
    return all(
        a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max())
        for a, b in zip(outputs, expected, strict=True)
    )


def _set_submodule(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
