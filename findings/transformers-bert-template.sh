#!/usr/bin/env bash
# transformers 5.23.0: a folder whose tokenizer_config.json says BertTokenizer is not read by the template that its
# tokenizer.json has. The class makes its own post-processor, [CLS] A [SEP] B [SEP], from the special tokens, and
# `save_pretrained` writes that one into the copy. The same file under PreTrainedTokenizerFast, or read by tokenizers
# alone, keeps its template.
#
# Expected: tokenizer.json is the tokenizer, "all of it in one file", and the class a name for it.
# Seen (30 November 2026): a pair template of one's own (here a [CLS] before the second text too, for a model that reads
# query and document apart) is gone without a word; ids of single texts are the same, so nothing else tells.
# Where it is met: rerankers and ColBERT-like models with marks before query or document; after training, the saved
# folder has lost them for every other reader too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.23.0 tokenizers==0.23.3
cat >"$folder/template.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

folder = Path(sys.argv[1])
words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "cat": 5, "dog": 6}
own = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
own.normalizer, own.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
own.add_special_tokens([word for word in words if word.startswith("[")])
own.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] [CLS]:1 $B:1 [SEP]:1",
    special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
)
own.save(str(folder / "tokenizer.json"))
names = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
seen = {"tokenizers": own.encode("cat", "dog").ids}
for kind in ("PreTrainedTokenizerFast", "BertTokenizer"):
    config = {"tokenizer_class": kind, **{f"{name}_token": token for name, token in names.items()}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    read = AutoTokenizer.from_pretrained(folder)
    read.save_pretrained(folder / kind)
    again = Tokenizer.from_file(str(folder / kind / "tokenizer.json"))
    seen[kind] = read("cat", "dog")["input_ids"]
    seen[f"{kind}, saved"] = again.encode("cat", "dog").ids
    assert read("cat")["input_ids"] == own.encode("cat").ids
for name, ids in seen.items():
    print(f"{name:31}", ids)
twice, once = [2, 5, 3, 2, 6, 3], [2, 5, 3, 6, 3]
assert [seen["tokenizers"], seen["PreTrainedTokenizerFast"], seen["PreTrainedTokenizerFast, saved"]] == [twice] * 3
assert [seen["BertTokenizer"], seen["BertTokenizer, saved"]] == [once] * 2
print("as recorded")
PYTHON
"$folder/venv/bin/python" "$folder/template.py" "$folder"
