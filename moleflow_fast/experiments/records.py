"""The results of a sweep: one line a run in `results.jsonl`, appended so that a kill can tear the last line alone."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moleflow_fast.errors import UserError
from moleflow_fast.system.files import replacing, to_disk

Record = dict[str, Any]


class Records:
    """Records by identity; the last line of an identity counts.

    Keys of a record: identity, name, names, seed, status ("finished" or "failed"), error, attempts, seconds (of the
    last attempt, None where a run was found finished), directory (relative to the sweep's), options, routed, oracle,
    forgetting (None where it failed).
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._mend()
        self.latest: dict[str, Record] = {record["identity"]: record for record in read_records(file)}

    def append(self, record: Record) -> None:
        """On the disk when this returns."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with self.file.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.latest[record["identity"]] = record

    def write_parquet(self, file: Path) -> None:
        """The latest record of every run, one column a setting and a metric (`routed.image_auroc`)."""
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
        rows = [_flat(record) for record in self.latest.values()]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        table = arrow.table({name: [row.get(name) for row in rows] for name in columns})
        with replacing(file) as temporary:
            parquet.write_table(table, temporary)

    def _mend(self) -> None:
        """Cut off a last line that was not written to its end."""
        if not self.file.exists():
            self.file.touch()
            to_disk(self.file.parent)
            return
        content = self.file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.file, whole)


def read_records(file: Path) -> list[Record]:
    """Every whole line, in the order of writing.

    Raises:
        UserError: a line that is not JSON.
    """
    lines = file.read_bytes().split(b"\n")[:-1]
    return [_parsed(line, file, number) for number, line in enumerate(lines, start=1)]


def _parsed(line: bytes, file: Path, number: int) -> Record:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{file}, line {number} is damaged ({error}): remove that line, its run is kept") from error


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return flat
