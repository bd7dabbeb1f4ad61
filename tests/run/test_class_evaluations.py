"""How many class evaluations a run makes, and that its tables are those of evaluating every class every time."""

from pathlib import Path

import pytest
from run.small_runs import CLASSES, run

from moleflow_fast.config import AblationConfig
from moleflow_fast.evaluation import by_class
from moleflow_fast.evaluation.scorer import Scorer


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen_base", "no_freeze_base"])
def test_in_proportion_to_what_is_new(
    frozen: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_class, route = by_class.evaluate_class, Scorer.route
    calls, wanted = [], [(name, (t,) * 6) for t, name in enumerate(CLASSES)]

    def spy(scorer, test, task_ids):
        calls.append((test.name, tuple(task_ids.tolist())))
        return evaluate_class(scorer, test, task_ids)

    def routed(scorer, test):
        ids = route(scorer, test)
        wanted.append((test.name, tuple(ids.tolist())))
        return ids

    monkeypatch.setattr(by_class, "evaluate_class", spy)
    monkeypatch.setattr(Scorer, "route", routed)
    ablation = AblationConfig(no_freeze_base=not frozen)
    once = run(data, tmp_path / "once", ablation=ablation, heatmaps=0)
    assert set(calls) == set(wanted)
    assert len(calls) == len(set(wanted)) if frozen else len(calls) >= 1 + 2 + 3

    remember = by_class._known_result
    monkeypatch.setattr(by_class, "_known_result", lambda *args: args[1].results.clear() or remember(*args))
    calls.clear()
    always = run(data, tmp_path / "always", ablation=ablation, heatmaps=0)
    assert len(calls) == 2 * (1 + 2 + 3)
    for task in range(len(CLASSES)):
        tables = [r.directory.path / "evaluation" / f"after_task_{task}.csv" for r in (once, always)]
        assert tables[0].read_bytes() == tables[1].read_bytes()
