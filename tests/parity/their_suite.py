"""sentence-transformers' own tests of inference with a sequence classifier, run on our `CrossEncoder`.

    python -m tests.parity.their_suite CHECKOUT [pytest arguments]

CHECKOUT is a source tree of sentence-transformers 6 (nothing of it is in this repository); the library of about the
same version must be installed. Hub names become tiny random stand-ins in a local hub cache, so nothing is downloaded.
Every test runs twice: on sentence-transformers' own class, since a test that fails there says nothing on stand-ins
(it states figures of published weights), and on ours. What is left must pass or be listed in `DIFFERS`, whose reasons
are rows of docs/compatibility.md; a listed test that passes is told too. The status is 1 if anything is not as listed.

In the process of their tests this file is a plugin of pytest, which puts our class in place of theirs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

OURS, THEIRS = "secondpass", "sentence-transformers"
ENGINE, REPORT = "THEIR_SUITE_ENGINE", "THEIR_SUITE_REPORT"
FILES = ("test_model.py", "evaluation/test_reranking.py")
FOLDER = "tests/cross_encoder/"

# Not inference with a sequence classifier, by what the test is about.
OUTSIDE = {
    "static_embedding": "chains of modules",
    "_dense_": "chains of modules",
    "without_transformer": "chains of modules",
    "qwen3_reranker": "causal language models, on a GPU",
    "non_text_pair": "images",
}
# By the name of the test, the first cell of the row of docs/compatibility.md that says what differs and why.
DEPRECATED = "older names are deprecated: a warning for each"
MODULE = "the class is an `nn.Module` and a chain of modules: `forward`, hooks, `model[0]`"
TEMPLATES = "chat templates of the tokenizer are rendered for every text pair"
SINGLE = "`is_singular_input`"
NO_HEAD = "a checkpoint without a head becomes a model with one random label"
UNKNOWN = "a stored activation that cannot be imported is `ModuleNotFoundError`"
DIFFERS = {
    "test_logger_warning": DEPRECATED,
    "test_default_activation_fn": DEPRECATED,
    "test_rank_convert_kwargs_deprecated": "`rank` ignores `convert_to_numpy` and `convert_to_tensor`, with a warning",
    "test_is_singular_input_numpy_1d_pair": SINGLE,
    "test_is_singular_input_numpy_2d_pairs": SINGLE,
    "test_is_singular_input_numpy_empty": SINGLE,
    "test_predict_batch_size_1": MODULE,
    "test_predict_routes_through_module_call": MODULE,
    "test_num_labels_fresh_model": NO_HEAD,
    "test_conversion_ignores_source_prompts_and_default_prompt_name": NO_HEAD,
    "test_push_to_hub": "`push_to_hub` uploads with the hub client's `upload_folder`",
    "test_load_activation_fn_from_config_custom": UNKNOWN,
    "test_bge_reranker_max_length": "`max_length` is the tokenizer's limit; setting it changes the tokenizer",
    "test_predict_per_call_processing_kwargs": "`predict(processing_kwargs=...)`",
    "test_replacing_a_rejected_chat_template_takes_effect": TEMPLATES,
    "test_predict_raises_on_chat_template_without_pair_roles": TEMPLATES,
    "test_predict_raises_on_mixed_batch_containing_a_pair": TEMPLATES,
    "test_predict_applies_chat_template_with_pair_roles": TEMPLATES,
    "test_predict_applies_chat_template_that_only_echoes_the_role": TEMPLATES,
    "test_message_input_with_a_single_pair_role_is_not_checked": TEMPLATES,
    "test_probe_uses_the_configured_chat_template_kwargs": TEMPLATES,
}


def make_hub(cache: Path) -> None:
    """Write the stand-ins as a hub's cache: tiny random models of the published ones' architecture and labels."""
    import torch
    from transformers import BertModel

    from secondpass import CrossEncoder
    from tests.hub_cache import add_to_cache, commit_id
    from tests.tiny_models import make_folder

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)

        def add(name: str, path: Path, number: int, branch: str | None = "main") -> None:
            add_to_cache(cache, name, path, commit_id(number) if number < 100 else f"{number:x}", branch)

        add("cross-encoder-testing/reranker-bert-tiny-gooaq-bce", make_folder(folder / "one", "bert"), 1)
        add("cross-encoder/stsb-distilroberta-base", make_folder(folder / "stsb", "roberta"), 2)
        add("cross-encoder/nli-MiniLM2-L6-H768", make_folder(folder / "three", "roberta", 3), 3)
        long: dict[str, Any] = {"tokenizer_options": {"model_max_length": 512}, "max_position_embeddings": 514}
        add("BAAI/bge-reranker-base", make_folder(folder / "long", "xlm-roberta", **long), 4)
        CrossEncoder(str(folder / "one"), device="cpu", default_activation_function=torch.nn.Tanh()).save(
            str(folder / "tanh")
        )
        for number, generation in enumerate(("tanh-v3", "tanh-v4", "STv54"), start=5):
            source = folder / ("one" if generation == "STv54" else "tanh")
            add(f"cross-encoder-testing/reranker-bert-tiny-gooaq-bce-{generation}", source, number)
        bare = "sentence-transformers-testing/stsb-bert-tiny-safetensors"
        for commit, seed in (
            ("f3cb857cba53019a20df283396bcca179cf051a4", 0),
            ("ba33022fdf0b0fc2643263f0726f44d0a07d0e24", 1),
        ):
            path = make_folder(folder / commit, "bert", seed=seed)
            BertModel.from_pretrained(path).save_pretrained(path)
            add_to_cache(cache, bare, path, commit, "main" if seed == 0 else None)


def outcomes(checkout: Path, hub: Path, engine: str, arguments: list[str]) -> dict[str, str]:
    """Run their tests with `engine`: outcome by test, "passed", "failed" or "skipped"."""
    here = Path(__file__).resolve().parent
    report = hub / f"{engine}.json"
    environment = os.environ | {
        ENGINE: engine,
        REPORT: str(report),
        "HF_HUB_CACHE": str(hub),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(here), str(checkout), os.environ.get("PYTHONPATH", "")]),
    }
    files = [FOLDER + file for file in FILES]
    command = [sys.executable, "-m", "pytest", "-p", Path(__file__).stem, "-p", "no:cacheprovider", "-q"]
    subprocess.run([*command, *files, *arguments], cwd=checkout, env=environment, check=False)
    found: dict[str, str] = json.loads(report.read_text())
    return found


def verdict(test: str, theirs: str, ours: str) -> tuple[str, str]:
    """What a pair of outcomes says, and why."""
    reason = next((reason for part, reason in OUTSIDE.items() if part in test.lower()), None)
    name = test.rpartition("::")[2]
    listed = DIFFERS.get(name) or DIFFERS.get(name.partition("[")[0])
    if reason is not None:
        return "outside", reason
    if theirs != "passed":
        return "says nothing", f"{theirs} with sentence-transformers itself"
    if ours == "passed":
        return ("passed", "") if listed is None else ("PASSED ALTHOUGH LISTED", listed)
    return ("FAILED", "") if listed is None else ("differs", listed)


def main(checkout: Path, arguments: list[str]) -> int:
    """Print a line for each test that did not simply pass, then the counts."""
    with tempfile.TemporaryDirectory() as folder:
        hub = Path(folder)
        make_hub(hub)
        theirs = outcomes(checkout, hub, THEIRS, arguments)
        ours = outcomes(checkout, hub, OURS, arguments)
    counts: Counter[str] = Counter()
    for test in theirs | ours:
        found, reason = verdict(test, theirs.get(test, "missing"), ours.get(test, "missing"))
        counts[found] += 1
        if found != "passed":
            sys.stdout.write(f"{found}: {test.removeprefix(FOLDER)}" + (f" ({reason})\n" if reason else "\n"))
    sys.stdout.write(", ".join(f"{count} {found}" for found, count in sorted(counts.items())) + "\n")
    return int(bool(counts["FAILED"] or counts["PASSED ALTHOUGH LISTED"] or not counts["passed"]))


def replace_theirs() -> None:
    """Put our class in place of theirs, before their conftest and tests import it."""
    import sentence_transformers.cross_encoder.model

    import secondpass

    for module in (
        sentence_transformers,
        sentence_transformers.cross_encoder,
        sentence_transformers.cross_encoder.model,
    ):
        module.CrossEncoder = secondpass.CrossEncoder  # type: ignore[attr-defined,misc]


if os.environ.get(ENGINE) == OURS:
    replace_theirs()

_seen: dict[str, str] = {}


def pytest_runtest_logreport(report: Any) -> None:
    """Keep the worst outcome of set-up, call and tear-down."""
    if _seen.get(report.nodeid, "passed") == "passed":
        _seen[report.nodeid] = report.outcome


def pytest_sessionfinish() -> None:
    """Hand the outcomes to the process that asked for them."""
    if REPORT in os.environ:
        Path(os.environ[REPORT]).write_text(json.dumps(_seen))


if __name__ == "__main__":
    if len(sys.argv) < 2 or not (Path(sys.argv[1]) / "tests" / "cross_encoder").is_dir():
        sys.exit("give the folder of a source tree of sentence-transformers that has tests/cross_encoder")
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
