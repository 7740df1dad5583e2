"""States as teachers: the distance is that of the definition, it falls, and what cannot be compared is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.forwards.late import texts_of
from secondpass.forwards.learning.attention import DropoutSource
from secondpass.forwards.learning.packed import training_forward
from secondpass.training import (
    Group,
    StateDistillation,
    TrainingSettings,
    drop_layers,
    narrow_layers,
    train,
    trim_vocabulary,
)
from tests.forwards.learning.test_packed import DOCUMENTS, QUERIES
from tests.tiny_models import make_folder

GROUPS = [Group(query, tuple(DOCUMENTS), (0.0, 0.0, 0.0)) for query in QUERIES]
SETTINGS = TrainingSettings(max_steps=30, learning_rate=1e-3, tokens_per_step=64, precision="fp32")


def pocket() -> CrossEncoder:
    """The embedded model, of late interaction."""
    return CrossEncoder("secondpass/pocket", device="cpu", precision="fp32")


def distances(student: CrossEncoder, teacher: CrossEncoder) -> np.ndarray:
    """As training computes them: float32 [pairs]."""
    forward = training_forward(student.model, student.tokenizer.model_input_names, student.padding, DropoutSource(0))
    tokens = student.tokens(QUERIES, DOCUMENTS)
    with torch.no_grad():
        return StateDistillation(teacher).distances(student, forward)(tokens)[:, 0].numpy()


def by_hand(student: CrossEncoder, teacher: CrossEncoder, late: bool) -> list[float]:
    """The definition, text by text, by transformers' own modules in float64; both have one vocabulary."""
    made = []
    for item in student.tokens(QUERIES, DOCUMENTS):
        apart = []
        for text in texts_of([item])[0] if late else [item]:
            given = {
                "input_ids": torch.from_numpy(text.ids.astype(np.int64))[None],
                "token_type_ids": torch.from_numpy(text.type_ids.astype(np.int64))[None],
            }
            names = student.tokenizer.model_input_names
            given = {name: value for name, value in given.items() if name in names}
            with torch.no_grad():
                own, known = (
                    encoder.model.base_model(**given).last_hidden_state[0].double().numpy()
                    for encoder in (student, teacher)
                )
            far = [1 - _cosine(a, b) for a, b in zip(own, known, strict=True)]
            apart.append(np.mean(far) + 1 - _cosine(own.mean(0), known.mean(0)))
        made.append(float(np.mean(apart)))
    return made


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "modernbert"])
def test_the_distance_is_that_of_the_definition(tmp_path, architecture):
    """Packed and padded, of pairs that are read together."""
    teacher = CrossEncoder(str(make_folder(tmp_path, architecture)), device="cpu")
    student = CrossEncoder(str(tmp_path), device="cpu")
    assert distances(student, teacher) == pytest.approx(0, abs=1e-5)
    drop_layers(student, 1)
    expected = by_hand(student, teacher, late=False)
    assert min(expected) > 1e-3
    assert distances(student, teacher) == pytest.approx(expected, abs=1e-5)


def test_texts_that_are_read_apart():
    """Late interaction: tokens of both texts, and each text's mean."""
    teacher, student = pocket(), pocket()
    drop_layers(student, (0, 5))
    expected = by_hand(student, teacher, late=True)
    assert min(expected) > 0.1
    assert distances(student, teacher) == pytest.approx(expected, abs=1e-5)


def test_words_have_other_numbers_in_a_smaller_vocabulary():
    """The teacher reads the student's tokens under its own ids: with all layers nothing differs."""
    teacher = pocket()
    student = trim_vocabulary(pocket(), [*QUERIES, *DOCUMENTS], 600)
    assert len(student.tokenizer) < len(teacher.tokenizer)
    assert not np.array_equal(student.tokens(["sun"], ["red"])[0].ids, teacher.tokens(["sun"], ["red"])[0].ids)
    assert distances(student, teacher) == pytest.approx(0, abs=1e-5)


def test_a_student_learns(tmp_path):
    """The distance falls by half; what compares stays as it is; a run goes on only with the same teacher."""
    teacher, student = pocket(), pocket()
    drop_layers(student, (0, 5))
    narrow_layers(student, 768)
    before, readout = distances(student, teacher), {k: v.clone() for k, v in student.model.readout.state_dict().items()}
    report = train(student, GROUPS, SETTINGS, loss=StateDistillation(teacher), output_dir=tmp_path)
    assert report.steps == 30
    assert (distances(student, teacher) < before / 2).all()
    assert all(torch.equal(value, readout[name]) for name, value in student.model.readout.state_dict().items())
    assert "StateDistillation(" in repr(StateDistillation(teacher))
    assert repr(StateDistillation(teacher)) != repr(StateDistillation(student))


@pytest.mark.parametrize("settings", [{"cached": True}, {"micro_batch_tokens": 16}])
def test_however_a_step_is_cut_the_weights_are_the_same(tmp_path, settings):
    """A distance is a pair's own."""
    teacher = CrossEncoder(str(make_folder(tmp_path, "bert")), device="cpu")
    made = []
    for more in ({}, settings):
        student = CrossEncoder(str(tmp_path), device="cpu")
        drop_layers(student, 1)
        own = TrainingSettings(max_steps=5, learning_rate=1e-3, precision="fp32", **more)
        train(student, GROUPS, own, loss=StateDistillation(teacher))
        made.append(distances(student, teacher))
    assert made[1] == pytest.approx(made[0], abs=1e-4)


def test_what_cannot_be_compared(tmp_path):
    """Named, before the first step."""
    teacher = CrossEncoder(str(make_folder(tmp_path / "a", "bert")), device="cpu")
    wider = CrossEncoder(str(make_folder(tmp_path / "b", "bert", hidden_size=64, num_attention_heads=4)), device="cpu")
    with pytest.raises(InvalidInput, match=r"student's states have 64 numbers and the teacher's \d+"):
        train(wider, GROUPS, SETTINGS, loss=StateDistillation(teacher))
    longer = CrossEncoder(str(tmp_path / "a"), device="cpu", max_length=12)
    with pytest.raises(InvalidInput, match=r"student's window is \d+ tokens, the teacher's only 12"):
        distances(teacher, longer)
    fewer = trim_vocabulary(CrossEncoder(str(tmp_path / "a"), device="cpu"), ["a cat"], 115)
    with pytest.raises(InvalidInput, match=r"the teacher has no token '.*', which the student has \(\d+ in all\)"):
        distances(teacher, fewer)
    with pytest.raises(InvalidInput, match="one reads query and document apart, the other together"):
        distances(CrossEncoder(str(make_folder(tmp_path / "c", "bert", hidden_size=384))), pocket())
    fewer.close()
    with pytest.raises(InvalidInput, match="the teacher is closed"):
        train(teacher, GROUPS, SETTINGS, loss=StateDistillation(fewer))
