"""The command that needs Haystack; nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from haystack_integrations.common.secondpass.search.quiet_haystack import need_haystack

from secondpass.errors import InvalidInput


def ask(
    question: Annotated[str | None, typer.Argument(help="What is asked.")] = None,
    pipeline: Annotated[
        str, typer.Option("--pipeline", "-p", help="YAML file, or the name of a packaged one such as rag_rerank.")
    ] = "rag_extractive",
    corpus: Annotated[
        Path | None,
        typer.Option("--corpus", "-c", help="BEIR folder or JSON Lines file to index first (.gz too)."),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="File of questions: .jsonl (_id, text), .tsv (id, text) or .txt.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a question.")] = False,
) -> None:
    """Answer questions from documents: retrieve, rerank, then quote or generate.

    The packaged rag_extractive quotes sentences and needs nothing else; rag_rerank asks a chat model at
    OPENAI_BASE_URL with the key OPENAI_API_KEY.

    Without --corpus the documents that the pipeline's store already holds are searched.

    [bold]Examples[/bold]

    secondpass ask "how long do I have to return a parcel" -c help_centre.jsonl

    secondpass ask -p rag_rerank -c docs.jsonl --queries questions.txt --json
    """
    if (question is None) == (queries is None):
        raise InvalidInput("give a question, or a file of them with --queries")
    need_haystack()
    from haystack_integrations.common.secondpass.rag.asking import AskRequest, run_ask

    run_ask(AskRequest(pipeline, corpus, question, queries, as_json))
