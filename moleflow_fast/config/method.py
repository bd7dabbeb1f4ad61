"""What a configuration does, in one line."""

from __future__ import annotations

from moleflow_fast.config.options import RunOptions


def method(options: RunOptions) -> str:
    """Adapter, flows, router and epochs of a run, with the preset that it started from."""
    parts = [_adapter(options), _flows(options), _router(options), f"{options.num_epochs} epochs"]
    return f"{options.preset or 'published defaults'}: {', '.join(parts)}"


def _adapter(options: RunOptions) -> str:
    ablation = options.ablation
    if ablation.has_front:
        return f"Gaussian front of {ablation.front_directions} directions"
    return f"{ablation.effective_adapter_mode} adapter" if ablation.use_task_adapter else "no adapter"


def _flows(options: RunOptions) -> str:
    base = f"base flow of {options.num_coupling_layers} couplings" if options.num_coupling_layers else "no base flow"
    own = f"task flows of {options.ablation.dia_n_blocks}" if options.ablation.use_dia else "no task flows"
    return f"{base}, {own}"


def _router(options: RunOptions) -> str:
    ablation = options.ablation
    if not ablation.use_router:
        return "true task ids"
    return f"router with {ablation.router_covariance} covariance" if ablation.use_mahalanobis else "Euclidean router"
