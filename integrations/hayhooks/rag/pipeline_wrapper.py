"""Hayhooks: questions about your documents, over HTTP, as an MCP tool, and as an OpenAI-compatible chat.

SECONDPASS_CORPUS names the BEIR folder or JSON Lines file to answer from, and without it a pipeline whose store is in
memory is refused; SECONDPASS_PIPELINE another pipeline than rag_extractive, for example rag_rerank with its
OPENAI_BASE_URL and OPENAI_API_KEY.
"""

from __future__ import annotations

import os
from dataclasses import asdict

from hayhooks import BasePipelineWrapper, get_last_user_message

from secondpass.text import is_blank
from secondpass_pipelines.asking import answer_sockets, read_answers
from secondpass_pipelines.indexing import fill_from_environment
from secondpass_pipelines.pipeline_files import load_pipeline, pipeline_file


class PipelineWrapper(BasePipelineWrapper):
    """One answering pipeline; `POST /rag/run`, the tool `rag`, and the model `rag` of `/v1/chat/completions`."""

    def setup(self) -> None:
        """Load the pipeline, index the corpus into it and load its models before the first request."""
        file = pipeline_file(os.environ.get("SECONDPASS_PIPELINE", "rag_extractive"))
        self.pipeline = load_pipeline(file)
        self.asked = answer_sockets(self.pipeline, file)
        fill_from_environment(self.pipeline)
        self.pipeline.warm_up()

    async def run_api_async(self, query: str) -> list[dict]:
        """Answer a question from the documents, with the ids of the documents each answer comes from.

        Args:
            query: The question.

        Returns:
            A list of {"text", "score", "sources", "start", "end"}, best first; empty if nothing answers.
        """
        outputs = await self.pipeline.run_async(self.asked.inputs(query))
        found = outputs.get(self.asked.component, {}).get(self.asked.socket, ())
        return [asdict(answer) for answer in read_answers(found)]

    async def run_chat_completion_async(self, model: str, messages: list[dict], body: dict) -> str:
        """Answer the last question of a conversation; the sources of an answer that has some follow it in brackets."""
        question = _last_question(messages)
        if is_blank(question):
            return "There is no question: no message of the user's, or no text in the last one."
        answers = await self.run_api_async(question)
        if not answers:
            return "The documents hold no answer."
        return "\n".join(
            f"{answer['text']} [{', '.join(answer['sources'])}]" if answer["sources"] else answer["text"]
            for answer in answers
        )


def _last_question(messages: list[dict]) -> str:
    """The text of the user's last message, which OpenAI's clients may send in parts beside pictures."""
    content = get_last_user_message(messages) or ""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return " ".join(str(text) for text in texts if text)
