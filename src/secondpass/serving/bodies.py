"""What is asked of a request before its fields are read: host, headers, size, and JSON of a bounded number of values.

A parser makes objects of whatever it is given: ten megabytes of `[],[],...` are seconds and gigabytes. So what a body
would become is counted on its bytes while they arrive, and refusing it costs no more than that.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from bisect import bisect_right
from itertools import accumulate
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from secondpass.serving.problems import Problem, client_gone, invalid
from secondpass.serving.settings import is_loopback
from secondpass.text import repaired

# An escape of a surrogate: a pair of them is a character, one alone is what a client left that cut a text in half.
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Fields of a body, digits of a number, and what a body may have of values for each document: far beyond any use.
MOST_FIELDS = 1000
LONGEST_DIGITS = 400
MOST_NESTED = 200
VALUES_PER_DOCUMENT = 100
# Bytes that are worth a step of their own, or another thread.
SLICE = 65_536
# A piece of a text, cut where no escape is.
PIECE = re.compile(r'(?:[^"\\]{1,64}|\\u[^"\\]{4}|\\.){0,1024}', re.DOTALL)
PORT = re.compile(r":\d*$")
# The names under which a body has lists.
LISTS = tuple("documents texts passages pairs text_1 text_2 queries items data_1 data_2 rank_fields".split())


def parse(body: bytes) -> Any:
    """Read a JSON body; lone surrogates become U+FFFD, as they do in process.

    Raises:
        Problem: 400, it is no JSON; the message gives the place, never the text.
    """
    try:
        # A leading U+FEFF is no part of the text; UTF-16 and UTF-32, which JSON may not be in, are no UTF-8.
        text = body.decode("utf-8-sig")
        is_plain = len(body) < SLICE and body.count(b"[") + body.count(b"{") <= MOST_NESTED
        return _read(text) if is_plain and not SURROGATE.search(body) else _read_in_pieces(text)
    except RecursionError:
        raise _bad("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise _bad(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _bad(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except ValueError:
        raise _bad("a number in it is NaN, infinite or too long") from None


def _read(text: str) -> Any:
    return json.loads(text, parse_constant=_no_constant, parse_int=_int, parse_float=_float)


def _read_in_pieces(text: str) -> Any:
    """The same for megabytes and lone surrogates: while C code reads, no other thread runs, the event loop's neither.

    Texts are read by themselves; in what is around them their numbers stand for them.
    """
    texts: list[str] = []
    around: list[str] = []
    begins: list[int] = []
    at = 0
    while at < len(text):
        begins.append(at)
        if text[at] == '"':
            around.append(f'"{len(texts)}"')
            value, at = _text(text, at)
            texts.append(value)
        else:
            end = text.find('"', at)
            around.append(text[at : end if end >= 0 else None])
            at += len(around[-1])
    whole = "".join(around)
    try:
        return _filled(_read(whole), texts)
    except json.JSONDecodeError as error:
        ends = [0, *accumulate(map(len, around))]
        part = min(bisect_right(ends, error.pos), len(around)) - 1
        raise json.JSONDecodeError(error.msg, text, begins[part] + error.pos - ends[part]) from None


def _text(text: str, at: int) -> tuple[str, int]:
    """The text whose quote is at `at`, and where it ends."""
    parts, end = [], at + 1
    while text[end : end + 1] != '"':
        begin, end = end, PIECE.match(text, end).end()  # type: ignore[union-attr]
        if begin == end:
            raise json.JSONDecodeError("Unterminated string starting at", text, at)
        try:
            parts.append(json.loads(f'"{text[begin:end]}"'))
        except json.JSONDecodeError as error:
            raise json.JSONDecodeError(error.msg, text, begin + error.pos - 1) from None
    return repaired("".join(parts)), end + 1


def _filled(value: Any, texts: list[str], room: int = MOST_NESTED) -> Any:
    """A value with the texts in place of their numbers."""
    if isinstance(value, str):
        return texts[int(value)]
    if isinstance(value, (list, dict)) and not room:
        raise RecursionError
    if isinstance(value, list):
        return [_filled(item, texts, room - 1) for item in value]
    if isinstance(value, dict):
        return {texts[int(name)]: _filled(item, texts, room - 1) for name, item in value.items()}
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _int(digits: str) -> int:
    """The time that it takes to read digits grows with their square."""
    if len(digits) > LONGEST_DIGITS:
        raise ValueError
    return int(digits)


def _float(digits: str) -> float:
    """Megabytes of digits take a quarter of a second."""
    if len(digits) > LONGEST_DIGITS:
        raise ValueError
    return float(digits)


class ValueCount:
    """How many values a body has so far: texts, numbers, lists, objects, and their names; told while it arrives."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._marks = 1
        self._quotes = 0
        self._is_escaped = False
        self._in_text = False

    @property
    def is_over(self) -> bool:
        """Whether there are more than may be; the rest of the body does not matter then."""
        return self._marks > self.most or self._quotes > 4 * self.most

    def add(self, part: bytes) -> None:
        """Count in the next part of the body."""
        for start in range(0, len(part), SLICE):
            if self.is_over:
                return
            self._add(part[start : start + SLICE])

    def _add(self, part: bytes) -> None:
        bare = part[1:] if self._is_escaped and part else part
        if b"\\" in bare:
            bare = bare.replace(rb"\\", b"")
            self._is_escaped, bare = bare.endswith(b"\\"), bare.removesuffix(b"\\").replace(rb"\"", b"")
        elif part:
            self._is_escaped = False
        # Each value stands behind a comma, or first in a list or an object; of quotes it has four at most.
        self._quotes += bare.count(b'"')
        if self._quotes <= 4 * self.most:
            pieces = bare.split(b'"')
            plain = b"".join(pieces[self._in_text :: 2])
            self._in_text ^= len(pieces) % 2 == 0
            self._marks += plain.count(b",") + plain.count(b"[") + plain.count(b"{")


def too_many(field: str, count: int, most: int) -> Problem:
    """A list of more texts than a request may have: 422."""
    return invalid(f"{field}: {count} are more than the {most} that one request may have")


def check_counts(value: Any, max_documents: int) -> None:
    """Refuse lists that are too long and objects with too many fields, before anything in them is looked at.

    Raises:
        Problem: 422, naming the field.
    """
    if not isinstance(value, dict):
        return
    if len(value) > MOST_FIELDS:
        raise invalid(f"the body has {len(value)} fields, more than {MOST_FIELDS}")
    for name in LISTS:
        given = value.get(name)
        if isinstance(given, list) and len(given) > max_documents:
            raise too_many(name, len(given), max_documents)


def _bad(why: str) -> Problem:
    return Problem(400, "json", f"the body is not JSON: {why}")


JSON_TYPE = re.compile(r"application/(?:json|[\w.+-]+\+json)", re.IGNORECASE)
# Digits of a length that is certainly too much; thousands of them cannot even be read.
LONGEST_NUMBER = 18


def check_headers(headers: Headers, max_bytes: int) -> None:
    """Refuse by the headers alone what would be refused after reading.

    A browser sends JSON to another site only after asking it, so insisting on the content type also keeps web pages
    from using a service on their visitor's machine.

    Raises:
        Problem: 415 for another content type or a compressed body, 413 for too many bytes.
    """
    if not JSON_TYPE.fullmatch(headers.get("content-type", "").partition(";")[0].strip()):
        raise Problem(415, "content_type", "send the body as JSON with Content-Type: application/json")
    codings = ",".join(headers.getlist("content-encoding")).lower().split(",")
    if not {coding.strip() for coding in codings} <= {"", "identity"}:
        raise Problem(415, "content_type", "send the body without Content-Encoding")
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > LONGEST_NUMBER or int(length) > max_bytes):
        raise too_large(max_bytes)


async def read_body(
    receive: Receive, max_bytes: int, seconds: float, max_values: int | None = None, pause_s: float | None = None
) -> bytes:
    """Read a body of at most `max_bytes` and `max_values` within `seconds`, without a pause of more than `pause_s`.

    Raises:
        Problem: 413, 408, 422 for too many values, or 499 when the client went away.
    """
    count = ValueCount(max_bytes if max_values is None else max_values)
    size = 0
    body = bytearray()
    more = True
    try:
        async with asyncio.timeout(seconds):
            while more:
                async with asyncio.timeout(pause_s) as pause:
                    message = await receive()
                if message["type"] == "http.disconnect":
                    raise client_gone()
                part = message.get("body", b"")
                size += len(part)
                if size > max_bytes:
                    raise too_large(max_bytes)
                count.add(part)
                if count.is_over:
                    body.clear()
                else:
                    body += part
                more = message.get("more_body", False)
    except TimeoutError:
        slow = f"the body did not arrive within {seconds:g} s"
        if pause.expired():
            slow = f"nothing of the body came for {pause_s:g} s"
        raise Problem(408, "slow_body", slow, {"Connection": "close"}) from None
    if count.is_over:
        raise invalid(f"the body has more than {count.most} values")
    return bytes(body)


def too_large(max_bytes: int) -> Problem:
    """A body above the limit: 413, and the connection closes so that nobody sends the rest."""
    return Problem(413, "too_large", f"the body has more than {max_bytes} bytes", {"Connection": "close"})


def is_misdirected(scope: Scope) -> bool:
    """Whether a request that came over this machine's own address names a host that is elsewhere.

    A page may let its own name point to 127.0.0.1 (DNS rebinding): its visitor's browser then takes the service for
    the page's own server, and says that name. Nobody can register an address, localhost, or a name without a dot.
    """
    server = scope.get("server")
    if not server or not is_loopback(server[0]):
        return False
    return not all(_is_local(value.decode("latin-1")) for name, value in scope["headers"] if name == b"host")


def _is_local(host: str) -> bool:
    name = PORT.sub("", host.strip()).lower().rstrip(".")
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return "." not in name or name.endswith(".localhost")
    return True
