"""A product that a finished run knows, learned anew with more images."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run.changes.conftest import NEW, OLD
from run.small_runs import run, write_data
from safetensors.torch import load_file

from moleflow_fast import Detector
from moleflow_fast.cli.evaluate import main as evaluate
from moleflow_fast.cli.train import main
from moleflow_fast.config import AblationConfig
from moleflow_fast.detector.result import Result
from moleflow_fast.extractors.backbone_source import BackboneSource
from moleflow_fast.run import finishing
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.evaluating import Evaluating

Refused = Callable[[list[str]], str]
AGAIN = OLD[0]


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other images of the products; of the one in question normal ones alone are tested on."""
    root = write_data(tmp_path_factory.mktemp("more"))
    for file in (root / AGAIN).rglob("*.png"):
        file.rename(file.with_name(f"more_{file.name}"))
    shutil.rmtree(root / AGAIN / "ground_truth")
    for folder in (root / AGAIN / "test").iterdir():
        if folder.name != "good":
            shutil.rmtree(folder)
    return root


def command(path: Path, more: Path, *options: str) -> list[str]:
    return ["--extend", str(path), "--data_path", str(more), "--task_classes", AGAIN, "--again", "--quiet", *options]


@pytest.fixture(scope="module")
def learned(base: Path, more: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copytree(base, tmp_path_factory.mktemp("again") / "parts"))
    assert main(command(path, more)) == 0
    return path


def results(path: Path, *folders: Path) -> list[Result]:
    detector = Detector.load(path, "cpu")
    return [result for folder in folders for result in detector.predict(folder)]


def figures(path: Path, *folders: Path) -> list[object]:
    return [(r.label, r.score, r.task_id, dict(r.distances)) for r in results(path, *folders)]


def test_it_is_learned_from_old_and_new_images(learned: Path, data: Path, more: Path, tmp_path: Path) -> None:
    together = Path(shutil.copytree(data, tmp_path / "together"))
    shutil.copytree(more / AGAIN, together / AGAIN, dirs_exist_ok=True)
    whole = run(together, tmp_path / "logs", task_classes=OLD).directory.path
    extended = ["--extend", str(whole), "--data_path", str(more), "--task_classes", NEW, "--quiet"]
    assert main(extended) == 0  # a task 2 as well, with other images
    prototype = load_file(learned / "checkpoints" / "task_2.safetensors")
    reference = load_file(whole / "checkpoints" / "task_0.safetensors")
    assert prototype["router.2.n_samples"] == reference["router.0.n_samples"] == 12
    torch.testing.assert_close(prototype["router.2.mean"], reference["router.0.mean"], rtol=1e-5, atol=1e-6)
    found = {r.class_names for r in results(learned, data / AGAIN / "train", more / AGAIN)}
    assert found == {(AGAIN,)}


def test_other_products_stay_to_the_bit(base: Path, learned: Path, data: Path) -> None:
    for before, after in zip(results(base, data / OLD[1]), results(learned, data / OLD[1]), strict=True):
        assert (before.task_id, before.score, before.calibrated) == (after.task_id, after.score, after.calibrated)
        assert (before.pixel_map == after.pixel_map).all()
    for name in ("task_0", "task_1"):
        file = Path("checkpoints") / f"{name}.safetensors"
        assert (base / file).read_bytes() == (learned / file).read_bytes()


def test_the_old_expert_is_out_of_use(learned: Path, data: Path) -> None:
    calibrated = json.loads((learned / "calibration.json").read_text())["tasks"]
    assert [(task["task_id"], task["class_names"]) for task in calibrated] == [(1, [OLD[1]]), (2, [AGAIN])]
    assert {r.task_id for r in results(learned, data)} <= {1, 2}
    assert evaluate([str(learned), "--quiet"]) == 0


def test_old_features_come_from_the_cache(
    started: Path, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    images = BackboneSource._images

    def counted(source: BackboneSource, batches: list[list[int]]) -> object:
        seen.extend(Path(source.dataset.samples[i].path) for batch in batches for i in batch)
        return images(source, batches)

    monkeypatch.setattr(BackboneSource, "_images", counted)
    new = Path(shutil.copytree(more, tmp_path / "new"))
    assert main(command(started, new)) == 0
    assert seen and all(new in path.parents for path in seen)


@pytest.mark.parametrize("place", [(finishing, "_calibrate"), (RunDirectory, "write_summary")])
def test_killed_in_the_middle_the_old_one_is_kept(
    place: tuple[type, str],
    started: Path,
    learned: Path,
    data: Path,
    more: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Refused,
) -> None:
    before = figures(started, data)
    with monkeypatch.context() as patch:
        patch.setattr(*place, _stop)
        with pytest.raises(KeyboardInterrupt):
            main(command(started, more))
    if place[0] is RunDirectory:  # all but the summary is there
        assert figures(started, data) == figures(learned, data)
    else:
        assert figures(started, data) == before
        assert evaluate([str(started), "--quiet"]) == 0
        assert "--again), or give it up" in refused(command(started, more)[:-2] + ["--quiet"])
    assert main(command(started, more)) == 0
    assert figures(started, data) == figures(learned, data)
    assert (started / "calibration.json").read_bytes() == (learned / "calibration.json").read_bytes()


def test_given_up(started: Path, data: Path, more: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = figures(started, data)
    with monkeypatch.context() as patch:
        patch.setattr(Evaluating, "draw", _stop)
        with pytest.raises(KeyboardInterrupt):
            main(command(started, more))
    assert main(["--remove", str(started), "--task_classes", AGAIN, "--quiet"]) == 0
    assert figures(started, data) == before


def test_removed_and_learned_a_third_time(learned: Path, more: Path, data: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(learned, tmp_path / "parts"))
    assert main(command(path, more)) == 0  # the same place counts once
    assert load_file(path / "checkpoints" / "task_3.safetensors")["router.3.n_samples"] == 12
    assert main(["--remove", str(path), "--task_classes", AGAIN, "--quiet"]) == 0
    assert {r.task_id for r in results(path, data)} == {1}


def test_behind_gaussian_fronts_that_share_a_covariance(
    data: Path, new_data: Path, more: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = AblationConfig(adapter_mode="gaussian", use_whitening_adapter=False, router_covariance="pooled")
    path = run(data, tmp_path, task_classes=OLD, num_epochs=1, ablation=config, heatmaps=0).directory.path
    before = results(path, data / OLD[1])
    assert main(command(path, more)) == 0
    assert "features are not held in memory" not in caplog.text
    for old, new in zip(before, results(path, data / OLD[1]), strict=True):
        assert (old.task_id, old.score) == (new.task_id, new.score)


def test_refusals(base: Path, more: Path, new_data: Path, tmp_path: Path, refused: Refused) -> None:
    known = ["--extend", str(base), "--data_path", str(more), "--task_classes", AGAIN]
    assert "add --again to learn it anew" in refused(known)
    unknown = ["--extend", str(base), "--data_path", str(new_data), "--task_classes", NEW, "--again"]
    assert f"knows no {NEW}: it knows {', '.join(OLD)}" in refused(unknown)
    gone = Path(shutil.copytree(base, tmp_path / "parts"))
    config = json.loads((gone / "config.json").read_text())
    config["options"]["data_path"] = str(tmp_path / "gone")
    (gone / "config.json").write_text(json.dumps(config))
    assert f"are not there: {tmp_path / 'gone' / AGAIN}; put them back" in refused(command(gone, more))


def test_again_is_for_a_run_that_is_extended(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--again", "--task_classes", "x"])
    assert "--again goes with --extend RUN" in capsys.readouterr().err


def _stop(*args: object, **more: object) -> None:
    raise KeyboardInterrupt
