"""Events and envelopes: round trips, and what a newer Liftoff may say."""

import pytest
from pydantic import ValidationError

from workers.contract import events as contract
from workers.contract.events import EVENT, Envelope, Heartbeat, StreamBatch
from workers.contract.reasons import Outcome, Reason

EXAMPLES = [
    contract.Started(pid=3, run_dir="/r"),
    contract.Phase(name="training"),
    contract.Progress(done=3, total=10, eta_s=None),
    contract.Metric(step=3, values={"loss": 0.5}),
    contract.Metric(step=None, values={}),
    contract.Log(text="für"),
    contract.Log(stream="supervisor", text=""),
    contract.Result(name="test_before", values={"accuracy": 0.5, "per_label": {"a": [1, 2]}}),
    contract.Ready(url="http://h:1", model="m"),
    contract.Artifact(name="adapter", kind="adapter", uri="store://a", bytes=3, sha256=None),
    contract.Checkpoint(step=40, uri="store://a", bytes=3, sha256=None),
    contract.Failed(reason=Reason.NAN_LOSS, detail="d"),
    contract.Finished(reason=Reason.COMPLETED),
]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.type)
def test_every_event_survives_its_envelope(event):
    envelope = Envelope(job=1, attempt=1, token="t", seq=1, at=1.5, event=event)
    read = Envelope.model_validate_json(envelope.model_dump_json())
    assert read == envelope
    assert type(read.event) is type(event)


def test_every_type_of_event_is_tried_here():
    known = {kind.model_fields["type"].default for kind in contract.AnyEvent.__args__ if kind is not contract.Unknown}
    assert {event.type for event in EXAMPLES} == known


def test_an_event_of_a_newer_liftoff_is_kept_as_it_is():
    event = EVENT.validate_json('{"type": "dreamt", "of": {"sheep": [1, 2]}}')
    batch = StreamBatch(envelopes=[Envelope(job=1, attempt=1, seq=1, at=0, event=event)])
    (envelope,) = StreamBatch.model_validate_json(batch.model_dump_json()).envelopes
    assert envelope.event.model_dump() == {"type": "dreamt", "of": {"sheep": [1, 2]}}


def test_a_newer_field_of_a_known_event_is_kept():
    event = EVENT.validate_python({"type": "phase", "name": "training", "of": 3})
    assert event.model_dump()["of"] == 3


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"type": None},
        {"type": "metric", "values": {"loss": "low"}},
        {"type": "metric", "values": {"loss": None}},
        {"type": "failed", "reason": "bad luck", "detail": ""},
        {"type": "artifact", "name": "a", "kind": "poem", "uri": "u", "bytes": 1},
    ],
)
def test_what_is_no_event_is_refused(document):
    with pytest.raises(ValidationError):
        EVENT.validate_python(document)


def test_numbers_of_events_start_at_one():
    with pytest.raises(ValidationError, match="seq"):
        Envelope(job=1, attempt=1, seq=0, at=0, event=EXAMPLES[0])


def test_a_heartbeat_survives_json():
    device = contract.DeviceProfile(kind="cpu", index=0, name="c", memory_bytes=1)
    profile = contract.NodeProfile(name="n", cores=1, ram_bytes=1, disk_free_bytes=1, devices=(device,))
    running = (contract.RunningAttempt(job=1, attempt=2),)
    beat = Heartbeat(node="n", at=1.0, running=running, profile=profile)
    assert Heartbeat.model_validate_json(beat.model_dump_json()) == beat


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_sentence(reason):
    assert reason.sentence.endswith(".")
    assert isinstance(reason.outcome, Outcome)
    assert not (reason.may_retry and reason.outcome is not Outcome.FAILED)
