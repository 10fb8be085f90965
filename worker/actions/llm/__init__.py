"""The action `llm.chat`: one chat completion of an LLM provider."""

from worker.actions.llm.action import LlmChat

__all__ = ["LlmChat"]
