"""DeBERTa-v2 and v3: BERT's layers, and products with distances."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from secondpass.forwards import description as described
from secondpass.forwards.description import Encoder, NotDescribed, Readout, Relative, linear
from secondpass.forwards.families.bert import chain_of, classifier, embeddings_of, encoder_of, packed_encoder
from secondpass.forwards.family import Architecture, Family

if TYPE_CHECKING:
    import torch

# Between the pooler and the classifier.
POOLER_ACTIVATIONS: dict[str, described.StepActivation] = {"gelu": "gelu", "relu": "relu", "tanh": "tanh"}
KINDS = {"c2p", "p2c"}
# A table of the row of each distance is held; no model reads that far.
MOST_DISTANCE = 2**20


def _describe(model: Any) -> Encoder:
    activation = POOLER_ACTIVATIONS.get(model.config.pooler_hidden_act)
    if activation is None:
        raise NotDescribed
    return _under(model, classifier(model.pooler.dense, activation, model.classifier))


def _under(model: Any, readout: Readout) -> Encoder:
    body = model.base_model
    if getattr(body.embeddings, "embed_proj", None) is not None or body.encoder.conv is not None:
        raise NotDescribed
    made = encoder_of(model, embeddings_of(body), readout, ("query_proj", "key_proj", "value_proj"))
    layers = zip(made.layers, _relatives(model), strict=True)
    return replace(
        made, layers=tuple(replace(layer, relative=own) for layer, own in layers), buckets=buckets(model.config)
    )


def _relatives(model: Any) -> list[Relative]:
    """What distances add to the scores of each layer, computed in float32 from weights of half a type."""
    from torch.nn import functional as F

    encoder = model.base_model.encoder
    if not encoder.relative_attention:
        raise NotDescribed
    distances = _finer(described.table(encoder.rel_embeddings))
    if "layer_norm" in encoder.norm_rel_ebd:
        own = described.mapped(described.norm(encoder.LayerNorm), _finer)
        distances = F.layer_norm(distances, own.weight.shape, own.weight, own.bias, own.eps)
    return [_relative(layer.attention.self, distances) for layer in encoder.layer]


def _relative(attention: Any, distances: torch.Tensor) -> Relative:
    from torch.nn import functional as F

    kinds = set(attention.pos_att_type)
    if not kinds <= KINDS:
        raise NotDescribed
    shared = attention.share_att_key
    keys = (attention.key_proj if shared else attention.pos_key_proj) if "c2p" in kinds else None
    queries = (attention.query_proj if shared else attention.pos_query_proj) if "p2c" in kinds else None
    rows = distances[: 2 * attention.pos_ebd_size]
    parts = [None if module is None else described.mapped(linear(module), _finer) for module in (keys, queries)]
    return Relative(*(None if own is None else F.linear(rows, own.weight, own.bias) for own in parts))


def _finer(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def buckets(config: Any) -> npt.NDArray[np.int64]:
    """The row of each distance: near ones have their own, far ones share rows that grow with the distance's logarithm.

    -> int64 [2 * most]: for distances from -most to most - 1. Computed in float32 as the model's own class does, so
    that a distance at the edge of a bucket is put on the same side.
    """
    most = config.max_relative_positions
    if most < 1:
        most = config.max_position_embeddings
    if most > MOST_DISTANCE:
        raise NotDescribed
    count = getattr(config, "position_buckets", -1)
    if count <= 0:
        return np.arange(2 * most)
    import torch

    distance = torch.arange(-most, most)
    middle = count // 2
    far = distance.abs().clamp(min=middle)
    share = torch.log(far / middle) / torch.log(torch.tensor((most - 1) / middle))
    row = torch.ceil(share * (middle - 1)) + middle
    bucket = torch.where(distance.abs() <= middle, distance.float(), row * distance.sign())
    rows: npt.NDArray[np.int64] = (bucket.long() + count).clamp(0, 2 * count - 1).numpy()
    return rows


FAMILY = Family(
    architectures={
        "DebertaV2ForSequenceClassification": Architecture(_describe),
        "DebertaV2Model": Architecture(lambda model: _under(model, chain_of(model))),
    },
    in_torch=packed_encoder,
    for_kernel=lambda encoder: encoder,
    below={"deberta-v2": {"encoder.LayerNorm": 0, "encoder.conv": 1}},
)
