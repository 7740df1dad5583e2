"""Training on a CPU: secondpass beside sentence-transformers' CrossEncoderTrainer.

    OMP_NUM_THREADS=2 python -m benchmarks.training compare --steps 40 --output training.json

All contenders start from the embedded model with dropout 0.1 written into its config, and learn from the same groups
(a question, its answer, three negatives of BM25) in as many steps of 32 pairs with the same optimizer and schedule;
each in a process of its own, in turns. "same settings" is float32 with dropout 0.1 as sentence-transformers does it;
"defaults" leaves dropout and precision to secondpass. Measured is the whole call that trains, tokenising included.
Where other work shares the machine, OMP_NUM_THREADS=1 and the ratio of CPU time tell more than seconds: threads that
wait for each other wait for that work too.
Needs the extra test.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from secondpass import machine

PAIRS = 32
DOCUMENTS = 4  # of a training group
DEV_DOCUMENTS = 20
LEARNING_RATE = 2e-5
WARMUP = 0.1
WEIGHT_DECAY = 0.01
DROPOUT = 0.1
SEED = 0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Trained = tuple[Callable[[], object], Callable[[Path], object]]
"""What trains, ready to start, and what saves the model to a folder."""


def by_sentence_transformers(folder: Path, groups: Sequence[Any], steps: int, max_length: int) -> Trained:
    """Train with `CrossEncoderTrainer`: float32, dropout as the model's config has it."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments

    model = CrossEncoder(str(folder), max_length=max_length, device="cpu")
    rows = [(g.query, text, label) for g in groups for text, label in zip(g.documents, g.labels, strict=True)]
    queries, documents, labels = zip(*rows, strict=True)
    data = Dataset.from_dict({"query": list(queries), "document": list(documents), "label": list(labels)})
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(folder.parent / "output"),
        max_steps=steps,
        per_device_train_batch_size=PAIRS,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="linear",
        warmup_steps=round(WARMUP * steps),
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=1.0,
        seed=SEED,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = CrossEncoderTrainer(model=model, args=arguments, train_dataset=data)
    return trainer.train, lambda path: model.save_pretrained(str(path))


def by_secondpass(folder: Path, groups: Sequence[Any], steps: int, max_length: int, **settings: Any) -> Trained:
    """Train with `secondpass.training.trainer.train`."""
    from secondpass import CrossEncoder
    from secondpass.training.settings import TrainingSettings
    from secondpass.training.trainer import train

    encoder = CrossEncoder(str(folder), max_length=max_length, device="cpu")
    chosen = TrainingSettings(
        loss="binary_cross_entropy",
        max_steps=steps,
        groups_per_step=PAIRS // DOCUMENTS,
        learning_rate=LEARNING_RATE,
        schedule="warmuplinear",
        warmup=WARMUP,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=1.0,
        seed=SEED,
        **settings,
    )
    return lambda: train(encoder, groups, chosen, show_progress_bar=False), lambda path: encoder.save(str(path))


CONTENDERS: dict[str, Callable[[Path, Sequence[Any], int, int], Trained]] = {
    "sentence-transformers": by_sentence_transformers,
    "secondpass, same settings": lambda *run: by_secondpass(*run, dropout=DROPOUT, precision="fp32"),
    "secondpass, defaults": by_secondpass,
}


def write_groups(data: Path, split: str, count: int, documents: int, file: Path) -> int:
    """Write groups of exactly so many documents, the negatives BM25's best, and return how many there are."""
    from secondpass.corpora import corpus_file, read_corpus, read_queries
    from secondpass.evaluation.qrels import read_qrels
    from secondpass.training.negatives.candidates import bm25_candidates
    from secondpass.training.negatives.mining import mine_negatives
    from secondpass.training.negatives.sifting import MiningRule

    qrels = read_qrels(data / "qrels" / f"{split}.tsv")
    corpus = {document.id: document.content for document in read_corpus(corpus_file(data))}
    texts = read_queries(data / "queries.jsonl")
    # evenly over the file, whose neighbours are questions about one subject
    asked = [name for name in qrels if name in texts]
    asked = asked[:: max(1, len(asked) // (count + count // 4))]
    queries = {name: texts[name] for name in asked}
    candidates = bm25_candidates(queries, corpus, depth=documents * 2 + 10, qrels=qrels)
    rule = MiningRule(negatives=documents - 1, positives=1)
    groups = mine_negatives(queries, corpus, qrels, candidates, rule=rule).groups
    whole = [group for group in groups if len(group) == documents][:count]
    rows = [
        {"query": g.query, "documents": g.documents, "labels": g.labels, "ids": [str(n) for n in range(documents)]}
        for g in whole
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def read_groups(file: Path) -> list[Any]:
    """Read what `write_groups` wrote."""
    from secondpass.training.data.groups import Group

    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        Group(row["query"], tuple(row["documents"]), tuple(row["labels"]), f"{file.name}:{number}")
        for number, row in enumerate(rows, start=1)
    ]


def write_model(folder: Path) -> None:
    """Write the embedded model with dropout 0.1 in its config, where both sides look for it."""
    from secondpass import CrossEncoder

    encoder = CrossEncoder("secondpass/pocket", device="cpu")
    encoder.config.hidden_dropout_prob = encoder.config.attention_probs_dropout_prob = DROPOUT
    encoder.save(str(folder))


def quality(folder: Path, dev: Path, max_length: int) -> float:
    """Give nDCG@10 of a saved model over the held-out groups."""
    from secondpass import CrossEncoder
    from secondpass.training.measuring.before_after import DevRanking

    return DevRanking(read_groups(dev))(CrossEncoder(str(folder), max_length=max_length, device="cpu"))


def processor() -> str:
    """Give the CPU's name, and what it has for products of bfloat16."""
    found = machine.processor()
    flags = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in found["flags"]]
    return f"{found['count']} x {found['name']} ({', '.join(flags)})"


@app.command(hidden=True)
def one(name: str, work: Path, steps: int, max_length: int, measure: bool) -> None:
    """Train one contender in this process and print JSON."""
    groups = read_groups(work / "train.jsonl")
    run, save = CONTENDERS[name](work / "model", groups, steps, max_length)
    began, used = time.perf_counter(), time.process_time()
    run()
    seconds = time.perf_counter() - began
    found: dict[str, Any] = {
        "seconds": seconds,
        "processor_seconds": time.process_time() - used,
        "pairs_per_second": steps * PAIRS / seconds,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if measure:
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            found["ndcg"] = quality(Path(folder), work / "dev.jsonl", max_length)
    sys.stdout.write(json.dumps(found) + "\n")


def in_turns(work: Path, steps: int, max_length: int, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Run each contender in a process of its own, one after the other, so many times over."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for turn in range(repeats):
        for name, results in found.items():
            numbers = [str(work), str(steps), str(max_length), str(turn == 0)]
            command = [sys.executable, "-m", "benchmarks.training", "one", name, *numbers]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                typer.echo(f"{name}:\n{done.stderr}", err=True)
                raise typer.Exit(1)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            typer.echo(f"turn {turn + 1}, {name}: {results[-1]['pairs_per_second']:.2f} pairs/s", err=True)
    return found


@app.command()
def compare(
    data: Annotated[Path, typer.Option(help="BEIR folder with qrels/train.tsv and qrels/dev.tsv.")] = Path(
        "../shared/data/medquad"
    ),
    steps: Annotated[int, typer.Option(help="Steps of 32 pairs.")] = 40,
    repeats: Annotated[int, typer.Option(help="Turns; medians are printed.")] = 3,
    dev: Annotated[int, typer.Option(help="Held-out queries that the trained models are measured on.")] = 200,
    max_length: Annotated[int, typer.Option(help="Tokens of a pair.")] = 192,
    output: Annotated[Path | None, typer.Option(help="Gets all figures as JSON.")] = None,
) -> None:
    """Compare the contenders."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_model(work / "model")
        count = write_groups(data, "train", steps * PAIRS // DOCUMENTS, DOCUMENTS, work / "train.jsonl")
        if count < steps * PAIRS // DOCUMENTS:
            raise typer.BadParameter(f"{data} gives only {count} groups, {steps} steps read {steps * PAIRS}")
        held_out = write_groups(data, "dev", dev, DEV_DOCUMENTS, work / "dev.jsonl")
        before = quality(work / "model", work / "dev.jsonl", max_length)
        results = in_turns(work, steps, max_length, repeats)
    title = f"{steps} steps of {PAIRS} pairs, at most {max_length} tokens; {processor()}"
    table = Table("", "pairs/s", "ratio", "ratio of CPU time", "peak MB", "nDCG@10", title=title)
    table.add_row("before training", "", "", "", "", f"{before:.4f}")
    others = results["sentence-transformers"]
    summary: dict[str, Any] = {}
    for name, turns in results.items():
        # the ratio within a turn: what else the machine does changes from turn to turn
        speed, peak = (statistics.median(turn[key] for turn in turns) for key in ("pairs_per_second", "megabytes"))
        ratio, work_ratio = (
            statistics.median(base[key] / turn[key] for base, turn in zip(others, turns, strict=True))
            for key in ("seconds", "processor_seconds")
        )
        found = {"pairs_per_second": speed, "ratio": ratio, "processor_ratio": work_ratio, "megabytes": peak}
        summary[name] = found | {"ndcg": turns[0]["ndcg"]}
        row = (f"{speed:.1f}", f"{ratio:.2f}x", f"{work_ratio:.2f}x", f"{peak:.0f}", f"{turns[0]['ndcg']:.4f}")
        table.add_row(name, *row)
    Console().print(table)
    if output is not None:
        setting = {"steps": steps, "pairs": PAIRS, "max_length": max_length, "dev_queries": held_out}
        made = {"cpu": processor(), **setting, "ndcg_before": before, "summary": summary, "turns": results}
        output.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
