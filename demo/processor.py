"""Loads the image demo's processor without torchvision, which its video part needs."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


class TextImageProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor for text and images, without videos."""

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        base: Any = super()
        base.__init__(image_processor, tokenizer, None, chat_template=chat_template, **kwargs)

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> Any:
        """Accept the missing video processor; check everything else as usual."""
        base: Any = super()
        return (
            None
            if argument_name == "video_processor"
            else base.check_argument_for_proper_class(argument_name, argument)
        )


def load_processor(folder: Path) -> TextImageProcessor:
    """Return the processor of a checkpoint folder: PIL image processor, tokenizer and chat template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return TextImageProcessor(Qwen2VLImageProcessorPil.from_pretrained(folder), tokenizer, tokenizer.chat_template)
