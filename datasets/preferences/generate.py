"""Make a preference dataset of the starter's support tickets: each with an answer that helps and one that doesn't.

    python datasets/preferences/generate.py --seed 7 OUT_DIR

writes train.jsonl (160 rows) and test.jsonl (40 rows), one {"prompt", "chosen", "rejected"} a line, every intent
equally often, the test split's of tickets that training doesn't see. The same seed gives the same bytes. Standard
library only; knows nothing of models.

Licence: Apache-2.0, written for Liftoff.
"""

import argparse
import json
import random
from pathlib import Path

STARTER = Path(__file__).parent.parent / "starter"
PER_INTENT = {"train": 20, "test": 5}
THANKS = ["Thank you for writing.", "Thanks for telling us.", "Sorry for the trouble.", "We are happy to help."]
HELPS = {
    "billing": "I have the invoice in front of me and will send you a corrected one today.",
    "bug": "Please tell us the version of your app; a fix is on its way, and restarting it helps until then.",
    "cancellation": "Your subscription ends with this month, and nothing more will be charged.",
    "delivery": "Your parcel is with the carrier; I have asked them and will write as soon as they answer.",
    "feature": "That is a good idea, which I have passed on; we will write when it is planned.",
    "login": "I have sent you a new link to set a password; it works for one hour.",
    "refund": "The refund is on its way and will be on your card in three to five days.",
    "upgrade": "You can change the plan in your settings; the difference is charged from today on.",
}
DISMISSES = [
    "Read the manual.", "That is not our problem.", "Try again later.", "We can't do anything about it.",
    "You must have done something wrong.", "Ask someone else.", "No.", "This was answered before.",
]  # fmt: skip


def rows(seed: int, split: str) -> list[dict[str, str]]:
    """Rows of one split, shuffled."""
    dice = random.Random(f"{seed}/{split}")  # noqa: S311 - a repeatable draw, no secret
    left = dict.fromkeys(HELPS, PER_INTENT[split])
    made = []
    for line in (STARTER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        ticket = json.loads(line)
        if left[ticket["label"]]:
            left[ticket["label"]] -= 1
            chosen = f"{dice.choice(THANKS)} {HELPS[ticket['label']]}"
            made.append({"prompt": ticket["text"], "chosen": chosen, "rejected": dice.choice(DISMISSES)})
    dice.shuffle(made)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the preference dataset.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("out_dir", type=Path)
    arguments = parser.parse_args()
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    for split in PER_INTENT:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows(arguments.seed, split)]
        (arguments.out_dir / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
