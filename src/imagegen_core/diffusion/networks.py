"""Build a network from the tensors of weights files; each tensor is used, known to be harmless, or refused by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from imagegen_core.diffusion.construction_lock import building
from imagegen_core.diffusion.device import release_buffers
from imagegen_core.diffusion.shared_weights import SHARED_WEIGHTS
from imagegen_core.diffusion.stored_weights import Int8Weight, is_storable
from imagegen_core.diffusion.weights_file import WeightsFile
from imagegen_core.errors import ModelLoadError, first_line
from imagegen_core.memory_plan import Storage
from imagegen_core.models.gguf_header import QUANTIZATIONS
from imagegen_core.models.networks.harmless import is_harmless
from imagegen_core.models.networks.parts import refuse_unused
from imagegen_core.models.networks.source import Layers, Rows, Source
from imagegen_core.models.tensors import quoted
from imagegen_core.resources.cpus import usable_cpus

_KERNEL = 4  # the dimensions of a convolution's weight
_READERS = 4  # threads: one fills memory at a fraction of its speed
_FLOATS = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
)


class Weights:
    """The tensors of one or several weights files, open for reading; a context manager.

    Attributes:
        files: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the files and read their headers.

        Raises:
            ModelLoadError: A file is no weights file, or is damaged.
        """
        with ExitStack() as opened:
            self.files = [opened.enter_context(WeightsFile(path)) for path in paths]
            self._opened = opened.pop_all()
        self._holders = {name: file for file in self.files for name in file.header.tensors}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def path(self, source: Source) -> Path:
        """Return the file of a tensor."""
        return self._holders[source.name].path

    def read(self, source: Source, dtype: torch.dtype, *, channels_last: bool = False) -> Tensor:
        """Read a network's tensor, cut, scaled and transposed as its source says; models of one file share it.

        Args:
            source: The tensor's origin.
            dtype: Its precision.
            channels_last: Whether a convolution kernel has its inputs last in memory.

        Raises:
            ModelLoadError: The file ends early or was changed, or its number format is not supported.
        """
        origin = (self._holders[source.name].identity, source, dtype, channels_last)
        if (shared := SHARED_WEIGHTS.find(origin)) is not None:
            return shared
        tensor = self._whole(source, dtype, channels_last=channels_last)
        SHARED_WEIGHTS.add(origin, tensor)
        return tensor

    def read_stored(self, source: Source, dtype: torch.dtype, shape: Sequence[int], *, channels_last: bool) -> Tensor:
        """Read a matrix as `read` does, and store it in eight bits."""
        return Int8Weight.of(_shaped(self._whole(source, dtype, channels_last=channels_last), shape))

    def check_unchanged(self) -> None:
        """Check that no file was written to since it was opened.

        Raises:
            ModelLoadError: A file was changed.
        """
        for file in self.files:
            file.check_unchanged()

    def _whole(self, source: Source, dtype: torch.dtype, *, channels_last: bool) -> Tensor:
        places = source.rows or (None,)
        parts = [self._part(source, dtype, rows, channels_last=channels_last) for rows in places]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        return tensor.T.contiguous() if source.transposed else tensor

    def _part(self, source: Source, dtype: torch.dtype, rows: Rows | None, *, channels_last: bool) -> Tensor:
        file = self._holders[source.name]
        if source.dtype not in _FLOATS and source.dtype not in QUANTIZATIONS:
            raise ModelLoadError(
                f"{file.path} holds {quoted(source.name)} as {source.dtype}, a quantization that is not read here: "
                "take a version in fp16, bf16, fp32 or fp8"
            )
        if source.scale is None:
            return file.read(source.name, dtype, rows, channels_last=channels_last)
        weight = file.read(source.name, torch.float32, rows)
        scale = self._holders[source.scale].read(source.scale, torch.float32)
        if scale.numel() not in (1, file.header.tensors[source.name].shape[0]):
            raise ModelLoadError(
                f"{file.path} holds {quoted(source.scale)} with the shape {list(scale.shape)}: one scale for a tensor "
                "or for each row is read here; take a version in fp16 or bf16"
            )
        if rows and scale.numel() > 1:
            scale = scale.flatten()[slice(*rows)]
        return weight.mul_(scale.reshape(-1, *[1] * (weight.ndim - 1))).to(dtype)


@dataclass(frozen=True)
class WeightsForm:
    """The form of weights in memory, beside their precision.

    Attributes:
        storage: The storage of large matrices, except an autoencoder's; each is stored as soon as it is read.
        unread: See `imagegen_core.diffusion.DiffusionModel.unread`.
        channels_last: The components with their convolution kernels in channels last.
    """

    storage: Storage | None = None
    unread: Collection[str] = ()
    channels_last: Collection[str] = ()


PLAIN_FORM = WeightsForm()
"""All weights as torch has them."""


@dataclass(frozen=True)
class Blueprint:
    """The description of a network to build.

    Attributes:
        component: The network's name in a pipeline, such as ``unet``.
        network: The network's class in diffusers or transformers.
        config: The class's arguments.
        described_by: The file of the config, or another description of it, for errors.
        advice: What to do if layers and config do not match.
    """

    component: str
    network: Any
    config: Mapping[str, Any]
    described_by: Path | str
    advice: str


def build_network(
    blueprint: Blueprint,
    layers: Layers,
    weights: Weights,
    dtype: torch.dtype,
    form: WeightsForm = PLAIN_FORM,
) -> Any:
    """Build a network with the layers' own tensors; no weight is random.

    Weights files may hold only one of two tied tensors, such as T5's ``shared`` and ``embed_tokens``. An autoencoder
    without an encoder in its file is built without an encoder, because drawing needs only the decoder.
    Layers that overflow in fp16, such as T5's, are read in fp32 instead.

    Args:
        blueprint: The network's class and config.
        layers: The source of each tensor.
        weights: The files of the tensors.
        dtype: The dtype for the tensors.
        form: The form of the weights.

    Raises:
        ModelLoadError: A layer is missing, is not the network's, or has another shape than in the config.
    """
    module = _empty(blueprint)
    if blueprint.component == "vae" and not any(name.startswith("encoder.") for name in layers):
        module.encoder = module.quant_conv = None
        layers = {name: source for name, source in layers.items() if not name.startswith("quant_conv.")}
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    plain = {name: name.removeprefix("text_model.") for name in shapes}  # some transformers classes nest the encoder
    layers = _with_tied(layers, module)
    _check(blueprint, {plain[name]: shape for name, shape in shapes.items()}, layers, weights)
    precisions = {name: _dtype(module, name, dtype) for name in shapes}
    left = {name for name in shapes if f"{blueprint.component}.{name}".startswith(tuple(form.unread))}
    used = {layers[plain[name]]: precisions[name] for name in shapes if name not in left}
    matrices = _storable(module, blueprint.component) - left if form.storage else set()
    shaped = {layers[plain[name]]: shape for name, shape in shapes.items() if name in matrices}
    channels_last = blueprint.component in form.channels_last

    def read(source: Source) -> Tensor:
        if source in shaped:
            stored = weights.read_stored(source, used[source], shaped[source], channels_last=channels_last)
            release_buffers()
            return stored
        return weights.read(source, used[source], channels_last=channels_last)

    def tensor_of(name: str, shape: torch.Size) -> Tensor:
        if name in left:
            return torch.empty(shape, dtype=precisions[name], device="meta")
        source = layers[plain[name]]
        return _shaped(tensors[source], shape)

    # torch converts a tensor with all cores, and several threads would disturb each other. Plain reads need threads.
    converted = [source for source in used if source in shaped or _is_converted(source, used[source], channels_last)]
    tensors = {source: read(source) for source in converted}
    plain_reads = [source for source in used if source not in tensors]
    with ThreadPoolExecutor(min(_READERS, usable_cpus()), thread_name_prefix="weights") as readers:
        tensors |= zip(plain_reads, readers.map(read, plain_reads), strict=True)
    module.load_state_dict({name: tensor_of(name, shape) for name, shape in shapes.items()}, assign=True)
    weights.check_unchanged()
    SHARED_WEIGHTS.add_network(module)
    return module.eval()


def _empty(blueprint: Blueprint) -> Any:
    from accelerate import init_empty_weights

    network, config = blueprint.network, dict(blueprint.config)
    try:
        with building(), init_empty_weights(include_buffers=False), _skipping_initialization():
            if hasattr(network, "from_config"):
                return network.from_config(config)
            return network(network.config_class.from_dict(config))
    except (ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ModelLoadError(
            f"The installed {network.__module__.partition('.')[0]} cannot build the {blueprint.component} that "
            f"{blueprint.described_by} describes ({first_line(error)}): {blueprint.advice}"
        ) from error


def _storable(module: Any, component: str) -> set[str]:
    """Return the names of the large matrices; an autoencoder's stay, because its errors show."""
    if component == "vae":
        return set()
    return {f"{name}.weight" for name, layer in module.named_modules() if is_storable(layer)}


def _is_converted(source: Source, dtype: torch.dtype, channels_last: bool) -> bool:
    """Return whether torch changes the precision or the layout of a tensor after it is read."""
    if source.dtype in QUANTIZATIONS:
        return False  # by another library, on a single core
    return source.dtype != str(dtype).removeprefix("torch.") or (channels_last and len(source.shape) == _KERNEL)


def _shaped(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a tensor in a network's shape; without a change, it keeps its layout."""
    return tensor if tensor.shape == shape else tensor.reshape(shape)


def _dtype(module: Any, name: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of a network's tensor: transformers names the layers that need fp32 where others have fp16."""
    kept = getattr(module, "_keep_in_fp32_modules", None) or ()
    return torch.float32 if dtype == torch.float16 and set(name.split(".")) & set(kept) else dtype


def _with_tied(layers: Layers, module: Any) -> Layers:
    """Return the layers, where a missing tensor that the module ties to another has the other's source."""
    pairs = getattr(module, "all_tied_weights_keys", None)
    if pairs is None:  # not a class of transformers 5
        firsts: dict[int, str] = {}
        parameters = module.named_parameters(remove_duplicate=False)
        pairs = {name: firsts.setdefault(id(parameter), name) for name, parameter in parameters}
    both = [pair for target, source in pairs.items() for pair in ((target, source), (source, target))]
    return {**{name: layers[other] for name, other in both if name not in layers and other in layers}, **layers}


def _check(blueprint: Blueprint, expected: Mapping[str, Sequence[int]], layers: Layers, weights: Weights) -> None:
    """Check that the layers are exactly the network's layers."""
    place = f"{weights.files[0].path} does not match {blueprint.described_by}"
    for name, shape in expected.items():
        if name not in layers:
            raise ModelLoadError(f"{place}: its {blueprint.component} has no tensor {quoted(name)}; {blueprint.advice}")
        source = layers[name]
        if _without_ones(source.shape) != _without_ones(shape):
            raise ModelLoadError(
                f"{place}: its tensor {quoted(source.name)} has the shape {list(source.shape)}, expected "
                f"{list(shape)}; {blueprint.advice}"
            )
    others = {name: source for name, source in layers.items() if name not in expected}
    unused = [source for name, source in others.items() if not is_harmless(name, blueprint.component)]
    for file in weights.files:
        refuse_unused(file.header, [source.name for source in unused if weights.path(source) == file.path])


def _without_ones(shape: Sequence[int]) -> list[int]:
    """Return a shape without its final 1x1: a 1x1 convolution's weight has the shape of a linear layer's."""
    kept = list(shape)
    while len(kept) > 2 and kept[-1] == 1:  # noqa: PLR2004 - rows and columns
        kept.pop()
    return kept


def _skipping_initialization() -> AbstractContextManager[None]:
    """Skip the initialization of weights, which takes half of the time."""
    from transformers.initialization import no_init_weights

    return no_init_weights()  # type: ignore[no-any-return]
