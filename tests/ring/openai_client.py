"""OpenAI's own Python client against the gateway: what a team's applications do with it."""

import httpx
import openai
import pytest
from openai import OpenAI

from tests.stack import Portal, poll

HELLO: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "case 1"}]


def check(portal: Portal, model: str, job: int) -> None:
    """Everything, with the launch `job` that answers as `model`."""
    token = portal.client.headers["Authorization"].removeprefix("Bearer ")
    with OpenAI(base_url=f"{portal.url}/v1", api_key=token, max_retries=0, timeout=60) as client:
        _models(client, model)
        _chat(client, model)
        _completion(client, model)
        _errors(client, model)
        _leaving(portal, client, model, job)


def _models(client: OpenAI, model: str) -> None:
    assert model in [entry.id for entry in client.models.list()]
    assert client.models.retrieve(model).id == model


def _chat(client: OpenAI, model: str) -> None:
    whole = client.chat.completions.create(model=model, messages=HELLO, max_tokens=6, temperature=0)
    assert whole.usage
    assert 0 < whole.usage.completion_tokens <= 6
    stream = client.chat.completions.create(
        model=model,
        messages=HELLO,
        max_tokens=6,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def _completion(client: OpenAI, model: str) -> None:
    whole = client.completions.create(model=model, prompt="case 1 of", max_tokens=4, temperature=0)
    stream = client.completions.create(model=model, prompt="case 1 of", max_tokens=4, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == whole.choices[0].text


def _errors(client: OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody", messages=HELLO)
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.BadRequestError) as hot:
        client.chat.completions.create(model=model, messages=HELLO, temperature=3)
    assert hot.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="lift_wrong").models.list()


def _leaving(portal: Portal, client: OpenAI, model: str, job: int) -> None:
    """A stream that is closed ends the generation: the model counts a caller that left."""
    asked = client.chat.completions.create(model=model, messages=HELLO, max_tokens=100, temperature=1, stream=True)
    with asked as stream:
        next(iter(stream))

    def left() -> bool:
        found: httpx.Response = portal.client.get(f"/api/v1/jobs/{job}/metrics")
        series = found.json().get("series", found.json())
        return bool(series.get("errors_left_total")) and series["running"][-1]["value"] == 0

    poll(left, "the end of an answer that nobody reads", 30)
