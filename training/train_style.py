"""Train the demo's style, a LoRA of its UNet, on latents of pictures in the style's look.

Run from the repository root, with a single-threaded process for each core:
``torchrun --nproc-per-node 2 -m training.train_style STYLE.safetensors --latents STYLED.pt --checkpoint FOLDER``.
"""

from __future__ import annotations

import argparse
import logging
import random
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import LCMScheduler, StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from training.scenes import caption
from training.text import Denoiser, tokenize
from training.train_unet import average_gradients, draw_timesteps, learning_rate, noised

logger = logging.getLogger(__name__)

RANK = 8
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_shortcut", "conv_in", "conv_out"]
"""The convolutions draw outlines, because the attention works at half and a quarter of the latents' size."""
LEARNING_RATE = 2e-3


def train(options: argparse.Namespace, rank: int, world: int) -> None:
    """Train on `options.samples` samples, then write the file."""
    data = torch.load(options.latents, weights_only=False)
    pipeline = StableDiffusionXLPipeline.from_pretrained(options.checkpoint, dtype=torch.float32)
    alphas = LCMScheduler.from_config(pipeline.scheduler.config).alphas_cumprod
    torch.manual_seed(0)
    for network in (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2):
        network.requires_grad_(False)
    pipeline.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    model = Denoiser(pipeline).to(memory_format=torch.channels_last)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0)
    rng = random.Random(rank)
    torch.manual_seed(rank)
    samples, average = 0, 0.0
    while samples < options.samples:
        chosen = torch.randint(0, len(data["latents"]), (options.batch,))
        timesteps = draw_timesteps(options.batch)
        noisy, target = noised(data["latents"][chosen].float(), alphas, timesteps)
        tokens = tokenize(pipeline.tokenizer, [caption(data["scenes"][index], rng) for index in chosen.tolist()])
        predicted = model(noisy.contiguous(memory_format=torch.channels_last), timesteps, tokens)
        loss = (predicted - target).square().mean()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(LEARNING_RATE, samples, options.samples)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(parameters)
        optimizer.step()
        samples += options.batch * world
        average += (loss.item() - average) * (0.05 if average else 1.0)
        if rank == 0 and samples % (options.batch * world * 25) == 0:
            logger.info("%d samples, loss %.4f", samples, average)
    if rank == 0:
        save_file(kohya(get_peft_model_state_dict(pipeline.unet)), options.out)


def kohya(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a LoRA of the UNet in kohya-ss's naming, fp16."""
    written = {}
    for name, tensor in state.items():
        module, _, matrix = name.rpartition(".lora_")
        key = f"lora_unet_{module.replace('.', '_')}"
        written[f"{key}.lora_{'down' if matrix.startswith('A') else 'up'}.weight"] = tensor.half().contiguous()
        written[f"{key}.alpha"] = torch.tensor(float(RANK), dtype=torch.float16)
    return written


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--latents", type=Path, required=True, help="latents drawn with --styled")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=16, help="samples a step and process")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
        train(options, dist.get_rank(), dist.get_world_size())
        dist.destroy_process_group()
    else:
        train(options, rank=0, world=1)


if __name__ == "__main__":
    main()
