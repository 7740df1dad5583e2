"""Documents made ready for a prompt, for Haystack."""

from haystack_integrations.components.preprocessors.secondpass.prompt_budget import PromptBudget

__all__ = ["PromptBudget"]
