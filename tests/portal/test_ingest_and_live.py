"""From a node's stream to the store and to a viewer: nothing lost, nothing twice, over a real Redis."""

import asyncio
import json
import time
from typing import Any

import pytest
import redis
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import AnonymousUser, User
from django.utils import timezone

from portal.catalog.models import Adapter, Dataset, ModelProfile
from portal.fleet.models import Accelerator, Node
from portal.jobs import services
from portal.jobs.models import Attempt, Job
from portal.jobs.scheduler import Placement
from portal.live.consumers import JobConsumer
from portal.live.hub import QUEUE_SIZE, watch
from portal.telemetry import ingest, selectors
from portal.telemetry.cursor import START, Cursor
from portal.telemetry.models import LogLine, MetricPoint
from workers.contract.events import EVENT, DeviceProfile, Envelope, Heartbeat, NodeProfile, StreamBatch
from workers.contract.names import NODE_STREAM, job_stream

pytestmark = pytest.mark.django_db(transaction=True)
DEADLINE_S = 20


@pytest.fixture
def attempt(live_redis: "redis.Redis") -> Attempt:
    """A dispatched attempt of a fine-tune."""
    user = User.objects.create_user("ada")
    ModelProfile.objects.create(name="tiny", source="safetensors", uri="store://models/tiny")
    Dataset.objects.create(
        name="tickets", format="text", source="t", train_uri="store://d/t", sha256="0" * 64, train_rows=1
    )
    node = Node.objects.create(name="n1", last_seen_at=timezone.now())
    device = Accelerator.objects.create(node=node, kind="cpu", index=0, name="CPU", memory_bytes=1)
    job, _ = services.submit(user, {"kind": "finetune", "model": "tiny", "dataset": "tickets"})
    assert services.allocate(Placement(job.pk, node.pk, (device.pk,)))
    return Attempt.objects.select_related("job").get()


def envelopes(attempt: Attempt, first: int, events: list[dict[str, Any]]) -> list[Envelope]:
    token = attempt.order["token"]
    return [
        Envelope(job=attempt.job_id, attempt=attempt.number, token=token, seq=seq, at=time.time(), event=event)
        for seq, event in enumerate(map(EVENT.validate_python, events), first)
    ]


def ship(client: "redis.Redis", batch: list[Envelope]) -> None:
    client.xadd(job_stream(batch[0].job), {"batch": StreamBatch(envelopes=batch).model_dump_json()})


def losses(first: int, count: int) -> list[dict[str, Any]]:
    return [{"type": "metric", "step": n, "values": {"loss": 1 / n}} for n in range(first, first + count)]


def drain(reader: ingest.Ingest) -> None:
    reader.once()
    while reader.once():
        pass


RUN: list[dict[str, Any]] = [
    {"type": "started", "pid": 1},
    {"type": "phase", "name": "training"},
    {"type": "progress", "done": 3, "total": 9, "eta_s": 12},
    {"type": "log", "text": "hello\0there"},
    *losses(1, 3),
    {"type": "result", "name": "test_after", "values": {"macro_f1": 0.9}},
    {"type": "something_new", "x": 1},
]


def test_a_new_phase_starts_without_the_progress_of_the_one_before(attempt: Attempt, live_redis: "redis.Redis") -> None:
    reader = ingest.Ingest()
    said = [
        {"type": "started", "pid": 1},
        {"type": "progress", "done": 80, "total": 80},
        {"type": "phase", "name": "b"},
    ]
    ship(live_redis, envelopes(attempt, 1, said))
    drain(reader)
    job = Job.objects.get()
    assert (job.phase, job.progress_done, job.progress_total) == ("b", 0, 0)


def test_a_run_is_recorded_and_its_states_follow(attempt: Attempt, live_redis: "redis.Redis") -> None:
    reader = ingest.Ingest()
    known = envelopes(attempt, 1, RUN)
    ship(live_redis, known)
    drain(reader)
    job = Job.objects.get()
    assert (job.status, job.phase, job.progress_done, job.eta_s) == ("running", "training", 3, 12)
    assert [p["value"] for p in selectors.metrics(job)["loss"]] == [1, 1 / 2, 1 / 3]
    assert selectors.results(job) == {"test_after": {"macro_f1": 0.9}}
    adapter = {"type": "artifact", "name": "adapter", "kind": "adapter", "uri": "store://jobs/1", "bytes": 5}
    end = [adapter, {"type": "finished", "reason": "completed"}]
    ship(live_redis, envelopes(attempt, len(known) + 1, end))
    drain(reader)
    job.refresh_from_db()
    assert (job.status, job.reason) == ("succeeded", "completed")
    assert Adapter.objects.get().base_model.name == "tiny"
    seen = selectors.events(job)
    assert [e["seq"] for e in seen] == [1, 2, *range(4, len(known) + 3)]
    assert selectors.events(job, since=Cursor(1, 9)) == seen[-2:]
    assert any(e["type"] == "something_new" and e["x"] == 1 for e in seen)


def test_a_whole_model_joins_the_catalog_with_its_lineage(attempt: Attempt, live_redis: "redis.Redis") -> None:
    job = attempt.job
    job.spec = {**job.spec, "method": "full", "adapter": "tuned"}
    job.save()
    base = ModelProfile.objects.get()
    base.parameters, base.layers = 1_000_000, 2
    base.save()
    made = {"type": "artifact", "name": "model", "kind": "model", "uri": "store://jobs/1/model", "bytes": 4_002_000}
    for _ in range(2):
        ship(live_redis, envelopes(attempt, 1, [*RUN, made, {"type": "finished", "reason": "completed"}]))
        drain(ingest.Ingest())

    model = ModelProfile.objects.get(name="tuned")
    assert (model.uri, model.source, model.dtype, model.layers) == ("store://jobs/1/model", "safetensors", "float32", 2)
    assert (model.base_model, model.job_number) == (base, job.pk)
    assert selectors.snapshot(job)["made_model"] == "tuned"
    assert not Adapter.objects.exists()


def test_a_batch_delivered_twice_is_stored_once(attempt: Attempt, live_redis: "redis.Redis") -> None:
    reader = ingest.Ingest()
    for _ in range(2):
        ship(live_redis, envelopes(attempt, 1, RUN[:-1]))
        drain(reader)
    assert MetricPoint.objects.count() == 3
    assert LogLine.objects.count() == 1


def test_what_a_dead_controller_had_read_is_read_again(attempt: Attempt, live_redis: "redis.Redis") -> None:
    ship(live_redis, envelopes(attempt, 1, RUN[:4]))
    stream = job_stream(attempt.job_id)
    live_redis.xgroup_create(stream, "ingest", id="0")
    assert live_redis.xreadgroup("ingest", "controller", {stream: ">"})  # read, never acknowledged
    drain(ingest.Ingest())
    assert LogLine.objects.get().text == "hello�there"
    assert live_redis.xpending(stream, "ingest")["pending"] == 0


def test_what_another_controller_reads_and_leaves_while_this_one_leads_is_read_in_time(
    attempt: Attempt, live_redis: "redis.Redis"
) -> None:
    now = [0.0]
    reader = ingest.Ingest(clock=lambda: now[0])
    drain(reader)
    ship(live_redis, envelopes(attempt, 1, losses(1, 4)))
    stream = job_stream(attempt.job_id)
    assert live_redis.xreadgroup(ingest.INGEST_GROUP, "controller", {stream: ">"})
    now[0] += ingest.LEFT_EVERY_S
    drain(reader)
    assert MetricPoint.objects.filter(attempt=attempt).count() == 4
    assert live_redis.xpending(stream, ingest.INGEST_GROUP)["pending"] == 0  # type: ignore[index]


def test_a_redis_that_lost_everything_is_joined_again(attempt: Attempt, live_redis: "redis.Redis") -> None:
    reader = ingest.Ingest()
    drain(reader)
    live_redis.flushdb()
    ship(live_redis, envelopes(attempt, 1, RUN[:4]))
    drain(reader)
    drain(reader)
    assert LogLine.objects.count() == 1


def test_events_of_another_database_and_garbage_change_nothing(attempt: Attempt, live_redis: "redis.Redis") -> None:
    stale = [
        e.model_copy(update={"token": "other"})
        for e in envelopes(attempt, 1, [{"type": "finished", "reason": "crashed"}])
    ]
    ship(live_redis, stale)
    live_redis.xadd(job_stream(attempt.job_id), {"batch": "not json"})
    live_redis.xadd(NODE_STREAM, {"beat": '{"node": 5}'})
    drain(ingest.Ingest())
    assert Job.objects.get().status == "dispatched"
    assert ingest.lag_seconds() == 0


def test_heartbeats_make_the_inventory(live_redis: "redis.Redis") -> None:
    gpus = tuple(DeviceProfile(kind="cuda", index=i, name="A100", memory_bytes=80 * 2**30) for i in range(2))
    profile = NodeProfile(name="gpu-1", cores=8, ram_bytes=2**36, disk_free_bytes=1, devices=gpus)
    beat = Heartbeat(node="gpu-1", at=time.time(), profile=profile)
    live_redis.xadd(NODE_STREAM, {"beat": beat.model_dump_json()})
    drain(ingest.Ingest())
    assert Node.objects.get(name="gpu-1").accelerators.filter(present=True).count() == 2
    one = profile.model_copy(update={"devices": gpus[:1]})
    live_redis.xadd(NODE_STREAM, {"beat": beat.model_copy(update={"profile": one}).model_dump_json()})
    drain(ingest.Ingest())
    assert Node.objects.get(name="gpu-1").accelerators.filter(present=True).count() == 1


async def take(viewer: Any, last: int) -> list[int]:
    """Sequence numbers a viewer gets, until `last`."""
    seen: list[int] = []
    async with asyncio.timeout(DEADLINE_S):
        async for batch in viewer.batches():
            seen.extend(e.seq for e in batch)
            if seen and seen[-1] >= last:
                return seen
    return seen


def test_a_viewer_sees_old_and_new_once_and_in_order(attempt: Attempt, live_redis: "redis.Redis") -> None:
    ship(live_redis, envelopes(attempt, 1, losses(1, 50)))

    async def scene() -> tuple[list[int], list[int]]:
        async with watch(attempt.job_id, START) as first, watch(attempt.job_id, Cursor(1, 20)) as second:
            for n in range(51, 101, 10):
                await asyncio.to_thread(ship, live_redis, envelopes(attempt, n, losses(n, 10)))
            return await take(first, 100), await take(second, 100)

    everything, rest = asyncio.run(scene())
    assert everything == list(range(1, 101))
    assert rest == list(range(21, 101))


def test_a_viewer_that_falls_behind_catches_up_without_a_gap(attempt: Attempt, live_redis: "redis.Redis") -> None:
    batches = QUEUE_SIZE * 3

    async def scene() -> list[int]:
        async with watch(attempt.job_id, START) as slow:
            for n in range(1, batches + 1):
                batch = envelopes(attempt, n, losses(n, 1))
                await asyncio.to_thread(ship, live_redis, batch)
                slow.offer(batch)  # as the hub does; nobody reads meanwhile
            return await take(slow, batches)

    assert asyncio.run(scene()) == list(range(1, batches + 1))


class Socket(ApplicationCommunicator):
    """A browser's end of a job's websocket."""

    def __init__(self, job: int, user: Any, query: str = "") -> None:
        scope = {
            "type": "websocket",
            "path": f"/ws/jobs/{job}/",
            "query_string": query.encode(),
            "user": user,
            "url_route": {"kwargs": {"pk": job}},
        }
        super().__init__(JobConsumer.as_asgi(), scope)

    async def open(self) -> None:
        await self.send_input({"type": "websocket.connect"})
        assert (await self.receive_output(DEADLINE_S))["type"] == "websocket.accept"

    async def message(self) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads((await self.receive_output(DEADLINE_S))["text"])
        return decoded

    async def close(self) -> None:
        await self.send_input({"type": "websocket.disconnect", "code": 1000})
        await self.wait(DEADLINE_S)


def test_the_websocket_shows_history_then_live_and_a_reconnect_misses_nothing(
    attempt: Attempt, live_redis: "redis.Redis"
) -> None:
    reader, user = ingest.Ingest(), User.objects.get()
    ship(live_redis, envelopes(attempt, 1, RUN[:2] + losses(1, 30)))
    drain(reader)

    async def until_events(communicator: Socket, last: int) -> list[int]:
        seen: list[int] = []
        while not seen or seen[-1] < last:
            message = await communicator.message()
            if message["type"] == "history":
                seen.extend(point[4] for point in message["metrics"].get("loss", []))
            elif message["type"] == "events":
                seen.extend(e["seq"] for e in message["events"])
        return seen

    async def scene() -> tuple[dict[str, Any], list[int], list[int]]:
        first = Socket(attempt.job_id, user)
        await first.open()
        snapshot = await first.message()
        await asyncio.to_thread(ship, live_redis, envelopes(attempt, 33, losses(31, 10)))
        before = await until_events(first, 42)
        await first.close()
        await asyncio.to_thread(ship, live_redis, envelopes(attempt, 43, losses(41, 10)))
        second = Socket(attempt.job_id, user, "since=1.42")
        await second.open()
        after = await until_events(second, 52)
        await second.close()
        return snapshot, before, after

    snapshot, before, after = asyncio.run(scene())
    assert snapshot["job"]["status"] == "running"
    assert before == list(range(3, 43))
    assert after == list(range(43, 53))


@pytest.mark.parametrize(("who", "query", "code"), [("nobody", "", 4401), ("ada", "since=x", 4400)])
def test_the_websocket_refuses(attempt: Attempt, who: str, query: str, code: int) -> None:
    user = User.objects.get() if who == "ada" else AnonymousUser()

    async def scene() -> int:
        communicator = Socket(attempt.job_id, user, query)
        await communicator.open()
        refused = int((await communicator.receive_output(DEADLINE_S))["code"])
        await communicator.close()  # as every browser answers
        return refused

    assert asyncio.run(scene()) == code
