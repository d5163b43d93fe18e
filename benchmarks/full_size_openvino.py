"""Plain OpenVINO as a side of the full-size benchmark: converted once, static shapes, the latency hint.

- Optimum Intel, https://huggingface.co/docs/diffusers/optimization/open_vino: "to further speed-up inference,
  statically reshape the model".
- OpenVINO 2026, "High-level Performance Hints": ``PERFORMANCE_HINT`` is ``LATENCY`` for one picture at a time.
- OpenVINO 2026, "CPU Device": a CPU with bf16 computes in bf16 without a setting.

With a tiny decoder it is the setup of FastSD CPU (https://github.com/rupeshs/fastsdcpu, ``src/backend/openvino``):
TAESD replaces the VAE, and the networks are reshaped, too.

As a command, it converts networks: ``python full_size_openvino.py CACHE FOLDER...``.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from full_size_case import Case, Laps
from plain_pipeline import encoded, silence

_REDUCTION, _CHANNELS = 8, 4
_TRACED = (2, _CHANNELS, 9, 11)  # odd sides, or the trace would lack the sizes between down- and upsampling
_CONFIG = {"PERFORMANCE_HINT": "LATENCY"}


class OpenVino:
    """Draws with OpenVINO's networks and diffusers' scheduler."""

    def __init__(self, model: str, tiny_decoder: str, cache: str, is_tiny: bool) -> None:
        """Read the converted networks; convert them first if the cache lacks them.

        Args:
            model: A diffusers-format folder.
            tiny_decoder: The folder of a TAESD.
            cache: The folder for the converted networks.
            is_tiny: Decode by the TAESD instead of the VAE.
        """
        import diffusers
        import openvino
        import transformers

        silence()
        self._core = openvino.Core()
        self._folder = Path(cache)
        encoders = sorted(Path(model).glob("text_encoder*"))
        _convert_missing([*encoders, Path(model) / "unet", Path(model) / "vae", Path(tiny_decoder)], self._folder)
        self._tokenizers = [
            transformers.AutoTokenizer.from_pretrained(
                folder.with_name(folder.name.replace("text_encoder", "tokenizer"))
            )
            for folder in encoders
        ]
        self._length = self._tokenizers[0].model_max_length
        self._encoders = [self._compiled(folder.name, {"ids": [1, self._length]}) for folder in encoders]
        self._config = diffusers.LCMScheduler.load_config(Path(model) / "scheduler")
        self._decoder = Path(tiny_decoder).name if is_tiny else "vae"
        vae = diffusers.AutoencoderKL.load_config(Path(model) / "vae")
        self._scale = 1.0 if is_tiny else vae["scaling_factor"]
        self._shape: tuple[int, int] | None = None

    def prepare(self, case: Case) -> None:
        """Compile for this size and number of rows, unless it is the last one's."""
        rows, latent = case.rows, case.side // _REDUCTION
        if self._shape == (rows, latent):
            return
        self._shape = (rows, latent)
        self._unet = self._vae = None
        gc.collect()
        hidden, pooled = self._encode("a")
        shapes = {"latents": [rows, _CHANNELS, latent, latent], "timestep": [], "tokens": [rows, *hidden.shape[1:]]}
        if pooled is not None:
            shapes |= {"pooled": [rows, *pooled.shape[1:]], "time_ids": [rows, 6]}
        self._unet = self._compiled("unet", shapes)
        self._vae = self._compiled(self._decoder, {"latents": [1, _CHANNELS, latent, latent]})
        self.draw(case.shortest, seed=0)

    def draw(self, case: Case, seed: int) -> dict[str, float]:
        """See `Program`."""
        import diffusers
        import torch
        from PIL import Image

        laps = Laps()
        rows = case.rows
        parts = [self._encode(text) for text in ["", case.prompt(seed)][-rows:]]
        inputs = {"tokens": np.concatenate([hidden for hidden, _ in parts])}
        if parts[0][1] is not None:
            inputs["pooled"] = np.concatenate([pooled for _, pooled in parts])
            inputs["time_ids"] = np.array([[case.side, case.side, 0, 0, case.side, case.side]] * rows, np.float32)
        laps.lap("text")
        scheduler = diffusers.LCMScheduler.from_config(self._config)
        scheduler.set_timesteps(case.steps)
        generator = torch.Generator("cpu").manual_seed(seed)
        latents = torch.randn(1, _CHANNELS, *2 * [case.side // _REDUCTION], generator=generator)
        for timestep in scheduler.timesteps:
            given = np.concatenate(rows * [latents.numpy()])
            (predicted,) = self._unet({"latents": given, "timestep": timestep.numpy(), **inputs}).values()
            prediction = torch.from_numpy(predicted)
            if rows > 1:
                prediction = prediction[:1] + case.guidance * (prediction[1:] - prediction[:1])
            latents = scheduler.step(prediction, timestep, latents, generator=generator)[0]
        laps.lap("steps")
        (pixels,) = self._vae({"latents": (latents / self._scale).numpy()}).values()
        laps.lap("VAE")
        levels = (np.clip(pixels[0] / 2 + 0.5, 0, 1) * 255).round().astype(np.uint8)
        encoded(Image.fromarray(levels.transpose(1, 2, 0)))
        laps.lap("PNG")
        return laps.results(case.steps)

    def _encode(self, text: str) -> tuple[Any, Any]:
        """Return a text's hidden states [1, length, width] and its pooled state, or None without one."""
        hidden, pooled = [], None
        for tokenizer, encoder in zip(self._tokenizers, self._encoders, strict=True):
            ids = tokenizer(text, padding="max_length", truncation=True, max_length=self._length).input_ids
            states = list(encoder({"ids": np.array([ids])}).values())
            hidden.append(states[0])
            pooled = states[1] if len(states) > 1 else pooled
        return np.concatenate(hidden, axis=-1), pooled

    def _compiled(self, name: str, shapes: dict[str, list[int]]) -> Any:
        model = self._core.read_model(self._folder / f"{name}.xml")
        model.reshape(shapes)
        return self._core.compile_model(model, "CPU", _CONFIG)


def _convert_missing(folders: list[Path], cache: Path) -> None:
    """Convert networks in a process of its own, because a conversion's memory would count as the program's."""
    missing = [str(folder) for folder in folders if not (cache / f"{folder.name}.xml").exists()]
    if missing:
        subprocess.run([sys.executable, __file__, str(cache), *missing], check=True, stdout=subprocess.DEVNULL)


def _convert(folder: Path, cache: Path) -> None:
    """Convert a network as Optimum Intel does: linear layers keep bf16, and the file's other weights have fp16."""
    import openvino
    import torch
    from openvino.frontend.pytorch import patch_model

    network, function, inputs = _traceable(folder)
    patch_model.__make_16bit_traceable(network)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tracing
        model = openvino.convert_model(function.eval(), example_input=inputs)
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = cache / f"{folder.name}.part.xml"
    openvino.save_model(model, unfinished)
    unfinished.with_suffix(".bin").rename(cache / f"{folder.name}.bin")
    unfinished.rename(cache / f"{folder.name}.xml")


def _traceable(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Return a network, its function of tensors, and example inputs."""
    import diffusers
    import torch
    import transformers

    config = json.loads((folder / "config.json").read_text())
    kind = config.get("_class_name") or config["architectures"][0]
    load = getattr(diffusers if "_class_name" in config else transformers, kind).from_pretrained
    network = load(folder, dtype=torch.bfloat16, local_files_only=True)
    is_sdxl = (folder.parent / "text_encoder_2").exists()

    class Function(torch.nn.Module):
        """The network under its inputs' names; a module, because OpenVINO traces modules."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

    class Text(Function):
        def forward(self, ids: Any) -> Any:
            output = self.network(ids, output_hidden_states=True)
            hidden = output.hidden_states[-2] if is_sdxl else output.last_hidden_state
            return (hidden, output.text_embeds) if kind.endswith("Projection") else (hidden,)

    class Unet(Function):
        def forward(self, latents: Any, timestep: Any, tokens: Any) -> Any:
            return self.network(latents, timestep, tokens, return_dict=False)[0]

    class SdxlUnet(Function):
        def forward(self, latents: Any, timestep: Any, tokens: Any, pooled: Any, time_ids: Any) -> Any:
            added = {"text_embeds": pooled, "time_ids": time_ids}
            return self.network(latents, timestep, tokens, added_cond_kwargs=added, return_dict=False)[0]

    class Decoder(Function):
        def forward(self, latents: Any) -> Any:
            return self.network.decode(latents, return_dict=False)[0]

    latents = torch.zeros(_TRACED)
    if "text_encoder" in folder.name:
        return network, Text(), {"ids": torch.zeros(1, config["max_position_embeddings"], dtype=torch.long)}
    if folder.name != "unet":
        return network, Decoder(), {"latents": latents}
    rows = len(latents)
    tokens = torch.zeros(rows, 77, config["cross_attention_dim"])
    inputs = {"latents": latents, "timestep": torch.tensor(1), "tokens": tokens}
    if not is_sdxl:
        return network, Unet(), inputs
    width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return network, SdxlUnet(), inputs | {"pooled": torch.zeros(rows, width), "time_ids": torch.zeros(rows, 6)}


if __name__ == "__main__":
    from imagegen_core.diffusion.torchvision import make_torchvision_importable

    make_torchvision_importable()
    silence()
    for name in sys.argv[2:]:
        _convert(Path(name), Path(sys.argv[1]))
