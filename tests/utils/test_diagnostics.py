"""Diagnostics of a flow: figures against a direct computation, files by their published names."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from moleflow_fast.utils.diagnostics import FlowDiagnostics, diagnosis, summary

PICTURES = (
    "1_logdet_std_comparison", "2_logdet_z_correlation", "3_variance_contribution", "4_max_logdet_distribution",
    "5_spatial_heatmap_normal", "5_spatial_heatmap_anomaly",
)  # fmt: skip


def latents(images: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(images)
    return torch.randn(images, 4, 5, 7, generator=generator), scale * torch.randn(images, 4, 5, generator=generator)


def gathered(folder: Path, ratio: float = 3.0) -> FlowDiagnostics:
    diagnostics = FlowDiagnostics(folder)
    z, logdet = latents(6, 0.5)
    diagnostics.collect(z, logdet, torch.zeros(6))
    z, logdet = latents(5, 0.5 * ratio)
    diagnostics.collect(z, logdet, torch.tensor([True] * 5), class_name="bolt")
    return diagnostics


def test_figures(tmp_path: Path) -> None:
    statistics = gathered(tmp_path).compute_statistics()
    z, logdet = (values.double() for values in latents(6, 0.5))
    normal = statistics["normal"]
    assert normal["n_samples"] == 6 and statistics["anomaly"]["n_samples"] == 5
    torch.testing.assert_close(normal["logdet_std_per_image"], torch.stack([one.std() for one in logdet]))
    torch.testing.assert_close(normal["logdet_max_per_image"], logdet.abs().amax((1, 2)))
    density = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(normal["var_log_pz_per_image"], torch.stack([one.var() for one in density]))
    torch.testing.assert_close(normal["z_norm_patches"], z.square().sum(-1).sqrt())


@pytest.mark.parametrize(
    ("which", "suffix"), [({}, ""), ({"task_id": 2}, "_task2"), ({"task_id": 0, "epoch": 3}, "_task0_epoch3")]
)
def test_files(which: dict[str, int], suffix: str, tmp_path: Path) -> None:
    gathered(tmp_path / "new").analyze_and_save(**which)
    found = {file.name for file in (tmp_path / "new").iterdir()}
    assert found == {f"diagnostics_summary{suffix}.txt", *(f"{name}{suffix}.png" for name in PICTURES)}
    for name in PICTURES:
        with Image.open(tmp_path / "new" / f"{name}{suffix}.png") as picture:
            assert len(picture.convert("L").getcolors() or []) > 10
    assert "DIAGNOSIS: HEALTHY" in (tmp_path / "new" / f"diagnostics_summary{suffix}.txt").read_text()


@pytest.mark.parametrize(
    ("ratio", "scale", "verdict"), [(1.0, 0.5, "DEAD"), (3.0, 0.5, "HEALTHY"), (3.0, 4.0, "NOISY")]
)
def test_diagnosis(ratio: float, scale: float, verdict: str, tmp_path: Path) -> None:
    diagnostics = FlowDiagnostics(tmp_path)
    for kind, factor in enumerate((scale, scale * ratio)):
        z, logdet = latents(40, factor)
        diagnostics.collect(z, logdet, torch.full((40,), kind))
    assert diagnosis(diagnostics.compute_statistics()).startswith(verdict)


def test_limits_and_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    diagnostics = FlowDiagnostics(tmp_path, max_samples=4)
    diagnostics.analyze_and_save()
    assert "no diagnostics" in caplog.text and not list(tmp_path.iterdir())
    for _ in range(3):
        diagnostics.collect(*latents(3), torch.tensor([0, 0, 1]))
    counts = {kind: of["n_samples"] for kind, of in diagnostics.compute_statistics().items()}
    assert counts == {"normal": 4, "anomaly": 3}
    assert "DIAGNOSIS" not in summary({"normal": diagnostics.compute_statistics()["normal"]})
    diagnostics.reset()
    assert diagnostics.compute_statistics() == {}
