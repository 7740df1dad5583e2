"""The evaluators that `fit` takes: labelled pairs and a model in, one float, log lines and a CSV row out.

They keep the contract of sentence-transformers 3.4 (docs/compatibility.md lists what differs). The stages:
labelled_pairs (checked input), predictions (checked scores), then each evaluator's figures, then results_file.
"""
