#!/usr/bin/env bash
# umbrela 0.0.7: a judge that answers in the very form of the examples in its prompt gives every document grade 0.
#
# Expected: parse_fewshot_response reads the grade of the output that the prompt shows as an example, and of any JSON
# dictionary of scores, which the prompt asks for.
# Seen (29 November 2026): examples_prompt writes the example's output as Python prints a dictionary, {'O': 2}, in single
# quotes; the parser takes double quotes alone, with one blank behind the colon. So {'O': 2} and the compact {"O":2} are
# "invalid", and what is invalid is not left out: prepare_judgments makes it grade 0, and drops the flag that tells the
# difference. '{"O": 25}', which is no grade, is 2.
#   reply of the examples' form   {'O': 3}             grade 0, flag 0, judgment 0
#   compact JSON                  {"O":3}              grade 0, flag 0, judgment 0
#   JSON with a blank             {"O": 3}             grade 3, flag 1, judgment 3
#   no grade on the scale         {"O": 25}            grade 2, flag 1, judgment 2
#   a refusal                     I cannot judge this. grade 0, flag 0, judgment 0
# So judgements of such a judge understate relevance by as much as its model copies its examples; count the "Invalid
# response" lines that it prints. Exit code 1 here means that the behaviour changed.
#
# Without its dependencies (pyserini and a JVM, torch, fschat, ...): the parser needs none, and the function that shows
# examples gets an index that holds one text in place of pyserini's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-deps umbrela==0.0.7
cat >"$folder/quotes.py" <<'PYTHON'
import json
import sys
from types import ModuleType

# qrel_utils imports these two names of pyserini, and examples_prompt calls neither.
for name in ("pyserini", "pyserini.index", "pyserini.index.lucene", "pyserini.search"):
    sys.modules[name] = ModuleType(name)
sys.modules["pyserini.index.lucene"].IndexReader = None
sys.modules["pyserini.search"].get_qrels = sys.modules["pyserini.search"].get_topics = None

from umbrela.utils.common_utils import parse_fewshot_response, prepare_judgments
from umbrela.utils.qrel_utils import examples_prompt


class Index:
    def doc_raw(self, number):
        return json.dumps({"contents": "Fleas live for weeks."})


shown = examples_prompt([("1", "7")], {1: {"title": "how long do fleas live"}}, Index(), "dl19-passage", {"1": {"7": 3}})
output = shown.split("Output: ")[1].strip()
replies = [output, json.dumps({"O": 3}, separators=(",", ":")), json.dumps({"O": 3}), '{"O": 25}', "I cannot judge this."]
for reply in replies:
    grade, flag = parse_fewshot_response(reply, "passage", "query")
    (row,) = prepare_judgments([reply], [("query", "passage")], ["prompt"], "model")
    print(json.dumps([reply, grade, flag, row["judgment"]]), sorted(row), file=sys.stderr)
PYTHON
"$folder/venv/bin/python" "$folder/quotes.py" 2>"$folder/seen" >/dev/null
cat "$folder/seen"
"$folder/venv/bin/python" - "$folder/seen" <<'PYTHON'
import json
import sys

lines = [line for line in open(sys.argv[1]) if line.startswith("[")]
seen = [json.loads(line.partition("] [")[0] + "]") for line in lines]
assert seen == [
    ["{'O': 3}", 0, 0, 0], ['{"O":3}', 0, 0, 0], ['{"O": 3}', 3, 1, 3], ['{"O": 25}', 2, 1, 2],
    ["I cannot judge this.", 0, 0, 0],
], seen
assert all("valid" not in line.partition("] [")[2] for line in lines)
print("as recorded")
PYTHON
