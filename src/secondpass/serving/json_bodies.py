"""Bytes of a body to JSON values: strict, bounded in depth, with Unicode that can be written out again."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from secondpass.serving.problems import Problem
from secondpass.text import prepared

# An escape of a surrogate: a pair of them is a character, one alone is what a client left that cut a text in half.
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse(body: bytes) -> Any:
    """Read a JSON body; lone surrogates become U+FFFD, as they do in process.

    Raises:
        Problem: 400, it is no JSON; the message gives the place, never the text.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant)
        return _repaired(value) if SURROGATE.search(body) else value
    except RecursionError:
        raise _bad("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise _bad(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _bad(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except ValueError:
        raise _bad("a number in it is NaN, infinite or too long") from None


def _repaired(value: Any) -> Any:
    if isinstance(value, str):
        return prepared(value, max(1, len(value))).value
    if isinstance(value, list):
        return [_repaired(item) for item in value]
    if isinstance(value, dict):
        return {_repaired(name): _repaired(item) for name, item in value.items()}
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _bad(why: str) -> Problem:
    return Problem(400, "json", f"the body is not JSON: {why}")
