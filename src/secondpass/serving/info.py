"""What a service tells of itself: its models, its limits, and what its cache of scores has done."""

from __future__ import annotations

from importlib.metadata import version

from pydantic import BaseModel

from secondpass.inputs import policy_of
from secondpass.score_cache import ScoreCache
from secondpass.scoring import batch_tokens
from secondpass.serving.answering import Service
from secondpass.serving.models import CalibrationInfo, Stage
from secondpass.stopping import StoppingRule


class StageInfo(BaseModel):
    """A model of a cascade: which documents go on to it, so many or until a calibrated rule is content; null: all."""

    max_tokens: int
    dtype: str
    keep: int | dict[str, float | None] | None

    @classmethod
    def of(cls, stage: Stage) -> StageInfo:
        """As it is served."""
        reranker, keep = stage.shared.reranker, stage.keep
        told = ("top_k", "risk", "confidence", "read")
        rule = {name: getattr(keep, name) for name in told} if isinstance(keep, StoppingRule) else keep
        return cls(max_tokens=reranker.window, dtype=reranker.dtype_name, keep=rule)


class ModelInfo(BaseModel):
    """A served model: the precision it was asked for, the type of its large matrix products, its weights' SHA-256."""

    name: str
    max_tokens: int
    truncation: str
    device: str
    precision: str
    dtype: str
    digest: str | None
    cascade: list[StageInfo] | None = None
    calibration: CalibrationInfo | None = None


class ListedModel(BaseModel):
    """A served model as OpenAI's clients read it; `root` is the model that one is made of: itself."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "secondpass"
    root: str
    max_model_len: int


class ListedModels(BaseModel):
    """Served models, the default first."""

    object: str = "list"
    data: list[ListedModel]


class RequestLimits(BaseModel):
    """What a request may be."""

    max_requests: int
    max_documents: int
    max_body_bytes: int
    max_characters: int
    deadline_s: float


class CacheInfo(BaseModel):
    """The cache of scores since the start: pairs that it knew and did not know, and bytes."""

    hits: int
    misses: int
    hit_rate: float
    bytes_held: int
    max_bytes: int
    errors: int

    @classmethod
    def of(cls, cache: ScoreCache) -> CacheInfo:
        """As it is now."""
        counts = {name: getattr(cache, name) for name in cls.model_fields if name != "hit_rate"}
        return cls(hit_rate=cache.hits / max(1, cache.hits + cache.misses), **counts)


class Info(BaseModel):
    """The service; the fields from `model_id` to `docker_label` are text-embeddings-inference's, of the first model."""

    name: str
    version: str
    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[str, dict[str, dict[str, str | int]]]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None = None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    sha: str | None = None
    docker_label: str | None = None
    models: list[ModelInfo]
    score_cache: CacheInfo | None = None
    limits: RequestLimits


def info_of(service: Service) -> Info:
    """The service as it is now."""
    settings = service.settings
    models = [
        ModelInfo(
            name=served.name,
            max_tokens=served.window,
            truncation=policy_of(served.truncation).truncation,
            device=",".join(served.reranker.devices),
            precision=served.reranker.precision,
            dtype=served.dtype,
            digest=served.digest,
            cascade=[StageInfo.of(stage) for stage in served.stages] if len(served.stages) > 1 else None,
            calibration=CalibrationInfo.of(served.reranker.calibration),
        )
        for served in service.models
    ]
    first = service.models.get(None)
    labels, budget = first.reranker.label_names, first.reranker.max_batch_tokens
    cache = service.models.score_cache
    return Info(
        name="secondpass",
        version=version("secondpass"),
        model_id=first.name,
        model_sha=first.digest,
        model_dtype=first.dtype,
        model_type={
            "reranker": {
                "id2label": {str(key): label for key, label in labels.items()},
                "label2id": {label: key for key, label in labels.items()},
            }
        },
        max_concurrent_requests=settings.max_requests,
        max_input_length=first.window,
        max_batch_tokens=budget or batch_tokens(first.reranker.device_name),
        max_client_batch_size=settings.max_documents,
        auto_truncate=first.truncation != "error",
        tokenization_workers=1,
        models=models,
        score_cache=None if cache is None else CacheInfo.of(cache),
        limits=RequestLimits(**{name: getattr(settings, name) for name in RequestLimits.model_fields}),
    )
