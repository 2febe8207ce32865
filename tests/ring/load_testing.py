"""A load test of a launch that answers, asked for and read by REST: what a team does before its users come."""

from typing import Any

from tests.stack import Portal, poll

REQUESTS = 8
"""Of each step."""
SPEC: dict[str, Any] = {
    "kind": "load_test",
    "concurrency": 4,
    "step_requests": REQUESTS,
    "max_tokens": 4,
    "prompts": "Where is my parcel?\nWhat is the capital of France?",
}


def check(portal: Portal, launch: int) -> None:
    """A ramp to its end, and one that stops at its first step."""
    before = _answered(portal, launch)
    report = _report(portal, {**SPEC, "launch": launch, "target": {"figure": "ttft", "bound_ms": 60_000}})
    assert (report["stopped"], report["why"]) == ("reached", "4 at a time met the target; no more was asked for.")
    assert [(step["concurrency"], step["answers"], step["errors"]) for step in report["steps"]] == [
        (1, REQUESTS, {}),
        (2, REQUESTS, {}),
        (4, REQUESTS, {}),
    ]
    for step in report["steps"]:
        for figure in ("ttft", "tpot", "e2e"):
            assert 0 < step[figure]["p50_s"] <= step[figure]["p95_s"] <= step[figure]["p99_s"] <= step["seconds"]
        assert step["requests_per_s"] < step["tokens_out_per_s"] <= 4 * step["requests_per_s"] + 0.01
    # As many as the launch itself counted: all that the steps had, and the one before them.
    poll(lambda: _answered(portal, launch) == before + 3 * REQUESTS + 1, "the launch's own count of the requests", 10)
    (listed,) = _listed(portal, launch)
    assert listed["report"] == report
    assert (listed["model"], listed["engine"]) == ("tiny", "transformers")
    assert listed["best"]["requests_per_s"] == max(step["requests_per_s"] for step in report["steps"])

    missed = _report(portal, {**SPEC, "launch": launch, "target": {"figure": "tpot", "bound_ms": 0.001}})
    assert (missed["stopped"], [step["concurrency"] for step in missed["steps"]]) == ("target_missed", [1])
    assert missed["why"].startswith("At 1 at a time the P99 of the time per output token was ")
    assert missed["why"].endswith("; the target is below 0.001 ms.")
    assert _listed(portal, launch)[0]["best"] is None


def _report(portal: Portal, spec: dict[str, Any]) -> dict[str, Any]:
    """What a load test found."""
    job = portal.submit(spec)
    done = portal.wait(job, lambda job: job["status"] == "succeeded", "the load test")
    found: dict[str, Any] = done["results"]["load_test"]
    return found


def _listed(portal: Portal, launch: int) -> list[dict[str, Any]]:
    """Newest first."""
    page = portal.client.get("/api/v1/load-tests", params={"launch": launch}).raise_for_status().json()
    return list(page["items"])


def _answered(portal: Portal, launch: int) -> float:
    """Requests that the launch has ended, by its own latest figure."""
    answer = portal.client.get(f"/api/v1/jobs/{launch}/metrics", params={"names": "requests_total"})
    points = answer.raise_for_status().json().get("requests_total")
    return float(points[-1]["value"]) if points else 0.0
