"""How a model of a folder is computed without torch: by the compiled kernel, or where there is none by numpy.

What "auto" means is decided here for every model; one that torch holds is computed by `forwards.module`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import numpy as np

from secondpass.forwards.contract import FULL_PRECISION, Computation, Compute, ForwardLock, Logits
from secondpass.forwards.description import Encoder
from secondpass.forwards.kernel import KernelEncoder, kernel_forward, native
from secondpass.forwards.kernel.cache import digest_of, remember, remembered
from secondpass.forwards.kernel.weights import unsupported, with_numbers
from secondpass.forwards.late import whole
from secondpass.forwards.precision import Precision, agrees
from secondpass.lazy import lacking_torch
from secondpass.tokens import Tokens

Settled = Literal["fp32", "bf16", "int16", "int8"]
DTYPES: dict[Settled, str] = {"fp32": "float32", "bf16": "bfloat16", "int16": "int16", "int8": "int8"}

# Whole numbers, which the kernel alone multiplies.
WHOLE: tuple[Settled, ...] = ("int16", "int8")
# What "auto" may take in place of float32: the first that is there, is faster and agrees.
ROUNDED: tuple[Settled, ...] = ("bf16", "int16")
# It must save this share of the time before "auto" looks at its scores: less could be chance.
SAVING = 0.05
# Samples that are timed, how often at least, and while others compute at most, and by which share of the layers, where
# they can be computed apart.
FEW = 4
TURNS, MOST_TURNS = 4, 16
LAYERS = 1 / 6
# The second best time is so much longer than the best at most, or others computed meanwhile: alone it is 1 % on two
# cores of a Zen 4, beside six busy programs 5 to 60 %, and then bfloat16 seemed to save anything from nothing to half.
ALONE = 0.03
# Below this width nothing is won, and what is measured is noise.
SMALLEST_HIDDEN = 128
# Whether a precision saves that, and whether nobody disturbed: measured once a process, so that one model is computed
# in one way.
_SAVES: dict[tuple[str, str, str, int], tuple[bool, bool]] = {}

Ways = Callable[[Settled], Compute | str | None]
"""What computes a model in a precision; None or a sentence that says why nothing does."""


def settled(ways: Ways, device: str, hidden: int, samples: Sequence[Tokens]) -> tuple[Settled, bool]:
    """What "auto" means for a model: the first of `ROUNDED` that is faster and agrees on `samples`, else "fp32".

    And whether that will be so the next time: not for sure where others computed while the times were taken.
    """
    if not samples or device not in ("cpu", "cuda") or hidden < SMALLEST_HIDDEN:
        return "fp32", True
    exact = ways("fp32")
    if exact is None or isinstance(exact, str):
        return "fp32", True
    always = True
    for precision in ROUNDED:
        rounded = ways(precision)
        if rounded is None or isinstance(rounded, str):
            continue
        place = (device, type(rounded).__name__, precision, hidden)
        if place not in _SAVES:
            _SAVES[place] = _saves(rounded, exact, samples)
        saves, alone = _SAVES[place]
        always = always and alone
        if saves and agrees(rounded(samples), exact(samples)):
            return precision, always
    return "fp32", always


def _saves(rounded: Compute, exact: Compute, samples: Sequence[Tokens]) -> tuple[bool, bool]:
    """Whether the rounded computation saves enough of the exact one's time for some of the samples; and `ALONE`.

    By turns and at best, so that what else the machine does hits both or neither.
    """
    few = samples[:: max(1, len(samples) // FEW)]
    clock, own, others = time.perf_counter, _shallow(rounded), _shallow(exact)
    if own is not None and others is not None:
        # of the one thread that computes: what other processes do hardly lengthens it
        clock, rounded, exact = time.thread_time, own, others
    taken: dict[Compute, list[float]] = {rounded: [], exact: []}
    saves, alone, turn = False, False, 0
    while turn < TURNS or (turn < MOST_TURNS and not alone):
        for compute, seconds in taken.items():
            if turn == 0:
                compute(few)  # warms up
            began = clock()
            compute(few)
            seconds.append(clock() - began)
        turn += 1
        if turn >= TURNS:
            (short, shorter), (long, longer) = (sorted(seconds)[:2] for seconds in taken.values())
            saves, alone = 1 - short / long > SAVING, max(shorter / short, longer / long) < 1 + ALONE
    return saves, alone


def _shallow(compute: Compute) -> Compute | None:
    """What takes a share of its time in one thread, since all layers take the same; None: it has no such part."""
    shallow = getattr(getattr(compute, "states", compute), "shallow", None)
    return None if shallow is None else shallow(LAYERS)


def apart(compute: Compute, types: bool) -> Compute:
    """The same, but a pair that is not finite does not touch its neighbours; without `types` those of tokens are 0."""

    def computed(inputs: Sequence[Tokens]) -> Logits:
        if not types:
            inputs = tuple(replace(item, type_ids=np.zeros_like(item.type_ids)) for item in inputs)
        logits = compute(inputs)
        wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1)).tolist()
        if len(inputs) > 1:
            for row in wrong:
                logits[row] = compute(inputs[row : row + 1])[0]
        return logits

    return computed


@cache
def has_torch() -> bool:
    """Whether torch and transformers are installed, and new enough; neither is imported."""
    return lacking_torch() is None


@dataclass(frozen=True, slots=True)
class StoredForward:
    """The forward of a model that stands in a folder: what it computes never changes."""

    computation: Computation
    compute: Compute
    types: bool

    def ready(self) -> Computation:
        """The same each time."""
        return self.computation

    def elsewhere(self, own: Computation) -> Callable[[str], Compute]:
        """What gives the same in another process; it can be pickled."""
        return partial(_apart_there, self.compute, self.types)


def _apart_there(compute: Compute, types: bool, device: str) -> Compute:
    return apart(compute, types)


class _Kernel:
    """The kernel's forwards of a described folder while one of them is chosen: its numbers are read once."""

    def __init__(self, encoder: Encoder, identity: str | None) -> None:
        self._encoder, self._identity = encoder, identity
        self._numbers = cache(lambda: with_numbers(encoder))
        compact = getattr(encoder.embeddings.words, "compact", None)
        self._decode = None if compact is None else compact.decode
        self._made: dict[Settled, KernelEncoder] = {}

    def ways(self, precision: Settled) -> Compute | str:
        """See `Ways`; nothing is kept for later starts."""
        made = self._made.get(precision) or self._packed(precision)
        if isinstance(made, str):
            return made
        self._made[precision] = made
        return whole(made, self._encoder)

    def kept(self, precision: Settled) -> Compute | str:
        """The one that was chosen, kept."""
        tried = self._made.get(precision)
        if tried is None:  # of an earlier start mostly, which is looked for once
            made = self._packed(precision, keep=True)
        else:
            made = tried if self._identity is None else tried.kept(self._identity)
        return made if isinstance(made, str) else whole(made, self._encoder)

    def _packed(self, precision: Settled, keep: bool = False) -> KernelEncoder | str:
        missing = unsupported(self._encoder)
        if missing is not None:
            return missing
        return kernel_forward(self._numbers, precision, self._identity, self._decode, keep)


def stored_forward(
    encoder: Encoder,
    identity: str | None,
    precision: Precision,
    samples: Callable[[], Sequence[Tokens]],
    types: bool,
    digest: Callable[[], str],
) -> StoredForward | str:
    """The fastest forward of a described folder, or a sentence that says why torch has to compute it.

    Args:
        encoder: of `families.describe_stored`.
        identity: stands for its weights and its config in the cache of packed weights; None keeps nothing.
        precision: as of `module.ModelForward`; "auto" is decided once for an identity, instructions and threads.
        samples: makes the inputs by which "auto" judges; without any it is exact.
        types: whether the model reads the types of tokens.
        digest: of all that the model is made of, for whoever keeps its logits.
    """
    kernel = _Kernel(encoder, identity)
    choice = _remembered(kernel.ways, encoder.hidden, identity, samples) if precision == "auto" else precision
    compute = kernel.kept(choice)
    if not isinstance(compute, str):
        return _forward(choice, compute, lambda: _Kernel(encoder, identity).kept("fp32"), types, digest)
    if has_torch() or choice != "fp32":
        return compute
    from secondpass.forwards.plain import PlainEncoder

    own = whole(PlainEncoder(encoder), encoder)
    return _forward("fp32", own, lambda: own, types, digest)


def _remembered(ways: Ways, hidden: int, identity: str | None, samples: Callable[[], Sequence[Tokens]]) -> Settled:
    """What "auto" means here, by what was found at an earlier start where that is known."""
    exact, *rounded = (native.find(precision) for precision in ("fp32", *ROUNDED))
    there = [routine.instructions for routine in rounded if not isinstance(routine, str)]
    if isinstance(exact, str) or not there:
        return "fp32"
    place = f"{' or '.join([*there, exact.instructions])} on {native.thread_count()} threads"
    # another kernel is faster in another way
    key = (
        None
        if identity is None
        else f"precision auto, found alone, of {identity} by {digest_of([native.LIBRARY])}: {place}"
    )
    known = None if key is None else remembered(key)
    choice = next((precision for precision in ("fp32", *ROUNDED) if precision == known), None)
    if choice is None:
        choice, lasting = settled(ways, "cpu", hidden, samples())
        if key is not None and lasting:
            remember(key, choice)
    return choice


def told_of(digest: str, compute: Compute, dtype: str) -> str:
    """Stands for the logits that weights of this digest give: by which code, in which type, by which instructions."""
    from importlib.metadata import version  # it reads e-mail, which takes a tenth of our imports

    routine = getattr(compute, "instructions", "")
    own = digest_of([native.LIBRARY]) if routine else ""
    return f"{digest} {version('secondpass')} {type(compute).__name__} {own} {routine} {dtype}"


def _forward(
    choice: Settled, compute: Compute, exact: Callable[[], Compute | str], types: bool, digest: Callable[[], str]
) -> StoredForward:
    lock, dtype = ForwardLock(), DTYPES[choice]

    def in_float32(inputs: Sequence[Tokens]) -> Logits:
        again = exact()
        return apart(compute if isinstance(again, str) else again, types)(inputs)

    computation = Computation(
        "cpu",
        dtype,
        pads=False,
        logits=lock.around(apart(compute, types)),
        full_precision=None if dtype in FULL_PRECISION else lock.around(in_float32),
        plan=getattr(compute, "plan", None),
        identity=cache(lambda: told_of(digest(), compute, dtype)),
        lock=lock,
    )
    return StoredForward(computation, compute, types)
