"""Calls of `CrossEncoder` by older and newer names, for mypy: types that are returned follow the flags, and a name that
does not exist, or a pool, is an error on its line (an ignored error that is none is one, `warn_unused_ignores`).

`make test` checks this file together with the packages; nobody runs it.
"""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
import torch

from secondpass import CrossEncoder


def calls(pairs: list[tuple[str, str]]) -> None:
    """Every line has the type that it says, or the error that it names."""
    encoder = CrossEncoder("secondpass/pocket", 1, max_length=64, automodel_args={}, precision="fp32")
    CrossEncoder("secondpass/pocket", max_seq_length=64, model_kwargs={}, activation_fn=None)
    CrossEncoder(model_name_or_path="secondpass/pocket", cache_folder="x")
    CrossEncoder("secondpass/pocket", device=0, prompts={"web": "search: "}, default_prompt_name="web", backend="torch")
    assert_type(encoder.predict(pairs), npt.NDArray[np.float32])
    assert_type(encoder.predict(pairs, convert_to_tensor=True), torch.Tensor)
    assert_type(encoder.predict(pairs, convert_to_numpy=False, activation_fn=None), list[torch.Tensor])
    assert_type(encoder.predict(("a", "b")), Any)
    assert_type(encoder.rank("a", ["b"], activation_fn=None, prompt="c"), list[dict[str, Any]])
    encoder.predict(pairs, 32, None, 0, None, False, True, False, records=[])
    encoder.predict(inputs=pairs, batch_size=2)
    encoder.rank_many(["a"], [["b"]], activation_fn=None)
    encoder.predict(pairs, activation_function=None)  # type: ignore[call-overload]
    CrossEncoder("secondpass/pocket", model_kwarg={})  # type: ignore[call-overload]
    encoder.rank("a", ["b"], pool={})  # type: ignore[arg-type]
