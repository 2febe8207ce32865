"""The gateway's own answers: errors in OpenAI's shape. Knows nothing of requests."""

import math

from django.http import JsonResponse

from portal.serving.models import Endpoint

RETRY_S = 5.0
"""When to ask again of what is not there for the moment."""


def failure(
    status: int,
    message: str,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    retry_after_s: float | None = None,
) -> JsonResponse:
    """An error; `retry_after_s`: after how long the same request may do better."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    answer = JsonResponse(body, status=status)
    if retry_after_s is not None:
        answer["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return answer


def upstream_failure(endpoint: Endpoint, what: str, code: str) -> JsonResponse:
    """An error of the server behind an endpoint. `what`: the rest of the sentence that begins with it."""
    server = f"The server of {endpoint.model_name!r} (job #{endpoint.attempt.job_id})"
    return failure(502, f"{server} {what}", "upstream_error", code=code)
