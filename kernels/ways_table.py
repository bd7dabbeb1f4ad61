"""Tables of how long each way of an operation takes on a device: packaged ones, and those that `tune` has measured."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from moleflow_fast.system.files import replacing
from moleflow_fast.system.home import cache_folder

from .operands import Shape
from .tiles import Tile

PACKAGED = Path(__file__).parent / "tables"


class DamagedTable(ValueError):
    """A file that is no table of ways."""


class Way(NamedTuple):
    """How an operation is done: "pointers", "descriptors" or "library"; or as `ways.choose` has it of others."""

    name: str
    tile: Tile | None = None

    def __str__(self) -> str:
        return self.name if self.tile is None else "{} {}x{}x{}, {} warps, {} stages".format(self.name, *self.tile)


class Timing(NamedTuple):
    """Microseconds of a way; predicted is what was put together from measured parts."""

    way: Way
    us: float
    measured: bool


class Entry(NamedTuple):
    """What is known of an operation at a shape and a precision ("fp32", "tf32" or "bf16")."""

    operation: str
    precision: str
    shape: Shape
    timings: tuple[Timing, ...]  # the fastest first


@dataclass(frozen=True, eq=False)
class Table:
    """Entries of a device; `capability` is its compute capability, None of a device that runs nothing but Triton's
    interpreter."""

    device: str
    capability: tuple[int, int] | None
    source: str
    entries: tuple[Entry, ...]

    def ways(self, operation: str, shape: Shape, precision: str) -> tuple[Way, ...]:
        """The fastest first, of this shape, else of the one that is nearest by multiply-adds; () if none is known."""
        known = [e for e in self.entries if (e.operation, e.precision) == (operation, precision)]
        if not known:
            return ()
        entry = min(known, key=lambda e: (e.shape != shape, abs(math.log(e.shape.macs / shape.macs))))
        return tuple(timing.way for timing in entry.timings)

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "capability": None if self.capability is None else list(self.capability),
            "source": self.source,
            "entries": [_entry_to_json(entry) for entry in self.entries],
        }

    @property
    def digest(self) -> str:
        """Equal for tables that choose alike: of every entry, without where they come from."""
        text = json.dumps(self.to_json()["entries"], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, stored: Any) -> Table:
        """Raises DamagedTable."""
        try:
            capability = stored["capability"]
            return cls(
                stored["device"],
                None if capability is None else (int(capability[0]), int(capability[1])),
                stored["source"],
                tuple(_entry_from_json(entry) for entry in stored["entries"]),
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DamagedTable(f"no table of ways ({error or type(error).__name__})") from error


NO_TABLE = Table("none", None, "nothing measured", ())


def table_of_one(operation: str, way: Way) -> Table:
    """In which an operation has one way, at every shape and precision."""
    timings = (Timing(way, 0.0, measured=False),)
    entries = (Entry(operation, p, Shape(1, 1, 1, 1), timings) for p in ("fp32", "tf32", "bf16"))
    return Table("any", None, "a way by itself", tuple(entries))


def sorted_entry(operation: str, precision: str, shape: Shape, timings: Iterable[Timing]) -> Entry:
    """The fastest timing of each way, in order."""
    best: dict[str, Timing] = {}
    for timing in sorted(timings, key=lambda timing: timing.us):
        best.setdefault(timing.way.name, timing)
    return Entry(operation, precision, shape, tuple(best.values()))


def read_table(file: Path) -> Table:
    """Raises DamagedTable."""
    try:
        return Table.from_json(json.loads(file.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedTable(f"{file}: {error}; delete it") from error


def write_table(file: Path, table: Table) -> None:
    """One entry a line, so that one that changed is one line of a diff."""
    stored = table.to_json()
    entries = ",\n".join(f"  {json.dumps(entry)}" for entry in stored.pop("entries"))
    head = "".join(f" {json.dumps(name)}: {json.dumps(value)},\n" for name, value in stored.items())
    with replacing(file) as temporary:
        temporary.write_text(f'{{\n{head} "entries": [\n{entries}\n ]\n}}\n')


def packaged() -> Iterator[Table]:
    """Those that come with the package."""
    return map(read_table, sorted(PACKAGED.glob("*.json")))


def tuned_file(device: str) -> Path:
    """Where `tune` keeps the table of a device: in `$MOLEFLOW_CACHE`, or `~/.cache/moleflow_fast`."""
    return cache_folder() / "ways" / f"{slug(device)}.json"


def slug(device: str) -> str:
    return "-".join(device.lower().split())


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    return {
        "operation": entry.operation,
        "precision": entry.precision,
        "shape": entry.shape._asdict(),
        "ways": [
            {
                "way": timing.way.name,
                **({} if timing.way.tile is None else {"tile": timing.way.tile._asdict()}),
                "us": timing.us,
                "known": "measured" if timing.measured else "predicted",
            }
            for timing in entry.timings
        ],
    }


def _entry_from_json(stored: dict[str, Any]) -> Entry:
    timings = (
        Timing(
            Way(way["way"], Tile(**way["tile"]) if "tile" in way else None),
            float(way["us"]),
            {"measured": True, "predicted": False}[way["known"]],
        )
        for way in stored["ways"]
    )
    return Entry(stored["operation"], stored["precision"], Shape(**stored["shape"]), tuple(timings))
