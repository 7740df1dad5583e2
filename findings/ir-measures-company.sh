#!/usr/bin/env bash
# ir-measures 0.4.3 (with pytrec-eval-terrier 0.5.11, pyndeval 0.0.8): the value of a measure depends on which other
# measures are asked for in the same call, and for one of them on PYTHONHASHSEED.
#
# Expected: calc_aggregate([a, b], qrels, run)[a] == calc_aggregate([a], qrels, run)[a] for any a and b.
# Seen (28 November 2026), on two valid queries:
#   NumRet                    alone 5.0    beside P(judged_only=True)@5: 1.0 or 5.0, by PYTHONHASHSEED
#   Accuracy                  alone 1.0    beside nDCG: 0.5
#   alpha_nDCG@5              alone 0.2658 \ together: one of the two is 0.0, which one depends on PYTHONHASHSEED
#   alpha_nDCG(alpha=0.3)@5   alone 0.2524 /
# Why: NumRet joins "an existing invocation" of trec_eval, also one that drops unjudged documents; Accuracy yields
# nothing for lists that it has no value for, and the evaluator that joins several providers fills them with 0; pyndeval's
# evaluator hands one generator of the run to all its invocations, so that the second one finds it empty.
# Measures that are computed one call each agree with themselves; exit code 1 here means that the behaviour changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ir-measures==0.4.3 pytrec-eval-terrier==0.5.11 pyndeval==0.0.8
cat >"$folder/company.py" <<'PYTHON'
import json

from ir_measures import Accuracy, NumRet, P, Qrel, ScoredDoc, alpha_nDCG, calc_aggregate, nDCG

QRELS = [Qrel("1", "a", 1, "1"), Qrel("1", "a2", 1, "1"), Qrel("1", "b", 1, "2"), Qrel("1", "n", 0, "1"),
         Qrel("2", "c", 1, "1"), Qrel("2", "d", 1, "2")]
RUN = [ScoredDoc("1", "a", 3.0), ScoredDoc("1", "x", 2.0), ScoredDoc("1", "y", 1.0),
       ScoredDoc("2", "z", 2.0), ScoredDoc("2", "y", 1.0)]
TWO = [alpha_nDCG @ 5, alpha_nDCG(alpha=0.3) @ 5]


def means(*measures):
    found = calc_aggregate(list(measures), list(QRELS), list(RUN))
    return [round(float(found[measure]), 4) for measure in measures]


print(json.dumps({"NumRet": means(NumRet) + means(NumRet, P(judged_only=True) @ 5)[:1],
                  "Accuracy": means(Accuracy) + means(Accuracy, nDCG)[:1],
                  "two alphas": [means(TWO[0]) + means(TWO[1]), means(*TWO)]}))
PYTHON
for seed in 0 1 2 3 4 5 6 7; do
  PYTHONHASHSEED=$seed "$folder/venv/bin/python" "$folder/company.py" 2>/dev/null
done | tee "$folder/seen"
"$folder/venv/bin/python" - "$folder/seen" <<'PYTHON'
import json
import sys

seen = [json.loads(line) for line in open(sys.argv[1])]
assert {tuple(row["Accuracy"]) for row in seen} == {(1.0, 0.5)}
assert {tuple(row["NumRet"]) for row in seen} == {(5.0, 1.0), (5.0, 5.0)}
assert all(row["two alphas"][0] == [0.2658, 0.2524] for row in seen)
assert {tuple(row["two alphas"][1]) for row in seen} == {(0.2658, 0.0), (0.0, 0.2524)}
print("as recorded")
PYTHON
