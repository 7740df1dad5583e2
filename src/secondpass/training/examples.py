"""One labelled training example, as the seed has it."""

from __future__ import annotations


class InputExample:
    """Texts that belong together and their label.

    Args:
        guid: the caller's name for the example; error messages repeat it.
        texts: [query, document], or one text.
        label: a number for a model with one label, else the index of the class.
    """

    def __init__(self, guid: str = "", texts: list[str] | None = None, label: int | float = 0) -> None:
        self.guid = guid
        self.texts = texts
        self.label = label

    def __str__(self) -> str:
        return f"<InputExample> label: {self.label}, texts: {'; '.join(self.texts or ())}"
