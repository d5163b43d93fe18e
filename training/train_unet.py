"""Train the UNet and both text encoders on latents, v-prediction on LCM's own timesteps.

Run from the repository root, with a single-threaded process for each core:
``OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m training.train_unet RUN --latents A.pt B.pt --checkpoint START``.
The run folder holds ``state.pt``. The same command resumes from it, also with another number of processes.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import random
import time
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import LCMScheduler, StableDiffusionXLPipeline

from training.scenes import caption
from training.text import Denoiser, tokenize

logger = logging.getLogger(__name__)

SAMPLING_TIMESTEPS = (999, 759, 499, 259)
"""The timesteps of LCMScheduler in four steps, which most of the training uses."""
CAPTION_DROPOUT = 0.03
AVERAGE_DECAY = 0.998
WARMUP_SAMPLES = 3000
LOG_EVERY = 50
SAVE_EVERY_S = 150


class Run:
    """The networks in training, their running average, and the number of samples they have seen."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Start from the run folder's state if it exists, and from the checkpoint otherwise."""
        self.state_file: Path = options.run / "state.pt"
        self.pipeline = StableDiffusionXLPipeline.from_pretrained(options.checkpoint, dtype=torch.float32)
        self.model = Denoiser(self.pipeline).to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.model).eval()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.samples = 0
        self.steps = 0
        if self.state_file.exists():
            state = torch.load(self.state_file)
            for name in ("model", "average", "optimizer"):
                getattr(self, name).load_state_dict(state[name])
            self.samples, self.steps = state["samples"], state["steps"]

    def step(self, loss: torch.Tensor, learning_rate: float, samples: int) -> None:
        """Do a step of the optimizer with gradients averaged over the processes."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        loss.backward()
        parameters = list(self.model.parameters())
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        self.samples += samples
        self.steps += 1
        decay = min(AVERAGE_DECAY, self.steps / (self.steps + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), parameters, 1 - decay)

    def save(self) -> None:
        """Write the state for resuming, atomically, and the averaged weights as an fp16 pipeline."""
        state = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimizer")}
        partial = self.state_file.with_suffix(".tmp")
        torch.save({**state, "samples": self.samples, "steps": self.steps}, partial)
        partial.replace(self.state_file)
        half = copy.deepcopy(self.average).half()
        shipped = StableDiffusionXLPipeline(
            vae=copy.deepcopy(self.pipeline.vae).half(),
            text_encoder=half.text_encoder,
            text_encoder_2=half.text_encoder_2,
            tokenizer=self.pipeline.tokenizer,
            tokenizer_2=self.pipeline.tokenizer_2,
            unet=half.unet,
            scheduler=self.pipeline.scheduler,
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )
        shipped.save_pretrained(self.state_file.parent / "export")
        logger.info("saved at %d samples", self.samples)


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Average gradients over the processes, if there are several."""
    if not dist.is_initialized():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = (flat / dist.get_world_size()).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def draw_timesteps(count: int) -> torch.Tensor:
    """Draw timesteps: 45 % the first step, which decides the layout, 40 % the other three, the rest of LCM's grid."""
    kind = torch.rand(count)
    later = torch.tensor(SAMPLING_TIMESTEPS)[torch.randint(1, 4, (count,))]
    other = torch.randint(1, 50, (count,)) * 20 - 1
    return torch.where(kind < 0.45, torch.tensor(999), torch.where(kind < 0.85, later, other))


def noised(latents: torch.Tensor, alphas: torch.Tensor, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noised latents and the v that leads back from them (Salimans and Ho, 2022).

    At t=999 the input is pure noise, like the sampler's, and the target is recomputed from it.
    """
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noise = torch.randn_like(latents)
    noisy = torch.where(
        (timesteps == 999).view(-1, 1, 1, 1), noise, alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    )
    return noisy, (alpha.sqrt() * noisy - latents) / (1 - alpha).sqrt()


def learning_rate(peak: float, samples: int, planned: int) -> float:
    """Return the rate: a linear warm-up, then a cosine over all planned samples, so that pauses do not matter."""
    cosine = 0.5 * (1 + math.cos(math.pi * samples / planned))
    return peak * min(1.0, (samples + 1) / WARMUP_SAMPLES) * (0.02 + 0.98 * cosine)


def train(options: argparse.Namespace, rank: int, world: int) -> None:
    """Train until `options.samples` samples were seen. The first process logs, and saves every few minutes."""
    files = [torch.load(file, weights_only=False) for file in options.latents]
    scenes = [scene for file in files for scene in file["scenes"]]
    latents = torch.cat([file["latents"] for file in files])
    run = Run(options)
    alphas = LCMScheduler.from_config(run.pipeline.scheduler.config).alphas_cumprod
    rng = random.Random(run.samples + rank)
    torch.manual_seed(run.samples + rank)
    began, first, saved = time.monotonic(), run.samples, time.monotonic()
    losses: list[float] = []
    while run.samples < options.samples:
        chosen = torch.randint(0, len(latents), (options.batch,))
        captions = ["" if rng.random() < CAPTION_DROPOUT else caption(scenes[i], rng) for i in chosen.tolist()]
        timesteps = draw_timesteps(options.batch)
        noisy, target = noised(latents[chosen].float(), alphas, timesteps)
        tokens = tokenize(run.pipeline.tokenizer, captions)
        predicted = run.model(noisy.contiguous(memory_format=torch.channels_last), timesteps, tokens)
        loss = (predicted - target).square().mean()
        rate = learning_rate(options.learning_rate, run.samples, options.samples)
        run.step(loss, rate, options.batch * world)
        losses = [*losses[-199:], loss.item()]
        if rank:
            continue
        if run.steps % LOG_EVERY == 0:
            pace = (run.samples - first) / (time.monotonic() - began)
            logger.info("%d samples, %.1f/s, loss %.4f", run.samples, pace, sum(losses) / len(losses))
        if time.monotonic() - saved > SAVE_EVERY_S or run.samples >= options.samples:
            saved = time.monotonic()
            run.save()


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--latents", type=Path, nargs="+", required=True)
    parser.add_argument("--checkpoint", type=Path, required=True, help="diffusers folder to start from")
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=16, help="samples a step and process")
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    options.run.mkdir(parents=True, exist_ok=True)
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
        train(options, dist.get_rank(), dist.get_world_size())
        dist.destroy_process_group()
    else:
        train(options, rank=0, world=1)


if __name__ == "__main__":
    main()
