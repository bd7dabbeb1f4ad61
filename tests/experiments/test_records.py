"""Results of a sweep in one file: nothing torn, nothing lost."""

from pathlib import Path

import pyarrow.parquet
import pytest

from moleflow_fast.errors import UserError
from moleflow_fast.experiments.records import Records, read_records


def record(identity: str, status: str = "finished", **more) -> dict:
    return {"identity": identity, "status": status, "routed": {"image_auroc": 0.5, "pixel_ap": None}, **more}


def test_the_last_record_of_a_run_counts(tmp_path: Path) -> None:
    records = Records(tmp_path / "results.jsonl")
    for one in (record("a", "failed"), record("b"), record("a")):
        records.append(one)
    again = Records(tmp_path / "results.jsonl")
    assert again.latest == records.latest == {"a": record("a"), "b": record("b")}
    assert [r["status"] for r in read_records(again.file)] == ["failed", "finished", "finished"]


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "results.jsonl"
    records = Records(file)
    records.append(record("a"))
    whole = file.read_bytes()
    records.append(record("b"))
    file.write_bytes(whole + file.read_bytes()[len(whole) :][:kept])
    mended = Records(file)
    assert list(mended.latest) == ["a"] and file.read_bytes() == whole
    mended.append(record("c"))
    assert list(Records(file).latest) == ["a", "c"]


def test_a_damaged_line_inside_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text('{"identity": "a"}\n{"identity": \n{"identity": "c"}\n')
    with pytest.raises(UserError, match=r"results.jsonl, line 2 is damaged"):
        Records(file)


def test_parquet_has_a_column_a_setting_and_a_metric(tmp_path: Path) -> None:
    records = Records(tmp_path / "results.jsonl")
    records.append(record("a", options={"lr": 1e-3, "task_classes": ["nut", "bolt"], "ablation": {"use_dia": True}}))
    records.append({**record("b", "failed", error="why"), "routed": None})
    records.write_parquet(tmp_path / "results.parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert [row["identity"] for row in rows] == ["a", "b"]
    assert rows[0]["options.task_classes"] == "nut bolt" and rows[0]["options.ablation.use_dia"] is True
    assert rows[0]["routed.image_auroc"] == 0.5 and rows[1]["routed.image_auroc"] is None
    assert rows[1]["error"] == "why"
