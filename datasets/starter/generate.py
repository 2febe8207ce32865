"""Make the starter dataset: 400 short support tickets of a made-up shop for home devices, in 8 intents.

    python datasets/starter/generate.py --seed 7 OUT_DIR

writes train.jsonl (320 rows) and test.jsonl (80 rows), one {"text", "label"} a line, every intent equally often. The
test tickets are made from phrasings that no training ticket uses, so a model can't pass by remembering wordings.
The same seed gives the same bytes. Standard library only; knows nothing of models.

Licence: Apache-2.0, written for Liftoff; names of people, orders and products are invented.
"""

import argparse
import json
import random
from pathlib import Path

TRAIN_PER_INTENT = 40
TEST_PER_INTENT = 10

SLOTS = {
    "device": [
        "thermostat",
        "door lock",
        "camera",
        "doorbell",
        "vacuum",
        "speaker",
        "desk lamp",
        "air purifier",
        "kettle",
        "router",
        "scale",
        "garden sensor",
    ],
    "plan": ["Home", "Plus", "Family", "Studio", "Business"],
    "order": ["#4471", "#20983", "#7716", "#118", "#50240", "#9902", "#31337", "#6405"],
    "money": ["$9.99", "$24", "$49.50", "$129", "€18", "€75", "£32", "£210"],
    "when": ["yesterday", "last Friday", "two days ago", "this morning", "on Monday", "last week", "on the 3rd"],
    "long": ["nine days", "two weeks", "almost a month", "six days", "ten days", "more than a week"],
    "screen": ["settings page", "start screen", "history tab", "export page", "schedule view", "map"],
    "number": ["three", "five", "twelve", "twenty", "forty"],
}

OPENERS = ["", "", "", "", "Hi,", "Hello,", "Hi team,", "Hey there,", "Good morning,", "Quick one:", "Hello support,"]
CLOSERS = [
    "", "", "", "", "", "Thanks!", "Thank you.", "Please help.", "Regards, Mira", "Best, Tomasz", "Any idea?",
    "Cheers, Sam", "Let me know.", "Thanks, Ola",
]  # fmt: skip

# Per intent: phrasings that training sees, and phrasings kept for the test split.
PHRASINGS: dict[str, tuple[list[str], list[str]]] = {
    "billing": (
        [
            "my card was charged {money} {when} and I don't recognise the amount",
            "the invoice for the {plan} plan shows the wrong company name",
            "I see two identical payments of {money} on my statement",
            "could you send me the receipt for {money} paid {when}?",
            "why did my monthly price go up to {money}?",
            "the VAT number is missing on the bill for order {order}",
            "my payment of {money} was declined although the card is fine",
            "I need all invoices of this year for my accountant",
            "how do I change the credit card you charge for the {plan} plan?",
            "there is a fee of {money} on my bill that nobody explained",
            "can we pay by bank transfer instead of card?",
            "the total on the invoice doesn't match the {money} I agreed to",
        ],
        [
            "{when} you took {money} from my account twice",
            "our bookkeeping needs a corrected invoice for {order}",
            "what is this extra {money} on my bank statement?",
            "please put a purchase order number on our next bill",
            "my new credit card is not accepted on the payment page",
        ],
    ),
    "bug": (
        [
            "the app crashes every time I open the {screen}",
            "since the update the {device} shows the wrong time",
            "the {screen} stays white and nothing loads",
            "pressing save on the {screen} gives error 500",
            "the {device} restarts by itself {number} times a day",
            "notifications arrive twice for every event of the {device}",
            "the chart on the {screen} is cut off on my phone",
            "the {device} drops the wifi connection every hour",
            "dark mode makes the text on the {screen} unreadable",
            "the app freezes when I rename the {device}",
            "the {device} ignores its schedule and runs at night",
            "the temperature jumps to 99 degrees, which is clearly wrong",
        ],
        [
            "whenever I scroll the {screen} the app closes itself",
            "my {device} stopped reacting to the app after the last firmware",
            "the {screen} displays last year's data no matter what I pick",
            "an endless spinner is all I get on the {screen}",
            "the {device} blinks red and reports a false alarm {number} times a night",
        ],
    ),
    "cancellation": (
        [
            "please cancel my {plan} subscription at the end of the month",
            "I want to close my account for good",
            "how do I stop the automatic renewal of the {plan} plan?",
            "we no longer need the {plan} plan, please end it",
            "I'd like to terminate my contract",
            "cancel order {order} before it ships, I changed my mind",
            "I am moving abroad and have to end my membership",
            "please do not renew my subscription",
            "delete my account and all my data",
            "where is the button to cancel the {plan} plan?",
            "I signed up by mistake {when}, please cancel it",
            "we are switching to another vendor, so end our subscription",
        ],
        [
            "I would like to quit the {plan} plan as of next month",
            "please shut down my account, I don't use it any more",
            "don't extend my membership another year, I'm leaving",
            "call off order {order}, I don't want the {device} any longer",
            "how can I unsubscribe from the {plan} service completely?",
        ],
    ),
    "delivery": (
        [
            "where is my parcel? order {order} should have come {when}",
            "the tracking for {order} hasn't moved for {long}",
            "can you ship the {device} to my office instead?",
            "the courier says delivered, but no {device} arrived",
            "when will order {order} be shipped?",
            "do you deliver the {device} to Norway?",
            "I got the wrong item: a {device} I never ordered",
            "the box of the {device} was open and crushed when it came",
            "one of the {number} items in order {order} is missing",
            "please change the delivery address of {order}",
            "I've been waiting {long} for the {device}",
            "can express shipping still be added to order {order}?",
        ],
        [
            "my {device} left the warehouse {when} and seems lost in the mail",
            "which day will the postman bring order {order}?",
            "the package for {order} went to my neighbour's old address",
            "only half of my shipment {order} turned up",
            "is it possible to pick up the {device} at a parcel station?",
        ],
    ),
    "feature": (
        [
            "it would be great if the {device} could talk to my calendar",
            "please add a dark theme to the {screen}",
            "I wish I could group {number} devices in one room",
            "could you support Spanish in the app?",
            "a widget for the {screen} would be really useful",
            "suggestion: let us export the {screen} as a spreadsheet",
            "will you ever offer an API for the {device}?",
            "I'd love a vacation mode for the {device}",
            "please let me set a different sound for each {device}",
            "can you add a weekly summary by e-mail?",
            "it would help to have an undo button on the {screen}",
            "an idea: share the {device} with guests for one day",
        ],
        [
            "have you thought about voice control for the {device}?",
            "my wish for the next release: filters on the {screen}",
            "it'd be nice to see a monthly comparison on the {screen}",
            "please consider building a desktop version of the app",
            "a proposal: allow {number} custom scenes per {device}",
        ],
    ),
    "login": (
        [
            "I forgot my password and the reset mail never comes",
            "my account is locked after {number} wrong attempts",
            "the code from the authenticator is rejected",
            "I can't sign in on my new phone",
            "the password reset link says it has expired",
            "I lost the phone with my two-factor codes",
            "it says my e-mail address is unknown, but I registered {when}",
            "how do I change the e-mail I log in with?",
            "I get logged out every few minutes",
            "single sign-on of our company stopped letting us in {when}",
            "the verification text message doesn't arrive",
            "my username is not accepted any more since {when}",
        ],
        [
            "the app keeps saying wrong credentials although I just set a new password",
            "I'm shut out of my profile since {when}",
            "the six-digit code never reaches my phone, so I can't get in",
            "please unlock my user, I mistyped the password {number} times",
            "my colleague left and nobody knows the password of our account",
        ],
    ),
    "refund": (
        [
            "I sent the {device} back {when}, when do I get my money?",
            "please refund the {money} for order {order}",
            "the {device} broke after {long}, I want my money back",
            "how long does a refund of {money} take?",
            "I returned {order} but only got part of the amount back",
            "I'd like to return the {device} and be reimbursed",
            "you promised me {money} back and nothing has come",
            "is the {device} covered by the money-back guarantee?",
            "I cancelled in time, so please pay back the {money}",
            "the {device} is not as described, I ask for a full refund",
            "what is the address for returns of the {device}?",
            "the refund for {order} went to a card I no longer have",
        ],
        [
            "I handed the {device} in at the post office {when} and still wait for my {money}",
            "kindly transfer the {money} back, the {device} was faulty",
            "I'm not happy with the {device}; can I give it back for the full price?",
            "still no sign of the reimbursement for {order}",
            "my {money} for the returned {device} has not been paid out",
        ],
    ),
    "upgrade": (
        [
            "how do I move from {plan} to a bigger plan?",
            "what does the Business plan cost for {number} users?",
            "we need {number} more seats on the {plan} plan",
            "can I switch to yearly and keep my devices?",
            "which plan do I need for {number} cameras?",
            "is there a discount if we upgrade to the {plan} plan?",
            "I'd like to try the {plan} plan for a month first",
            "please add {number} users to our {plan} subscription",
            "what is the difference between {plan} and the next tier?",
            "our team has grown, we want the larger package",
            "does the {plan} plan include more storage than mine?",
            "can I go from the free version to {plan} right now?",
        ],
        [
            "we've outgrown the {plan} plan, what comes next?",
            "please raise our limit to {number} accounts on the {plan} plan",
            "I'm on the free tier and want the paid one",
            "which of your packages has room for {number} households?",
            "how much more would I pay for the tier above {plan}?",
        ],
    ),
}


def ticket(phrasing: str, dice: random.Random) -> str:
    """One ticket: a phrasing with its slots filled, an opener and a closer of everyday mail around it."""
    core = phrasing.format(**{slot: dice.choice(words) for slot, words in SLOTS.items()})
    opener, closer = dice.choice(OPENERS), dice.choice(CLOSERS)
    if not opener or opener.endswith(":"):
        core = core[0].upper() + core[1:]
    if core[-1] not in "?.!":
        core += dice.choice([".", ".", ".", "!", ""])
    if closer and core[-1] not in "?.!":
        core += "."
    text = " ".join(part for part in (opener, core, closer) if part)
    return text.lower() if dice.random() < 0.12 else text


def rows(seed: int, split: int, per_intent: int, taken: set[str]) -> list[dict[str, str]]:
    """Rows of one split (0 train, 1 test), shuffled, none with a text in `taken`, which grows."""
    dice = random.Random(f"{seed}/{split}")  # noqa: S311 - a repeatable draw, no secret
    made = []
    for label, phrasings in sorted(PHRASINGS.items()):
        for number in range(per_intent):
            phrasing = phrasings[split][number % len(phrasings[split])]
            text = ticket(phrasing, dice)
            while text in taken:
                text = ticket(phrasing, dice)
            taken.add(text)
            made.append({"text": text, "label": label})
    dice.shuffle(made)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the starter dataset.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("out_dir", type=Path)
    arguments = parser.parse_args()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for split, (name, per_intent) in enumerate((("train", TRAIN_PER_INTENT), ("test", TEST_PER_INTENT))):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows(arguments.seed, split, per_intent, taken)]
        (arguments.out_dir / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
