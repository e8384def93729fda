"""Average the weights of two stages, and write a model as a plain checkpoint folder that everyone can read."""

import copy
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

FILE_MODE = 0o644
TEMPERATURE, TOP_P, TOP_K = 0.7, 0.9, 20


def generation_config(tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Return the sampling defaults, with both end tokens and the padding token."""
    end, text_end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    return GenerationConfig(
        do_sample=True,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        top_k=TOP_K,
        eos_token_id=[end, text_end],
        pad_token_id=text_end,
    )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save an fp16 copy of the model into `folder`, every file with mode 0644; the model itself stays as it is."""
    half = copy.deepcopy(model).half()
    half.generation_config = generation_config(tokenizer)
    half.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(FILE_MODE)


@torch.no_grad()
def average(model: PreTrainedModel, before: dict[str, torch.Tensor], kept: float) -> None:
    """Move the weights of a model the share `kept` of the way back to what they were, in place."""
    for name, weight in model.named_parameters():
        weight.lerp_(before[name], kept)
