"""Holds an answer to a JSON schema: which tokens may come next. By llguidance.

Knows nothing of models, nor of how a token is chosen among those that may come.
"""

from typing import Any

import torch


class Grammars:
    """Of one tokenizer; `vocabulary` is how many scores the model gives."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        from llguidance.hf import from_tokenizer

        self._tokens = from_tokenizer(tokenizer, n_vocab=vocabulary)

    def problem(self, schema: str) -> str:
        """Why a schema can't be followed; '' where it can."""
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(schema)
        except ValueError as error:
            return str(error)
        is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, self._tokens)
        return str(messages[0]).splitlines()[0] if is_error and messages else ""

    def of(self, schema: str) -> "Grammar":
        return Grammar(self._tokens, schema)


class Grammar:
    """Of one answer, which it follows token by token."""

    def __init__(self, tokens: Any, schema: str) -> None:
        from llguidance import LLMatcher

        self._matcher = LLMatcher(tokens, LLMatcher.grammar_from_json_schema(schema))

    def allowed(self) -> torch.Tensor:
        """(vocabulary): True for a token that may come next."""
        return torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) > 0

    def took(self, token: int) -> None:
        self._matcher.consume_token(token)
