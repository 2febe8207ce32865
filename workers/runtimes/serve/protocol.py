"""What a caller may ask and how errors look: OpenAI's chat completions, completions and embeddings, the part served
here.

Source: OpenAI's API reference. Knows nothing of models, nor of how answers look.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MOST_CHOICES = 16
MOST_STOPS = 16


class BadRequest(Exception):
    """An answer other than 200. `param` is the request's field at fault, if one is."""

    def __init__(
        self,
        message: str,
        param: str | None,
        status: int = 400,
        code: str | None = None,
        kind: str = "invalid_request_error",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.code, self.kind = message, param, status, code, kind
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        return error_body(self.message, self.param, self.code, self.kind)

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def error_body(
    message: str, param: str | None = None, code: str | None = None, kind: str = "invalid_request_error"
) -> dict[str, Any]:
    """OpenAI's error shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _plain_text(content: Any) -> Any:
    """A list of text parts, as some clients send it, becomes one text; anything else is left to the validator."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    return "" if content is None else content


def _as_list(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


def _nothing(given: Any) -> Any:
    if given:
        raise ValueError("is not done by this server; leave it out")
    return given


Nothing = Annotated[Any, AfterValidator(_nothing)]
"""A setting that would change the answer, and that no engine here has."""


class ChatMessage(BaseModel):
    """One turn. `tool_calls` of an assistant's, `tool_call_id` of a tool's."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(_plain_text)] = ""
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class Settings(BaseModel):
    """What all ways of asking for text have; a field that is absent or null takes the launch's default. Unknown fields
    are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    stop: Annotated[list[Annotated[str, Field(min_length=1)]] | None, BeforeValidator(_as_list)] = Field(
        None, max_length=MOST_STOPS
    )
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    stream: bool | None = None
    frequency_penalty: Nothing = None
    presence_penalty: Nothing = None
    logit_bias: Nothing = None


class JsonSchema(BaseModel):
    """A schema that an answer has to follow."""

    name: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class ResponseFormat(BaseModel):
    """How an answer has to look."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(Settings):
    """A conversation to go on with."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto"] | None = None

    @property
    def wanted_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def offered(self) -> list[dict[str, Any]]:
        """Tools that the model may call."""
        return [] if self.tool_choice == "none" else (self.tools or [])


def _one_prompt(given: Any) -> Any:
    return given[0] if isinstance(given, list) and len(given) == 1 and isinstance(given[0], str | list) else given


class CompletionRequest(Settings):
    """A text, or its tokens, to go on with."""

    prompt: Annotated[str | list[Annotated[int, Field(ge=0)]], BeforeValidator(_one_prompt)]
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: Nothing = None
    suffix: Nothing = None
    best_of: Nothing = None


class EmbeddingsRequest(BaseModel):
    """Texts to make vectors of."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    input: Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list)] = Field(
        min_length=1, max_length=2048
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Nothing = None
