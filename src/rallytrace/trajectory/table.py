"""The CSV grammar that labels and trajectories share."""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rallytrace.errors import LabelError

MAX_FRAME = 2**31 - 1

SEPARATORS = (",", ";", "\t", "|")  # of those that are equally frequent the first
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_SAID = re.compile(r'"?sep=([^\w\s"]|\t)"?', re.IGNORECASE)  # what spreadsheets write and read
_DECIMAL_COMMA = re.compile(r"^([+-]?\d*),(\d+(?:[eE][+-]?\d+)?)$", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a CSV. `cells` are stripped texts by column name in lower case."""

    path: Path | str
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


def read_rows(path: Path | str, required: Iterable[str], text: str | None = None) -> Iterator[Row]:
    """The rows below the header, whatever the order of the columns, as any spreadsheet writes them (`as_text`,
    `cells_of`). With `text`, the rows of that, and `path` only says where it came from.

    Raises LabelError for a file that is missing, unreadable, no text, empty, without a `required` column, or with a row
    of another length than the header.
    """
    if text is None:
        try:
            text = as_text(Path(path).read_bytes(), path)
        except OSError as error:
            raise LabelError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    rows = cells_of(text, path)
    line, cells = next(rows, (1, []))
    header = [name.lower() for name in cells]
    _check_header(path, line, header, tuple(required))
    for line, cells in rows:
        if len(cells) != len(header):
            raise LabelError(f"{path}, line {line}: {len(cells)} values, expected {len(header)} as in the header")
        yield Row(path, line, dict(zip(header, cells, strict=True)))


def as_text(data: bytes, where: Path | str, errors: str = "strict") -> str:
    """UTF-8, UTF-16 or UTF-32, with a byte order mark or without. Raises LabelError for anything else."""
    encoding = _encoding(data)
    try:
        return data.decode(encoding, errors)
    except UnicodeDecodeError as error:
        byte = data[error.start : error.start + 1].hex()
        line = data[: error.start].count(b"\n") + 1
        wrong = f"byte 0x{byte} in line {line} is not {encoding.removesuffix('-sig').upper()}"
        raise LabelError(f"{where}: not a text file in UTF-8 or UTF-16 ({wrong}): save it as CSV UTF-8") from error


def _encoding(data: bytes) -> str:
    for mark, name in MARKS:
        if data.startswith(mark):
            return name
    even, odd = data[:1000:2].count(0), data[1:1000:2].count(0)  # a text without accents has each second byte 0
    if len(data) >= 4 and max(even, odd) > 0.4 * len(data[:1000:2]) and not min(even, odd):
        return "utf-16-le" if odd else "utf-16-be"
    return "utf-8-sig"


def cells_of(text: str, where: Path | str) -> Iterator[tuple[int, list[str]]]:
    """Line and stripped cells of each row that is not empty. Between them are commas, semicolons, tabs or bars: what a
    first line `sep=;` says, else what is most frequent in the first row. Where it is no comma, 640,5 is 640.5. Raises
    LabelError."""
    lines = io.StringIO(text, "")
    first = lines.readline()
    said = _SAID.fullmatch(first.rstrip("\r\n"))
    skipped = 1 if said else 0
    if not said:
        lines.seek(0)
    separator = said[1] if said else max(SEPARATORS, key=first.count)
    reader = csv.reader(lines, delimiter=separator)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                if separator != ",":
                    cells = [_DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in cells]
                yield reader.line_num + skipped, cells
    except csv.Error as error:
        raise LabelError(f"{where}, line {reader.line_num + skipped}: not a CSV row ({error})") from error


def header_of(text: str) -> list[str]:
    """The names of the columns in lower case; none where it is no table."""
    with suppress(LabelError):
        return [name.lower() for name in next(cells_of(text, ""), (1, []))[1]]
    return []


def _check_header(path: Path | str, line: int, header: list[str], required: tuple[str, ...]) -> None:
    if not header:
        raise LabelError(f"{path}: the file is empty, expected the header {','.join(required)}")
    for name in required:
        if header.count(name.lower()) != 1:
            found = "missing" if name.lower() not in header else "there twice"
            expected = f"expected the columns {','.join(required)} with , ; tab or | between them"
            raise LabelError(f"{path}, line {line}: column {name} is {found} in {','.join(header)[:80]!r}, {expected}")
