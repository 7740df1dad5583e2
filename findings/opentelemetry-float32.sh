#!/usr/bin/env bash
# opentelemetry-sdk 1.45.2 (with numpy 2.4.6): a score of an array of float32 becomes text in a span.
#
# Expected: `span.set_attribute("reranker.output_documents.0.document.score", scores[0])` with a float32 number, which is
# what cross-encoders give, is a double in the span and for the collector; or it is dropped with a warning, as by
# opentelemetry-sdk 1.30.0.
# Seen (29 November 2026), OTLP's values as `encode_spans` writes them for a collector:
#   1.45.2   float32 0.75   stringValue "0.75"     (a warning in the log)
#            int64 3        stringValue "3"        (a warning)
#            float64 0.75   doubleValue 0.75       (none: it is a subclass of Python's float)
#            [float32 0.5]  a list of stringValue "0.5"
#            None           a value of no kind, and the attribute stays
#   1.30.0   of these float64 alone is there, as doubleValue 0.75; the others are dropped
# So whether documents can be found by their score, or a mean be drawn, depends on the array's type, and after an update
# a score that was missing is there and is no number. Write float(score). Exit code 1 means that the behaviour changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 1.45.2 1.30.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install -q numpy==2.4.6 "opentelemetry-sdk==$version" \
    "opentelemetry-exporter-otlp-proto-common==$version"
  "$folder/$version/bin/python" - "$version" 2>"$folder/log" <<'PYTHON'
import sys

import numpy as np
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
with provider.get_tracer("reranker").start_as_current_span("rerank") as span:
    span.set_attribute("float32", np.array([0.75], np.float32)[0])
    span.set_attribute("int64", np.array([3])[0])
    span.set_attribute("float64", np.array([0.75])[0])
    span.set_attribute("list", [np.float32(0.5)])
    span.set_attribute("none", None)
(told,) = encode_spans(exporter.get_finished_spans()).resource_spans[0].scope_spans[0].spans
found = {one.key: one.value for one in told.attributes}
kinds = {name: value.WhichOneof("value") for name, value in found.items()}
print(sys.argv[1], kinds)
if sys.argv[1] == "1.30.0":
    assert kinds == {"float64": "double_value"}
else:
    assert found["float32"].string_value == "0.75"
    assert found["int64"].string_value == "3"
    assert found["float64"].double_value == 0.75
    assert found["list"].array_value.values[0].string_value == "0.5"
    assert kinds["none"] is None
PYTHON
  grep -c "Invalid type" "$folder/log"
done
echo "as recorded"
