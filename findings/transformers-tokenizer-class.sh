#!/usr/bin/env bash
# transformers 5.24.0 writes "tokenizer_class": "TokenizersBackend" for every tokenizer that is read from tokenizer.json
# under its general class. transformers 4.57.6 does not know that name and refuses the whole folder, although it reads
# each of its files: sentence-transformers' ONNX and OpenVINO backends, whose optimum needs transformers 4, cannot open
# such a model ("Unrecognized processing class").
#
# Expected: a new name for a class inside; files keep the old one, PreTrainedTokenizerFast, which 5.24 still reads.
# Seen (30 November 2026): the same folder with the old name is read by both, with the same ids.
# Where it is met: a reranker is trained or saved with transformers 5 and then measured, or served, by a backend that has
# an environment of its own with transformers 4; text-embeddings-inference and fastembed read tokenizer.json and notice
# nothing.
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

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

folder = Path(sys.argv[1])
own = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "cat": 2, "dog": 3}, unk_token="[UNK]"))
own.pre_tokenizer = pre_tokenizers.Whitespace()
made = PreTrainedTokenizerFast(tokenizer_object=own, unk_token="[UNK]", pad_token="[PAD]")
for name in ("as saved", "renamed"):
    made.save_pretrained(folder / name)
config = folder / "renamed" / "tokenizer_config.json"
settings = json.loads(config.read_text())
print("saved as", settings["tokenizer_class"])
assert settings["tokenizer_class"] == "TokenizersBackend"
config.write_text(json.dumps(settings | {"tokenizer_class": "PreTrainedTokenizerFast"}))
for name in ("as saved", "renamed"):
    assert AutoTokenizer.from_pretrained(folder / name)("dog cat")["input_ids"] == [3, 2]
PYTHON
cat >"$folder/read.py" <<'PYTHON'
import sys
from pathlib import Path

import transformers
from transformers import AutoTokenizer

folder = Path(sys.argv[1])
assert AutoTokenizer.from_pretrained(folder / "renamed")("dog cat")["input_ids"] == [3, 2]
try:
    AutoTokenizer.from_pretrained(folder / "as saved")
except ValueError as error:
    print(f"transformers {transformers.__version__}: {error}")
    assert "TokenizersBackend" in str(error)
else:
    raise SystemExit("read after all")
print("as recorded")
PYTHON
"$folder/5.24.0/bin/python" "$folder/save.py" "$folder"
"$folder/4.57.6/bin/python" "$folder/read.py" "$folder"
