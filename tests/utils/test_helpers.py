"""Seeds, learning rates and configurations of scripts for the published package."""

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from moleflow_fast.utils.config import get_config, get_default_config, load_yaml
from moleflow_fast.utils.helpers import init_seeds, setting_lr_parameters


def test_seeds() -> None:
    drawn = []
    for _ in range(2):
        init_seeds(3)
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]


def test_learning_rates() -> None:
    config = get_config()
    setting_lr_parameters(config)
    assert config.scaled_lr_decay_epochs == [1, 2, 3]
    assert config.lr_warmup_from == pytest.approx(1e-5) and config["lr_warmup_to"] == pytest.approx(5.005e-5)
    plain = SimpleNamespace(lr=1.0, lr_decay_epochs=[50], meta_epochs=10, lr_warm=False)
    setting_lr_parameters(plain)
    assert vars(plain).keys() == {"lr", "lr_decay_epochs", "meta_epochs", "lr_warm", "scaled_lr_decay_epochs"}


def test_configuration() -> None:
    config = get_config(img_size=224, data_path=None, lr=None, own=7)
    assert (config.img_size, config["data_path"], config.lr, config.own) == (224, "/Data/MVTecAD", 1e-4, 7)
    config.dataset = "visa"
    assert config["dataset"] == "visa" and hasattr(config, "lr") and not hasattr(config, "lrr")
    with pytest.raises(AttributeError, match="no 'lrr'; it has .*lora_rank"):
        _ = config.lrr
    get_default_config()["lr_decay_epochs"].append(1)
    assert get_default_config()["lr_decay_epochs"] == [48, 57, 88]


def test_yaml(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    (tmp_path / "c.yaml").write_text("lr: 0.5\nclasses: [a, b]\n")
    assert load_yaml(tmp_path / "c.yaml") == {"lr": 0.5, "classes": ["a", "b"]}
    with pytest.raises(FileNotFoundError):
        load_yaml(tmp_path / "none.yaml")
