"""How a text/label row is put to a chat model: the words training uses, so that whoever asks later can use them too.

Knows nothing of models, templates or tokenizers.
"""

from collections.abc import Sequence


def label_instruction(labels: Sequence[str]) -> str:
    """The system message of a classification prompt: names the classes."""
    return f"Answer with one class: {', '.join(labels)}."


def label_messages(text: str, labels: Sequence[str]) -> list[dict[str, str]]:
    """Chat messages that ask for the label of `text`; the answer expected is the label, nothing else."""
    return [{"role": "system", "content": label_instruction(labels)}, {"role": "user", "content": text}]
