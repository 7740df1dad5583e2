"""What `fit` learns: the numbers of a plain loop and of the reference, the same at each run, and a solved task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
)

from secondpass import CrossEncoder, InputExample
from secondpass.fit import fit
from tests.tiny_models import make_chain, make_folder, make_reranker
from tests.toy_task import OTHER, QUERY, RELEVANT, examples, loader, same, state

QUIET = {"show_progress_bar": False}
FAST = {"optimizer_params": {"lr": 1e-3}, "warmup_steps": 0, **QUIET}


@pytest.fixture
def learner(tmp_path) -> CrossEncoder:
    """Make a tiny model that learns fast: no dropout, and weights small enough to be moved."""
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder = CrossEncoder(str(make_folder(tmp_path / "learner", "bert", 1, **dropout)), device="cpu")
    with torch.no_grad():
        for weight in encoder.model.parameters():
            weight.mul_(0.3 if weight.dim() == 2 else 1.0)
    torch.manual_seed(0)
    return encoder


LEARNING = {"optimizer_params": {"lr": 3e-3}, "warmup_steps": 0, "epochs": 3, **QUIET}


def test_learns_and_ranks(learner):
    """On a learnable task the loss falls by more than half and every relevant document comes first."""
    losses = []

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        value = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        losses.append(value.item())
        return value

    documents = [f"the {word}" for pair in zip(OTHER, RELEVANT, strict=True) for word in pair]
    assert relevant_in_front(learner, documents) < 4
    fit(learner, loader(160, 8), loss_fct=loss, **LEARNING)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    assert relevant_in_front(learner, documents) == 4


def relevant_in_front(encoder: CrossEncoder, documents: list[str]) -> int:
    """Count how many of the four relevant documents are among the first four."""
    ranked = encoder.rank(QUERY, documents, return_documents=True)
    return len({item["text"].split()[1] for item in ranked[:4]} & set(RELEVANT))


def plain_loop(folder: str, data: list[list[InputExample]], num_labels: int) -> dict[str, torch.Tensor]:
    """Train one epoch as the seed does, written out with torch and transformers alone; -> the weights."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).train()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    spared = ("bias", "LayerNorm.bias", "LayerNorm.weight")
    named = list(model.named_parameters())
    groups = [
        {"params": [w for n, w in named if not any(s in n for s in spared)], "weight_decay": 0.1},
        {"params": [w for n, w in named if any(s in n for s in spared)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    schedule = get_linear_schedule_with_warmup(optimizer, 2, len(data))
    for batch in data:
        features = tokenizer(
            [example.texts[0] for example in batch],
            [example.texts[1] for example in batch],
            padding=True,
            truncation="longest_first",
            return_tensors="pt",
        )
        logits = model(**features).logits
        if num_labels == 1:
            labels = torch.tensor([example.label for example in batch], dtype=torch.float)
            loss = nn.BCEWithLogitsLoss()(logits.view(-1), labels)
        else:
            loss = nn.CrossEntropyLoss()(logits, torch.tensor([example.label for example in batch]))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.7)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return dict(model.state_dict())


@pytest.mark.parametrize("num_labels", [1, 3])
def test_equals_a_plain_loop(tiny_model_folder, num_labels):
    """Five steps with dropout, clipping, decay and warm-up give the weights of a plain torch loop, to 1e-6."""
    folder = tiny_model_folder("bert", num_labels)
    all_examples = examples(20, max(2, num_labels))
    data = [all_examples[start : start + 4] for start in range(0, 20, 4)]
    encoder = CrossEncoder(folder, device="cpu")
    before = state(encoder)
    torch.manual_seed(7)
    options = {"optimizer_params": {"lr": 1e-3}, "warmup_steps": 2, "weight_decay": 0.1, "max_grad_norm": 0.7}
    fit(encoder, data, **options, **QUIET)
    torch.manual_seed(7)
    expected = plain_loop(folder, data, num_labels)
    trained = state(encoder)
    assert not same(trained, before)
    for name, weight in expected.items():
        torch.testing.assert_close(trained[name], weight, rtol=0, atol=1e-6, msg=name)


def chain_logits(folder: str) -> tuple[nn.Module, Callable[[list[InputExample]], torch.Tensor]]:
    """The weights of a saved chain, and what they make of pairs, written out."""
    weights = nn.ParameterDict()
    for place, name in enumerate(("1_Pooling", "2_Dense", "3_LayerNorm", "4_Dense")):
        if place:
            stored = load_file(f"{folder}/{name}/model.safetensors")
            weights |= {f"{place}_{key.split('.')[-1]}": nn.Parameter(value) for key, value in stored.items()}
    body, tokenizer = AutoModel.from_pretrained(folder).train(), AutoTokenizer.from_pretrained(folder)

    def logits(batch: list[InputExample]) -> torch.Tensor:
        inputs = tokenizer(*zip(*(item.texts for item in batch), strict=True), padding=True, return_tensors="pt")
        firsts = nn.functional.gelu(body(**inputs).last_hidden_state[:, 0] @ weights["1_weight"].T)
        rows = nn.functional.layer_norm(firsts, (48,), weights["2_weight"], weights["2_bias"])
        return (rows @ weights["3_weight"].T + weights["3_bias"])[:, 0]

    return nn.ModuleDict({"body": body, "readout": weights}), logits


def answer_logits(folder: str) -> tuple[nn.Module, Callable[[list[InputExample]], torch.Tensor]]:
    """The same for a causal language model that is read at "yes" and "no" behind its chat template."""
    body, tokenizer = AutoModelForCausalLM.from_pretrained(folder).train(), AutoTokenizer.from_pretrained(folder)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])

    def logits(batch: list[InputExample]) -> torch.Tensor:
        made = []
        for item in batch:
            messages = [
                {"role": role, "content": text} for role, text in zip(("query", "document"), item.texts, strict=True)
            ]
            ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)["input_ids"]
            made.append(body(input_ids=ids).logits[0, -1])
        return torch.stack([row[yes] - row[no] for row in made])

    return nn.ModuleDict({"body": body}), logits


@pytest.mark.parametrize("kind", ["chain", "packed chain", "causal"])
def test_readouts_learn_as_in_a_plain_loop(tmp_path, kind):
    """A chain and all below it, and a causal reranker in its template: the weights of torch and transformers alone."""
    if kind == "causal":
        folder, made = make_reranker(tmp_path), answer_logits
    else:
        folder, made = make_chain(tmp_path, "modernbert" if kind == "chain" else "bert"), chain_logits
    encoder = CrossEncoder(str(folder), device="cpu")
    dropout = [module for module in encoder.model.modules() if isinstance(module, nn.Dropout)]
    model, logits = made(str(folder))
    for module in (*dropout, *(module for module in model.modules() if isinstance(module, nn.Dropout))):
        module.p = 0.0
    own = {"optimizer_class": torch.optim.SGD, "optimizer_params": {"lr": 0.1}, "scheduler": "constantlr"}
    fit(encoder, loader(12), weight_decay=0.0, **own, **QUIET)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain = loader(12, collate_fn=list)
    for batch in plain:
        labels = torch.tensor([float(item.label) for item in batch])
        nn.functional.binary_cross_entropy_with_logits(logits(batch), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    ours = dict(encoder.model.body.named_parameters())
    wanted = dict(model["body"].named_parameters())
    assert ours.keys() == wanted.keys()
    assert all(torch.allclose(ours[name], weight, rtol=0, atol=1e-5) for name, weight in wanted.items())
    if "readout" in model:
        rows = [weight for module in encoder.model.readout for weight in module.parameters()]
        theirs = [model["readout"][name] for name in ("1_weight", "2_weight", "2_bias", "3_weight", "3_bias")]
        assert all(torch.allclose(*pair, rtol=0, atol=1e-5) for pair in zip(rows, theirs, strict=True))


@pytest.mark.filterwarnings("ignore")
def test_equals_the_reference(tiny_folder):
    """The weights are those that sentence-transformers' own loop gives from the same seed, to 1e-6."""
    reference = pytest.importorskip("sentence_transformers").CrossEncoder(tiny_folder, device="cpu")
    ours = CrossEncoder(tiny_folder, device="cpu")
    torch.manual_seed(3)
    reference.old_fit(loader(20), epochs=2, **FAST)
    torch.manual_seed(3)
    fit(ours, loader(20), epochs=2, **FAST)
    theirs = reference.model.state_dict()
    for name, weight in ours.model.state_dict().items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-6, msg=name)


def test_two_runs_are_equal(tiny_folder):
    """The same seed gives the same weights bit for bit on the CPU."""
    trained = []
    for _ in range(2):
        encoder = CrossEncoder(tiny_folder, device="cpu")
        torch.manual_seed(5)
        fit(encoder, loader(24), **FAST)
        trained.append(state(encoder))
    assert same(*trained)


def test_mixed_precision_learns(learner):
    """use_amp on the CPU trains float32 weights in bfloat16, without loss scaling."""
    fit(learner, loader(160, 8), use_amp=True, **LEARNING)
    assert learner.model.dtype == torch.float32
    relevant, other = learner.predict([(QUERY, "the account"), (QUERY, "the cat")])
    assert relevant > 0.7
    assert other < 0.3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_mixed_precision_on_cuda(learner):
    """use_amp on CUDA trains in float16 with loss scaling."""
    learner.to("cuda")
    fit(learner, loader(160, 8), use_amp=True, **LEARNING)
    relevant, other = learner.predict([(QUERY, "the account"), (QUERY, "the cat")])
    assert relevant > 0.7
    assert other < 0.3
