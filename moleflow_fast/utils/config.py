"""Configurations of scripts for the published package: a dict whose items are attributes too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# As published. Its runner, and `moleflow_fast.train`, have other defaults for several.
_DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "gpu": "0",
    "dataset": "mvtec",
    "data_path": "/Data/MVTecAD",
    "img_size": 518,
    "msk_size": 256,
    "lr": 1e-4,
    "lr_decay_epochs": [48, 57, 88],
    "lr_decay_rate": 0.1,
    "lr_warm": True,
    "lr_warm_epochs": 2,
    "lr_cosine": True,
    "meta_epochs": 4,
    "sub_epochs": 3,
    "batch_size": 16,
    "backbone_name": "vit_base_patch14_dinov2.lvd142m",
    "coupling_layers": 8,
    "clamp_alpha": 1.9,
    "lora_rank": 32,
    "lora_alpha": 1.0,
    "ewc_lambda": 500.0,
    "slow_lr_ratio": 0.2,
    "slow_blocks_k": 2,
}


class Config(dict[str, Any]):
    """A dict with `config.name` for `config["name"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no {name!r}; it has {', '.join(sorted(self))}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]


def load_yaml(file_path: str | Path) -> Any:
    """What a YAML file holds.

    Raises:
        ImportError: PyYAML is not there.
        FileNotFoundError: no such file.
    """
    import yaml

    with open(file_path) as file:
        return yaml.safe_load(file)


def get_default_config() -> dict[str, Any]:
    """A new dict of the published defaults."""
    return {name: list(value) if isinstance(value, list) else value for name, value in _DEFAULTS.items()}


def get_config(img_size: int | None = None, data_path: str | None = None, **overrides: Any) -> Config:
    """The defaults with what is given and not None in their place; any name may be added."""
    given = {"img_size": img_size, "data_path": data_path, **overrides}
    return Config(get_default_config() | {name: value for name, value in given.items() if value is not None})
