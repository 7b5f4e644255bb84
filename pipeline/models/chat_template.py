"""How families whose encoder is a chat model put a text to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def as_chat(thinks: bool) -> Callable[[Any, str], str]:
    """The template of Qwen3's families: the text is what the user says in a chat.

    Args:
        thinks: the pipeline's ``enable_thinking``.
    """

    def chat(tokenizer: Any, text: str) -> str:
        messages = [{"role": "user", "content": text}]
        whole: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinks
        )
        return whole

    return chat
