"""A cross-encoder with a smaller vocabulary: fewer rows of embeddings, the same scores for the texts it is kept for."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from secondpass.cross_encoder import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.forwards.readout import ModuleChain, ReadoutModel, VocabularyRows, reads_vocabulary
from secondpass.models.limits import POSITION_TABLES
from secondpass.models.saving import save
from secondpass.text import checked, positive_int, prepared
from secondpass.tokens import TextTokenizer

# ---- The merges of a BPE vocabulary: which pieces a piece is put together from, and which merges a part of it keeps.
Pair = tuple[str, str]


def pairs_of(model: Mapping[str, Any]) -> list[Pair]:
    """The merges of a tokenizer.json, in order; older files join the two parts by a space."""
    split = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(first, second) for first, second in split]


class Merges:
    """Merges by what they make.

    Args:
        model: the "model" of a tokenizer.json of the kind BPE.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._prefix: str = model.get("continuing_subword_prefix") or ""
        self._pairs = pairs_of(model)
        self._rank = {pair: rank for rank, pair in reversed(list(enumerate(self._pairs)))}
        self._makers: dict[str, list[Pair]] = defaultdict(list)
        for pair in self._rank:
            self._makers[self._made(pair)].append(pair)

    def makes(self, piece: str) -> bool:
        """Tell whether a merge makes this piece; the others are what texts are split into first."""
        return piece in self._makers

    def parts(self, piece: str) -> set[str]:
        """The piece and all that its merges go through, down to single symbols."""
        found: set[str] = set()
        waiting = [piece]
        while waiting:
            part = waiting.pop()
            if part not in found:
                found.add(part)
                waiting += self._last_merge(part)
        return found

    def kept(self, pieces: Collection[str]) -> list[list[str]]:
        """The merges, in order, whose parts and result are all among `pieces`."""
        known = set(pieces)
        return [list(pair) for pair in self._pairs if known.issuperset((*pair, self._made(pair)))]

    def _made(self, pair: Pair) -> str:
        return pair[0] + pair[1].removeprefix(self._prefix)

    def _last_merge(self, piece: str) -> Pair | tuple[()]:
        """The merge that makes a piece when it is read; () for a symbol."""
        # Vocabularies that come from SentencePiece list every way to split a piece, and only one of them happens: the
        # one that always applying the first merge of the list ends in.
        makers = self._makers.get(piece, [])
        if len(makers) <= 1:
            return makers[0] if makers else ()
        symbols, last = list(piece), makers[0]
        while len(symbols) > 1:
            ranks = [self._rank.get(pair, len(self._pairs)) for pair in pairwise(symbols)]
            place = ranks.index(min(ranks))
            if ranks[place] == len(self._pairs):
                return makers[0]
            last = (symbols[place], symbols[place + 1])
            symbols[place : place + 2] = [self._made(last)]
        return last


# ---- Which pieces of a vocabulary to keep: those that texts use most, and all that others are spelled with.
#
# Abdaoui et al. 2020, "Load What You Need" (https://arxiv.org/abs/2010.05609), which trims multilingual models so.
UNUSED = re.compile(r"[\[<|]*unused_?\d+[\]>|]*")
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# SentencePiece's sign for a space.
WORD_START = "▁"
CHUNK = 1024
# Of a text that is counted; the rest of a longer one would change no order.
LONGEST = 4096


def kept_ids(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    size: int,
    *,
    always: Collection[int] = (),
    characters: str | None = None,
) -> list[int]:
    """Ids of the tokens to keep, rising: at most `size`.

    Kept in any case are added and special tokens, `always`, and what others are spelled with: single characters (and
    every piece with a character that has no piece of its own) for WordPiece and Unigram, the symbols that merges start
    from for BPE. Then come the pieces that the texts use most, each with the pieces that its merges go through; the
    rest is filled with unused ones in the order of their ids, which is that of frequency in all common vocabularies.

    So a text whose pieces are all kept is cut into the same pieces as before, and another one into smaller pieces.

    Args:
        tokenizer: WordPiece, BPE or Unigram; not changed.
        texts: queries and documents as they will come; any iterable, read once.
        size: tokens at most, special tokens included.
        always: ids to keep in any case.
        characters: the only ones, for WordPiece and Unigram: a piece with another is kept only if the texts use it,
            and what cannot be spelled becomes unknown. None keeps all.

    Raises:
        InvalidInput: an argument is refused, or `size` is less than what must be kept; the message says how much.
    """
    model = json.loads(tokenizer.to_str())["model"]
    spelled = _SPELLED.get(model["type"])
    if spelled is None:
        raise InvalidInput(f"the tokenizer is {model['type']}, none of {', '.join(_SPELLED)}")
    if characters is not None and model["type"] == "BPE":
        raise InvalidInput("characters: BPE starts from the same symbols for all texts; they are all kept")
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    token_of = {number: token for token, number in vocabulary.items()}
    merges = Merges(model) if model["type"] == "BPE" else None

    def made_of(number: int) -> set[int]:
        """The piece with all that its merges go through: without them no text is cut into it."""
        return {number} if merges is None else {vocabulary[part] for part in merges.parts(token_of[number])}

    added = set(tokenizer.get_added_tokens_decoder())
    needed = added | set(always)
    pieces = (piece for piece in spelled(model, characters) if piece in vocabulary and not UNUSED.fullmatch(piece))
    needed |= {vocabulary[piece] for piece in pieces}
    unknown = needed - set(vocabulary.values())
    if unknown:
        raise InvalidInput(f"always: the tokenizer has no id {min(unknown)}")
    needed |= {part for number in set(always) - added for part in made_of(number)}
    counts = _counted(tokenizer, texts)
    if len(needed) > positive_int(size, "size"):
        raise InvalidInput(f"size={size}: special tokens and characters alone are {len(needed)}")
    order = sorted(token_of, key=lambda number: (-counts[number], number))
    for number in order:
        if len(needed) >= size:
            break
        if counts[number] == 0 and not _is_spare(token_of[number], model, characters):
            continue
        parts = made_of(number)
        if len(needed) + len(parts - needed) <= size:
            needed |= parts
    return sorted(needed)


def _counted(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[int]:
    """How often the texts use each id, special tokens in them read as text."""
    reading = TextTokenizer(tokenizer.to_str())
    counts: Counter[int] = Counter()
    stream: Iterator[tuple[int, str]] = enumerate(texts)
    while part := list(islice(stream, CHUNK)):
        chunk = [prepared(checked(text, f"texts[{place}]"), LONGEST) for place, text in part]
        for encoding in reading.encodings(chunk):
            counts.update(encoding.ids)
    return counts


def _wordpiece(model: Mapping[str, Any], characters: str | None) -> Iterator[str]:
    """The unknown token, every first or further character, and pieces with one that stands nowhere alone."""
    prefix, vocabulary = model["continuing_subword_prefix"], model["vocab"]
    yield model["unk_token"]
    for piece in vocabulary:
        inner = piece.startswith(prefix) and piece != prefix
        body = piece.removeprefix(prefix) if inner else piece
        alone = [letter if place == 0 and not inner else prefix + letter for place, letter in enumerate(body)]
        if _is_needed(body, alone, vocabulary, characters):
            yield piece


def _unigram(model: Mapping[str, Any], characters: str | None) -> Iterator[str]:
    """The same; and the piece with the lowest score, which unknown characters are scored by."""
    scores = {piece: score for piece, score in model["vocab"]}
    if model["unk_id"] is not None:
        yield model["vocab"][model["unk_id"]][0]
    yield min(scores, key=lambda piece: scores[piece])
    for piece in scores:
        if _is_needed(piece, list(piece), scores, characters) or (model["byte_fallback"] and BYTE.fullmatch(piece)):
            yield piece


def _bpe(model: Mapping[str, Any], characters: str | None) -> Iterator[str]:
    """The unknown token, and the symbols that no merge makes."""
    if model["unk_token"] is not None:
        yield model["unk_token"]
    merges = Merges(model)
    yield from (piece for piece in model["vocab"] if not merges.makes(piece))


def _is_spare(piece: str, model: Mapping[str, Any], characters: str | None) -> bool:
    """Tell whether a piece that no text uses may fill a place that is left."""
    if UNUSED.fullmatch(piece):
        return False
    marks = {WORD_START, *(model.get("continuing_subword_prefix") or "")}
    return characters is None or set(piece) <= marks | set(characters)


def _is_needed(body: str, alone: list[str], vocabulary: Collection[str], characters: str | None) -> bool:
    wanted = [characters is None or letter == WORD_START or letter in characters for letter in body]
    if len(body) == 1:
        return wanted[0]
    return any(one and piece not in vocabulary for one, piece in zip(wanted, alone, strict=True))


_SPELLED: dict[str, Callable[[Mapping[str, Any], str | None], Iterator[str]]] = {
    "WordPiece": _wordpiece,
    "BPE": _bpe,
    "Unigram": _unigram,
}


def smaller_tokenizer(tokenizer: Tokenizer, ids: Sequence[int]) -> Tokenizer:
    """The tokenizer with the tokens of `ids` alone; the new id of ids[n] is n. Truncation and padding are off.

    Args:
        tokenizer: WordPiece, BPE or Unigram; not changed.
        ids: from `kept_ids`, rising.

    Raises:
        InvalidInput: a token that the tokenizer itself needs is not among them, or its ids are laid out in a way that
            cannot be kept (two tokens with one id, an added token among the others).
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    token_of = {number: token for token, number in vocabulary.items()}
    if len(token_of) < len(vocabulary):
        raise InvalidInput("the tokenizer has two tokens with one id")
    unknown = set(ids) - token_of.keys()
    if unknown or list(ids) != sorted(set(ids)):
        raise InvalidInput(f"ids: {'not rising' if not unknown else f'there is no token {min(unknown)}'}")
    tokens = [token_of[number] for number in ids]
    new = {token: number for number, token in enumerate(tokens)}
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    state["truncation"] = state["padding"] = None
    try:
        _trim_model(state["model"], new)
        for added in state["added_tokens"]:
            added["id"] = new[added["content"]]
        if state["post_processor"] is not None:
            _trim_template(state["post_processor"], new)
    except KeyError as error:
        raise InvalidInput(f"ids: the tokenizer needs {error.args[0]!r}, which is not among them") from None
    made = Tokenizer.from_str(json.dumps(state))
    if made.get_vocab(with_added_tokens=True) != new:
        raise InvalidInput("the tokenizer's added tokens lie among its ids in a way that cannot be kept")
    return made


def _trim_model(model: dict[str, Any], new: Mapping[str, int]) -> None:
    if model["type"] == "Unigram":
        if model["unk_id"] is not None:
            model["unk_id"] = new[model["vocab"][model["unk_id"]][0]]
        model["vocab"] = [entry for entry in model["vocab"] if entry[0] in new]
        return
    if model["unk_token"] in model["vocab"]:
        new[model["unk_token"]]
    if model["type"] == "BPE":
        model["merges"] = Merges(model).kept(new.keys())
    model["vocab"] = {token: new[token] for token in model["vocab"] if token in new}


def _trim_template(processor: dict[str, Any], new: Mapping[str, int]) -> None:
    """Give the special tokens of a post-processor their new ids, in each of the forms that there are."""
    for part in processor.get("processors", ()):
        _trim_template(part, new)
    for special in processor.get("special_tokens", {}).values():
        special["ids"] = [new[token] for token in special["tokens"]]
    for role in ("sep", "cls"):
        if role in processor:
            processor[role] = [processor[role][0], new[processor[role][0]]]


def trim_vocabulary(
    encoder: CrossEncoder, texts: Iterable[str], size: int, *, always: Iterable[str] = (), characters: str | None = None
) -> CrossEncoder:
    """A new encoder that knows the tokens which `texts` use most; the given one stays as it is.

    Pairs whose pieces are all kept get the scores they had; other texts are cut into smaller pieces, and nothing that
    could be read before becomes unknown (unless `characters` says so). See `kept_ids` for what is kept.
    The new encoder is loaded from a folder, which is then removed, so it is what saving and loading gives.

    Covered are models with a classification head, module chains and causal rerankers. What a model's template is
    spelled with, the default instruction included, and the tokens of its answer are kept in any case; of a causal
    reranker the vocabulary that is read shrinks too, whether or not it is tied to the embeddings.

    The settings of `encoder` are taken over. `always` are tokens as the vocabulary spells them ("##ing", "Ġthe"); the
    other arguments are as in `kept_ids`.

    Raises:
        InvalidInput: an argument is refused, or `size` is less than what must be kept; the message says how much.
        CheckpointError: the disk is full.
    """
    backend = encoder.tokenizer.backend_tokenizer
    vocabulary = backend.get_vocab(with_added_tokens=True)
    wanted = list(always)
    unknown = [token for token in wanted if token not in vocabulary]
    if unknown:
        raise InvalidInput(f"always: the vocabulary has no token {unknown[0]!r}")
    needed = {vocabulary[token] for token in wanted} | _fixed(encoder.model, set(vocabulary.values()))
    if encoder.template is not None:
        needed |= _around_texts(encoder)
        texts = _framed(encoder, texts)
    ids = kept_ids(backend, texts, size, always=needed, characters=characters)
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer._tokenizer = smaller_tokenizer(backend, ids)
    model = with_rows(encoder.model, ids)
    with tempfile.TemporaryDirectory(prefix="secondpass-") as folder:
        save(folder, model, tokenizer, nn.Identity(), **encoder.stored_settings())
        made = CrossEncoder(
            folder,
            template=encoder.template,
            max_length=encoder.max_length,
            device=encoder.device,
            automodel_args={"dtype": encoder.model.dtype},
            default_activation_function=encoder.default_activation_function,
            truncation=encoder.truncation,
            max_batch_tokens=encoder.max_batch_tokens,
            max_documents=encoder.max_documents,
            local_files_only=True,
        )
    made.config.name_or_path = encoder.config.name_or_path
    return made


def _around_texts(encoder: CrossEncoder) -> set[int]:
    """Ids of all that the model's template puts around texts: with its default instruction, with another, with none."""
    around = ["", "a", "a.", "a?", "1"]
    has_place = encoder.template is not None and encoder.template.instructed is not None
    made = [encoder.tokens(around, around, instruction=given) for given in ((None, "", "a.") if has_place else (None,))]
    return {int(number) for inputs in made for tokens in inputs for number in tokens.ids}


def _framed(encoder: CrossEncoder, texts: Iterable[str]) -> Iterator[str]:
    """Each text as a query and as a document, with the plain text of the template that is encoded with it."""
    template = encoder.template
    frames = () if template is None else encoder.engine().tokenizer.framed(template.rendered())
    for place, text in enumerate(texts):
        yield from (frame.around(checked(text, f"texts[{place}]"))[0] for frame in frames)


def with_rows(model: Any, ids: Sequence[int]) -> Any:
    """A copy of a model whose word embeddings are the rows `ids` of the given one's, in that order.

    So are the rows of a causal language model's vocabulary, tied to the embeddings or not. Token ids in the
    configuration, and those of the rows that are read for a score, become the rows' new places; one that has no row is
    forgotten.

    Raises:
        InvalidInput: a token that the score is read at is not among `ids`.
    """
    places = {number: place for place, number in enumerate(ids)}
    made = copy.deepcopy(model)
    readout = made.readout if isinstance(made, ReadoutModel) else None
    if isinstance(readout, VocabularyRows):
        lost = [number for number in readout.token_ids if number not in places]
        if lost:
            raise InvalidInput(f"ids: the score is read at token {lost[0]}, which is not among them")
        head, tied = made.get_output_embeddings(), made.config.get_text_config().tie_word_embeddings
        _keep_rows(head, ids)
        readout.true_token_id, *others = [places[number] for number in readout.token_ids]
        readout.false_token_id = others[0] if others else None
    if isinstance(readout, ModuleChain) and readout.late is not None:
        readout.late.importance = nn.Parameter(readout.late.importance.detach()[list(ids)])
    table = made.get_input_embeddings()
    _keep_rows(table, ids)
    table.num_embeddings, table.padding_idx = len(ids), places.get(table.padding_idx)
    if isinstance(readout, VocabularyRows):
        head.out_features = len(ids)
        if tied:
            head.weight = table.weight
    made.config.vocab_size = len(ids)
    for config in filter(None, (made.config, getattr(made, "generation_config", None))):
        for name, given in _token_ids(config).items():
            if isinstance(given, list):
                setattr(config, name, [places[number] for number in given if number in places] or None)
            else:
                setattr(config, name, places.get(given))
    return made


def _keep_rows(module: Any, ids: Sequence[int]) -> None:
    rows = torch.tensor(list(ids), device=module.weight.device)
    for name, weight in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(weight.detach()[rows].clone(), requires_grad=weight.requires_grad))


def _token_ids(config: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(config).items() if name.endswith("_token_id") and value is not None}


def _fixed(model: Any, known: set[int]) -> set[int]:
    """Ids that the model itself means something by."""
    named: set[int] = set()
    if reads_vocabulary(model):
        named |= set(model.readout.token_ids)
        if not named <= known:
            raise InvalidInput(f"the score is read at token {max(named - known)}, which the tokenizer does not have")
    for given in _token_ids(model.config).values():
        named |= set(given if isinstance(given, list) else [given])
    for name, part in model.named_modules():
        # RoBERTa and its kin count positions from the padding token's id on, so that id must stay what it is.
        if isinstance(part, nn.Embedding) and name.rpartition(".")[2] in POSITION_TABLES:
            named |= set() if part.padding_idx is None else set(range(part.padding_idx + 1))
    return named & known
