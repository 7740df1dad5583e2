"""Text files a line at a time: UTF-8, gzip accepted, and every refusal names the file and the line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from secondpass.errors import InvalidInput

BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end; `number` counts from 1, `source` is what an error message calls the file."""

    source: str
    number: int
    text: str

    def refuse(self, reason: str) -> InvalidInput:
        """The error for this line, to be raised."""
        return InvalidInput(f"{self.source}:{self.number}: {reason}")

    def json(self) -> object:
        """The JSON value that the line holds.

        Raises:
            InvalidInput: it holds none.
        """
        try:
            return json.loads(self.text)
        except json.JSONDecodeError as error:
            raise self.refuse(f"not JSON: {error.msg} at column {error.colno}") from None
        except (RecursionError, ValueError) as error:
            raise self.refuse(f"not JSON that can be read: {error}") from None

    def json_object(self) -> dict[str, object]:
        """The JSON object that the line holds.

        Raises:
            InvalidInput: it holds none, or another JSON value.
        """
        value = self.json()
        if not isinstance(value, dict):
            raise self.refuse(f"a JSON {JSON_NAMES[type(value)]}, not an object")
        return value


JSON_NAMES: dict[type, str] = {
    list: "array",
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


def read_lines(path: Path) -> Iterator[Line]:
    """Lines of a file with something in them; a name that ends in .gz is unpacked on the way.

    Raises:
        InvalidInput: the file cannot be opened, is no gzip, is cut short, or a line is not UTF-8.
    """
    try:
        opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror or error}") from None
    with opened as stream:
        yield from stream_lines(cast(BinaryIO, stream), str(path))


def stream_lines(stream: BinaryIO, source: str) -> Iterator[Line]:
    """Lines of a binary stream with something in them, each numbered; only a line feed ends a line.

    Raises:
        InvalidInput: a line is not UTF-8, or the stream cannot be read to its end.
    """
    number = 0
    while True:
        try:
            raw = stream.readline()
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidInput(f"{source}:{number + 1}: cannot be read: {error}") from None
        if not raw:
            return
        number += 1
        text = _decoded(raw, source, number)
        if text.strip():
            yield Line(source, number, text)


def _decoded(raw: bytes, source: str, number: int) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1}"
        raise InvalidInput(f"{source}:{number}: {reason}") from None
    return (text.removeprefix(BYTE_ORDER_MARK) if number == 1 else text).rstrip("\r\n")
