"""Rows of a table, wherever it lies, each with the place it came from.

JSON and CSV are read with the standard library: text stays the text it was, and every row knows its line.
(`datasets` would make a date of "2024-01-01", and says neither file nor line of a row that is not JSON.)
Parquet, directories and hub names go through `datasets`.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from rewards.errors import Refused, nearest

Row = tuple[str, dict[str, Any]]  # where it stands ("train.jsonl:17"), and its columns

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # owner/name


def read(path: str, split: str = "train", subset: str | None = None, limit: int | None = None) -> list[Row]:
    """The first `limit` rows of a file (.jsonl, .json, .csv, also .gz; .parquet), a directory or a hub data set.

    `split` and `subset` (the hub's "config") choose within a directory or a hub data set; a file has neither.
    Raises `Refused` where there is no such file, no such data set, a row that can't be parsed, or no row at all.
    """
    file, suffix = Path(path).expanduser(), Path(path.removesuffix(".gz")).suffix.lower()
    if file.is_dir() or (not file.exists() and suffix not in SUFFIXES and _HUB_NAME.fullmatch(path)):
        found = _hub(path, split, subset, limit)
    elif not file.is_file():
        raise Refused(_missing(file))
    elif suffix == ".parquet":
        found = _parquet(file, limit)
    elif suffix in _TEXT:
        found = _text(file, _TEXT[suffix], limit)
    else:
        raise Refused(f"data.path {path!r}: ends in {suffix!r}, {nearest(suffix, SUFFIXES)}")
    if not found:
        raise Refused(f"{path}: no rows, expected at least one")
    return found


def _missing(file: Path) -> str:
    parent = file.parent
    while not parent.is_dir():
        parent = parent.parent
    if parent != file.parent:
        return f"{file}: no such file, and {parent} holds no directory {file.relative_to(parent).parts[0]!r}"
    names = [entry.name for entry in parent.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    return f"{file}: no such file, " + (nearest(file.name, names) if names else f"{parent} holds no file")


def _text(file: Path, parse: Callable[[TextIO, str], Iterator[Row]], limit: int | None) -> list[Row]:
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8-sig", newline="") as stream:
            return list(islice(parse(stream, str(file)), limit))
    except UnicodeDecodeError as error:
        raise Refused(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (OSError, EOFError) as error:
        raise Refused(f"{file}: can't be read ({error})") from error


def _json_lines(stream: TextIO, name: str) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield _object(_loads(line.rstrip("\r\n"), name, number), f"{name}:{number}")


def _json(stream: TextIO, name: str) -> Iterator[Row]:
    """A list of objects, or one object per line, as both go by this suffix."""
    text = stream.read()
    if not text.lstrip().startswith("["):
        stream.seek(0)
        yield from _json_lines(stream, name)
        return
    for number, row in enumerate(_loads(text, name, 1), 1):
        yield _object(row, f"{name} row {number}")


def _loads(text: str, name: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"{name}:{line + error.lineno - 1}"
        raise Refused(f"{at}: not JSON (column {error.colno}: {error.msg}), expected an object") from error
    except RecursionError as error:
        raise Refused(f"{name}:{line}: JSON nested too deeply") from error


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise Refused(f"{where}: a JSON {type(row).__name__}, expected an object with the columns as keys")
    return where, row


def _csv(stream: TextIO, name: str) -> Iterator[Row]:
    """All cells are text. A row's line is its first, quoted cells may hold line breaks."""
    csv.field_size_limit(2**31 - 1)
    lines, line = csv.reader(stream, strict=True), 1
    try:
        header = next(lines, [])
        twice = next((column for column in header if header.count(column) > 1), None)
        if twice is not None:
            raise Refused(f"{name}:1: column {twice!r} stands twice in the header")
        line = lines.line_num + 1
        for cells in lines:
            if cells and len(cells) != len(header):
                raise Refused(f"{name}:{line}: {len(cells)} cells, expected {len(header)} as in the header")
            if cells:
                yield f"{name}:{line}", dict(zip(header, cells, strict=True))
            line = lines.line_num + 1
    except csv.Error as error:
        raise Refused(f"{name}:{line}: not CSV ({error})") from error


_TEXT = {".jsonl": _json_lines, ".json": _json, ".csv": _csv}


def _parquet(file: Path, limit: int | None) -> list[Row]:
    import pyarrow

    datasets = _quiet_datasets()
    with tempfile.TemporaryDirectory(prefix="assay-data-") as cache:
        try:
            table = datasets.Dataset.from_parquet(str(file), cache_dir=cache, keep_in_memory=True)
        except (datasets.exceptions.DatasetsError, pyarrow.ArrowException, OSError) as error:
            raise Refused(f"{file}: not a Parquet file ({_one_line(error.__cause__ or error)})") from error
        return _rows(table, str(file), limit)


def _hub(name: str, split: str, subset: str | None, limit: int | None) -> list[Row]:
    """The user's own Hugging Face cache is used, so that a second run needs no network."""
    datasets = _quiet_datasets()
    try:
        table = datasets.load_dataset(name, subset, split=split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise Refused(
            f"data.path {name!r} (split {split!r}): no such file here, "
            f"and it can't be loaded from the hub ({_one_line(error.__cause__ or error)})"
        ) from error
    return _rows(table, f"{name}[{split}]", limit)


def _rows(table: Any, name: str, limit: int | None) -> list[Row]:
    first = table.select(range(min(limit or len(table), len(table))))
    return [(f"{name} row {number}", row) for number, row in enumerate(first.to_list(), 1)]


def _quiet_datasets() -> Any:
    import datasets
    import huggingface_hub

    huggingface_hub.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    return datasets


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
