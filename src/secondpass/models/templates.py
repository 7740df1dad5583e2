"""Which texts a model was trained to read around query and document, and at which tokens its answer is read.

Published families have a file each in `templates/`, with its source; a folder that sentence-transformers saved brings a
chat template, which is rendered once, with marks for the texts, and taken apart.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from secondpass.activations import Activation, Elementwise, tempered_sigmoid
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.inputs import LAYOUT, NAMES, Mark, ModelTemplate, Plain, PromptTemplate, filled, probe_template
from secondpass.models.config import (
    LISTED,
    NEWEST_FILE,
    OWN_KEY,
    TRANSFORMER_FILE,
    read_if_present,
    read_json,
    read_processing,
    stored_template,
)
from secondpass.tokens import PairTokenizer

logger = logging.getLogger(__name__)

QUERY, DOCUMENT, INSTRUCTION = "{query}", "{document}", "{instruction}"
# Ends and beginnings of texts that tokenizers treat by rules of their own.
PROBES = (
    "a", "", "what?", "end.", "two\n", "\n\n", "  blank ", "17", "\u4e2d\u6587", "don't", "caf\u00e9", "!!", ": ",
    "<b>", "</s>", "<|im_end|>", "\u00a0x\u3000", "\t-", "\U0001f600",
)  # fmt: skip
LONG_PROBE = 100_000
# Arguments of `apply_chat_template` that say nothing about the text (`modules.stored_limit` reads what is a limit), and
# one of sentence-transformers alone.
NO_TEXT = ("padding", "truncation", "max_length", "return_tensors", "restore_suffix")
# What the owner of a model says where its folder does not.
ANSWER = ("template", "true_token", "false_token")
# By these sentence-transformers tells that a template wants the content of a message as a list of parts.
STRUCTURED = re.compile(r"content\[0\]|\.type|'type'|\"type\"|message\.content\[")


@dataclass(frozen=True, slots=True)
class RerankerFamily:
    """A published family: its template, where it is known by, and the tokens of its answer (the second may be None).

    Where there is a `temperature`, the published score is the sigmoid of the logit over it; `activation` is the name of
    another one, of torch.nn, that makes it.
    """

    template: ModelTemplate
    names: re.Pattern[str]
    architectures: tuple[str, ...]
    true_token: str | None
    false_token: str | None
    temperature: float | None = None
    activation: str | None = None


@cache
def families() -> Mapping[str, RerankerFamily]:
    """All of `templates/`, by name."""
    import tomllib  # for models that have a template alone

    made = {}
    for file in sorted((resources.files("secondpass") / "models" / "templates").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            stored = tomllib.loads(file.read_text(encoding="utf-8"))
            share = stored["template"].pop("query_share", None)
            template = template_of(**stored["template"], query_share=share and tuple(share))
            pattern = re.compile(stored["names"], re.IGNORECASE)
            tokens = stored.get("true_token"), stored.get("false_token")
            score = stored.get("temperature"), stored.get("activation")
            family = RerankerFamily(template, pattern, tuple(stored["architectures"]), *tokens, *score)
            made[file.name.removesuffix(".toml")] = family
    return made


def published_activation(template: ModelTemplate | None) -> Activation | None:
    """What makes the published scores of the family that a template is of; None where that is as everywhere."""
    if template is None:
        return None
    own = next((family for family in families().values() if family.template == template), None)
    if own is None or own.temperature is not None:
        return None if own is None else tempered_sigmoid()(own.temperature)
    return None if own.activation is None else Elementwise(own.activation)


def template_of(
    query: str | Sequence[str],
    document: str | Sequence[str],
    *,
    instruction: str = INSTRUCTION,
    default_instruction: str | None = None,
    **rules: Any,
) -> ModelTemplate:
    """A template from texts with slots.

    Args:
        query: "... {instruction} ... {query} ..."; the parts of a sequence are tokenised each by itself.
        document: "... {document} ...", in the same way.
        instruction: what stands at "{instruction}" of `query` in a call that gives one, "{instruction}" in it.
        default_instruction: what a call gives that gives none; None leaves the place empty.
        rules: `document_first`, `own_specials` ("none" if not given) and `stripped` of `PromptTemplate`, and `window`,
            `truncation`, `query_share` of `ModelTemplate`.

    Raises:
        InvalidInput: "{query}" or "{document}" is not there once.
    """
    own = {name: rules.pop(name) for name in LAYOUT if name in rules}
    layout = PromptTemplate(*_beside(query, QUERY), *_beside(document, DOCUMENT), **{"own_specials": "none", **own})
    before, _, behind = instruction.partition(INSTRUCTION)
    wanted = () if default_instruction is None else (before, default_instruction, behind)
    plain = layout.parted(lambda spans: filled(spans, wanted))
    instructed = layout.parted(lambda spans: filled(spans, (before, Mark.INSTRUCTION, behind)))
    return ModelTemplate(plain, None if instructed == plain else instructed, default_instruction, **rules)


def _beside(text: str | Sequence[str], slot: str) -> tuple[tuple[str | Mark, ...], tuple[str | Mark, ...]]:
    """What stands before and behind `slot`, with a border between the parts of a sequence."""
    parts = [text] if isinstance(text, str) else list(text)
    holding = [place for place, part in enumerate(parts) if slot in part]
    if len(holding) != 1 or parts[holding[0]].count(slot) != 1:
        raise InvalidInput(f"a template must have {slot} once, and not {text!r}")
    before, _, behind = parts[holding[0]].partition(slot)
    left = [span for part in parts[: holding[0]] for span in (part, Mark.BORDER)]
    right = [span for part in parts[holding[0] + 1 :] for span in (Mark.BORDER, part)]
    return (*left, before), (behind, *right)


# ---- What goes with a folder.


def template_for(
    folder: Path,
    source: str,
    architecture: str,
    tokenizer: Any,
    given: str | PromptTemplate | ModelTemplate | None = None,
    true_token: str | None = None,
    false_token: str | None = None,
) -> tuple[ModelTemplate | None, int | None, int | None]:
    """The template of a model, None for plain pairs, and the ids of its answer's tokens, None where others know them.

    Args:
        folder: where the model is.
        source: the name under which it was asked for; with the name in config.json it tells the family.
        architecture: of config.json.
        tokenizer: a transformers fast tokenizer.
        given: the owner's word: the name of a published family, a text with "{query}" and "{document}", or a template.
        true_token: a token of the vocabulary whose logit is the score.
        false_token: one whose logit is taken off it.

    Raises:
        InvalidInput: an argument is refused; the message names it.
        ModelLoadError: the template or the tokens of a causal language model are not known, or a stored chat template
            has no place for query and document.
    """
    if false_token is not None and true_token is None:
        raise InvalidInput("false_token is given without true_token")
    saved, plainly_causal = (folder / LISTED).is_file(), architecture.endswith("ForCausalLM")
    plainly_causal = plainly_causal and not saved
    family = None if given is not None or saved else _family(folder, source, architecture)
    if isinstance(given, str) and given in families():
        family = families()[given]
    template = family.template if family is not None else _template(given, folder, saved, tokenizer)
    if true_token is not None:
        ids = _token(tokenizer, true_token, "true_token"), _token(tokenizer, false_token, "false_token")
    else:
        ids = _published(tokenizer, family, architecture)
    if plainly_causal and (template is None or ids[0] is None):
        raise ModelLoadError(
            f"{folder} holds a causal language model of no family that is known here, so "
            f"{'its template' if template is None else 'the token of its answer'} must be said: template= is one of "
            f"{', '.join(families())}, a text with {QUERY} and {DOCUMENT}, or a ModelTemplate; true_token= is the "
            "token whose logit is the score, false_token= one whose logit is taken off it"
        )
    return template, *ids


def check_alone(models: Iterable[str], given: Mapping[str, Any]) -> None:
    """Refuse, by their names among `given`, a template and tokens that would go to several models alike.

    Raises:
        InvalidInput: there is one, and not one model.
    """
    several = sorted(set(models))
    for name in ANSWER:
        if given.get(name) is not None and len(several) > 1:
            raise InvalidInput(
                f"{name} is for one model, and here are {' and '.join(several)}: load the one it is for with it, save "
                "that, and give the saved folder"
            )


def _family(folder: Path, source: str, architecture: str) -> RerankerFamily | None:
    """The published family by the model's name and its architecture together."""
    stored = read_json(folder / "config.json").get("_name_or_path")
    path = Path(source).expanduser()
    # a folder of the hub's cache has its model's name above; else parents say nothing
    named = [path.resolve().name if path.is_dir() else source, str(stored or "")]
    named += [part for part in folder.parts if part.startswith("models--")]
    for family in families().values():
        if architecture in family.architectures and any(family.names.search(name.replace("_", "-")) for name in named):
            return family
    return None


def _template(given: object, folder: Path, saved: bool, tokenizer: Any) -> ModelTemplate | None:
    if isinstance(given, ModelTemplate):
        return given
    if isinstance(given, PromptTemplate):
        return ModelTemplate(given)
    if isinstance(given, str) and QUERY in given:
        _tell_specials(given, tokenizer)
        return _slotted(given, given if INSTRUCTION in given else None, tokenizer)
    if given is not None:
        raise InvalidInput(f"template={given!r} is none of {', '.join(families())}, no text with {QUERY}, no template")
    if saved and (kept := stored_template(folder)) is not None:
        return restored(kept, folder / NEWEST_FILE)
    stored = read_if_present(folder / TRANSFORMER_FILE) if saved else {}
    modalities = stored.get("modality_config")
    message = modalities.get("message") if isinstance(modalities, dict) else None
    absent = getattr(tokenizer, "chat_template", None) is None
    if absent and message is not None:
        raise ModelLoadError(
            f"{folder / TRANSFORMER_FILE} says (modality_config, message) that pairs are read in a chat template, and "
            "there is none: chat_template.jinja is missing"
        )
    if absent or (saved and message is None):
        return None
    kwargs = read_processing(folder / TRANSFORMER_FILE).get("chat_template", {}) if saved else {}
    form = message.get("format") if isinstance(message, dict) else None
    if form not in ("flat", "structured"):
        form = "structured" if STRUCTURED.search(str(tokenizer.chat_template)) else "flat"
    return _chat(folder, tokenizer, form == "structured", kwargs, saved)


def _chat(
    folder: Path, tokenizer: Any, structured: bool, kwargs: Mapping[str, Any], needed: bool
) -> ModelTemplate | None:
    """The tokenizer's chat template, taken apart; None where it is not for pairs and need not be."""
    options = {name: value for name, value in kwargs.items() if name not in NO_TEXT}

    def rendered(query: str, document: str, *system: str) -> str:
        contents = [*(("system", text) for text in system), ("query", query), ("document", document)]
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if structured else text}
            for role, text in contents
        ]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))

    try:
        plain = rendered(QUERY, DOCUMENT)
        if plain.count(QUERY) != 1 or plain.count(DOCUMENT) != 1:
            raise ModelLoadError("it does not read each of the roles 'query' and 'document' once")
        blanks, instructed = rendered(" a ", "\nb "), rendered(QUERY, DOCUMENT, INSTRUCTION)
    except Exception as error:  # templates raise what they like
        if not needed:
            return None
        reason = " ".join(str(error).split())
        raise ModelLoadError(
            f"{folder}: the chat template cannot be used for a query and a document: {reason}"
        ) from None
    made = _slotted(plain, instructed if INSTRUCTION in instructed else None, tokenizer)
    if blanks == plain.replace(QUERY, " a ").replace(DOCUMENT, "\nb "):
        return made
    if blanks != plain.replace(QUERY, "a").replace(DOCUMENT, "b"):
        raise ModelLoadError(f"{folder}: the chat template changes the texts of query and document")
    own, other = replace(made.plain, stripped=True), made.instructed
    return replace(made, plain=own, instructed=other and replace(other, stripped=True))


def _tell_specials(text: str, tokenizer: Any) -> None:
    """Warn of a text that is read without special tokens which the tokenizer puts around others."""
    backend = tokenizer.backend_tokenizer
    ids = [int(number) for part in probe_template(backend, 1).parts for number in part]
    absent = [token for token in map(backend.id_to_token, dict.fromkeys(ids)) if token not in text]
    if absent:
        _tell_absent(text, ", ".join(absent))


@cache
def _tell_absent(text: str, absent: str) -> None:
    """Once for each text, however often it is loaded."""
    logger.warning("template=%r has no %s, which the tokenizer puts around texts: inputs are without", text, absent)


def _slotted(plain: str, instructed: str | None, tokenizer: Any) -> ModelTemplate:
    """A template from whole texts with slots: without an instruction, and with one where there is a place for it."""
    layout = _laid_out(plain.replace(INSTRUCTION, ""), tokenizer)
    if instructed is None:
        return ModelTemplate(layout)
    before, _, behind = instructed.partition(INSTRUCTION)
    default = plain[len(before) : len(plain) - len(behind)]
    written = plain == f"{before}{default}{behind}" and default != INSTRUCTION
    with_slot = _laid_out(instructed, tokenizer).parted(lambda spans: filled(spans, (Mark.INSTRUCTION,)))
    return ModelTemplate(layout, with_slot, default if written else None)


def _laid_out(text: str, tokenizer: Any) -> PromptTemplate:
    """A whole text with slots taken apart at them; what stands between them is divided so that ids are the whole's."""
    for slot in (QUERY, DOCUMENT):
        if text.count(slot) != 1:
            raise InvalidInput(f"a template must have {slot} once, and not {text!r}")
    first, second = sorted((QUERY, DOCUMENT), key=text.index)
    before, rest = text.split(first)
    between, behind = rest.split(second)
    place = _divided(before, between, behind, tokenizer)
    own, other = (before, between[:place]), (between[place:], behind)
    if first == DOCUMENT:
        own, other = other, own
    return PromptTemplate(*own, *other, document_first=first == DOCUMENT, own_specials="none")


def _divided(before: str, between: str, behind: str, tokenizer: Any) -> int:
    """Where to divide the text between two texts: behind its last special token, else at a place found by trying."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    ends = [
        between.rfind(token.content) + len(token.content)
        for token in added
        if token.special and token.content in between
    ]
    if ends:
        return max(ends)
    ours = PairTokenizer(tokenizer)
    pairs = [*((probe, "a") for probe in PROBES), *(("a", probe) for probe in PROBES)]
    pairs += itertools.zip_longest(PROBES, PROBES[3:] + PROBES[:3])

    def ids(query: str, document: str, template: PromptTemplate) -> list[int]:
        (made,) = ours.pairs([query], [document], LONG_PROBE, "error", template)
        return [int(number) for number in made.ids]

    whole = [
        ids(one, "", PromptTemplate(before, (between, Plain(two), behind), own_specials="none")) for one, two in pairs
    ]
    best = (-1, 0)
    for place in sorted(
        range(len(between) + 1), key=lambda place: (between[:place].endswith("\n"), place), reverse=True
    ):
        template = PromptTemplate(before, between[:place], between[place:], behind, own_specials="none")
        equal = sum(ids(*pair, template) == wanted for pair, wanted in zip(pairs, whole, strict=True))
        best = max(best, (equal, place), key=lambda found: found[0])
        if equal == len(pairs):
            return place
    logger.warning(
        "the template's text %r between query and document cannot be divided so that all ids are those of the whole: "
        "they are for %s of %s tried pairs of texts", between, best[0], len(pairs),
    )  # fmt: skip
    return best[1]


# ---- The tokens of the answer.


def _token(tokenizer: Any, token: str | None, argument: str) -> int | None:
    """The id of a token that the caller names."""
    if token is None:
        return None
    if not isinstance(token, str):
        raise InvalidInput(f"{argument} is {type(token).__name__}, not str")
    number = _known(tokenizer, token)
    if number is None or number == tokenizer.unk_token_id:
        raise InvalidInput(f"{argument}={token!r} is not one token of the model's vocabulary")
    return number


def _known(tokenizer: Any, token: str) -> int | None:
    found: int | None = tokenizer.backend_tokenizer.token_to_id(token)
    if found is None:
        ids, model = tokenizer.encode(token, add_special_tokens=False), tokenizer.backend_tokenizer.model
        # a token that is not there is one, too
        unknown = getattr(model, "unk_token", None)
        absent = tokenizer.unk_token_id, unknown and model.token_to_id(unknown)
        found = ids[0] if len(ids) == 1 and ids[0] not in absent else None
    return found


def _published(tokenizer: Any, family: RerankerFamily | None, architecture: str) -> tuple[int | None, int | None]:
    """The ids of a family's tokens."""
    if family is None or family.true_token is None or not architecture.endswith("ForCausalLM"):
        return None, None
    made = []
    for token in (family.true_token, family.false_token):
        number = None if token is None else _known(tokenizer, token)
        if token is not None and number is None:
            raise ModelLoadError(f"the answer of this family is read at the token {token!r}, which the tokenizer lacks")
        made.append(number)
    return made[0], made[1]


# ---- A template that no folder brought, into the folder of the saved model: whole for us, and as a chat template with
# the roles "system", "query" and "document", which is how sentence-transformers reads one.
CHAT = (
    '{%% set n = namespace(system="", query="", document="") %%}{%% for m in messages %%}'
    '{%% if m.role == "system" %%}{%% set n.system = m.content %%}{%% elif m.role == "query" %%}'
    '{%% set n.query = m.content%s %%}{%% elif m.role == "document" %%}{%% set n.document = m.content%s %%}'
    "{%% endif %%}{%% endfor %%}{%% if n.system %%}{{ %s }}{%% else %%}{{ %s }}{%% endif %%}"
)


def stored(template: ModelTemplate) -> dict[str, Any]:
    """A template as JSON data."""
    made = {field.name: getattr(template, field.name) for field in fields(template)}
    return made | {name: _stored_layout(made[name]) for name in ("plain", "instructed")}


def _stored_layout(layout: PromptTemplate | None) -> dict[str, Any] | None:
    if layout is None:
        return None
    made = {field.name: getattr(layout, field.name) for field in fields(layout)}
    for name in NAMES:
        made[name] = [_stored_span(span) for span in ((made[name],) if isinstance(made[name], str) else made[name])]
    return made


def _stored_span(span: str | Plain | Mark) -> Any:
    if isinstance(span, Mark):
        return {"mark": span.name}
    return {"plain": span.text} if isinstance(span, Plain) else span


def restored(data: Any, path: Path) -> ModelTemplate:
    """The inverse of `stored`; raises ModelLoadError, which has `path`, where that wrote something else."""
    try:
        layouts = {name: _restored_layout(data[name]) for name in ("plain", "instructed")}
        if layouts["plain"] is None or not isinstance(data["window"], (int, type(None))):
            raise TypeError("plain is null, or window no number")
        share = data["query_share"] and tuple(int(number) for number in data["query_share"])
        return ModelTemplate(**{**data, **layouts, "query_share": share})
    except (KeyError, TypeError, ValueError, InvalidInput) as error:
        raise ModelLoadError(f"{path}: {OWN_KEY}.template cannot be read: {error}") from error


def _restored_layout(data: Any) -> PromptTemplate | None:
    if data is None:
        return None

    def span(given: Any) -> str | Plain | Mark:
        if isinstance(given, dict):
            return Plain(given["plain"]) if "plain" in given else Mark[given["mark"]]
        return str(given)

    made: dict[str, Any] = {
        name: tuple(map(span, value)) if isinstance(value, list) else value for name, value in data.items()
    }
    return PromptTemplate(**made)


def chat_template_of(template: ModelTemplate, tokenizer: Any) -> str | None:
    """A template as sentence-transformers reads one, None where it has none such: two texts with tokens between."""
    if template.plain.own_specials == "pair":
        return None
    around = ("", "")
    if template.plain.own_specials == "text":
        backend = tokenizer.backend_tokenizer
        before, behind = probe_template(backend, 1).parts
        around = "".join(map(backend.id_to_token, before)), "".join(map(backend.id_to_token, behind))
    strip = " | trim" if template.plain.stripped else ""
    plain = _expression(template.plain, around)
    instructed = plain if template.instructed is None else _expression(template.instructed, around)
    return CHAT % (strip, strip, instructed, plain)


def _expression(layout: PromptTemplate, around: tuple[str, str]) -> str:
    """A layout as the terms that a chat template adds up."""
    texts = {"query": [layout.query_prefix, "query", layout.query_suffix]}
    texts["document"] = [layout.document_prefix, "document", layout.document_suffix]
    order = ["document", "query"] if layout.document_first else ["query", "document"]
    terms = [json.dumps(around[0], ensure_ascii=False)]
    for role in order:
        before, _, behind = texts[role]
        terms += [*_terms(before), f"n.{role}", *_terms(behind)]
    return " + ".join([*terms, json.dumps(around[1], ensure_ascii=False)])


def _terms(spans: Any) -> list[str]:
    made = []
    for span in (spans,) if isinstance(spans, str) else spans:
        if span is Mark.INSTRUCTION:
            made.append("n.system")
        elif not isinstance(span, Mark):
            made.append(json.dumps(span.text if isinstance(span, Plain) else span, ensure_ascii=False))
    return made
