"""From a request to what the engine is asked: everything that can be refused is refused here, before any computing.

Each refusal names the parameter. Knows nothing of HTTP, nor of how text is made.
"""

import json
from typing import Any

from workers.contract.launch import LaunchSpec
from workers.runtimes.base import RunFailed
from workers.runtimes.serve.engine import Ask, Engine
from workers.runtimes.serve.protocol import BadRequest, ChatRequest, CompletionRequest, EmbeddingsRequest, Settings

ANY_OBJECT = json.dumps({"type": "object"})


class Asking:
    """Fills in a launch's defaults."""

    def __init__(self, engine: Engine, spec: LaunchSpec, model_name: str) -> None:
        self._engine, self._spec, self._name = engine, spec, model_name

    def chat(self, body: ChatRequest) -> list[Ask]:
        """One ask for each answer wanted. Raises BadRequest."""
        self._check_model(body.model)
        if body.offered:
            self._check_can("tools")
        messages = [message.model_dump(exclude_none=True) for message in body.messages]
        try:
            prompt = self._engine.prompt(messages, body.offered)
        except RunFailed as error:
            raise BadRequest(error.detail, "messages") from error
        asked, name = body.max_tokens, "max_tokens"
        if body.max_completion_tokens is not None:
            asked, name = body.max_completion_tokens, "max_completion_tokens"
        return self._asks(body, "messages", prompt, asked, name, body.wanted_logprobs, self._schema(body))

    def completion(self, body: CompletionRequest) -> list[Ask]:
        """As `chat`."""
        self._check_model(body.model)
        prompt = self._engine.tokens(body.prompt) if isinstance(body.prompt, str) else body.prompt
        if not prompt:
            raise BadRequest("prompt: it has no tokens; send some text.", "prompt")
        return self._asks(body, "prompt", prompt, body.max_tokens, "max_tokens", body.logprobs, None)

    def embeddings(self, body: EmbeddingsRequest) -> list[list[int]]:
        """The tokens of each input. Raises BadRequest."""
        self._check_model(body.model)
        if "embeddings" in self._engine.lacks:
            raise BadRequest(f"model: {self._engine.lacks['embeddings']}", "model", code="unsupported")
        prompts = [self._engine.tokens(text) for text in body.input]
        for at, prompt in enumerate(prompts):
            if not 1 <= len(prompt) <= self._engine.context_length:
                limit = self._engine.context_length
                message = f"input: number {at} has {len(prompt)} tokens; this model reads 1 to {limit}."
                raise BadRequest(message, "input", code="context_length_exceeded")
        return prompts

    def _asks(
        self,
        body: Settings,
        field: str,
        prompt: list[int],
        asked: int | None,
        name: str,
        logprobs: int | None,
        schema: str | None,
    ) -> list[Ask]:
        spec, limit = self._spec, self._engine.context_length
        room = limit - len(prompt)
        if room < 1:
            message = f"{field}: {len(prompt)} tokens fill the context of {limit}; send fewer."
            raise BadRequest(message, field, code="context_length_exceeded")
        if asked is not None and asked > room:
            message = (
                f"{name}: {asked} and a prompt of {len(prompt)} tokens are beyond the context of {limit}; "
                f"use at most {room}."
            )
            raise BadRequest(message, name, code="context_length_exceeded")
        if logprobs is not None:
            self._check_can("logprobs")
        wanted = body.n or 1
        if wanted > self._engine.most:
            raise BadRequest(f"n: {wanted} answers are more than the {self._engine.most} made at a time here.", "n")
        seed = body.seed if body.seed is not None else spec.seed
        return [
            Ask(
                prompt=prompt,
                max_tokens=asked if asked is not None else min(spec.max_tokens, room),
                temperature=body.temperature if body.temperature is not None else spec.temperature,
                top_p=body.top_p if body.top_p is not None else spec.top_p,
                seed=(seed + number) % 2**63,
                stop=tuple(body.stop or ()),
                logprobs=logprobs,
                schema=schema,
            )
            for number in range(wanted)
        ]

    def _schema(self, body: ChatRequest) -> str | None:
        wanted = body.response_format
        if wanted is None or wanted.type == "text":
            return None
        self._check_can("response_format")
        if wanted.type == "json_object":
            return ANY_OBJECT
        if wanted.json_schema is None:
            raise BadRequest("response_format: json_schema is missing; send one with a schema.", "response_format")
        return self._compiled(wanted.json_schema.schema_)

    def _compiled(self, schema: dict[str, Any]) -> str:
        text = json.dumps(schema)
        if problem := self._engine.problem_of_schema(text):
            raise BadRequest(f"response_format: the schema can't be followed ({problem}).", "response_format")
        return text

    def _check_model(self, name: str | None) -> None:
        if name is not None and name != self._name:
            message = f"model: {name!r} is not served here; this is {self._name!r}."
            raise BadRequest(message, "model", 404, "model_not_found")

    def _check_can(self, name: str) -> None:
        if name in self._engine.lacks:
            raise BadRequest(f"{name}: {self._engine.lacks[name]}", name, code="unsupported")
