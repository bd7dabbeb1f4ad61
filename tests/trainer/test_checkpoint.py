"""Checkpoints: exact, complete or absent, and published ones imported."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_trainer import make_trainer, task_features, train

from moleflow_fast.config import AblationConfig
from moleflow_fast.system import tensor_file
from moleflow_fast.system.files import WriteFailed
from moleflow_fast.system.tensor_file import CheckpointError
from moleflow_fast.trainer import checkpoint
from moleflow_fast.trainer.published_checkpoint import load_published

OPTIONS = {"embed_dim": 16, "lora_rank": 3}
CONFIGS = {
    "default": AblationConfig(),
    "soft_ln": AblationConfig(adapter_mode="soft_ln", use_whitening_adapter=False),
    "standard": AblationConfig(adapter_mode="standard", use_whitening_adapter=False),
    "gaussian": AblationConfig(adapter_mode="gaussian", use_whitening_adapter=False, front_directions=5),
    "task_separated": AblationConfig(use_task_separated=True),
    "regular_linear": AblationConfig(use_regular_linear=True, use_scale_context=False),
    "spectral_norm": AblationConfig(use_spectral_norm=True, use_scale_context=False),
    "sequential": AblationConfig(no_freeze_base=True),
    "class_ledoit_wolf": AblationConfig(router_covariance="class_ledoit_wolf"),
    "pooled": AblationConfig(router_covariance="pooled"),
}


def saved(directory: Path, tasks: int = 2, config: AblationConfig | None = None):
    trainer = make_trainer(config)
    for task in range(tasks):
        train(trainer, task)
        checkpoint.save_task(directory, trainer.moleflow, task, OPTIONS, trainer.promises_zero_forgetting)
    return trainer


def maps(trainer, task: int) -> torch.Tensor:
    return trainer.moleflow.anomaly_maps(task_features(task, 4), torch.full((4,), task))


@pytest.mark.parametrize("name", CONFIGS)
def test_round_trip_to_the_bit(name: str, tmp_path: Path) -> None:
    trainer = saved(tmp_path, 3, CONFIGS[name])
    restored = make_trainer(CONFIGS[name], seed=5)
    assert checkpoint.load_tasks(tmp_path, restored.moleflow, OPTIONS) == [0, 1, 2]
    for task in range(3):
        assert torch.equal(maps(restored, task), maps(trainer, task))
        features = task_features(task).mean((1, 2))
        assert torch.equal(restored.router.distances(features), trainer.router.distances(features))


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    resumed = make_trainer()
    checkpoint.load_tasks(tmp_path, resumed.moleflow, OPTIONS)
    train(resumed, 1)
    whole = saved(tmp_path / "whole", 2)
    expected = whole.nf_model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.nf_model.state_dict().items())


def test_later_files_hold_only_their_own_expert(tmp_path: Path) -> None:
    saved(tmp_path)
    later = load_file(tmp_path / "task_1.safetensors")
    assert not [n for n in later if "base_linear" in n or ".lora_A.0" in n or "input_adapters.0" in n]
    assert [n for n in later if ".lora_A.1" in n]


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "task_1.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"task_1\.safetensors is damaged"):
        checkpoint.load_tasks(tmp_path, make_trainer().moleflow, OPTIONS)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "task_1.safetensors"
    content = bytearray(file.read_bytes())
    content[-50] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"task_1\.safetensors is damaged \(its SHA-256 .*; delete it and its"):
        checkpoint.load_tasks(tmp_path, make_trainer().moleflow, OPTIONS)


def described(directory: Path, **changes: object) -> None:
    marker = directory / "task_0.json"
    content = {**json.loads(marker.read_text()), **changes}
    marker.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_a_newer_schema_names_both_versions(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    described(tmp_path, schema=checkpoint.SCHEMA + 1, news=True)
    with pytest.raises(CheckpointError, match=r"task_0\.json is of schema 2, .* reads up to 1"):
        checkpoint.load_tasks(tmp_path, make_trainer().moleflow, OPTIONS)


def test_files_of_older_runs_load(tmp_path: Path) -> None:
    trainer = saved(tmp_path, 1)
    digest = checkpoint.checksum(tmp_path, 0)
    described(tmp_path, schema=None, sha256=None)
    restored = make_trainer(seed=5)
    checkpoint.load_tasks(tmp_path, restored.moleflow, OPTIONS)
    assert torch.equal(maps(restored, 0), maps(trainer, 0))
    assert checkpoint.checksum(tmp_path, 0) == digest


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100000, '{"task_id": 0}', '{"schema": "x"}', "\x00"])
def test_a_damaged_description_is_named(text: str, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (tmp_path / "task_0.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"task_0\.json is damaged .*; delete it to train"):
        checkpoint.load_tasks(tmp_path, make_trainer().moleflow, OPTIONS)


@pytest.mark.parametrize(
    "changes", [{"task_id": 1}, {"classes": "abc"}, {"classes": [1]}, {"whole": 3}, {"model": []}, {"sha256": 5}]
)
def test_a_description_of_other_types_is_named(changes: dict, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    described(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=r"task_0\.json is damaged"):
        checkpoint.load_tasks(tmp_path, make_trainer().moleflow, OPTIONS)


@pytest.mark.parametrize("name", ["router.0.mean", "router.0.covariance", "statistics.std", "model.flow.module_list"])
def test_tensors_of_other_shapes_are_named(name: str, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    file = tmp_path / "task_0.safetensors"
    tensors = load_file(file)
    tensors[next(n for n in tensors if n.startswith(name))] = torch.zeros(3, 3)
    save_file(tensors, file)
    described(tmp_path, sha256=None)
    with pytest.raises(CheckpointError, match=r"task_0\.safetensors does not fit the model"):
        checkpoint.load_tasks(tmp_path, make_trainer().moleflow, OPTIONS)


def test_another_configuration_is_named(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(CheckpointError, match="lora_rank: checkpoint 3, asked for 8"):
        checkpoint.load_tasks(tmp_path, make_trainer().moleflow, {**OPTIONS, "lora_rank": 8})


def test_a_file_without_the_router_s_kind_is_a_published_one(tmp_path: Path) -> None:
    trainer = saved(tmp_path, 1)
    switches = {**OPTIONS, **vars(AblationConfig())}
    described(tmp_path, model={name: value for name, value in switches.items() if name != "router_covariance"})
    restored = make_trainer(seed=5)
    assert checkpoint.load_tasks(tmp_path, restored.moleflow, switches) == [0]
    assert torch.equal(maps(restored, 0), maps(trainer, 0))
    with pytest.raises(CheckpointError, match="router_covariance: checkpoint 'published', asked for 'pooled'"):
        checkpoint.load_tasks(tmp_path, make_trainer().moleflow, {**switches, "router_covariance": "pooled"})


def test_published_prototypes_are_stored_as_ever(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    names = {n for n in load_file(tmp_path / "task_0.safetensors") if n.startswith("router.")}
    assert names == {"router.0.mean", "router.0.covariance", "router.0.n_samples"}


@pytest.mark.parametrize("name", ["router.0.scatter", "router.0.fourth"])
def test_sums_of_other_shapes_are_named(name: str, tmp_path: Path) -> None:
    saved(tmp_path, 1, CONFIGS["pooled"])
    file = tmp_path / "task_0.safetensors"
    save_file({**load_file(file), name: torch.ones(3, 3)}, file)
    described(tmp_path, sha256=None)
    with pytest.raises(CheckpointError, match=rf"task_0\.safetensors does not fit the model: {name[9:]} not of 16"):
        checkpoint.load_tasks(tmp_path, make_trainer(CONFIGS["pooled"]).moleflow, OPTIONS)


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        checkpoint.load_tasks(tmp_path, make_trainer().moleflow, OPTIONS)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = saved(tmp_path, 1)
    before = (tmp_path / "task_0.safetensors").read_bytes()

    def full(tensors: dict, path: Path, metadata: None) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "save_file", full)
    with pytest.raises(WriteFailed, match=r"task_0\.safetensors could not be written \(No space left on device\)"):
        checkpoint.save_task(tmp_path, trainer.moleflow, 0, OPTIONS, trainer.promises_zero_forgetting)
    assert (tmp_path / "task_0.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_kill_in_mid_write_loses_nothing(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    script = f"""
        import os, signal
        from pathlib import Path
        from moleflow_fast.system.files import replacing
        with replacing(Path({str(tmp_path)!r}) / "task_0.safetensors") as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(script)], env=environment)
    assert done.returncode == -signal.SIGKILL
    assert checkpoint.load_tasks(tmp_path, make_trainer().moleflow, OPTIONS) == [0]


def published_directory(tmp_path: Path) -> tuple[Path, dict]:
    arrays = np.load(Path(__file__).parents[1] / "golden" / "nf_default.npz", allow_pickle=False)
    state = {n.removeprefix("sd/"): torch.from_numpy(arrays[n]) for n in arrays.files if n.startswith("sd/")}
    for task in range(2):
        (tmp_path / f"task_{task}").mkdir(parents=True)
        torch.save(state, tmp_path / f"task_{task}" / "nf_model.pth")
    return tmp_path, arrays


@pytest.mark.parametrize("form", ["run", "task", "file"])
def test_published_checkpoints_import(form: str, tmp_path: Path) -> None:
    directory, arrays = published_directory(tmp_path)
    path = {"run": directory, "task": directory / "task_1", "file": directory / "task_1" / "nf_model.pth"}[form]
    trainer = make_published_trainer(json.loads(str(arrays["meta"])))
    assert load_published(path, trainer.moleflow) == [0, 1]
    trainer.nf_model.set_active_task(1)
    z, _ = trainer.nf_model(torch.from_numpy(arrays["x"]))
    torch.testing.assert_close(z, torch.from_numpy(arrays["t1/z"]), rtol=1e-5, atol=1e-5)


def named_by_another_release(name: str) -> str:
    return name.replace("dia_adapters.", "acl_adapters.", 1)


def with_integer_permutations(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: v.argmax(1) if n.endswith(("w_perm", "w_perm_inv")) else v for n, v in state.items()}


FORMS = {
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3},
    "nf_model_state_dict": lambda state: {"nf_model_state_dict": state, "router": {}},
    "state_dict": lambda state: {"state_dict": state},
    "later release": lambda state: {named_by_another_release(n): v for n, v in state.items()},
    "data parallel": lambda state: {f"module.{n}": v for n, v in state.items()},
    "integer permutations": with_integer_permutations,
    "all at once": lambda state: {
        "model_state_dict": {
            f"module.{named_by_another_release(n)}": v for n, v in with_integer_permutations(state).items()
        }
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_published_checkpoints_in_other_forms(form: str, tmp_path: Path) -> None:
    directory, arrays = published_directory(tmp_path)
    state = torch.load(directory / "task_1" / "nf_model.pth")
    torch.save(FORMS[form](state), tmp_path / "model.pth")
    trainer = make_published_trainer(json.loads(str(arrays["meta"])))
    assert load_published(tmp_path / "model.pth", trainer.moleflow) == [0, 1]
    trainer.nf_model.set_active_task(1)
    z, _ = trainer.nf_model(torch.from_numpy(arrays["x"]))
    torch.testing.assert_close(z, torch.from_numpy(arrays["t1/z"]), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    directory, arrays = published_directory(tmp_path)
    state = torch.load(directory / "task_1" / "nf_model.pth")
    state["ogp.basis"] = state.pop("input_adapters.1.gamma_raw")
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"(?s)input_adapters\.1\.gamma_raw.*ogp\.basis"):
        load_published(tmp_path / "model.pth", make_published_trainer(json.loads(str(arrays["meta"]))).moleflow)


def test_a_published_checkpoint_of_other_widths_names_the_options(tmp_path: Path) -> None:
    directory, _ = published_directory(tmp_path)
    with pytest.raises(CheckpointError, match="--embed_dim"):
        load_published(directory, make_trainer().moleflow)


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save(CONFIGS["default"], tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        load_published(tmp_path / "model.pth", make_trainer().moleflow)


class Malice:
    """Unpickling it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["torch", "pickle", "safetensors"])
def test_code_in_a_checkpoint_never_runs(form: str, tmp_path: Path) -> None:
    done, trainer = tmp_path / "done", make_trainer()
    if form == "safetensors":
        saved(tmp_path, 1)
        described(tmp_path, sha256=None)
        (tmp_path / "task_0.safetensors").write_bytes(pickle.dumps({"model.x": Malice(done)}))
        with pytest.raises(CheckpointError, match=r"task_0\.safetensors is damaged"):
            checkpoint.load_tasks(tmp_path, trainer.moleflow, OPTIONS)
    else:
        file = tmp_path / "model.pth"
        content = {"flow.x": Malice(done)}
        torch.save(content, file) if form == "torch" else file.write_bytes(pickle.dumps(content))
        with pytest.raises(CheckpointError, match="could run code"):
            load_published(file, trainer.moleflow)
    assert not done.exists()


def make_published_trainer(meta: dict):
    from types import SimpleNamespace

    from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
    from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
    from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer

    model = MoLESpatialAwareNF(
        meta["embed_dim"],
        meta["coupling_layers"],
        lora_rank=meta["lora_rank"],
        ablation_config=replace(AblationConfig(), **meta["config"]),
    )
    return MoLEContinualTrainer(None, PositionalEmbeddingGenerator("cpu"), model, SimpleNamespace())
