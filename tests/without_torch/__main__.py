"""`python -m tests.without_torch FOLDER [pytest's arguments]` makes an environment without torch and tests in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks import environments

EXTRAS = ("elasticsearch", "eval", "haystack", "opensearch", "serve", "tune")
# Of the tests themselves.
TESTING = ("pytest", "pytest-asyncio")
# Those of this folder, and of others that need nothing but the embedded model.
TESTS = (
    "tests/without_torch",
    "tests/test_readme.py::test_the_ten_lines_print_what_the_readme_shows",
    "tests/test_doors.py::test_nothing_is_no_answer",
)

if __name__ == "__main__":
    interpreter = environments.make(Path(sys.argv[1]), [*environments.declared(EXTRAS), *TESTING])
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # the fixtures of the folder above are made with torch
    options = ["-p", "no:cacheprovider", "--confcutdir", "tests/without_torch"]
    given = sys.argv[2:]
    if all(one.startswith("-") for one in given):
        given += TESTS
    command = [interpreter, "-m", "pytest", *options, *given]
    sys.exit(subprocess.run(command, cwd=environments.ROOT, env=surroundings, check=False).returncode)
