"""A flood of events: what passes, what is merged, and that nothing goes without a trace."""

from tests.workers.test_output import Clock
from workers.coalescing import BURST_EVENTS, EVENTS_PER_S, KINDS, Coalescer
from workers.contract.events import Log, Metric, Phase, Progress, Result


def metric(step, **values):
    return Metric(step=step, values=values or {"loss": float(step)})


def merged(events):
    return sum(int(event.text.split()[1]) for event in events if isinstance(event, Log))


def test_an_ordinary_run_passes_untouched():
    clock, events = Clock(), []
    coalescer = Coalescer(clock)
    for step in range(20_000):
        clock.now = step / EVENTS_PER_S
        events += coalescer.offer(metric(step), 100)
    assert events == [metric(step) for step in range(20_000)]
    assert list(coalescer.end()) == []


def test_of_a_flood_as_many_pass_as_the_rate_allows_and_the_last_one():
    clock, events = Clock(), []
    coalescer = Coalescer(clock)
    for step in range(100_000):
        clock.now = step / 5_000  # twenty seconds
        events += coalescer.offer(metric(step), 100)
    events += coalescer.end()
    shown = [event for event in events if isinstance(event, Metric)]
    assert len(shown) <= BURST_EVENTS + 20 * EVENTS_PER_S + 1
    assert shown[-1] == metric(99_999)
    assert len(shown) + merged(events) == 100_000
    assert sum(isinstance(event, Log) for event in events) <= 4


def test_metrics_of_other_names_and_results_of_other_names_are_not_merged_with_each_other():
    clock = Clock()
    coalescer = Coalescer(clock)
    for step in range(BURST_EVENTS):
        assert list(coalescer.offer(metric(step), 100))
    last = [metric(9, loss=1.0), metric(8, eval_loss=2.0), Result(name="a", values={}), Result(name="b", values={})]
    for event in (metric(7, loss=5.0), *last, Phase(name="p"), Progress(done=1, total=2), Progress(done=2, total=2)):
        assert list(coalescer.offer(event, 100)) == []
    clock.now = 60.0
    events = list(coalescer.due())
    assert [event for event in events if not isinstance(event, Log)] == [
        *last,
        Phase(name="p"),
        Progress(done=2, total=2),
    ]
    assert merged(events) == 1
    assert not coalescer.holding


def test_big_events_count_for_more():
    coalescer = Coalescer(Clock())
    passed = 0
    for step in range(1000):
        passed += len(list(coalescer.offer(metric(step), 1_000_000)))
    assert passed == BURST_EVENTS / 1000


def test_kinds_without_end_take_no_memory_without_end():
    coalescer = Coalescer(Clock())
    events = []
    for number in range(BURST_EVENTS + 10 * KINDS):
        events += coalescer.offer(Result(name=f"r{number}", values={}), 100)
    held = list(coalescer.end())
    results = [event for event in (*events, *held) if isinstance(event, Result)]
    assert len(results) == BURST_EVENTS + KINDS
    assert merged((*events, *held)) == 9 * KINDS
