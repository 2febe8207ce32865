"""The plan page and the panel beside the job forms, as a signed-in user gets them."""

import html
import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.utils.html import strip_tags
from pytest_django.fixtures import Settings

from portal.fleet.models import Accelerator
from portal.pages.plan_drawing import memory_bar
from portal.pages.templatetags.plans import money, percent, rate, took
from portal.planner.answer import Line, Memory
from portal.planner.models import MODELS
from portal.planner.rules import Rules
from tests.portal import factories as make

pytestmark = pytest.mark.django_db

QUESTION = {"model": "llama-3-8b", "hardware": "a100-80", "goal": "lora", "context": "1024", "batch": "4"}
SMALL = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096, "max_position_embeddings": 2048,
}  # fmt: skip


@pytest.fixture
def client(client: Client) -> Client:
    client.force_login(make.make_user("ada"))
    return client


@pytest.fixture
def rtx_4090() -> None:
    """A node with one RTX 4090, a profile of Llama 3 8B, and a dataset."""
    node = make.make_node("gpu-a", kind="cuda", disk_read_bytes_per_s=3e9)
    Accelerator.objects.filter(node=node).update(
        name="NVIDIA GeForce RTX 4090", memory_bytes=24 * make.GIB, compute_capability="8.9"
    )
    make.make_model("llama-3-8b", config=MODELS["llama-3-8b"], context_length=8192)
    make.make_dataset("cases")


def words(answer: Any) -> str:
    """The page as it is read: no tags, one space between words."""
    apart = re.sub(r"(?=</?(?!a\b|/a\b|strong|/strong|code|/code)\w)", " ", answer.content.decode())
    return " ".join(html.unescape(strip_tags(apart)).split())


def links(answer: Any, text: str) -> list[str]:
    """Addresses of the links that say `text`."""
    found = re.findall(r'<a [^>]*href="([^"]*)"[^>]*>([^<]*)</a>', answer.content.decode())
    return [html.unescape(href) for href, said in found if said == text]


def verdict(answer: Any) -> str:
    """What the first badge says."""
    found = re.search(r'data-verdict="(\w+)"', answer.content.decode())
    return found[1] if found else ""


def address(answer: Any) -> str:
    """The address that the page takes on with this answer."""
    found = re.search(r'data-url="([^"]*)"', answer.content.decode())
    assert found
    return html.unescape(found[1])


def query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


# The page


def test_a_stranger_is_asked_to_sign_in() -> None:
    for answer in (Client().get("/plan/"), Client().post("/jobs/new/plan/?kind=launch")):
        assert (answer.status_code, answer["Location"].split("?")[0]) == (302, "/login/")


def test_the_empty_page_has_examples_that_are_answered(client: Client) -> None:
    page = client.get("/plan/")
    examples = re.findall(r'list-group-item-action" href="([^"]+)"', page.content.decode())
    assert len(examples) >= 3
    assert not verdict(page)
    for example in examples:
        answer = client.get(html.unescape(example))
        assert verdict(answer) in ("fits", "tight", "exceeds"), example


def test_a_question_in_the_address_is_answered_without_scripts(client: Client) -> None:
    answer = client.get("/plan/", QUESTION)
    said = words(answer)
    assert verdict(answer) == "fits"
    assert "llama-3-8b fits on" in said
    assert "8,030,261,248" in said, "the arithmetic of the weights, in words"
    assert "Largest context" in said
    assert "Smallest hardware" in said
    assert 'name="context" value="1024"' in answer.content.decode()


def test_a_change_gets_the_answer_alone_and_an_address_to_share(client: Client) -> None:
    answer = client.post("/plan/", {**QUESTION, "nodes": "", "lora_rank": "64"})
    assert b"<html" not in answer.content
    shared = address(answer)
    assert query(shared) == {"model": "llama-3-8b", "hardware": "a100-80", "context": "1024", "batch": "4",
                             "lora_rank": "64"}  # fmt: skip
    title = re.search(r'plan-title">([^<]+)', answer.content.decode())
    assert title
    assert title[1] in client.get(shared).content.decode()


def test_more_context_is_more_memory(client: Client) -> None:
    def expected(context: str) -> float:
        page = client.get(
            "/plan/", {**QUESTION, "context": context, "micro_batch": "1", "gradient_checkpointing": "no"}
        )
        found = re.search(r"<strong>([\d.]+) GiB</strong> expected", page.content.decode())
        assert found
        return float(found[1])

    assert expected("256") < expected("1024") < expected("2048")


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("model", "llama-3-9b", "Model: There is no model named 'llama-3-9b'; did you mean"),
        ("hardware", "a100-81", "Hardware: There is no hardware named 'a100-81'; did you mean"),
        ("hardware", "fleet", "Hardware: No node is online"),
        ("nodes", "many", 'Nodes: "many" is not a whole number.'),
        ("context", "0", 'Context: "0" is out of range; it must be at least 1.'),
        ("batch", "-1", 'Global batch: "-1" is out of range'),
        ("goal", "win", 'Goal: "win" is not one of the choices'),
        ("micro_batch", "1.5", 'Micro batch: "1.5" is not a whole number.'),
        ("zero_stage", "4", 'ZeRO stage: "4" is not one of the choices'),
        ("offload_optimizer", "perhaps", 'Offload the optimizer: "perhaps" is neither true nor false.'),
        ("model", "x\x00y", "Model: Null characters are not allowed."),
        ("model", "m" * 500, "Model: 500 characters are too many"),
    ],
)
def test_nonsense_gets_one_sentence_and_no_plan(client: Client, field: str, value: str, sentence: str) -> None:
    for answer in (client.post("/plan/", {**QUESTION, field: value}), client.get("/plan/", {**QUESTION, field: value})):
        assert answer.status_code == 200
        assert sentence in words(answer)
        assert answer.content.count(b"plan-sentence") == 1
        assert not verdict(answer)


def test_weights_in_four_bits_cant_be_trained_in_full(client: Client) -> None:
    answer = client.post("/plan/", {**QUESTION, "goal": "full", "quantization": "nf4"})
    assert "Quantization: Nf4 weights can't be trained" in words(answer)


def test_what_does_not_fit_says_what_would(client: Client) -> None:
    answer = client.post("/plan/", {"model": "gpt-3-175b", "hardware": "rtx-4090", "goal": "infer"})
    said = words(answer)
    assert verdict(answer) == "exceeds"
    assert "What would change it" in said
    assert "The nearest misses" in said
    (smallest,) = links(answer, re.findall(r"Smallest hardware (\S+)", said)[0])
    assert verdict(client.get(smallest)) == "fits"


@pytest.mark.usefixtures("rtx_4090")
def test_using_a_plan_fills_the_job_form(client: Client) -> None:
    page = client.get("/plan/", {**QUESTION, "hardware": "fleet", "micro_batch": "2", "dataset": "cases"})
    use = links(page, "Use this plan")[0]
    form = client.get(use).content.decode()
    assert 'name="micro_batch" value="2"' in form
    assert 'name="gradient_accumulation" value="2"' in form
    assert 'name="context_length" value="1024"' in form
    assert '<option value="llama-3-8b" selected>' in form
    assert '<option value="cases" selected>' in form, "what was chosen before is still chosen"


@pytest.mark.parametrize("change", [{"goal": "qlora"}, {}])
def test_a_plan_no_job_can_start_by_says_why(client: Client, change: dict[str, str]) -> None:
    answer = client.post("/plan/", {**QUESTION, **change})
    assert verdict(answer) == "fits"
    assert "is known by its shape only; add a model profile" in words(answer)
    assert not links(answer, "Use this plan")


def test_a_pasted_config_is_planned_without_a_name(client: Client) -> None:
    answer = client.post("/plan/", {"config": json.dumps(SMALL), "hardware": "t4"})
    assert verdict(answer) == "fits"
    assert "(by the pasted config)" in words(answer)
    assert not address(answer), "it can't hold a config"
    assert links(answer, "Use this plan") == []


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("{", "config.json: this is not JSON"),
        ("[1, 2]", "config.json: this is no object with named fields"),
        ("[" * 100_000, "config.json: this is JSON that no model's config.json would hold."),
        (json.dumps({**SMALL, "num_attention_heads": 0}), "num_attention_heads is 0"),
        (json.dumps({**SMALL, "num_hidden_layers": 10**12}), "num_hidden_layers is 1"),
        (json.dumps({**SMALL, "hidden_size": "9" * 20_000}), "hidden_size"),
        ('{"a": ' + "9" * 6000 + "}", "config.json: this is JSON that no model's config.json would hold."),
        ('{"a": "' + "b" * 5_000_000 + '"}', "5,000,009 characters are no config.json"),
    ],
)
def test_a_nonsense_config_gets_one_sentence(client: Client, config: str, sentence: str) -> None:
    answer = client.post("/plan/", {"config": config, "hardware": "t4"})
    assert answer.status_code == 200
    assert sentence in words(answer)
    assert answer.content.count(b"plan-sentence") == 1
    assert len(words(answer)) < 2000, "not the config itself"


def test_the_rules_in_force_are_shown_where_they_act(client: Client, settings: Settings) -> None:
    assert "80.0 GiB device" in words(client.post("/plan/", QUESTION))
    assert "64.0 GiB may be used (20% kept free)" in words(client.post("/plan/", QUESTION))
    settings.LIFTOFF_RULES = Rules(memory_buffer=0.5, disk_bandwidth=2.5e9)
    said = words(client.post("/plan/", QUESTION))
    assert "40.0 GiB may be used (50% kept free)" in said
    assert re.search(r"Memory buffer .*? 50% ", said)
    assert re.search(r"Disk .*? 2\.5 GB/s ", said)


# The panel


def form_of(page: str) -> dict[str, str]:
    """What a browser would send of a job form: its fields' values."""
    fields = dict(re.findall(r'<input type="text" name="(\w+)" value="([^"]*)"', page))
    for name, options in re.findall(r'<select name="(\w+)"[^>]*>(.*?)</select>', page, re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected>', options)
        fields[name] = chosen[1] if chosen else ""
    return fields


@pytest.mark.parametrize("kind", ["finetune", "launch"])
@pytest.mark.usefixtures("rtx_4090")
def test_the_panel_judges_the_form_as_it_is(client: Client, kind: str) -> None:
    page = client.get(f"/jobs/new/?kind={kind}&model=llama-3-8b").content.decode()
    assert f'data-plan="/jobs/new/plan/?kind={kind}"' in page
    answer = client.post(f"/jobs/new/plan/?kind={kind}", form_of(page) | {"context_length": "256", "max_tokens": "99"})
    assert verdict(answer) in ("fits", "tight")
    assert "of 24.0 GiB" in words(answer)
    assert ("First token" in words(answer)) == (kind == "launch")


@pytest.mark.usefixtures("rtx_4090")
def test_a_job_that_exceeds_is_offered_values_that_fit(client: Client) -> None:
    page = client.get("/jobs/new/?kind=finetune&model=llama-3-8b&micro_batch=16&context_length=2048").content.decode()
    form = form_of(page)
    answer = client.post("/jobs/new/plan/?kind=finetune", form)
    assert verdict(answer) == "exceeds"
    offered = re.search(r'data-fill="([^"]+)"', answer.content.decode())
    assert offered
    values = json.loads(html.unescape(offered[1]))
    assert int(values["micro_batch"]) * int(values["gradient_accumulation"]) == 16, "the batch asked for is kept"
    changed = client.post("/jobs/new/plan/?kind=finetune", form | {k: v for k, v in values.items() if v})
    assert verdict(changed) == "fits"


@pytest.mark.usefixtures("rtx_4090")
def test_a_dataset_isnt_needed_to_see_whether_it_fits(client: Client) -> None:
    answer = client.post("/jobs/new/plan/?kind=finetune", {"model": "llama-3-8b", "micro_batch": "1"})
    assert verdict(answer) in ("fits", "tight")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "Model: Choose one to see whether it fits."),
        ({"model": "llama-3-8b", "micro_batch": "some"}, 'Micro batch: "some" is not a whole number.'),
        ({"model": "llama-3-8b", "lora__rank": "0"}, 'LoRA rank: "0" is out of range'),
        ({"model": "nowhere"}, "Model: There is no model named 'nowhere'"),
        ({"model": "llama-3-8b", "resources__labels": "nonsense"}, "Node labels:"),
        ({"model": "llama-3-8b", "resources__node": "elsewhere"}, "no node that is online has the devices"),
        ({"model": "llama-3-8b", "name": "a\x00b"}, "can't be stored"),
    ],
)
@pytest.mark.usefixtures("rtx_4090")
def test_an_unfinished_form_keeps_a_calm_panel(client: Client, values: dict[str, str], sentence: str) -> None:
    answer = client.post("/jobs/new/plan/?kind=finetune", values)
    assert answer.status_code == 200
    assert sentence.lower() in words(answer).lower()
    assert not verdict(answer)


@pytest.mark.usefixtures("rtx_4090")
def test_every_way_is_one_click_from_the_panel(client: Client) -> None:
    form = {"model": "llama-3-8b", "dataset": "cases", "context_length": "768", "micro_batch": "2",
            "gradient_accumulation": "4", "lora__rank": "8"}  # fmt: skip
    (more,) = links(client.post("/jobs/new/plan/?kind=finetune", form), "See every way")
    asked = query(more)
    assert (asked["context"], asked.get("batch", "8"), asked["lora_rank"]) == ("768", "8", "8")
    assert "micro_batch" not in asked, "free for the planner to choose"
    page = client.get(more)
    assert verdict(page) == "fits"
    assert all(query(use)["dataset"] == "cases" for use in links(page, "Use this plan"))


def test_there_is_no_panel_for_other_kinds(client: Client) -> None:
    assert b"plan-panel" not in client.get("/jobs/new/?kind=preflight").content
    assert client.post("/jobs/new/plan/?kind=preflight").status_code == 404
    assert client.post("/jobs/new/plan/?kind=").status_code == 404


# How it is drawn and written


def memory(capacity: int, *sizes: int) -> Memory:
    lines = tuple(
        Line(name=name, low=size, expected=size, high=2 * size, words="")  # type: ignore[arg-type]
        for name, size in zip(("weights", "activations"), sizes, strict=True)
    )
    total = sum(sizes)
    return Memory(lines=lines, low=total, expected=total, high=2 * total, capacity=capacity,
                  usable=capacity * 4 // 5, verdict="fits")  # fmt: skip


def test_a_bar_is_as_wide_as_the_device_or_as_what_exceeds_it() -> None:
    within = memory_bar(memory(1000, 100, 300))
    assert ([part.width for part in within.parts], within.capacity_at) == (["10.00%", "30.00%"], "100.00%")
    assert (within.usable_at, within.expected_at, within.beyond) == ("80.00%", "40.00%", False)
    beyond = memory_bar(memory(1000, 1000, 1000))
    assert ([part.width for part in beyond.parts], beyond.capacity_at) == (["25.00%", "25.00%"], "25.00%")
    assert beyond.beyond


@pytest.mark.parametrize(
    ("written", "as_text"),
    [
        (took(0.0000042), "4.2 µs"), (took(0.0234), "23.4 ms"), (took(0.5321), "532 ms"), (took(12.34), "12.3 s"),
        (took(3725), "1 h 2 min"), (money(0), "$0.00"), (money(2e-5), "< $0.001"), (money(0.0034), "$0.0034"),
        (money(12.3), "$12.30"), (money(12345.6), "$12,346"), (percent(0.153), "15%"), (percent(0.004), "0.4%"),
        (rate(43.87), "43.9"), (rate(26989.4), "26,989"),
    ],
)  # fmt: skip
def test_figures_read_well(written: str, as_text: str) -> None:
    assert written == as_text
