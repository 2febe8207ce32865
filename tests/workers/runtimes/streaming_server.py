"""A small real HTTP server that streams chat completions as a launch does, with answers that a test decides."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Decide = Callable[[int, dict[str, Any]], Any]
"""(requests under way, body) → (status, error body) of a refusal, 'break' to break off, or seconds before the end."""


class StreamingServer:
    """Listens from the start on; `close` ends it, as a launch that is killed."""

    def __init__(self, decide: Decide, token: str = "open-sesame") -> None:
        self.bodies: list[dict[str, Any]] = []
        self.most_under_way = self._under_way = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._whole(200, {"status": "ok"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.headers["Authorization"] != f"Bearer {token}":
                    return self._whole(401, _error("This model asks for its bearer token.", "invalid_api_key"))
                with outer._lock:
                    outer.bodies.append(body)
                    outer._under_way += 1
                    outer.most_under_way = max(outer.most_under_way, outer._under_way)
                time.sleep(0.02)  # so that those who ask at a time are seen to
                return self._answer(decide(outer._under_way, body))

            def _over(self) -> None:
                """Before the end is sent, after which the next request may come."""
                with outer._lock:
                    outer._under_way -= 1

            def _answer(self, decided: Any) -> None:
                if isinstance(decided, tuple):
                    self._over()
                    return self._whole(*decided)
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                self._event(choices=[{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
                self._event(choices=[{"delta": {"content": "Hel"}, "finish_reason": None}])
                if decided == "break":
                    return self._over()
                time.sleep(decided)
                self._over()
                self._event(choices=[{"delta": {"content": "lo"}, "finish_reason": None}])
                self._event(choices=[{"delta": {}, "finish_reason": "stop"}])
                self._event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3})
                self.wfile.write(b"data: [DONE]\n\n")
                return None

            def _event(self, **chunk: Any) -> None:
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

            def _whole(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def refusal(status: int, message: str, code: str = "") -> tuple[int, dict[str, Any]]:
    """As an engine refuses."""
    return status, _error(message, code)


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code or None}}
