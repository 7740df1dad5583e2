#!/usr/bin/env bash
# ir-measures 0.4.3 (with pytrec-eval-terrier 0.5.11): on judgements of several subtopics (TREC Web's diversity qrels, the
# subtopic in the second column) nDCG, AP, P and all other measures without subtopics take the grade on a document's last
# line, so a document that is relevant to one subtopic and not to the next counts as not relevant, and the value depends on
# the order of the lines.
#
# Expected: one value whatever the order of the lines, with a document relevant if it is to any subtopic.
# Seen (28 November 2026): nDCG@10 is 1.0 with the lines in one order, 0.0 in the other; no warning. The measures over
# subtopics (pyndeval) read the same two files alike.
# Why: the iterable of Qrel becomes a dict of dicts in which a later line overwrites an earlier one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ir-measures==0.4.3 pytrec-eval-terrier==0.5.11 pyndeval==0.0.8
cat >"$folder/order.py" <<'PYTHON'
from ir_measures import ScoredDoc, StRecall, calc_aggregate, nDCG, read_trec_qrels

RUN = [ScoredDoc("1", "d1", 2.0), ScoredDoc("1", "d2", 1.0)]
ONE = ["1 1 d1 1", "1 2 d1 0"]
seen = []
for lines in (ONE, ONE[::-1]):
    qrels = list(read_trec_qrels("\n".join(lines) + "\n"))
    found = calc_aggregate([nDCG @ 10, StRecall @ 10], qrels, RUN)
    seen.append((found[nDCG @ 10], found[StRecall @ 10]))
print("nDCG@10, StRecall@10 by the order of the lines:", *seen)
assert [value for value, _ in seen] == [0.0, 1.0], seen
assert seen[0][1] == seen[1][1], seen
print("as recorded")
PYTHON
"$folder/venv/bin/python" "$folder/order.py"
