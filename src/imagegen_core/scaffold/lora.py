"""A small sample LoRA, written without torch; its author replaces it by a trained one."""

from __future__ import annotations

import json
import random
import struct

_RANK = 4
_STRENGTH = 0.25  # standard deviation of each matrix's numbers: clearly visible at a weight of 1
_TEXT_WIDTH = 128
# The cross-attention layers of imagegen-demo's tiny UNet, and the width of each.
_ATTENTIONS = {
    "down_blocks.1.attentions.0": 64,
    "down_blocks.2.attentions.0": 96,
    "mid_block.attentions.0": 128,
    "up_blocks.1.attentions.0": 96,
    "up_blocks.1.attentions.1": 96,
    "up_blocks.2.attentions.0": 64,
    "up_blocks.2.attentions.1": 64,
}


def sample_lora() -> bytes:
    """Build a safetensors file of random float16 matrices in diffusers' naming, the same each time.

    The format: https://huggingface.co/docs/safetensors/index#format
    """
    numbers = random.Random(0)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for attention, width in _ATTENTIONS.items():
        for projection in ("to_k", "to_v"):
            layer = f"unet.{attention}.transformer_blocks.0.attn2.{projection}"
            for matrix, shape in (("lora_A", (_RANK, _TEXT_WIDTH)), ("lora_B", (width, _RANK))):
                count = shape[0] * shape[1]
                begin = len(data)
                data += struct.pack(f"<{count}e", *(numbers.gauss(0.0, _STRENGTH) for _ in range(count)))
                entry = {"dtype": "F16", "shape": shape, "data_offsets": (begin, len(data))}
                header[f"{layer}.{matrix}.weight"] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text + data
