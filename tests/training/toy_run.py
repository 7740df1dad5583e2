"""A small real run of the trainer as a program: `python -m tests.training.toy_run MODEL OUTPUT [options]`.

Tests start it to kill it, to resume it, and to share it among processes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from dataclasses import replace
from pathlib import Path

import torch

from secondpass import CrossEncoder
from secondpass.training.data.groups import Group
from secondpass.training.settings import LoraSettings, TrainingSettings
from secondpass.training.trainer import TrainingReport, train
from tests.toy_task import QUERY, document

FILLING = ("where", "what", "second", "order", "time")
SETTINGS = TrainingSettings(
    loss="ranknet",
    epochs=3,
    tokens_per_step=400,
    micro_batch_tokens=200,
    learning_rate=1e-3,
    dropout=0.1,
    precision="fp32",
    averaging=0.9,
    evaluate_every=3,
    save_every=2,
    log_every=1,
    seed=11,
)


def toy_groups(seed: int, size: int) -> list[Group]:
    """Groups of two to five documents, one of them relevant: which words are in it tells, see `toy_task`."""
    rng = random.Random(seed)
    made = []
    for number in range(size):
        texts = [document(1, rng), *(document(0, rng) for _ in range(rng.randint(1, 4)))]
        documents = tuple(f"{text} {' '.join(rng.choices(FILLING, k=rng.randint(0, 9)))}" for text in texts)
        labels = (1.0,) + (0.0,) * (len(documents) - 1)
        order = rng.sample(range(len(documents)), len(documents))
        made.append(
            Group(
                QUERY,
                tuple(documents[place] for place in order),
                tuple(labels[place] for place in order),
                f"toy:{number}",
            )
        )
    return made


def run(
    model: str, output: str | None, settings: TrainingSettings = SETTINGS, instruction: str | None = None, **options
) -> tuple[CrossEncoder, TrainingReport]:
    """Train on the toy groups, single-threaded."""
    torch.set_num_threads(1)
    encoder = CrossEncoder(model, device="cpu", instruction=instruction)
    given = {"dev": toy_groups(2, 12), "output_dir": output, "show_progress_bar": False, **options}
    return encoder, train(encoder, toy_groups(1, 40), settings, **given)


def main() -> None:
    """Run as the arguments say; join other processes through a file when the environment names them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("--settings", default="{}", help="With its own keys, also those of lora.")
    parser.add_argument("--instruction")
    parser.add_argument("--store", help="File in which processes meet, instead of a port.")
    chosen = parser.parse_args()
    if chosen.store:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{chosen.store}",
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
    given = json.loads(chosen.settings)
    given |= {"lora": LoraSettings(**given["lora"])} if "lora" in given else {}
    _, report = run(chosen.model, chosen.output, replace(SETTINGS, **given), chosen.instruction)
    if os.environ.get("RANK", "0") == "0":
        Path(chosen.output, "report.json").write_text(json.dumps([report.steps, report.scores]), encoding="utf-8")
    if chosen.store:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
