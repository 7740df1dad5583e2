"""The page of results by processor, made of the files that `secondpass bench` wrote on them.

    python -m benchmarks.result_page          # writes docs/results.md
    python -m benchmarks.result_page --check  # says what is wrong with a file or the page, with exit code 1

Every file of benchmarks/results follows schema.json beside them, its figures follow from its times, and the machine was
found quiet: nothing else is on the page.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
HEAD = """# Results by processor

What `secondpass bench` measured, one table for each file of [`benchmarks/results`](../benchmarks/results), which has
every single time. Each contender computes the same weights in turns on the same texts; `times` is the median ratio to
the first row, `spread` the distance of the quartiles as a share of the median, `differs` the largest difference of a
score from the first row's, `top 10` the share of its ten best that are the same. Figures of two tables are of two
machines: compare within one.

To add a result, with nothing else running (libraries that are not installed are left out):

```
pip install "secondpass[onnx]" sentence-transformers flashrank fastembed
secondpass bench --json result.json
```

Put the file into `benchmarks/results` under the name of the processor (`intel-xeon-platinum-8488c.json`), run
`python -m benchmarks.result_page`, and open a pull request with both. A file whose machine was not quiet is refused.
[benchmarking.md](benchmarking.md) says what is measured.
"""
COLUMNS = ("", "version", "pairs/s", "times", "median ms", "spread", "one pair, ms", "differs", "top 10")


def schema() -> dict[str, Any]:
    """What a result has, as JSON Schema."""
    made: dict[str, Any] = json.loads((RESULTS / "schema.json").read_text(encoding="utf-8"))
    return made


def results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """By name of the file, sorted by processor and name."""
    files = [file for file in folder.glob("*.json") if file.name != "schema.json"]
    read = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
    return dict(sorted(read.items(), key=lambda item: (item[1]["machine"]["processor"]["name"], item[0])))


def faults(found: Mapping[str, Any]) -> Iterator[str]:
    """Why a result that follows the schema cannot be on the page."""
    if not found["machine"]["quiet"]:
        yield f"the machine was not quiet: {' '.join(found['machine']['warnings'])}"
    for one in found["contenders"]:
        seconds, name = one["seconds"], one["name"]
        if len(seconds) != found["texts"]["queries"] or len(one["single_seconds"]) != len(seconds):
            yield f"{name}: {len(seconds)} times for {found['texts']['queries']} queries"
            continue
        median = statistics.median(seconds)
        told = {"median_s": median, "pairs_per_second": found["texts"]["passages"] / median}
        told["times_first"] = statistics.median(
            first / own for own, first in zip(seconds, found["contenders"][0]["seconds"], strict=True)
        )
        for key, value in told.items():
            if not math.isclose(one[key], value, rel_tol=1e-6):
                yield f"{name}: {key} is {one[key]}, and its times say {value}"


def page(read: Mapping[str, Mapping[str, Any]]) -> str:
    """The page as Markdown."""
    parts = [HEAD]
    if not read:
        parts.append("No result has been added yet.\n")
    for name, found in read.items():
        parts.append("\n".join(_section(name, found)))
    return "\n".join(parts)


def _section(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    own, texts = found["machine"], found["texts"]
    cpu = own["processor"]
    yield f"## {_cell(cpu['name'])}, {own['threads']} of {cpu['count']} cores\n"
    yield (
        f"{', '.join(map(_cell, cpu['flags']))}; {_cell(own['system'])}, Python {_cell(own['python'])}; "
        f"{own['before']['gflops_together']:.0f} Gflop/s of float32 products. {_cell(found['model']['name'])}, "
        f"{texts['queries']} queries with {texts['passages']} passages each, {texts['tokens_mean']:.0f} tokens a pair, "
        f"seed {texts['seed']}, {found['date']} ([all times](../benchmarks/results/{name})).\n"
    )
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for one in found["contenders"]:
        yield f"| {' | '.join(map(_cell, _row(one)))} |"
    for other, why in found["absent"].items():
        yield f"\n{_cell(other)}: {_cell(why)}."
    yield ""


def _row(one: Mapping[str, Any]) -> Sequence[str]:
    return (
        one["name"],
        one["version"],
        f"{one['pairs_per_second']:,.0f}",
        f"{one['times_first']:.2f}",
        f"{1000 * one['median_s']:,.0f}",
        f"{one['spread']:.0%}",
        f"{one['single_median_ms']:.1f}",
        f"{one['score_difference']:.0e}",
        f"{one['top10_shared']:.2f}",
    )


def _cell(text: str) -> str:
    """Text that is neither HTML nor the end of a cell."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def main(check: bool) -> int:
    """Write the page, or check it with all files; a line for each fault, and how many there are."""
    from jsonschema import Draft202012Validator

    known, read = Draft202012Validator(schema()), results()
    said = []
    for name, found in read.items():
        wrong = [f"{error.json_path}: {error.message}" for error in known.iter_errors(found)]
        said += [f"{name}: {line}" for line in wrong or faults(found)]
    if check and not said and PAGE.read_text(encoding="utf-8") != page(read):
        said.append("docs/results.md is not what the files say: python -m benchmarks.result_page")
    if not check and not said:
        PAGE.write_text(page(read), encoding="utf-8")
    print(*said, sep="\n", end="\n" if said else "")
    return len(said)


if __name__ == "__main__":
    sys.exit(min(1, main("--check" in sys.argv[1:])))
