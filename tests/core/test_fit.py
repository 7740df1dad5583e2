"""`fit`: its arguments, what it keeps and saves, and that it gives everything back."""

from __future__ import annotations

import inspect
import threading

import numpy as np
import pytest
import torch
from torch import nn

from secondpass import CrossEncoder, InputExample
from secondpass.errors import CheckpointError, InvalidInput, SecondPassError
from secondpass.fit import HeadLabels, Objective, fit, labelled
from tests.tiny_models import ARCHITECTURES, make_model, make_tokenizer
from tests.toy_task import QUERY, Scripted, examples, loader, same, state

QUIET = {"show_progress_bar": False}
FAST = {"optimizer_params": {"lr": 1e-3}, "warmup_steps": 0, **QUIET}


@pytest.mark.parametrize("function", [fit, CrossEncoder.fit])
def test_signature_is_the_seeds(function):
    """Names, order and defaults of the arguments are those of sentence-transformers 3.4."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    assert [parameter.name for parameter in parameters] == [
        *("train_dataloader", "evaluator", "epochs", "loss_fct", "activation_fct", "scheduler", "warmup_steps"),
        *("optimizer_class", "optimizer_params", "weight_decay", "evaluation_steps", "output_path"),
        *("save_best_model", "max_grad_norm", "use_amp", "callback", "show_progress_bar"),
    ]
    defaults = {parameter.name: parameter.default for parameter in parameters}
    assert isinstance(defaults.pop("activation_fct"), nn.Identity)
    assert list(defaults.values()) == [
        *(inspect.Parameter.empty, None, 1, None, "WarmupLinear", 10000, torch.optim.AdamW),
        *({"lr": 2e-5}, 0.01, 0, None, True, 1, False, None, True),
    ]


def test_learning_rates_of_the_run(own_tiny):
    """The optimizer steps with the schedule's rates: up over the warm-up, then down towards the last step."""
    rates = []

    class Noting(torch.optim.SGD):
        def step(self, *arguments):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*arguments)

    fit(own_tiny, loader(16), epochs=2, optimizer_class=Noting, optimizer_params={"lr": 0.4}, warmup_steps=2, **QUIET)
    assert rates == pytest.approx([0, 0.2, 0.4, 0.4 * 5 / 6, 0.4 * 4 / 6, 0.4 * 3 / 6, 0.4 * 2 / 6, 0.4 / 6])


def test_a_tokenizer_with_new_tokens_is_saved_and_loaded_before_it_is_trained_with(own_tiny, tmp_path, caplog):
    """Texts are read by the rules of before until then: `fit` refuses, `save` tells."""
    own_tiny.tokenizer.add_tokens(["xylophone"])
    own_tiny.model.resize_token_embeddings(len(own_tiny.tokenizer), mean_resizing=False)
    with pytest.raises(InvalidInput, match=r"^tokenizer was changed since the model was loaded"):
        own_tiny.fit(loader(8), **FAST)
    own_tiny.save(str(tmp_path))
    assert f"{tmp_path}: the tokenizer is saved as it is now" in caplog.text
    again = CrossEncoder(str(tmp_path), device="cpu")
    new = again.tokenizer.convert_tokens_to_ids("xylophone")
    assert new in again.tokens(["a xylophone"], ["the cat"])[0].ids
    assert new not in own_tiny.tokens(["a xylophone"], ["the cat"])[0].ids
    again.fit(loader(8), **FAST)


def test_what_counts_as_another_tokenizer(own_tiny):
    """Another one or another side to cut at; not the padding and cutting of its own calls, nor a limit."""
    own_tiny.tokenizer(["the cat", "a dog and a cat"], padding=True, truncation=True, max_length=5)
    own_tiny.tokenizer.model_max_length = 40
    assert not own_tiny.tokenizer_changed
    own_tiny.tokenizer.truncation_side = "left"
    assert own_tiny.tokenizer_changed
    own_tiny.tokenizer.truncation_side = "right"
    assert not own_tiny.tokenizer_changed
    own_tiny.tokenizer = make_tokenizer("roberta")
    with pytest.raises(InvalidInput, match=r"^tokenizer was changed"):
        own_tiny.fit(loader(8), **FAST)


def test_saves_without_an_evaluator(own_tiny, tmp_path):
    """The last weights are saved, into a folder made for them, when nothing tells which are best."""
    path = tmp_path / "deep" / "model"
    own_tiny.fit(loader(8), output_path=str(path), **FAST)
    assert same(state(CrossEncoder(str(path), device="cpu")), state(own_tiny))


@pytest.mark.parametrize("saved", [True, False])
def test_best_weights_come_back(own_tiny, saved, tmp_path):
    """The weights of the best evaluation are in memory at the end, and in the folder if there is one."""
    evaluator = Scripted([0.1, 0.9, 0.2])
    fit(own_tiny, loader(8), evaluator, epochs=3, output_path=str(tmp_path) if saved else None, **FAST)
    assert own_tiny.best_score == 0.9
    assert same(state(own_tiny), evaluator.weights[1])
    assert not same(state(own_tiny), evaluator.weights[2])
    if saved:
        pairs = [(QUERY, "the account"), (QUERY, "the cat")]
        again = CrossEncoder(str(tmp_path), device="cpu")
        np.testing.assert_array_equal(again.predict(pairs), own_tiny.predict(pairs))


@pytest.mark.parametrize(("scores", "best"), [([0.9, 0.1], 0.9), ([float("nan")] * 2, -9999999)])
def test_save_best_model_off(own_tiny, scores, best, tmp_path):
    """With an evaluator and save_best_model=False the last weights stay, and nothing is written."""
    evaluator = Scripted(scores)
    fit(own_tiny, loader(8), evaluator, epochs=2, output_path=str(tmp_path), save_best_model=False, **FAST)
    assert same(state(own_tiny), evaluator.weights[1])
    assert not list(tmp_path.iterdir())
    assert own_tiny.best_score == best


def test_nan_scores_never_win(own_tiny, tmp_path, caplog):
    """A NaN score is told and never the best; if there is no other, the last weights are saved."""
    evaluator = Scripted([float("nan"), 0.2, float("nan")])
    fit(own_tiny, loader(8), evaluator, epochs=3, **FAST)
    assert same(state(own_tiny), evaluator.weights[1])
    assert caplog.text.count("gave NaN") == 2
    fit(own_tiny, loader(8), Scripted([float("nan")]), output_path=str(tmp_path), **FAST)
    assert own_tiny.best_score == -9999999
    assert "no evaluation gave a score" in caplog.text
    assert same(state(CrossEncoder(str(tmp_path), device="cpu")), state(own_tiny))


def test_other_threads_are_refused_meanwhile(own_tiny):
    """While fit runs, a call from another thread fails instead of meeting dropout; afterwards it works."""
    outcomes = []

    def elsewhere(encoder: CrossEncoder) -> None:
        for call in (lambda: encoder.predict([("a", "b")]), lambda: fit(encoder, loader(4), **FAST)):
            try:
                call()
                outcomes.append("worked")
            except SecondPassError:
                outcomes.append("refused")

    def ask(encoder: CrossEncoder) -> None:
        thread = threading.Thread(target=elsewhere, args=(encoder,))
        thread.start()
        thread.join()

    fit(own_tiny, loader(4), Scripted([0.5], then=ask), **FAST)
    assert outcomes == ["refused", "refused"]
    ask(own_tiny)
    assert outcomes[2:] == ["worked", "worked"]


@pytest.mark.parametrize("fails", [False, True])
def test_loader_is_given_back(own_tiny, fails):
    """The loader's own collate_fn is back after fit, also when fit raises."""
    data = loader(4)
    data.collate_fn = mine = list
    wrong = (lambda *_: 0.5) if fails else None
    try:
        fit(own_tiny, data, loss_fct=wrong, **FAST)
    except InvalidInput:
        assert fails
    assert data.collate_fn is mine
    assert next(iter(data))[0].guid.startswith("e")
    assert own_tiny.training_thread is None
    assert not own_tiny.model.training


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_persistent_workers(own_tiny, tiny_folder):
    """Worker processes hand over examples, not tensors, and a loader used before or after keeps its own ways."""
    data = loader(8, num_workers=1, persistent_workers=True, collate_fn=len)
    assert list(data) == [4, 4]
    fit(own_tiny, data, epochs=2, **FAST)
    assert list(data) == [4, 4]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_trains_after_scoring(tiny_model_folder, architecture):
    """What inference mode leaves behind in a model does not get into training's way."""
    encoder = CrossEncoder(tiny_model_folder(architecture, 1), device="cpu")
    before = encoder.predict([(QUERY, "the account")])
    fit(encoder, loader(8), Scripted([0.1], then=lambda model: model.predict([(QUERY, "cat")])), **FAST)
    assert encoder.predict([(QUERY, "the account")]) != before


def test_frozen_parameters_stay(own_tiny):
    """Parameters without requires_grad are not changed, not even by weight decay."""
    own_tiny.model.base_model.requires_grad_(False)
    before = state(own_tiny)
    fit(own_tiny, loader(8), weight_decay=0.5, **FAST)
    changed = {name for name, weight in state(own_tiny).items() if not torch.equal(weight, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_no_epochs(own_tiny, tmp_path):
    """epochs=0 trains nothing, as in the seed, and saves what there is."""
    before = state(own_tiny)
    fit(own_tiny, loader(8), epochs=0, output_path=str(tmp_path), **FAST)
    assert same(state(CrossEncoder(str(tmp_path), device="cpu")), before)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        ([], {}, "train_dataloader is empty"),
        (iter([examples(4)]), {}, "train_dataloader has no length"),
        ([examples(4)], {"epochs": -1}, "epochs=-1"),
        ([examples(4)], {"epochs": 1.5}, "epochs=1.5"),
        ([examples(4)], {"max_grad_norm": 0}, "max_grad_norm=0"),
        ([examples(4)], {"max_grad_norm": float("nan")}, "max_grad_norm=nan"),
        ([examples(4)], {"scheduler": "square"}, "Unknown scheduler square"),
        ([[InputExample("e7", ["a", "b"], 2)]], {}, r"epoch 0, step 1: examples\[0\] \(guid 'e7'\) has label 2"),
        ([["a", "b"]], {}, r"examples\[0\] is str, not an InputExample"),
    ],
)
def test_refused_arguments(own_tiny, data, options, words):
    """What cannot be trained on is refused with its name, and the encoder can be used afterwards."""
    before = state(own_tiny)
    with pytest.raises(InvalidInput, match=words):
        fit(own_tiny, data, **{**FAST, **options})
    assert same(state(own_tiny), before)
    assert np.isfinite(own_tiny.predict([("a", "b")])).all()


def test_closed(own_tiny):
    """A closed encoder is refused."""
    own_tiny.close()
    with pytest.raises(SecondPassError, match="closed"):
        own_tiny.fit(loader(4), **FAST)


def test_nothing_to_train(own_tiny):
    """A model whose parameters are all frozen is refused."""
    own_tiny.model.requires_grad_(False)
    with pytest.raises(InvalidInput, match="frozen"):
        fit(own_tiny, loader(4), **FAST)


def test_half_precision_weights(tiny_folder, caplog):
    """float16 weights are refused, as they turn to NaN; bfloat16 weights are warned about."""
    half = CrossEncoder(tiny_folder, device="cpu", automodel_args={"dtype": torch.float16})
    with pytest.raises(InvalidInput, match="float16"):
        fit(half, loader(4), **FAST)
    fit(CrossEncoder(tiny_folder, device="cpu", automodel_args={"dtype": torch.bfloat16}), loader(4), **FAST)
    assert "bfloat16" in caplog.text


def test_output_path_is_a_file(own_tiny, tmp_path):
    """An output path that cannot be a folder is refused before the first step."""
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(CheckpointError, match="output_path"):
        fit(own_tiny, loader(4), output_path=str(path), loss_fct=lambda *_: pytest.fail("trained"), **FAST)


NUMBER = HeadLabels(num_labels=1, default_loss=True)
CLASS = HeadLabels(num_labels=3, default_loss=True)
FREE_NUMBER = HeadLabels(num_labels=1, default_loss=False)
FREE_CLASS = HeadLabels(num_labels=3, default_loss=False)
WHERE = "epoch 0, step 4"


def batch_of(label, guid="bad"):
    """Make a batch whose third example has `label`."""
    good = InputExample(texts=["what", "that"], label=1)
    return [good, good, InputExample(guid, ["what", "that"], label)]


@pytest.mark.parametrize(
    "label",
    [1, 1.0, True, np.float32(1), np.int64(1), np.bool_(True), np.array([1.0]), torch.tensor(1), torch.tensor([1.0])],
)
def test_kinds_of_numbers(label):
    """Python, numpy and torch numbers are labels, float32 for one label and int64 for several."""
    numbers = labelled(batch_of(label), NUMBER, WHERE)
    assert numbers.labels.dtype == torch.float32
    assert numbers.labels.tolist() == [1.0, 1.0, 1.0]
    classes = labelled(batch_of(label), CLASS, WHERE)
    assert classes.labels.dtype == torch.int64
    assert classes.labels.tolist() == [1, 1, 1]


def test_texts_and_guids_stay_in_order():
    """Texts, labels and guids come out by position, from lists and tuples of any object with the attributes."""
    examples = labelled((InputExample("a", ["x", "y"], 0.25), InputExample("", ("z", ""), 1)), NUMBER, WHERE)
    assert examples.texts == [["x", "y"], ["z", ""]]
    assert examples.labels.tolist() == [0.25, 1.0]
    assert examples.guids == ("a", "")


@pytest.mark.parametrize(
    ("rule", "label", "words"),
    [
        (NUMBER, float("nan"), "label nan, not a finite"),
        (NUMBER, float("inf"), "label inf, not a finite"),
        (NUMBER, 1.5, r"label 1.5: the default loss takes labels in \[0, 1\]"),
        (NUMBER, -0.001, r"label -0.001: the default loss takes labels in \[0, 1\]"),
        (NUMBER, "1", "a label of type str, not a number"),
        (NUMBER, None, "a label of type NoneType, not a number"),
        (NUMBER, [0.0], "a label of type list, not a number"),
        (NUMBER, torch.zeros(2), "a label of type Tensor, not a number"),
        (FREE_NUMBER, float("nan"), "label nan, not a finite"),
        (FREE_NUMBER, 1e39, "label 1e\\+39, not a finite"),
        (CLASS, 3, "label 3: the model has classes 0 to 2"),
        (CLASS, -1, "label -1: the model has classes 0 to 2"),
        (CLASS, -100, "label -100: the model has classes 0 to 2"),
        (CLASS, 0.5, "label 0.5, not the index of a class"),
        (FREE_CLASS, 0.5, "label 0.5, not the index of a class"),
        (CLASS, [1, 0, 1], "a label of type list, not a number"),
        (FREE_CLASS, [1, 0, 1], r"a label of shape \(3,\) where that of examples\[0\] has \(\)"),
        (FREE_CLASS, [1, "0", 1], r"a label\[1\] of type str, not a number"),
        (FREE_CLASS, [1, 0, float("nan")], r"label\[2\] nan, not a finite"),
        (FREE_CLASS, [[1, 0], [0, 1]], r"a label\[0\] of type list, not a number"),
        (FREE_CLASS, [], "a label of type list, not a number"),
        (FREE_CLASS, 2**63, "not the index of a class"),
    ],
)
def test_refused_labels(rule, label, words):
    """A label that the loss would misread is refused, by position in the batch and guid."""
    with pytest.raises(InvalidInput, match=rf"^{WHERE}: examples\[2\] \(guid 'bad'\) has .*{words}"):
        labelled(batch_of(label), rule, WHERE)


@pytest.mark.parametrize(
    ("rule", "rows", "dtype"),
    [
        (FREE_CLASS, [[1, 0, 1], (0, 1, 0), np.array([1, 1, 0]), torch.tensor([0, 0, 1])], torch.int64),
        (FREE_CLASS, [[1.0, 0.0, 1.0], [0, 1, 0]], torch.float32),
        (FREE_CLASS, [[2], [1]], torch.int64),
        (FREE_NUMBER, [[1, 0], [0, 1]], torch.float32),
    ],
)
def test_lists_of_numbers_are_labels_of_an_own_loss(rule, rows, dtype):
    """A row for each example."""
    labels = labelled([InputExample(texts=["what", "that"], label=row) for row in rows], rule, WHERE).labels
    assert labels.dtype == dtype
    assert labels.tolist() == [list(map(float, row)) for row in rows]


def test_several_labels_of_an_example_are_learned(tiny_model_folder):
    """By binary cross-entropy over all labels of the head, a loss of the caller's own."""
    encoder, loss = CrossEncoder(tiny_model_folder("bert", 3), device="cpu"), nn.BCEWithLogitsLoss()
    pairs, wanted = [[QUERY, "a cat"], [QUERY, "the mat"]], [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    batch = [InputExample(texts=texts, label=row) for texts, row in zip(pairs, wanted, strict=True)]

    def measured():
        logits = encoder.predict(pairs, activation_fct=nn.Identity(), convert_to_tensor=True)
        return loss(logits, torch.tensor(wanted)).item()

    before = measured()
    options = {"epochs": 40, "optimizer_params": {"lr": 5e-3}, "warmup_steps": 0}
    encoder.fit(torch.utils.data.DataLoader(batch, 2), loss_fct=loss, **options, **QUIET)
    assert measured() < before - 0.01


@pytest.mark.parametrize(("rule", "label"), [(FREE_NUMBER, -7.5), (FREE_CLASS, -100), (FREE_CLASS, 9)])
def test_own_loss_gives_labels_their_meaning(rule, label):
    """With a loss of the caller's own, any finite number or any class index is passed on."""
    assert labelled(batch_of(label), rule, WHERE).labels[2].item() == label


def test_a_row_of_a_table_is_texts():
    """Whatever has one or two str in an order."""
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    row = pandas.Series(["x", "y"], index=["query", "document"])
    assert labelled([InputExample("a", row)], NUMBER, WHERE).texts == [["x", "y"]]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (None, r"examples\[1\] \(guid 'b'\) has texts of type NoneType"),
        ("what", r"examples\[1\] \(guid 'b'\) has texts of type str"),
        ([], r"examples\[1\] \(guid 'b'\) has 0 texts"),
        (["a", "b", "c"], r"examples\[1\] \(guid 'b'\) has 3 texts"),
        (["a"], r"examples\[1\] \(guid 'b'\) has 1 texts where examples\[0\] has 2"),
        (["a", None], r"examples\[1\] \(guid 'b'\)\.texts\[1\] is NoneType, not str"),
    ],
)
def test_refused_texts(texts, words):
    """Texts that are no one or two str, or another number than the first example's, are refused by name."""
    with pytest.raises(InvalidInput, match=words):
        labelled([InputExample("a", ["x", "y"]), InputExample("b", texts)], NUMBER, WHERE)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ([], "an empty batch"),
        (InputExample(), "gave InputExample, not a batch"),
        ({"texts": []}, "gave dict, not a batch"),
        ([("what", "that", 1)], r"examples\[0\] is tuple, not an InputExample"),
    ],
)
def test_refused_batches(batch, words):
    """A loader that gives anything but a batch of examples is told what it gave."""
    with pytest.raises(InvalidInput, match=words):
        labelled(batch, NUMBER, WHERE)


def test_no_guid_is_not_shown():
    """An example without a guid is named by its position alone."""
    with pytest.raises(InvalidInput, match=r"examples\[2\] has label nan"):
        labelled(batch_of(float("nan"), guid=""), NUMBER, WHERE)


VOCABULARY = 60
IDENTITY = nn.Identity()


def features(rows: int = 4) -> dict[str, torch.Tensor]:
    """Make model inputs [rows, 6]."""
    ids = torch.arange(rows * 6).reshape(rows, 6) % VOCABULARY
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Heard:
    """A loss that remembers what it was given."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Remember, and give a loss."""
        self.logits, self.labels = logits, labels
        return logits.sum()


@pytest.mark.parametrize("use_amp", [False, True])
@pytest.mark.parametrize(("num_labels", "shape"), [(1, (4,)), (3, (4, 3))])
def test_shapes_and_types(num_labels, shape, use_amp):
    """A loss gets float32 logits, flat for one label, whatever the model computes in, and the labels untouched."""
    loss, labels = Heard(), torch.zeros(4)
    Objective(make_model("bert", VOCABULARY, num_labels), loss, IDENTITY, use_amp)(features(), labels)
    assert loss.logits.shape == shape
    assert loss.logits.dtype == torch.float32
    assert loss.labels is labels


def test_mixed_precision_computes_in_bfloat16_on_the_cpu():
    """With use_amp the forward is coarser than float32 and near it."""
    model, labels = make_model("bert", VOCABULARY), torch.zeros(4)
    exact, coarse = (Objective(model, None, IDENTITY, amp)(features(), labels).item() for amp in (False, True))
    assert exact != coarse
    assert coarse == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize(
    ("num_labels", "labels", "reference"),
    [(1, torch.tensor([0.0, 1.0, 0.5, 1.0]), nn.BCEWithLogitsLoss()), (3, torch.arange(4) % 3, nn.CrossEntropyLoss())],
)
def test_default_losses(num_labels, labels, reference):
    """Without a loss: binary cross-entropy on logits for one label, cross-entropy for several."""
    model = make_model("bert", VOCABULARY, num_labels)
    logits = model(**features()).logits
    expected = reference(logits.view(-1) if num_labels == 1 else logits, labels)
    torch.testing.assert_close(Objective(model, None, IDENTITY, False)(features(), labels), expected)


def test_activation_comes_first():
    """The activation sees logits [examples, labels], before they are flattened for one label."""
    seen, loss = [], Heard()

    def activation(logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits.shape)
        return torch.sigmoid(logits)

    Objective(make_model("bert", VOCABULARY), loss, activation, False)(features(), torch.zeros(4))
    assert seen == [(4, 1)]
    assert bool(((loss.logits > 0) & (loss.logits < 1)).all())


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (nn.MSELoss, "the class MSELoss: give an object"),
        (lambda logits, labels: 0.5, "gives float, not a scalar tensor"),
        (nn.BCEWithLogitsLoss(reduction="none"), r"gives a tensor of shape \(4,\), not a scalar"),
        (lambda logits, labels: logits.detach().sum(), "does not depend on the model's weights"),
    ],
)
def test_refused_losses(loss, words):
    """What cannot be lowered is refused with the reason, before backward fails obscurely."""
    with pytest.raises(InvalidInput, match=words):
        Objective(make_model("bert", VOCABULARY), loss, IDENTITY, False)(features(), torch.zeros(4))


def test_loss_of_shape_one():
    """A loss [1] counts as the scalar it is."""
    loss = Objective(make_model("bert", VOCABULARY), lambda logits, _: logits[:1], IDENTITY, False)
    assert loss(features(), torch.zeros(4)).shape == ()


def test_module_goes_to_the_device_of_the_model():
    """A loss module with buffers (class weights) is moved to where the logits are."""
    weighted = nn.CrossEntropyLoss(weight=torch.ones(3))
    Objective(make_model("bert", VOCABULARY, 3).to("meta"), weighted, IDENTITY, False)
    assert weighted.weight.device.type == "meta"


@pytest.mark.parametrize(("loss", "told"), [(nn.Bilinear(1, 1, 1), True), (nn.MSELoss(), False)])
def test_parameters_of_a_loss_are_not_trained_in_silence(loss, told, caplog):
    """A loss with parameters of its own is warned about: the seed's fit trains the model's only."""
    Objective(make_model("bert", VOCABULARY), loss, IDENTITY, False)
    assert ("parameters of its own" in caplog.text) is told


def test_an_empty_module_is_a_loss_that_was_asked_for():
    """Its length is 0, so it is false; no default takes its place."""

    class Sum(nn.Sequential):
        def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return (logits + labels).sum()

    loss = Sum()
    assert not loss
    model = make_model("bert", VOCABULARY)
    given = Objective(model, loss, IDENTITY, use_amp=False)(features(), torch.full((4,), 100.0))
    assert given.item() > 300
