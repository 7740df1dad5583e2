"""Pipelines need Haystack."""

import pytest

pytest.importorskip("haystack")
