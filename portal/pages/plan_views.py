"""The plan page: will it fit, how fast, and why. Stores nothing; knows nothing of how a plan is made."""

import time
from dataclasses import dataclass, field
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from portal.accounts.requests import SignedInRequest
from portal.catalog import selectors as catalog
from portal.jobs import planning
from portal.pages.plan_drawing import Bar, Part, memory_bar, time_bar
from portal.pages.plan_forms import PlanForm, Sentence, plan_url, said, waits_for
from portal.planner.answer import Plan, PlanAnswer
from portal.planner.request import PlanRequest
from portal.planner.rules import Rules
from workers.contract.errors import Refused

EXAMPLES = (
    ("Fine-tune Llama 3 70B with LoRA on 2 × 8 A100 joined by 25 GbE",
     {"model": "llama-3-70b", "hardware": "2x8-a100-80-25gbe"}),
    ("QLoRA of Llama 2 13B on one RTX 4090", {"model": "llama-2-13b", "hardware": "rtx-4090", "goal": "qlora"}),
    ("Serve Qwen 3 8B to 32 people at once from one L40S",
     {"model": "qwen-3-8b", "hardware": "l40s", "goal": "infer", "context": "8192", "concurrency": "32"}),
    ("Train every parameter of GPT-3 175B on 16 × 8 H100",
     {"model": "gpt-3-175b", "hardware": "16x8-h100-80-ib-8x400", "goal": "full", "batch": "512"}),
)  # fmt: skip


@dataclass(frozen=True)
class ShownPlan:
    """A plan as its page shows it. `use_url` leads to the job form filled by it; `unusable` says why no job can."""

    place: int
    plan: Plan
    bar: Bar
    times: list[Part]
    use_url: str
    unusable: str | None


@dataclass(frozen=True)
class ShownRule:
    """A rule of thumb and its value in words."""

    name: str
    title: str
    value: str
    description: str


@dataclass(frozen=True)
class Outcome:
    """What stands beside the form: nothing was asked, it was refused, or it was answered."""

    asked: bool
    sentences: list[Sentence] = field(default_factory=list)
    request: PlanRequest | None = None
    answer: PlanAnswer | None = None
    plans: list[ShownPlan] = field(default_factory=list)
    by_config: bool = False
    carried: dict[str, str] = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def serving(self) -> bool:
        """Whether it is about inference."""
        return self.request is not None and self.request.workload.goal == "infer"

    @property
    def unusable(self) -> str | None:
        """Why no job can start by any of the plans, where it is the same for all."""
        reasons = {shown.unusable for shown in self.plans}
        return reasons.pop() if len(reasons) == 1 else None

    @property
    def usable(self) -> ShownPlan | None:
        """The first plan that a job can start by, where that isn't the first of all."""
        first = next((shown for shown in self.plans if not shown.unusable), None)
        return first if first and first.place > 1 else None

    @property
    def url(self) -> str:
        """The page's address with this question, to be sent; '' where there is none: a pasted config is too long."""
        return plan_url(self.request, self.carried) if self.request is not None and not self.by_config else ""

    @property
    def smallest_url(self) -> str:
        """The same question on the smallest hardware; '' where there is none, or no address can hold the question."""
        if self.answer is None or self.request is None or self.by_config:
            return ""
        names = (each.value for each in self.answer.largest if each.question == "hardware" and each.value)
        name = next(names, None)
        return plan_url(self.request.model_copy(update={"hardware": name, "nodes": 1}), self.carried) if name else ""

    @property
    def waits_for(self) -> str:
        """What keeps it from being answered, as short as it goes."""
        return waits_for(self.sentences)

    @property
    def invalid(self) -> str:
        """Names of the fields that were refused."""
        return " ".join(sentence.field for sentence in self.sentences if sentence.field)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def plan_page(request: SignedInRequest) -> HttpResponse:
    """The form and, below it, its answer. A POST is the form's every change and gets the answer alone.

    A refusal is an answer too, with status 200: an unfinished form is no error.
    """
    changed = request.method == "POST"
    form = PlanForm(request.POST if changed else request.GET)
    outcome = answered(form)
    context = {"form": form, "outcome": outcome, "rules": shown_rules(planning.rules())}
    if changed:
        return render(request, "plans/_answer.html", context)
    context |= {"models": planning.model_names(), "hardware": planning.hardware_names(), "examples": _examples()}
    return render(request, "plans/plan.html", context)


def answered(form: PlanForm) -> Outcome:
    """The form's question, answered."""
    if not form.asked:
        return Outcome(asked=False)
    began = time.perf_counter()
    question = None
    try:
        question, config = form.question()
        answer = planning.answer(question, config)
    except Refused as refused:
        sentences = said(refused, form)
        return Outcome(True, sentences, question, by_config=form.has_config, carried=form.carried)
    took_s = time.perf_counter() - began
    plans = [shown_plan(place, plan, question, form.carried) for place, plan in enumerate(answer.plans, 1)]
    return Outcome(True, [], question, answer, plans, config is not None, form.carried, took_s)


def shown_plan(place: int, plan: Plan, asked: PlanRequest, carried: dict[str, str]) -> ShownPlan:
    """The plan with its drawings, and the way to the job form."""
    values = carried | planning.form_values(plan, asked)
    return ShownPlan(
        place=place,
        plan=plan,
        bar=memory_bar(plan.memory),
        times=time_bar(plan.speed),
        use_url=f"{reverse('job-new')}?{urlencode(values)}",
        unusable=planning.unusable(plan, asked),
    )


def shown_rules(rules: Rules) -> list[ShownRule]:
    """Every rule in force, with its value in the unit it is spoken of."""
    found = []
    for name, info in Rules.model_fields.items():
        value = getattr(rules, name)
        words = f"{value / 1e9:g} GB/s" if name.endswith("bandwidth") else f"{value * 100:g}%"
        found.append(ShownRule(name, info.title or name, words, info.description or ""))
    return found


def _examples() -> list[tuple[str, str]]:
    """(question, address) of questions worth a click, the first about a model that is here."""
    own = catalog.models().values_list("name", flat=True)[:1]
    here = [(f"Fine-tune {name} with LoRA on the nodes here", {"model": name}) for name in own]
    return [(words, f"{reverse('plan')}?{urlencode(query)}") for words, query in (*here, *EXAMPLES)]
