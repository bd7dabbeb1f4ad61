"""The bench of routing, on features that are easy to tell apart."""

import torch
from real_routing import Features, judged, table


def features(channel: int) -> Features:
    generator = torch.Generator().manual_seed(channel)
    normal = torch.randn(60, 6, generator=generator) + 40 * torch.eye(6)[channel]
    return Features(normal[:30], normal[30:], normal[30:40] + 3)


def test_rows_and_table() -> None:
    classes = {name: features(channel) for channel, name in enumerate(("bolt", "nut", "washer"))}
    rows = [row for covariance in ("published", "pooled") for row in judged(covariance, classes, 20, seed=3)]
    assert [row.class_name for row in rows] == [*classes] * 2
    assert all(row.routed_right == 1 and row.unknown_left_out == 1 and row.unknown_normal < 0.1 for row in rows)
    assert all(row.ratio == row.held_out_ratio for row in rows[:3])
    assert all(row.held_out_ratio < row.ratio for row in rows[3:])
    assert len(table(rows, dict.fromkeys(classes, 10)).splitlines()) == 2 + 2 * 4
