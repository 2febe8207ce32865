"""The REST API as the commands see it: answers, or a Problem with sentences. Knows no command."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx

REFUSED = 2
UNREACHABLE = 4


class Problem(Exception):
    """Ends the command with sentences and an exit status."""

    def __init__(self, *sentences: str, status: int = REFUSED) -> None:
        super().__init__("\n".join(sentences))
        self.status = status


class Portal:
    """The REST API; every failure is a Problem."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=60)
        except httpx.InvalidURL as error:
            raise Problem(f"LIFTOFF_URL: {url!r} is not a URL ({error}).") from None
        self._url = url

    def get(self, path: str, **query: Any) -> Any:
        return self.call("GET", path, params={key: value for key, value in query.items() if value is not None})

    def call(self, method: str, path: str, **request: Any) -> Any:
        with self.stream(method, f"/api/v1{path}", **request) as answer:
            return json.loads(answer.read())

    @contextlib.contextmanager
    def stream(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        """The answer, unread, if it is a good one."""
        try:
            with self._http.stream(method, path, **request) as answer:
                if answer.is_error:
                    raise Problem(*_sentences(answer), status=UNREACHABLE if answer.is_server_error else REFUSED)
                yield answer
        except (httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise Problem(f"LIFTOFF_URL: {self._url!r} is not a URL; write http://host:port.") from None
        except httpx.HTTPError as error:
            raise Problem(f"The portal at {self._url} can't be reached ({error}).", status=UNREACHABLE) from None


def _sentences(answer: httpx.Response) -> list[str]:
    try:
        found = json.loads(answer.read())
        if answer.status_code == 401:
            return ["The portal doesn't know this token; set LIFTOFF_TOKEN to one from its tokens page."]
        return [found["error"]["message"]] if "error" in found else [error["message"] for error in found["errors"]]
    except (ValueError, KeyError, TypeError):
        return [f"The portal answered {answer.status_code} without a reason."]
