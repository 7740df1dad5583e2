"""A transformers model and what makes logits of its hidden states, as one model: module chains and vocabulary rows.

The two ways in which rerankers without a classification head give scores, as sentence-transformers 5.4 and later saves
them. Modules compute what those of sentence-transformers 6.2 compute, and have the names of their weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from secondpass.errors import InvalidInput
from secondpass.forwards import description as described
from secondpass.forwards.description import (
    PLAIN_POOLINGS,
    POOLED,
    SCORES,
    STATES,
    NotDescribed,
    Readout,
    ReadoutStep,
    StepActivation,
    fewer,
)

Features = dict[str, torch.Tensor]
"""What modules hand on by name: states [pairs, width, hidden], of which `MASK` [pairs, width] tells the real ones."""

MASK = "attention_mask"
IDS, TYPES = "input_ids", "token_type_ids"
# What a place that nobody may see has before a softmax.
FAR = -1e4


class Pooling(nn.Module):
    """Hidden states -> [pairs, hidden * modes], the modes' rows side by side; sums are float32 or finer.

    `dimension` is that of the states, `modes` are keys of `POOLINGS`; `include_prompt` False stands for leaving the
    tokens of a prompt out, of which none are told here.
    """

    def __init__(self, dimension: int, modes: Sequence[str], include_prompt: bool = True) -> None:
        super().__init__()
        self.dimension, self.modes, self.include_prompt = dimension, tuple(modes), include_prompt

    def forward(self, features: Features) -> Features:
        """Put the pooled states in."""
        states, mask = features[STATES], features[MASK]
        pooled = [POOLINGS[mode](states, mask).to(states.dtype) for mode in self.modes]
        return {**features, POOLED: torch.cat(pooled, dim=-1)}


def _first(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _at(states, mask.int().argmax(dim=1))


def last_rows(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The states of each pair's last real token: [pairs, width, hidden] -> [pairs, hidden]."""
    return _at(states, last_places(mask))


def last_places(mask: torch.Tensor) -> torch.Tensor:
    """Where each pair's last real token is, on whichever side padding stands: int64 [pairs]."""
    return mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1)


def _at(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    # by `shape`, not `len`: a trace for ONNX keeps the number free
    return states[torch.arange(states.shape[0], device=states.device), places]


def _largest(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(dim=1)


def _sum(states: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sums [pairs, hidden], and of the weights alone [pairs, 1]."""
    finer = torch.promote_types(states.dtype, torch.float32)
    given = weights[:, :, None].to(finer)
    # a padded state may be anything, infinite too
    return (states.to(finer).masked_fill(given == 0, 0) * given).sum(dim=1), given.sum(dim=1)


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, count = _sum(states, mask)
    return total / count


def _mean_by_root(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, count = _sum(states, mask)
    return total / count.sqrt()


def _mean_by_place(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The n-th token counts n times (Muennighoff, SGPT, 2022)."""
    total, count = _sum(states, mask.cumsum(dim=1) * mask)
    return total / count


POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _first,
    "max": _largest,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _mean_by_place,
    "lasttoken": last_rows,
}


class Dense(nn.Module):
    """A linear layer, an activation, and with `use_residual` the input added to it."""

    def __init__(
        self,
        sizes: tuple[int, int],
        bias: bool,
        activation_function: nn.Module,
        reads: str = POOLED,
        writes: str = POOLED,
        use_residual: bool = False,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(*sizes, bias=bias)
        self.activation_function = activation_function
        self.reads, self.writes, self.use_residual = reads, writes, use_residual
        if use_residual and sizes[0] != sizes[1]:
            self.residual = nn.Linear(*sizes, bias=False)

    def forward(self, features: Features) -> Features:
        """Put what it makes of `reads` in as `writes`."""
        given = features[self.reads]
        made = self.activation_function(self.linear(given))
        if self.use_residual:
            made = made + (self.residual(given) if hasattr(self, "residual") else given)
        return {**features, self.writes: made}


class LayerNorm(nn.Module):
    """Layer normalisation of the pooled states."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)

    def forward(self, features: Features) -> Features:
        """Replace the pooled states."""
        return {**features, POOLED: self.norm(features[POOLED])}


class Normalize(nn.Module):
    """Rows of length 1."""

    def __init__(self, reads: str = POOLED, writes: str = POOLED) -> None:
        super().__init__()
        self.reads, self.writes = reads, writes

    def forward(self, features: Features) -> Features:
        """Put what it makes of `reads` in as `writes`."""
        return {**features, self.writes: F.normalize(features[self.reads], dim=-1)}


class Dropout(nn.Module):
    """Dropout of the pooled states, in training only."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout_layer = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """Replace the pooled states."""
        return {**features, POOLED: self.dropout_layer(features[POOLED])}


class LateInteraction(nn.Module):
    """Query and document, read apart, to one logit: see `forwards.late`, which computes the same without torch.

    Args:
        vocabulary: how many words have an importance.
        sharpness: what cosines of tokens are multiplied with before their softmax.
    """

    def __init__(self, vocabulary: int, sharpness: float) -> None:
        super().__init__()
        self.importance = nn.Parameter(torch.zeros(vocabulary))
        self.scales = nn.Parameter(torch.tensor([1.0, 1.0, 0.0]))
        self.sharpness = sharpness

    def forward(self, features: Features) -> Features:
        """Put the logits in, of states of pairs side by side, by the types of their tokens."""
        mask, types = features[MASK].bool(), features[TYPES]
        query, document = (TextStates(features[IDS], features[STATES], mask & (types == number)) for number in range(2))
        return {**features, SCORES: self.compared(query, document)}

    def compared(self, query: TextStates, document: TextStates) -> torch.Tensor:
        """-> logits float32 or finer [pairs, 1], in autocast too."""
        with torch.autocast(query.states.device.type, enabled=False):
            return self._compared(query, document)

    def _compared(self, query: TextStates, document: TextStates) -> torch.Tensor:
        cosine = (query.mean * document.mean).sum(-1)
        alike = query.unit @ document.unit.transpose(1, 2)
        inner = document.inner[:, None]
        # finite, so that a text of special tokens alone finds nothing
        shares = torch.softmax((self.sharpness * alike).masked_fill(~inner, FAR), -1)
        found = (shares * alike.masked_fill(~inner, 0)).sum(-1)
        counts = torch.softmax(self.importance[query.ids].to(alike.dtype).masked_fill(~query.inner, FAR), -1)
        match = (counts * found.masked_fill(~query.inner, 0)).sum(-1)
        return (self.scales[0] * cosine + self.scales[1] * match + self.scales[2])[:, None]


@dataclass(frozen=True, slots=True)
class TextStates:
    """Texts of pairs in a rectangle: ids [pairs, width], states [pairs, width, hidden], and which places are theirs."""

    ids: torch.Tensor
    states: torch.Tensor
    real: torch.Tensor

    @property
    def inner(self) -> torch.Tensor:
        """The places but the first and the last of each text, bool [pairs, width]."""
        place = self.real.int().cumsum(1)
        return self.real & (place > 1) & (place < place[:, -1:])

    @property
    def finer(self) -> torch.Tensor:
        """The states in float32 or finer."""
        return self.states.to(torch.promote_types(self.states.dtype, torch.float32))

    @property
    def unit(self) -> torch.Tensor:
        """The same of length 1."""
        return F.normalize(self.finer, dim=-1)

    @property
    def mean(self) -> torch.Tensor:
        """Of each text, of length 1: [pairs, hidden]."""
        return F.normalize(_mean(self.finer, self.real), dim=-1)


class ModuleChain(nn.ModuleList):
    """Modules one behind the other, from hidden states to logits.

    The last is a `Dense` that writes "scores", or the only one is a `LateInteraction`.
    """

    @property
    def late(self) -> LateInteraction | None:
        """What reads query and document apart."""
        own: nn.Module = self[0]
        return own if isinstance(own, LateInteraction) else None

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__(modules)

    @property
    def labels(self) -> int:
        """How many logits a pair gets."""
        last: Any = self[-1]
        return 1 if self.late is not None else int(last.linear.out_features)

    @property
    def leaves_prompt_out(self) -> bool:
        """Whether the tokens of a prompt should not be pooled, of which none are told here."""
        return any(isinstance(module, Pooling) and not module.include_prompt for module in self)

    def forward(self, states: torch.Tensor, mask: torch.Tensor, **places: torch.Tensor) -> torch.Tensor:
        """States [pairs, width, hidden] and which of them are real [pairs, width] -> logits [pairs, labels].

        `places` are ids and types of the tokens, by their names.
        """
        features = {STATES: states, MASK: mask, **places}
        for module in self:
            features = module(features)
        return features[SCORES]


class VocabularyRows(nn.Module):
    """The logit of one token behind the last one of a pair, or with a second token the one's minus the other's."""

    labels = 1

    def __init__(self, true_token_id: int, false_token_id: int | None = None) -> None:
        super().__init__()
        self.true_token_id, self.false_token_id = true_token_id, false_token_id

    @property
    def token_ids(self) -> list[int]:
        """Which rows are read."""
        return [self.true_token_id] + ([] if self.false_token_id is None else [self.false_token_id])

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """The tokens' logits [pairs, 1 or 2] -> float32 or finer [pairs, 1].

        Of a half type two large logits leave little of their difference, so it is taken in float32.
        """
        finer = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return finer[:, :1] if self.false_token_id is None else finer[:, :1] - finer[:, 1:]


# ---- The same as plain weights.
STEP_ACTIVATIONS: dict[type[nn.Module], StepActivation] = {
    nn.Identity: "none",
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
}


def readout_of(model: Any) -> Readout:
    """A model's chain as its family computes it; raises `NotDescribed` where that has more than a family knows."""
    chain, own = model.readout, late_of(model)
    if own is not None:
        return Readout(
            "tokens", (), described.LateComparison(own.importance.detach(), own.scales.detach(), own.sharpness)
        )
    if not isinstance(chain, ModuleChain) or type(chain[0]) is not Pooling or chain[0].modes not in PLAIN_POOLINGS:
        raise NotDescribed
    steps, name = [], POOLED
    for module in chain[1:]:
        if isinstance(module, Dropout):
            continue
        if getattr(module, "reads", POOLED) != name:
            raise NotDescribed
        name = getattr(module, "writes", POOLED)
        steps.append(_step(module))
    return Readout(PLAIN_POOLINGS[chain[0].modes], tuple(fewer(steps)))


def first_row_head(model: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """First tokens [pairs, 1, hidden] to logits [pairs, labels]; None where a chain reads more of a pair than that."""
    chain = model.readout
    if not isinstance(chain, ModuleChain) or not isinstance(chain[0], Pooling) or chain[0].modes != ("cls",):
        return None
    if any(isinstance(module, Pooling) or getattr(module, "reads", POOLED) == STATES for module in chain[1:]):
        return None
    return lambda firsts: chain(firsts, torch.ones(firsts.shape[:2], dtype=torch.long, device=firsts.device))


def _step(module: nn.Module) -> ReadoutStep:
    if isinstance(module, LayerNorm):
        return ReadoutStep(None, norm=described.norm(module.norm))
    if isinstance(module, Normalize):
        return ReadoutStep(None, unit=True)
    if not isinstance(module, Dense) or module.use_residual:
        raise NotDescribed
    own = module.activation_function
    if type(own) is nn.GELU:
        activation: StepActivation = "gelu" if own.approximate == "none" else "gelu_tanh"
    elif type(own) in STEP_ACTIVATIONS:
        activation = STEP_ACTIVATIONS[type(own)]
    else:
        raise NotDescribed
    return ReadoutStep(described.linear(module.linear, bare=True), activation)


# Language models that do nothing between their last hidden state and the logits but a soft cap, where they have one.
ROWS_ARE_ENOUGH = frozenset(
    f"{name}ForCausalLM" for name in ("Qwen2", "Qwen3", "Llama", "Mistral", "Gemma", "Gemma2", "Gemma3")
)


def reads_vocabulary(model: Any) -> bool:
    """Whether a score is a logit of the vocabulary, whose model is a whole language model below its readout."""
    return isinstance(model, ReadoutModel) and isinstance(model.readout, VocabularyRows)


def late_of(model: Any) -> LateInteraction | None:
    """What compares query and document of a model that reads them apart; None for any other model."""
    readout = getattr(model, "readout", None)
    return readout.late if isinstance(readout, ModuleChain) else None


class ReadoutModel(nn.Module):
    """A body and its readout, which together are what a sequence classifier of transformers is; all else is the body's.

    Args:
        body: an encoder, or for `VocabularyRows` a whole causal language model.
        readout: what makes logits of its last hidden states.
    """

    def __init__(self, body: Any, readout: ModuleChain | VocabularyRows) -> None:
        super().__init__()
        self.body, self.readout = body, readout
        self.body.config.num_labels = readout.labels
        self._takes = frozenset(inspect.signature(body.forward).parameters)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            body = self.__dict__.get("_modules", {}).get("body")
            if body is None or name.startswith("__"):
                raise
            return getattr(body, name)

    @property
    def base_model(self) -> Any:
        """The layers without what reads them."""
        return self.body.base_model

    @property
    def base_model_prefix(self) -> str:
        """What stands before the names of their weights."""
        return "body" if self.base_model is self.body else f"body.{self.body.base_model_prefix}"

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """A padded rectangle int64 [pairs, width], on either side, -> an output with `logits` [pairs, labels]."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        given = {"input_ids": input_ids, "attention_mask": mask, "return_dict": True, **options}
        if token_type_ids is not None and "token_type_ids" in self._takes:
            given["token_type_ids"] = token_type_ids
        if "use_cache" in self._takes:
            given["use_cache"] = False
        if late_of(self) is not None:
            logits = self._read_apart(given, mask, token_type_ids)
        elif isinstance(self.readout, ModuleChain):
            logits = self.readout(self.body(**given).last_hidden_state, mask)
        else:
            # positions are the same on whichever side padding stands
            given["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
            logits = self.readout(self._token_logits(given, mask, self.readout.token_ids))
        return SequenceClassifierOutput(logits=logits) if return_dict else (logits,)

    def _read_apart(self, given: dict[str, Any], mask: torch.Tensor, types: torch.Tensor | None) -> torch.Tensor:
        """Logits of texts that do not see each other, each with positions of its own."""
        if types is None:
            raise InvalidInput("token_type_ids are missing, which say what is query and what is document")
        real = mask.bool()
        same = (types[:, :, None] == types[:, None, :]) & real[:, None, :]
        of_query, of_document = (real & (types == number) for number in range(2))
        places = torch.where(of_document, of_document.int().cumsum(1), of_query.int().cumsum(1)) - 1
        own = {TYPES: torch.zeros_like(types), MASK: same[:, None], "position_ids": places.clamp(min=0)}
        states = self.body(**{**given, **own}).last_hidden_state
        logits: torch.Tensor = self.readout(states, mask, **{IDS: given[IDS], TYPES: types})
        return logits

    def _token_logits(self, given: dict[str, Any], mask: torch.Tensor, ids: list[int]) -> torch.Tensor:
        """Logits [pairs, ids] behind each pair's last token."""
        head = self.body.get_output_embeddings()
        if type(self.body).__name__ not in ROWS_ARE_ENOUGH or type(head) is not nn.Linear:
            places, each = torch.unique(last_places(mask), return_inverse=True)
            made = self.body(**given, logits_to_keep=places).logits
            logits: torch.Tensor = made[torch.arange(len(each), device=each.device), each][:, ids]
            return logits
        states = last_rows(self.body.base_model(**given).last_hidden_state, mask)
        made = F.linear(states, head.weight[ids], None if head.bias is None else head.bias[ids])
        cap = getattr(self.body.config, "final_logit_softcapping", None)
        return made if cap is None else torch.tanh(made / cap) * cap
