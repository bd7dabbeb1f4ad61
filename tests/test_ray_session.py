"""Errors that a person meets before Ray does any work."""

import sys

import pytest

from moleflow_fast.errors import UserError
from moleflow_fast.run.ray_session import ray_session


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'moleflow_fast\[sweep\]'"), ray_session():
        pass


def test_nothing_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def refuse(**options: object) -> None:
        assert options["address"] == "10.0.0.1:6379" and options["num_cpus"] is None
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", refuse)
    message = r"no Ray cluster answers at 10.0.0.1:6379.*RAY_AUTH_MODE"
    with pytest.raises(UserError, match=message), ray_session("10.0.0.1:6379"):
        pass


def test_ray_is_ended_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    happened = []
    monkeypatch.setattr(ray, "init", lambda **options: happened.append(options["address"]))
    monkeypatch.setattr(ray, "shutdown", lambda: happened.append("shutdown"))
    with pytest.raises(RuntimeError, match="half way"), ray_session():
        raise RuntimeError("half way")
    assert happened == ["local", "shutdown"]
