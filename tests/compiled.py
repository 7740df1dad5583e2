"""`python -m tests.compiled` imports all that a run of the tests imports, so that its bytecode is there.

Workers that begin at once would each compile it, which takes longer than to import it.
"""

from __future__ import annotations

import importlib
import sys

import pytest

from tests.fork_server import LIBRARIES

if __name__ == "__main__":
    # pytest is first: it rewrites what the tests assert, which no other compiler does
    ended = pytest.main(["--collect-only", "-qqq", "-p", "no:cacheprovider"])
    for name in LIBRARIES:
        importlib.import_module(name)
    sys.exit(ended)
