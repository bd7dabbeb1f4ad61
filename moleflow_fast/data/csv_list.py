"""Images named by a table: columns image, label and split, and where there are some mask and class."""

from __future__ import annotations

import csv
from pathlib import Path

from .data_error import DataError
from .layouts import GOOD, ClassFiles
from .rows import Row, class_files

_WANTED = ("image", "label", "split")
_NORMAL, _DEFECT = ("0", "0.0", "false"), ("1", "1.0", "true")


def find(root: Path, class_name: str, train: bool) -> ClassFiles:
    """The files of a class in a table."""
    return class_files(_rows(root), class_name, train, _table(root))


def classes(root: Path) -> list[str]:
    """Its classes, by name."""
    return sorted({row.class_name for row in _rows(root)})


def _table(root: Path) -> Path:
    if root.is_file():
        return root
    tables = sorted(root.glob("*.csv"))
    if len(tables) != 1:
        raise DataError(f"{root}: {len(tables)} files *.csv in it; give the one that lists the images as --data_path")
    return tables[0]


def _rows(root: Path) -> list[Row]:
    table = _table(root)
    try:
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            head = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(",;\t", key=head.count))
            records = [_plain(record) for record in reader]
    except (OSError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as a table ({error}); save it as CSV in UTF-8") from error
    missing = [name for name in _WANTED if records and name not in records[0]]
    if missing or not records:
        lacks = f"lacks the columns {', '.join(missing)}" if missing else "has no rows"
        raise DataError(f"{table}: {lacks}; it wants image, label, split, and may have mask and class")
    return [_row(table, number, record) for number, record in enumerate(records, 2)]


def _plain(record: dict[str | None, str | None]) -> dict[str, str]:
    return {key.strip().lower(): (value or "").strip() for key, value in record.items() if key}


def _row(table: Path, number: int, record: dict[str, str]) -> Row:
    where = f"{table} line {number}"
    for name in _WANTED:
        if not record[name]:
            raise DataError(f"{where}: {name} is empty; fill it in or remove the line")
    label = record["label"]
    label = GOOD if label.lower() in _NORMAL else "defect" if label.lower() in _DEFECT else label
    mask = table.parent / record["mask"] if record.get("mask") else None
    name = record.get("class") or table.stem
    return Row(where, name, record["split"], table.parent / record["image"], label, mask)
