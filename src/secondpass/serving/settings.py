"""What the service is told: models, address, limits, keys."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from secondpass.errors import InvalidInput
from secondpass.forwards.precision import Precision, checked_precision
from secondpass.lazy import optional
from secondpass.text import positive_int
from secondpass.windows import Windows

if TYPE_CHECKING:
    from secondpass.inputs import Truncation

VARIABLE = "SECONDPASS_API_KEYS"
SHORTEST = 16
SCHEME = "bearer"


class ApiKeys:
    """The keys that open the service; only their SHA-256 digests are kept, and they are never shown."""

    def __init__(self, keys: Iterable[str] = (), again: Callable[[], ApiKeys] | None = None) -> None:
        """Take `keys`; `again` reads them anew.

        Raises:
            InvalidInput: a key is short or is not printable ASCII; the message gives its number, never the key.
        """
        self._digests = tuple(_digest(_checked(key, number)) for number, key in enumerate(keys, start=1))
        self._again = again

    def __len__(self) -> int:
        return len(self._digests)

    def __repr__(self) -> str:
        return f"<{len(self)} API keys>"

    def renew(self) -> None:
        """Take what stands now where they were read; raises InvalidInput where it is refused, and the old ones stay."""
        if self._again is not None:
            self._digests = self._again()._digests

    def allow(self, authorization: str | None) -> bool:
        """Tell whether an `Authorization: Bearer ...` header carries one of the keys; without keys all is allowed.

        Every key is compared, and digests have one length, so the time tells neither which key was near nor how
        long it is.
        """
        if not self._digests:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        given = _digest(token.strip())
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == SCHEME and any(matches)


def read_keys(environment: Mapping[str, str], file: Path | None = None) -> ApiKeys:
    """Keys of SECONDPASS_API_KEYS (separated by commas or blanks) and of a file (one a line, # begins a comment).

    Raises:
        InvalidInput: a key is refused, the file cannot be read, or it holds no key.
    """
    keys = environment.get(VARIABLE, "").replace(",", " ").split()
    if file is not None:
        keys += _keys_of(file)
    return ApiKeys(dict.fromkeys(keys), None if file is None else lambda: read_keys(environment, file))


def _keys_of(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the file of API keys {file} cannot be read: {type(error).__name__}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise InvalidInput(f"the file of API keys {file} holds no key")
    return keys


def _checked(key: str, number: int) -> str:
    if len(key) < SHORTEST:
        raise InvalidInput(f"API key {number} has fewer than {SHORTEST} characters: make one with openssl rand -hex 32")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InvalidInput(f"API key {number} has characters other than printable ASCII without blanks")
    return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


POCKET = "secondpass/pocket"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The name that clients say, the folder or hub name behind it, and the instruction of requests without one.

    `calibration` is the file that makes probabilities of its scores; None takes the one in the model's folder.
    Of a cascade `stages` are the names or sources of its models, the cheapest first, and `keep` is how many documents
    go on from each to the next, one number for all.
    """

    name: str
    source: str
    instruction: str | None = None
    stages: tuple[str, ...] = ()
    keep: tuple[int, ...] = ()
    calibration: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How the service runs.

    `max_requests` are in flight at once, the body being read included; `max_characters` are of one text;
    `max_waiting_pairs` and `max_waiting_tokens` wait for a model at most; `deadline_s` is from the first byte to the
    answer; `head_s` is how long a request line with its headers may take, from the first byte or the connection on;
    `shutdown_delay_s` is how long a draining service stays to be seen as not ready. `max_length`, `device`,
    `precision`, `template`, `true_token` and `false_token` are those of `CrossEncoder`, for every model that is loaded,
    the last three where that is one.
    `truncation` says what is read of a pair that is too long where a request does not; None: as the model does.
    `token_cache_mb` MiB hold the token ids of documents seen before, of all models together; 0 is without.
    `score_cache` is a file for the scores of pairs seen before, of `score_cache_mb` MiB; ":memory:" is none.
    `docs` offers Swagger's pages at /docs, `playground` a page at /playground whose first pass searches that corpus (a
    file or folder, as `corpora.read_corpus` takes it); `trace_texts` puts queries and documents into spans.
    `shadows` are pairs of models by name: the second one scores the documents of `shadow_share` of the first one's
    answers too, and how far they agree is counted.

    Raises:
        InvalidInput: a value is refused, a model's name is taken twice, or others could reach a service without keys.
    """

    models: tuple[ModelSource, ...] = (ModelSource(POCKET, POCKET),)
    host: str = "127.0.0.1"
    port: int = 8000
    keys: ApiKeys = field(default_factory=ApiKeys)
    without_keys: bool = False
    open_metrics: bool = False
    docs: bool = False
    playground: str | None = None
    trace_texts: bool = False
    max_requests: int = 256
    max_documents: int = 1000
    max_body_bytes: int = 10_000_000
    max_characters: int = 1_000_000
    max_waiting_pairs: int = 20_000
    max_waiting_tokens: int = 4_000_000
    max_wait_ms: float = 0.0
    deadline_s: float = 30.0
    head_s: float = 5.0
    shutdown_delay_s: float = 0.0
    keep_alive_s: int = 75
    max_length: int | None = None
    device: str | None = None
    precision: Precision | None = None
    template: str | None = None
    true_token: str | None = None
    false_token: str | None = None
    token_cache_mb: int = 64
    truncation: Truncation | Windows | None = None
    score_cache: str | None = None
    score_cache_mb: int = 256
    shadows: tuple[tuple[str, str], ...] = ()
    shadow_share: float = 0.1

    def __post_init__(self) -> None:
        for what in ("requests", "documents", "body_bytes", "characters", "waiting_pairs", "waiting_tokens"):
            positive_int(getattr(self, f"max_{what}"), f"max_{what}")
        for name, least in (("deadline_s", 0.001), ("head_s", 0.001), ("max_wait_ms", 0.0), ("shutdown_delay_s", 0.0)):
            value = getattr(self, name)
            if not least <= value < float("inf"):
                raise InvalidInput(f"{name}={value!r} is not a number from {least:g} up")
        if self.precision is not None:
            checked_precision(self.precision)
        if self.token_cache_mb != 0:
            positive_int(self.token_cache_mb, "token_cache_mb")
        positive_int(self.score_cache_mb, "score_cache_mb")
        names = [model.name for model in self.models]
        if not 0 <= self.shadow_share <= 1:
            raise InvalidInput(f"shadow_share={self.shadow_share!r} is not between 0 and 1")
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names or twice:
            raise InvalidInput(f"two models have the name {twice[0]!r}" if twice else "no model is given")
        if not (self.keys or self.without_keys or is_loopback(self.host)):
            raise InvalidInput(
                f"host={self.host} can be reached by others and no API key is set: set SECONDPASS_API_KEYS or give "
                "--api-keys-file, or say --without-keys"
            )

    def redacted(self) -> dict[str, object]:
        """Every setting as JSON takes it; of the keys only how many there are."""
        shown: dict[str, object] = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        windows = {} if not isinstance(self.truncation, Windows) else {"truncation": asdict(self.truncation)}
        models = {model.name: model.source for model in self.models}
        return shown | windows | {"models": models, "keys": len(self.keys)}


def model_source(value: str) -> ModelSource:
    """Read `name=folder`, or a folder or hub name alone, which then is the name (of a folder its last part).

    `name=small,large` is a cascade of models, each another `--model`'s name, a folder or a hub name.

    Raises:
        InvalidInput: the name could not stand in a request, or there is no folder.
    """
    name, equals, source = value.partition("=")
    if not equals:
        name, source = (Path(value).resolve().name if Path(value).is_dir() else value), value
    stages = tuple(source.split(",")) if "," in source and not Path(source).exists() else ()
    if (stages and not equals) or not all(stages):
        raise InvalidInput(f"--model {value!r}: several models are a cascade, which is given as name=small,large")
    if not NAME.fullmatch(name) or not source:
        raise InvalidInput(f"--model {value!r} is not name=folder with a name of letters, digits and ._/:- ")
    return ModelSource(name, source, stages=stages)


def keeping(models: Iterable[ModelSource], given: Iterable[str]) -> tuple[ModelSource, ...]:
    """The models with how many documents go on in a cascade: `100`, `500,100` for each step, or that with `name=`.

    Raises:
        InvalidInput: it is no number, said twice, or there is no cascade.
    """
    made = list(models)
    for value in given:
        name, equals, numbers = value.rpartition("=")
        meant = [place for place, model in enumerate(made) if (model.name == name if equals else model.stages)]
        if not meant:
            raise InvalidInput(
                f"--keep {value!r}: there is no model {name!r}" if equals else "--keep: no --model is a cascade"
            )
        if not all(number.isdecimal() and int(number) for number in numbers.split(",")):
            raise InvalidInput(f"--keep {value!r}: {numbers!r} is no number of documents")
        for place in meant:
            if made[place].keep:
                raise InvalidInput(f"--keep is given twice for the model {made[place].name!r}")
            made[place] = replace(made[place], keep=tuple(map(int, numbers.split(","))))
    return tuple(made)


def instructed(models: Iterable[ModelSource], given: Iterable[str]) -> tuple[ModelSource, ...]:
    """The models with their instructions, each given as `name=text`, or as a text for all.

    Raises:
        InvalidInput: a model gets two.
    """
    made = list(models)
    for value in given:
        name, equals, text = value.partition("=")
        is_named = equals and name in [model.name for model in made]
        for place, model in enumerate(made):
            if is_named and model.name != name:
                continue
            if model.instruction is not None:
                raise InvalidInput(f"--instruction is given twice for the model {model.name!r}")
            made[place] = replace(model, instruction=text if is_named else value)
    return tuple(made)


def probable(models: Iterable[ModelSource], given: Iterable[str]) -> tuple[ModelSource, ...]:
    """The models with the files of their calibrations, each given as `name=file`, or for one model as a file.

    Raises:
        InvalidInput: it is not said which of several models it is for, or one gets two.
    """
    made = list(models)
    for value in given:
        name, _, file = value.partition("=")
        place = next((place for place, model in enumerate(made) if file and model.name == name), None)
        if place is None and len(made) > 1:
            raise InvalidInput(f"--calibration {value!r}: say of which model, name=file, by the name in --model")
        if made[place or 0].calibration is not None:
            raise InvalidInput(f"--calibration is given twice for the model {made[place or 0].name!r}")
        made[place or 0] = replace(made[place or 0], calibration=value if place is None else file)
    return tuple(made)


def shadows_of(given: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Read `name=next`, two names of models each.

    Raises:
        InvalidInput: it is not that.
    """
    made = [value.partition("=") for value in given]
    for name, equals, shadow in made:
        if not (name and equals and shadow):
            raise InvalidInput(f"--shadow {name + equals + shadow!r} is not name=next, two names of models")
    return tuple((name, shadow) for name, _, shadow in made)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_libraries() -> None:
    """Check that the service can run, before a module is imported that needs a library of the extra.

    Raises:
        MissingExtra: a library of the extra is not installed.
    """
    for name in ("fastapi", "httptools", "prometheus_client", "uvicorn"):
        optional(name, name, "serve")
