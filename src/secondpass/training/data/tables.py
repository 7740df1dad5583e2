"""Tables in files, a row at a time: JSON Lines, comma or tab separated, Parquet."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from secondpass.corpora import BYTE_ORDER_MARK, existing, read_lines
from secondpass.errors import InvalidInput, MissingExtra
from secondpass.training.data.rows import Row

# Python's limit of 128 KiB is less than a long document. Some limit must be: a quotation mark that is never closed
# makes one field of the rest of the file.
LARGEST_FIELD = 2**27
PARQUET_ROWS = 256


def read_json_rows(path: Path) -> Iterator[Row | InvalidInput]:
    """Rows of a JSON Lines file, an object a line; gzip accepted.

    A file named .json may hold one array of objects instead: it is read whole.

    Raises:
        InvalidInput: the file cannot be read on. A line that is no object is given back as the error, in its place.
    """
    if path.name.removesuffix(".gz").endswith(".json"):
        first = next(read_lines(existing(path)), None)
        if first is not None and first.text.lstrip().startswith("["):
            yield from _json_array(path)
            return
    for line in read_lines(existing(path)):
        try:
            yield Row(f"{line.source}:{line.number}", line.json_object())
        except InvalidInput as error:
            yield error


def _json_array(path: Path) -> Iterator[Row | InvalidInput]:
    lines = list(read_lines(path))
    try:
        values = json.loads("\n".join(line.text for line in lines))
    except json.JSONDecodeError as error:
        place = lines[min(error.lineno, len(lines)) - 1]
        raise place.refuse(f"not JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise InvalidInput(f"{path}: not JSON that can be read: {error}") from None
    for number, value in enumerate(values, start=1):
        source = f"{path} row {number}"
        is_object = isinstance(value, dict)
        yield Row(source, value) if is_object else InvalidInput(f"{source}: {type(value).__name__}, not an object")


def read_delimited_rows(path: Path, delimiter: str, quoted: bool) -> Iterator[Row | InvalidInput]:
    """Rows of a table whose first line names the columns; gzip accepted. A row's source is the line it begins on.

    Args:
        path: of the file.
        delimiter: between columns.
        quoted: True: a field between double quotation marks may hold delimiters, line ends and doubled quotation
            marks (RFC 4180). False: a quotation mark is a character like any other.

    Raises:
        InvalidInput: there is no header, it names a column twice, or the file cannot be read on. A row with more or
            fewer columns is given back as the error, in its place.
    """
    if csv.field_size_limit() < LARGEST_FIELD:
        csv.field_size_limit(LARGEST_FIELD)
    lines = _text_lines(existing(path))
    if quoted:
        rows = _numbered(csv.reader(lines, delimiter=delimiter, strict=True), path)
    else:
        rows = _numbered(csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True), path)
    header = next(rows, None)
    if header is None:
        raise InvalidInput(f"{path}: no header in it")
    if isinstance(header, InvalidInput):
        raise header
    names = _header(path, header[1])
    for row in rows:
        if isinstance(row, InvalidInput):
            yield row
        elif len(row[1]) != len(names):
            yield InvalidInput(f"{path}:{row[0]}: {len(row[1])} columns where the header has {len(names)}")
        else:
            yield Row(f"{path}:{row[0]}", dict(zip(names, row[1], strict=True)), textual=True)


def _numbered(reader: Any, path: Path) -> Iterator[tuple[int, list[str]] | InvalidInput]:
    """Rows with something in them and the number of the line on which each begins."""
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield InvalidInput(f"{path}:{start}: {error}")
            continue
        if row:
            yield start, row


def _header(path: Path, names: Sequence[str]) -> list[str]:
    stripped = [name.strip() for name in names]
    for name in stripped:
        if name and stripped.count(name) > 1:
            raise InvalidInput(f"{path}:1: the header names the column {name!r} twice")
    return stripped


def _text_lines(path: Path) -> Iterator[str]:
    """Lines with their ends, which a quoted field may hold."""
    number = 0
    try:
        with cast(Any, gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")) as stream:
            for raw in stream:
                number += 1
                text = raw.decode("utf-8")
                yield text.removeprefix(BYTE_ORDER_MARK) if number == 1 else text
    except UnicodeDecodeError as error:
        place = f"byte 0x{error.object[error.start]:02x} at position {error.start + 1}"
        raise InvalidInput(f"{path}:{number}: not UTF-8: {place}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path}:{number + 1}: cannot be read: {error}") from None


def read_parquet_rows(path: Path, wanted: Callable[[Sequence[str]], Sequence[str]]) -> Iterator[Row]:
    """Rows of a Parquet file, 256 in memory at a time; only the columns that `wanted` picks are read.

    Raises:
        InvalidInput: it is no Parquet file, or is damaged.
        MissingExtra: pyarrow is not installed.
    """
    pyarrow, parquet = _pyarrow()
    number = 0
    try:
        with parquet.ParquetFile(existing(path)) as file:
            names = list(wanted(file.schema_arrow.names))
            # In a selection a dot leads into a nested column.
            selection = None if any("." in name for name in names) else names
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=selection):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path} row {number}", {name: values[name] for name in names})
    except (pyarrow.ArrowException, OSError) as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"{path} row {number + 1}: cannot be read: {message}") from None


def _pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtra('pyarrow is not installed: pip install "secondpass[train]"') from error
