"""Both passes: the second one's order is the encoder's own over the same texts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, SecondPassError
from secondpass_opensearch.candidates import FirstPass
from secondpass_opensearch.server import Server
from secondpass_opensearch.two_pass import two_pass_search
from tests.opensearch.conftest import NOBODY, fill


def test_the_order_is_the_encoders(server: Server, index: str, tiny: CrossEncoder) -> None:
    """Same texts, same scores, cut to top_k after the ranking."""
    query = "the capital city and a train to Paris"
    answer = two_pass_search(server, index, FirstPass(query), tiny, top_k=2)
    whole = two_pass_search(server, index, FirstPass(query), tiny, top_k=10)
    ranked = tiny.rank(query, [hit.candidate.text for hit in whole.hits])
    assert [item["corpus_id"] for item in ranked] == list(range(len(whole.hits)))
    assert [item["score"] for item in ranked] == pytest.approx([hit.score for hit in whole.hits], abs=1e-6)
    assert answer.hits == whole.hits[:2]
    assert answer.candidates == len(whole.hits) == 4


def test_nothing_found(server: Server, index: str, tiny: CrossEncoder) -> None:
    """No hits, no error."""
    assert two_pass_search(server, index, FirstPass("zzz"), tiny).hits == ()


def test_a_field_that_is_not_there(server: Server, index: str, tiny: CrossEncoder) -> None:
    """Refused, not searched in vain."""
    with pytest.raises(InvalidInput, match="no field body"):
        two_pass_search(server, index, FirstPass("Paris", ("body",)), tiny)


def test_documents_without_text(server: Server, index: str, tiny: CrossEncoder) -> None:
    """Some are counted; if it is all of them, the field's name is wrong."""
    fill(server, index, {"more": "Paris"}, other="only here")
    answer = two_pass_search(server, index, FirstPass("Paris", ("content", "other")), tiny)
    assert answer.without_text == 0
    with server.client() as client:
        client.index(index=index, id="blank", body={"content": " ", "tags": "x"}, refresh=True)
    first = FirstPass("only here", ("other",))
    assert two_pass_search(server, index, first, tiny).hits[0].candidate.text == "only here"


def test_a_field_without_texts(server: Server, new_name: Callable[[], str], tiny: CrossEncoder) -> None:
    """Matched by a multi-field whose values are not in the source."""
    name = new_name()
    with server.client() as client:
        inner = {"type": "text", "fields": {"exact": {"type": "text"}}}
        client.indices.create(index=name, body={"mappings": {"properties": {"content": inner}}})
    fill(server, name, {"a": "Paris"})
    with pytest.raises(InvalidInput, match=r"content\.exact"):
        two_pass_search(server, name, FirstPass("Paris", ("content.exact",)), tiny)


def test_what_was_cut_is_told(server: Server, index: str, tiny: CrossEncoder) -> None:
    """By id."""
    fill(server, index, {"long": "Paris " * 500})
    assert two_pass_search(server, index, FirstPass("Paris"), tiny).cut == ("long",)


def test_a_dead_server(tiny: CrossEncoder) -> None:
    """One line."""
    server = Server.from_environment({"OPENSEARCH_URL": NOBODY}, retries=0)
    with pytest.raises(SecondPassError, match="cannot be reached"):
        two_pass_search(server, "x", FirstPass("y"), tiny)
