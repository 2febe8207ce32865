"""Every error of the REST API in one shape: {"errors": [{"field", "value", "message"}]}.

Does not know which route failed.
"""

import json
from typing import Any, Never

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.http import HttpRequest, HttpResponse
from django.http.multipartparser import MultiPartParserError
from ninja import NinjaAPI, Schema
from ninja.errors import AuthenticationError, HttpError, ValidationErrorContext
from pydantic import Field, ValidationError

from workers.contract.errors import FieldError, Refused, from_pydantic

MAX_VALUE = 400
"""Characters of a refused value that are sent back."""


class ErrorItem(Schema):
    """One refusal."""

    field: str = Field(description="Dotted path of the field, e.g. lora.rank; 'body' for the whole request.")
    value: Any = Field(None, description="What was sent; cut short when it is long.")
    message: str = Field(description="One sentence: what is wrong and what would work.")


class Problem(Schema):
    """Why a request was not carried out."""

    errors: list[ErrorItem]


CODES: dict[Any, Any] = {401: Problem, 403: Problem, 422: Problem}
"""What any route may answer besides its own."""
FIND_CODES: dict[Any, Any] = {**CODES, 404: Problem}
"""The same, for routes that name one thing."""
STORE_CODES: dict[Any, Any] = {**FIND_CODES, 503: Problem}
"""The same, for routes that read the artifact store."""
BODY_CODES: dict[Any, Any] = {**CODES, 413: Problem}
"""The same, for routes that take a body."""


class NotFound(Exception):
    """The URL names something that isn't there."""

    def __init__(self, field: str, what: str, value: Any) -> None:
        shown = f"#{value}" if isinstance(value, int) else repr(value)
        super().__init__(f"{field}: there is no {what} {shown}.")
        self.error = FieldError(field, value, str(self))


class Unavailable(Exception):
    """Something beside the portal doesn't answer now. The message is one sentence."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.error = FieldError(field, None, f"{field}: {sentence}")


class Forbidden(Exception):
    """The user is known, but may not do this."""


class ErrorsInSentences(NinjaAPI):
    """A NinjaAPI that answers invalid parameters in the contract's words."""

    def validation_error_from_error_contexts(self, error_contexts: list[ValidationErrorContext[Any]]) -> Never:
        """Raises Refused; ninja would answer in pydantic's vocabulary."""
        raise Refused([error for context in error_contexts for error in sentences(context.pydantic_validation_error)])


def sentences(error: ValidationError) -> list[FieldError]:
    """The contract's FieldErrors; what concerns the whole request is at 'body'."""
    return [
        item._replace(field="body", message=item.message.replace("spec:", "body:", 1)) if item.field == "spec" else item
        for item in from_pydantic(error)
    ]


def install(api: NinjaAPI) -> None:
    """Answer every exception a route may raise in the one shape."""

    def answer(request: HttpRequest, status: int, errors: list[FieldError]) -> HttpResponse:
        content = {"errors": [{**item._asdict(), "value": plain(item.value)} for item in errors]}
        return api.create_response(request, content, status=status)

    @api.exception_handler(Refused)
    def refused(request: HttpRequest, error: Refused) -> HttpResponse:
        return answer(request, 422, error.errors)

    @api.exception_handler(NotFound)
    def not_found(request: HttpRequest, error: NotFound) -> HttpResponse:
        return answer(request, 404, [error.error])

    @api.exception_handler(Unavailable)
    def unavailable(request: HttpRequest, error: Unavailable) -> HttpResponse:
        return answer(request, 503, [error.error])

    @api.exception_handler(Forbidden)
    def forbidden(request: HttpRequest, error: Forbidden) -> HttpResponse:
        return answer(request, 403, [FieldError("authorization", None, f"authorization: {error}")])

    @api.exception_handler(AuthenticationError)
    def unauthenticated(request: HttpRequest, _: AuthenticationError) -> HttpResponse:
        sentence = "authorization: sign in, or send a valid API token as Authorization: Bearer <token>."
        response = answer(request, 401, [FieldError("authorization", None, sentence)])
        response["WWW-Authenticate"] = "Bearer"
        return response

    @api.exception_handler(SuspiciousOperation)
    @api.exception_handler(MultiPartParserError)
    @api.exception_handler(HttpError)
    def unreadable(request: HttpRequest, error: Exception) -> HttpResponse:
        cause = error.__cause__ or error
        if isinstance(cause, Refused):
            return answer(request, 422, cause.errors)
        if isinstance(cause, RequestDataTooBig):
            sentence = "body: it is larger than a request may be; upload files as multipart/form-data."
            return answer(request, 413, [FieldError("body", None, sentence)])
        sentence = f"body: it can't be read ({cause or 'no reason known'}); send one JSON object."
        return answer(request, 422, [FieldError("body", None, sentence)])


def plain(value: Any) -> Any:
    """`value` as strict JSON can carry it; anything longer than MAX_VALUE characters as text that is cut there."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError):
        return ascii(value)[:MAX_VALUE]
    if len(text) <= MAX_VALUE:
        return value
    return (value if isinstance(value, str) else text)[:MAX_VALUE] + "…"
