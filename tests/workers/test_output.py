"""Lines out of bytes, secrets out of lines, floods held back."""

import pytest

from workers.output import LINE_CHARACTERS, FloodGate, LineSplitter, Redactor


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def split(*chunks: bytes) -> list[str]:
    splitter = LineSplitter(Clock())
    return [line for chunk in chunks for line in splitter.feed(chunk)] + list(splitter.end())


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a", b"b\nc"], ["ab", "c"]),
        ([b"a\r\nb\r", b"\nc\n"], ["a", "b", "c"]),
        ([b"\n\n  \n"], []),
        ([b"\r 10%\r 20%\r 30%\ndone\n"], [" 10%", " 30%", "done"]),
        ([b"\r 10%\r 20%\r\n"], [" 10%", " 20%"]),
        (["für ".encode(), b"\xff\n"], ["für \ufffd"]),
    ],
)
def test_lines(chunks, lines):
    assert split(*chunks) == lines


def test_a_bar_is_shown_every_two_seconds():
    clock = Clock()
    splitter = LineSplitter(clock)
    shown = []
    for step in range(100):
        clock.now = step / 10
        shown += splitter.feed(f"\r{step}%".encode())
    assert shown == ["0%", "20%", "40%", "60%", "80%"] or len(shown) in (4, 5, 6)


def test_a_line_without_an_end_takes_no_more_memory_than_a_long_one():
    splitter = LineSplitter(Clock())
    for _ in range(100):
        assert list(splitter.feed(b"x" * 100_000)) == []
    (line,) = splitter.end()
    assert len(line) < 200_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer eyJhbGciOi.J9", "Authorization: Bearer [redacted]"),
        ('{"password": "s3cret!", "user": "a"}', '{"password": "[redacted]", "user": "a"}'),
        ("AWS_SECRET_ACCESS_KEY=abc/def+ghi", "AWS_SECRET_ACCESS_KEY=[redacted]"),
        ("export HF_TOKEN=hf_0123456789abcdef", "export HF_TOKEN=[redacted]"),
        ("MY_TOKEN=xyz", "MY_TOKEN=[redacted]"),
        ("api_key: sk-aaaaaaaaaaaaaaaaaaaaaaaa", "api_key: [redacted]"),
        ("postgres://me:pw@db/x", "postgres://me:[redacted]@db/x"),
        ("pad_token = '<pad>'", "pad_token = '<pad>'"),
        ("1200 tokens: 3.5 tokens/s", "1200 tokens: 3.5 tokens/s"),
        ("\x1b[31mred\x1b[0m \x00\x07text", "red text"),
        ("given-secret-value here", "[redacted] here"),
    ],
)
def test_redaction(text, shown):
    assert Redactor(["given-secret-value", ""])(text) == shown


def test_long_lines_are_cut():
    cut = Redactor()("x" * 100_000)
    assert len(cut) == LINE_CHARACTERS
    assert cut.endswith("…")


def test_the_gate_lets_lines_pass_in_the_long_run_and_counts_the_rest():
    clock = Clock()
    gate = FloodGate(clock)
    out = []
    for number in range(30_000):
        clock.now = number / 3000  # 3,000 lines a second for ten seconds
        out += list(gate.pass_on(f"line {number}"))
    out += list(gate.end())
    notices = [line for line in out if line.startswith("…")]
    lines = [line for line in out if line.startswith("line")]
    assert sum(int(notice.split()[1]) for notice in notices) + len(lines) == 30_000
    assert len(lines) <= 1000 + 200 * 10 + 20
    assert len(notices) < 30
    assert lines[-1] == "line 29999"
    assert lines == sorted(lines, key=lambda line: int(line.split()[1]))


def test_long_lines_count_for_more():
    gate = FloodGate(Clock())
    passed = [line for _ in range(2_000) for line in gate.pass_on("x" * LINE_CHARACTERS) if line.startswith("x")]
    assert len(passed) == 100


def test_a_log_is_cut_off_at_its_limit_and_keeps_its_end():
    clock = Clock()
    gate = FloodGate(clock, most_bytes=1_000)
    out = []
    for number in range(1_000):
        clock.now = float(number)
        out += gate.pass_on(f"{number:0100}")
    out += gate.end()
    shown = [line for line in out if not line.startswith("…")]
    assert shown == [f"{number:0100}" for number in (*range(10), *range(980, 1_000))]
    assert sum("the log has reached" in line for line in out) == 1
    assert "… 970 lines dropped" in out
