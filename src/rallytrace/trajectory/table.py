"""The CSV grammar that labels and trajectories share."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rallytrace.errors import LabelError

MAX_FRAME = 2**31 - 1

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a CSV. `cells` are stripped texts by column name in lower case."""

    path: Path
    line: int
    cells: dict[str, str]

    def error(self, column: str, expected: str) -> LabelError:
        return LabelError(f"{self.path}, line {self.line}: {column} is {self.cells[column.lower()]!r}, {expected}")

    def number(self, column: str) -> float:
        """The finite number in `column`; "nan", "inf", "1_000" and an empty cell are LabelErrors."""
        text = self.cells[column.lower()]
        if _NUMBER.fullmatch(text) is None or not math.isfinite(float(text)):
            raise self.error(column, "expected a finite number")
        return float(text)

    def integer(self, column: str, low: int, high: int) -> int:
        """The whole number in `column`, written as 3 or 3.0."""
        value = self.number(column)
        if value != math.floor(value) or not low <= value <= high:
            raise self.error(column, f"expected a whole number from {low} to {high}")
        return int(value)


def read_rows(path: Path, required: Iterable[str], text: str | None = None) -> Iterator[Row]:
    """The rows below the header, whatever the order of the columns, with or without BOM, LF or CRLF. With `text`, the
    rows of that, and `path` only says where it came from.

    Raises LabelError for a file that is missing, unreadable, not UTF-8 text, empty, without a `required` column, or
    with a row of another length than the header.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") if text is None else io.StringIO(text, "") as file:
            reader = csv.reader(file)
            header = [name.strip().lower() for name in next(reader, [])]
            _check_header(path, header, tuple(required))
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    found = f"{len(cells)} values, expected {len(header)} as in the header"
                    raise LabelError(f"{path}, line {reader.line_num}: {found}")
                texts = (cell.strip() for cell in cells)
                yield Row(path, reader.line_num, dict(zip(header, texts, strict=True)))
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not a text file in UTF-8, expected a CSV with a header") from error
    except csv.Error as error:
        raise LabelError(f"{path}, line {reader.line_num}: not a CSV row ({error})") from error
    except OSError as error:
        raise LabelError(f"cannot read {path}: {error.strerror or error}; check the path") from error


def _check_header(path: Path, header: list[str], required: tuple[str, ...]) -> None:
    if not header:
        raise LabelError(f"{path}: the file is empty, expected the header {','.join(required)}")
    for name in required:
        if header.count(name.lower()) != 1:
            found = "missing" if name.lower() not in header else "there twice"
            raise LabelError(f"{path}, line 1: column {name} is {found}, expected the columns {','.join(required)}")
