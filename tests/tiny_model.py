"""A tiny random Llama (2 layers, hidden 64) with a 512-token BPE tokenizer and a chat template, built on the spot.

Answers nonsense, but loads, trains, serves and quantizes like a real one. Knows nothing of the tests that use it.
"""

from pathlib import Path

CONTEXT = 256
"""Tokens the tiny model can attend to."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TEXT = [
    "Where is my parcel? The order should have come on Monday.",
    "I forgot my password and the reset mail never comes.",
    "Please refund the payment for the broken kettle, thank you.",
    "The app crashes every time I open the settings page.",
    "Sort the support ticket into one of these classes and answer with its name.",
    "user assistant system billing bug cancellation delivery feature login refund upgrade",
    "What is the capital of France? The capital of France is Paris.",
]


def build(folder: Path, chat_template: bool = True) -> Path:
    """Write the model to `folder` (safetensors, fp32, the same weights every time) and return it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXT * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=CONTEXT
    )
    if chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=512,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=CONTEXT,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                tie_word_embeddings=True,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
