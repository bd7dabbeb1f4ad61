"""Which runs are found, and what is said of those that are not analysed."""

import json
from pathlib import Path

import pytest
from report.reading import prose, table, under
from report.written_runs import BASELINE, figures, write_results, write_run

from moleflow_fast.cli.report import main
from moleflow_fast.errors import UserError
from moleflow_fast.report.document import Bullets
from moleflow_fast.report.runs import find_runs
from moleflow_fast.report.write import build_report


def record(name: str, status: str, **more: object) -> dict[str, object]:
    return {"identity": name, "name": name, "names": [name], "seed": 0, "status": status, "directory": name, **more}


def test_runs_at_any_depth_and_once(tmp_path: Path) -> None:
    deep = write_run(tmp_path / "a" / "b", figures(0.9, 0.4), name="deep")
    write_run(tmp_path, figures(0.9, 0.4), seed=1, name="flat")
    write_run(deep, figures(0.9, 0.4), seed=2, name="inside")
    found = find_runs([str(tmp_path), str(deep)])
    assert sorted(run.where.rpartition("/")[2] for run in found.runs) == ["deep", "flat"]
    assert find_runs([str(deep)]).runs[0].where == "deep"
    assert find_runs([str(tmp_path), "published"]).runs[-1].is_published


def test_what_a_run_says(tmp_path: Path) -> None:
    (run,) = find_runs([str(write_run(tmp_path, figures(0.9, 0.4), "--preset", BASELINE, seed=3))]).runs
    assert run.options.seed == 3 and run.names == (BASELINE,) and not run.is_published
    assert run.means["image_auroc"] == pytest.approx(0.9) and run.means["pixel_ap"] == pytest.approx(0.4)
    assert [task for (task,) in run.tasks] == [c.class_name for c in run.classes] == list(figures(0, 0))
    assert run.confusion[2] == (1, 1, 9, 1, 1) and run.forgetting["per_task"] == (0.01,) * 4


def test_a_torn_last_line_is_ignored_and_the_last_record_counts(tmp_path: Path) -> None:
    write_run(tmp_path, figures(0.9, 0.4), name="good")
    write_results(
        tmp_path,
        record("x", "failed", error="first"),
        record("x", "failed", error="out of\nmemory"),
        record("y", "failed", error="lost the network"),
        record("y", "finished", error=None),
        record("good", "failed", error="finished after all"),
        torn='{"identity": "z", "sta',
    )
    found = find_runs([str(tmp_path)])
    assert [(t.where, t.detail) for t in found.failed] == [("x", "out of memory")]
    assert not found.damaged and [run.where for run in found.runs] == ["good"]
    assert table(build_report([str(tmp_path)]), "Failed runs")["x"]["Error"] == "out of memory"


def test_a_torn_line_in_the_middle_is_damage(tmp_path: Path) -> None:
    write_run(tmp_path, figures(0.9, 0.4), name="good")
    (tmp_path / "results.jsonl").write_text(
        '{"iden\n[1]\n{"identity": "a\\u0000"}\n' + json.dumps(record("x", "failed", error=None)) + "\n"
    )
    found = find_runs([str(tmp_path)])
    assert [t.where for t in found.damaged] == [f"results.jsonl:{n}" for n in (1, 2, 3)]
    assert found.failed[0].reason == "no_error"


def test_a_failed_run_is_not_unfinished_too(tmp_path: Path) -> None:
    write_run(tmp_path, figures(0.9, 0.4), name="good")
    for name in ("failed", "stopped"):
        (write_run(tmp_path, figures(0.9, 0.4), name=name) / "summary.json").unlink()
    write_results(tmp_path, record("failed", "failed", error="no more disk"))
    found = find_runs([str(tmp_path)])
    assert [t.where for t in found.failed] == ["failed"] and [t.where for t in found.unfinished] == ["stopped"]
    (bullets,) = (b for b in under(build_report([str(tmp_path)]), "Unfinished runs") if isinstance(b, Bullets))
    assert bullets.items == ["stopped"]


def test_names_of_a_sweep_are_taken(tmp_path: Path) -> None:
    write_run(tmp_path, figures(0.9, 0.4), "--preset", BASELINE, name="one")
    write_results(tmp_path, record("one", "finished", names=[BASELINE, "MVTec-WRN50-TopK3", "no such preset"]))
    (run,) = find_runs([str(tmp_path)]).runs
    assert run.names == (BASELINE, "MVTec-WRN50-TopK3", "no such preset")
    rows = table(build_report([str(tmp_path)]), "How to read the tables")
    assert [row["Also called"] for row in rows.values()] == ["TopK3"]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", "{", "cannot be read: config.json: JSONDecodeError"),
        ("config.json", None, "missing file: config.json"),
        ("config.json", '{"options": {"lr": -1}}', "cannot be read: config.json: KeyError"),
        ("summary.json", "[]", "cannot be read: summary.json: TypeError"),
        ("summary.json", '{"tasks": [["a"]]}', "missing file: evaluation/after_task_0.csv"),
        ("evaluation/after_task_4.csv", None, "missing file: evaluation/after_task_4.csv"),
        ("evaluation/after_task_4.csv", "ids\nrouted\n", "cannot be read: evaluation/after_task_4.csv: KeyError"),
        ("evaluation/after_task_4.csv", "ids\0", "evaluation/after_task_4.csv"),
    ],
)
def test_a_damaged_run_is_listed_and_the_rest_goes_on(
    tmp_path: Path, file: str, content: str | None, said: str
) -> None:
    write_run(tmp_path, figures(0.9, 0.4), name="good")
    damaged = write_run(tmp_path, figures(0.9, 0.4), seed=1, name="bad") / file
    damaged.unlink()
    if content is not None:
        damaged.write_text(content)
    rows = table(build_report([str(tmp_path)]), "Damaged runs, left out")
    assert said in rows["bad"]["Reason"]
    assert [run.where for run in find_runs([str(tmp_path)]).runs] == ["good"]


def test_a_summary_of_other_tasks_is_damage(tmp_path: Path) -> None:
    write_run(tmp_path, figures(0.9, 0.4), name="good")
    summary = write_run(tmp_path, figures(0.9, 0.4), name="bad") / "summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "routing_confusion": [[1, 2]]}))
    assert [t.where for t in find_runs([str(tmp_path)]).damaged] == ["bad"]


def test_a_run_of_an_older_version_has_no_matrix(tmp_path: Path) -> None:
    summary = write_run(tmp_path, figures(0.9, 0.4)) / "summary.json"
    content = json.loads(summary.read_text())
    del content["routing_confusion"]
    summary.write_text(json.dumps(content))
    assert "routing_confusion: run it with this version" in prose(build_report([str(tmp_path)]), "Routing")


def test_a_run_that_did_not_count_its_time_says_how_to_have_it(tmp_path: Path) -> None:
    summary = write_run(tmp_path, figures(0.9, 0.4)) / "summary.json"
    content = json.loads(summary.read_text())
    del content["seconds"]
    summary.write_text(json.dumps(content))
    assert "seconds: run it with this version" in prose(build_report([str(tmp_path)]), "Where the time goes")


def test_nothing_to_analyse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (write_run(tmp_path, figures(0.9, 0.4)) / "summary.json").unlink()
    assert main([str(tmp_path), "-o", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"error: no finished run in {tmp_path}")
    assert "summary.json" in error and "1 unfinished" in error
    assert not (tmp_path / "out").exists()


def test_a_place_that_does_not_exist() -> None:
    with pytest.raises(UserError, match="nowhere is no directory.*published"):
        find_runs(["nowhere"])
