"""Merges: what a piece is put together from, as reading it does."""

from __future__ import annotations

from secondpass.training.distillation.merges import Merges, pairs_of

MODEL = {"merges": [["a", "b"], ["ab", "c"], ["d", "e"], ["abc", "de"]]}


def test_parts_down_to_symbols():
    """All pieces that reading goes through, and no other."""
    merges = Merges(MODEL)
    assert merges.parts("abc") == {"abc", "ab", "a", "b", "c"}
    assert merges.parts("abcde") == {"abcde", "abc", "de", "ab", "a", "b", "c", "d", "e"}
    assert merges.parts("a") == {"a"}
    assert merges.makes("de")
    assert not merges.makes("d")


def test_kept_merges_in_order():
    """A merge stays if its parts and its result do."""
    assert Merges(MODEL).kept(["a", "b", "ab", "d", "e", "abc"]) == [["a", "b"]]
    assert Merges(MODEL).kept(["a", "b", "c", "ab", "abc"]) == [["a", "b"], ["ab", "c"]]


def test_both_forms_of_a_file():
    """Older files join the two parts by a space."""
    assert (
        pairs_of({"merges": ["a b", "Ġ c"]})
        == pairs_of({"merges": [["a", "b"], ["Ġ", "c"]]})
        == [("a", "b"), ("Ġ", "c")]
    )


def test_of_several_ways_the_one_that_happens():
    """SentencePiece's files list every split of a piece; the merges are applied by rank."""
    merges = Merges({"merges": [["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]]})
    assert merges.parts("abc") == {"abc", "a", "bc", "b", "c"}


def test_prefix_of_continuations():
    """Where the second part is marked as a continuation, the result is without the mark."""
    merges = Merges({"merges": [["a", "##b"]], "continuing_subword_prefix": "##"})
    assert merges.parts("ab") == {"ab", "a", "##b"}
    assert merges.kept(["a", "##b", "ab"]) == [["a", "##b"]]
