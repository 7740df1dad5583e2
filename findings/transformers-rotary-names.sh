#!/usr/bin/env bash
# transformers 5.24.0 writes the bases of rotary positions into "rope_parameters" alone. transformers 4.57.6 does not know
# that key, says nothing, and computes with the family's defaults: a ModernBERT whose local layers turn by 160,000, as
# Ettin's do, is read with 10,000; a Qwen3 with 1,000,000 is read with 10,000.
#
# Expected: the keys that transformers 4 wrote (global_rope_theta, local_rope_theta, rope_theta) stay beside the new one,
# or a reader that finds neither refuses.
# Seen (30 November 2026): other bases, no warning, so other scores. A reranker in Ettin's shape saved by 5.24 and ranked by
# sentence-transformers 5.7's ONNX and OpenVINO backends, which need transformers 4, agreed with itself in torch to a
# Kendall tau of .75 on a hundred passages.
# Where it is met: a model is fine-tuned or saved with transformers 5, then exported, served or measured in an environment
# that has transformers 4, or by a program that reads config.json as transformers 4 wrote it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 5.24.0 4.57.6; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q "transformers==$version"
done
cat >"$folder/save.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from transformers import ModernBertConfig, Qwen3Config

folder = Path(sys.argv[1])
ModernBertConfig(global_rope_theta=160000.0, local_rope_theta=160000.0).save_pretrained(folder / "ettin")
Qwen3Config(rope_theta=1000000.0).save_pretrained(folder / "qwen3")
for name in ("ettin", "qwen3"):
    written = json.loads((folder / name / "config.json").read_text())
    print(f"{name}: written {written['rope_parameters']}")
    assert not {"global_rope_theta", "local_rope_theta", "rope_theta"} & written.keys()
PYTHON
cat >"$folder/read.py" <<'PYTHON'
import sys
import warnings
from pathlib import Path

import transformers
from transformers import AutoConfig

folder = Path(sys.argv[1])
with warnings.catch_warnings():
    warnings.simplefilter("error")
    ettin, qwen3 = (AutoConfig.from_pretrained(folder / name) for name in ("ettin", "qwen3"))
print(f"transformers {transformers.__version__}: ettin's local layers {ettin.local_rope_theta}, qwen3 {qwen3.rope_theta}")
assert (ettin.global_rope_theta, ettin.local_rope_theta, qwen3.rope_theta) == (160000.0, 10000.0, 10000.0)
print("as recorded")
PYTHON
"$folder/5.24.0/bin/python" "$folder/save.py" "$folder"
"$folder/4.57.6/bin/python" "$folder/read.py" "$folder"
