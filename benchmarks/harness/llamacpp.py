"""A Qwen3 checkpoint behind llama.cpp's own server, run by a Python that has `xllamacpp`, `gguf` and NumPy:

    python llamacpp.py FOLDER KIND PORT SLOTS CONTEXT THREADS

The checkpoint (safetensors, tokenizer.json) is written as GGUF into a temporary file, with weights of KIND (f32, q8_0,
q4_0), and served until the program is killed. SLOTS: sequences at once; CONTEXT: tokens of each.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
FILE_TYPES = {"f32": 0, "q8_0": 7, "q4_0": 2}


def tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name and the values of each tensor, as float32."""
    for file in sorted(folder.glob("*.safetensors")):
        raw = np.memmap(file, dtype=np.uint8, mode="r")
        length = int.from_bytes(raw[:8].tobytes(), "little")
        header = json.loads(raw[8 : 8 + length].tobytes())
        for name, info in header.items():
            if name != "__metadata__":
                first, last = (8 + length + offset for offset in info["data_offsets"])
                yield name, as_float32(raw[first:last], info["dtype"]).reshape(info["shape"])


def as_float32(raw: Any, dtype: str) -> Any:
    """Return the values of a tensor's bytes."""
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return raw.view({"F32": np.float32, "F16": np.float16}[dtype]).astype(np.float32)


def named(name: str) -> str:
    """Return what GGUF calls a tensor."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{LAYER[rest]}.{kind}"


def convert(folder: Path, target: str, kind: str) -> None:
    """Write the checkpoint as GGUF."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(target, "qwen3")
    writer.add_name("benchmark")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config.get("rope_parameters") or {}
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta", 10_000)))
    writer.add_file_type(FILE_TYPES[kind])
    add_tokenizer(writer, folder, config["vocab_size"])
    types = gguf.GGMLQuantizationType
    for name, values in tensors(folder):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        own = types.F32 if values.ndim == 1 else types[kind.upper()]
        writer.add_tensor(named(name), gguf.quants.quantize(values, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: Any, folder: Path, size: int) -> None:
    """Write the tokenizer and the chat template."""
    import gguf

    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    texts, kinds = [f"[PAD{number}]" for number in range(size)], [gguf.TokenType.UNUSED] * size
    for text, number in tokenizer["model"]["vocab"].items():
        texts[number], kinds[number] = text, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        kind = gguf.TokenType.CONTROL if added.get("special") else gguf.TokenType.USER_DEFINED
        texts[added["id"]], kinds[added["id"]] = added["content"], kind
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(size - 1)  # answers have the length that is asked for
    writer.add_add_bos_token(False)
    template = folder / "chat_template.jinja"
    if template.exists():
        writer.add_chat_template(template.read_text(encoding="utf-8"))


def serve(path: str, port: int, slots: int, context: int, threads: int) -> None:
    """Serve a GGUF until this program is killed."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.hostnames = path, port, ["127.0.0.1"]
    params.n_parallel, params.n_ctx = slots, slots * context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers, params.warmup, params.use_jinja = 0, True, True
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


def main(folder: str, kind: str, port: str, slots: str, context: str, threads: str) -> None:
    """Convert and serve."""
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        convert(Path(folder), file.name, kind)
        serve(file.name, int(port), int(slots), int(context), int(threads))


if __name__ == "__main__":
    main(*sys.argv[1:])
