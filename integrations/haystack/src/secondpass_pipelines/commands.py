"""The commands that need Haystack; nothing heavy is imported before one of them runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secondpass.cli.arguments import CalibrationFile, IdenticalIds, JsonObject, MinProbability, check_targets
from secondpass.corpora import read_queries
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import JudgedQueries, judged_queries, listed_queries
from secondpass.text import checked_query
from secondpass_pipelines.pipeline_files import need_haystack


class Form(StrEnum):
    """Forms of a search's output."""

    trec = "trec"
    json = "json"
    table = "table"


Corpus = Annotated[
    Path | None,
    typer.Option(
        "--corpus",
        "-c",
        help="BEIR folder, JSON Lines or .tsv file (.gz too), or secondpass/demo, to index first; without it the "
        "stores are as they are.",
    ),
]
Index = Annotated[
    str | None, typer.Option("--index", help="Index of Elasticsearch or OpenSearch, instead of the pipeline's own.")
]
Add = Annotated[bool, typer.Option("--add", help="Index into one that holds documents already.")]
RankerTopK = Annotated[
    int | None, typer.Option("--top-k", "-k", min=1, help="top_k of the ranker, instead of its own.")
]
RankerModel = Annotated[
    str | None, typer.Option("--model", "-m", help="Cross-encoder for the ranker, instead of its own.")
]


def search(
    pipeline: Annotated[
        str, typer.Option("--pipeline", "-p", help="YAML file, or the name of a packaged one such as rerank_bm25.")
    ],
    corpus: Corpus = None,
    query: Annotated[str | None, typer.Option("--query", "-q", help="One query.")] = None,
    queries: Annotated[
        Path | None, typer.Option(help="File of queries: .jsonl (_id, text), .tsv (id, text) or .txt.")
    ] = None,
    data_queries: Annotated[
        bool, typer.Option("--data-queries", help="The judged queries of the BEIR folder.")
    ] = False,
    dataset: Annotated[
        Path | None,
        typer.Option("--dataset", "-d", help="BEIR folder, or secondpass/demo, for --data-queries without --corpus."),
    ] = None,
    qrels: Annotated[Path | None, typer.Option(help="Judgements (BEIR or TREC) to measure both passes with.")] = None,
    split: Annotated[str, typer.Option(help="Which judgements of the BEIR folder go with --data-queries.")] = "test",
    ignore_identical_ids: IdenticalIds = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="top_k of the first pass, instead of the pipeline's own.")
    ] = None,
    top_k: RankerTopK = None,
    min_probability: MinProbability = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first queries.")] = None,
    model: RankerModel = None,
    calibration: CalibrationFile = None,
    index: Index = None,
    add: Add = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write, for runs a file of each pass; continues.")
    ] = None,
    form: Annotated[
        Form | None, typer.Option("--format", "-f", help="By default trec, or json for a .json file; table on stdout.")
    ] = None,
    as_json: JsonObject = False,
) -> None:
    """Run queries through a pipeline: a TREC run or JSON out, and the figures of both passes.

    A corpus is indexed first; without one, the pipeline's own index of Elasticsearch or OpenSearch is searched.
    ELASTICSEARCH_URL, OPENSEARCH_URL and SECONDPASS_INDEX say which one.

    With judgements, nDCG@10 and MRR@10 of every stage are printed, as means over the queries with a relevant document.

    Answers are kept in OUTPUT.partial as they come; the same command run again goes on where it stopped.

    Where the ranker's model has a calibration, its own or --calibration, each document has its probability, and
    --min-probability leaves out what is less probable.

    [bold]Examples[/bold]

    secondpass search -p rerank_bm25 -c corpus.jsonl -q "tax deadline"

    secondpass search -p rerank_bm25 -c beir/scifact --data-queries -o sci.trec

    secondpass search -p my.yaml -c docs.jsonl --queries q.tsv --qrels qrels.txt

    secondpass search -p rerank_elasticsearch_bm25 --index docs -q "tax deadline"
    """
    judged = data_queries or dataset is not None
    if sum((query is not None, queries is not None, judged)) != 1:
        raise InvalidInput("give one of --query, --queries and --data-queries")
    folder = dataset or corpus
    if judged and folder is None:
        raise InvalidInput("--data-queries needs a BEIR folder: give --dataset, or --corpus to index it too")
    _check_search(query, qrels, corpus, add, output)
    chosen = _form(form, output, judged or qrels is not None, as_json)
    need_haystack(pipeline)
    from secondpass_pipelines.search_run import PipelineSearch, run_search

    if query is not None:
        asked = JudgedQueries({"query": checked_query(query, "--query")})
    elif queries is not None:
        asked = listed_queries(queries, qrels)
    elif folder is not None:
        asked = judged_queries(folder, split, qrels)
    own = judged if ignore_identical_ids is None else ignore_identical_ids
    given = {"calibration": calibration and str(calibration), "min_probability": min_probability}
    ranker = {name: value for name, value in given.items() if value is not None}
    wanted = (pipeline, corpus, asked, limit, depth, top_k, model, output, chosen, index, add, own)
    run_search(PipelineSearch(*wanted, ranker=ranker))


def index(
    pipeline: Annotated[
        str, typer.Option("--pipeline", "-p", help="Indexing pipeline: YAML file, or a name such as index_opensearch.")
    ],
    corpus: Annotated[
        Path, typer.Option("--corpus", "-c", help="BEIR folder, JSON Lines or .tsv file (.gz too), or secondpass/demo.")
    ],
    *,
    name: Index = None,
    add: Add = False,
    batch: Annotated[int, typer.Option(min=1, help="Documents that go through the pipeline together.")] = 500,
    as_json: JsonObject = False,
) -> None:
    """Run an indexing pipeline over a corpus, a batch at a time.

    The pipeline has a CorpusReader, perhaps a document embedder, and a DocumentWriter. Large corpora are better
    streamed by `secondpass elasticsearch index` and `secondpass opensearch index`, which go on after a failure.

    [bold]Examples[/bold]

    secondpass index -p index_elasticsearch --index docs -c beir/scifact

    secondpass index -p my_indexing.yaml -c corpus.jsonl --add
    """
    need_haystack(pipeline)
    from secondpass_pipelines.indexing import run_index

    run_index(pipeline, corpus, name, add, batch, as_json)


def demo(
    *,
    queries: Annotated[int | None, typer.Option(min=1, help="Ask only the first queries.")] = None,
    rows: Annotated[int, typer.Option(min=1, max=10, help="Documents to show for each query.")] = 3,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the totals.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Another cross-encoder than secondpass/pocket.")
    ] = None,
) -> None:
    """Show what a second pass does: BM25 and the re-ordered result side by side, on a small packaged corpus.

    [bold]Examples[/bold]

    secondpass demo

    secondpass demo --queries 5 --rows 5

    secondpass demo --quiet
    """
    need_haystack()
    from secondpass_pipelines.search_run import run_demo

    run_demo(queries, rows, quiet, as_json, model)


def _check_search(
    query: str | None, qrels: Path | None, corpus: Path | None, add: bool, output: Path | None = None
) -> None:
    check_targets(output)
    if add and corpus is None:
        raise InvalidInput("--add is for --corpus: without one nothing is indexed")
    if query is not None and qrels is not None:
        raise InvalidInput("--qrels needs query ids: give --queries or --data-queries instead of --query")


def _form(form: Form | None, output: Path | None, measured: bool, as_json: bool) -> str:
    """Return the form of the output, "" for figures only."""
    if as_json and (output is not None or form not in (None, Form.json)):
        raise InvalidInput("--json prints the answers as JSON: it goes without --output and --format")
    if as_json:
        return str(Form.json)
    if output is None:
        return str(form or ("" if measured else Form.table))
    if form is Form.table:
        raise InvalidInput("--format table is for the terminal; a file holds trec or json")
    return str(form or (Form.json if output.suffix == ".json" else Form.trec))


def ask(
    question: Annotated[str | None, typer.Argument(help="What is asked.")] = None,
    pipeline: Annotated[
        str, typer.Option("--pipeline", "-p", help="YAML file, or the name of a packaged one such as rag_rerank.")
    ] = "rag_extractive",
    corpus: Annotated[
        Path | None,
        typer.Option("--corpus", "-c", help="BEIR folder, JSON Lines or .tsv file to index first, or secondpass/demo."),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="File of questions: .jsonl (_id, text), .tsv (id, text) or .txt.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a question.")] = False,
    calibration: CalibrationFile = None,
    refuse: Annotated[
        bool | None,
        typer.Option(
            "--refuse/--no-refuse",
            help="Give no answer where the model's calibration says that no document has one; by default as the "
            "pipeline says, and the packaged ones do.",
        ),
    ] = None,
    index: Index = None,
    add: Add = False,
) -> None:
    """Answer questions from documents: retrieve, rerank, then quote or generate.

    The packaged rag_extractive quotes sentences and needs nothing else; rag_rerank asks a chat model at
    OPENAI_BASE_URL with the key OPENAI_API_KEY.

    Without --corpus the documents that the pipeline's store already holds are searched.

    [bold]Examples[/bold]

    secondpass ask "how long do I have to return a parcel" -c help_centre.jsonl

    secondpass ask -p rag_rerank -c docs.jsonl --queries questions.txt --json

    secondpass ask "do you deliver to the moon" -c docs.jsonl --calibration calibration.json
    """
    if (question is None) == (queries is None):
        raise InvalidInput("give a question, or a file of them with --queries")
    _check_search(None, None, corpus, add)
    need_haystack(pipeline)
    from secondpass_pipelines.asking import run_ask

    run_ask(
        pipeline,
        corpus,
        read_queries(queries) if queries is not None else {"1": checked_query(question, "question")},
        as_json,
        calibration,
        refuse,
        index,
        add,
    )
