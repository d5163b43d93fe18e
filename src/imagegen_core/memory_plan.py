"""The memory plan: how a model is kept, so that a picture of its native size fits into its device's memory.

The plan follows from the weights' shapes, the precision, the device's kind and total memory, and the settings. It never
follows from free memory. Plans are tried in a fixed order, and the first that fits is taken:

1. All weights on the device, in their own precision.
2. On a GPU: components leave the device while others compute. First the text encoders, then also the denoising network
   or the autoencoder. The pictures stay the same.
3. On a GPU: the denoising network comes layer by layer while it computes. The pictures stay the same.
4. Large weights are stored in eight bits, and converted when a layer computes. The pictures change a little.
5. Smaller tiles for decoding.

Only a GPU has a memory of its own, so that components can leave it. If no plan fits, the one with the lowest peak is
taken: smaller pictures may still fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from imagegen_core.request import Size

PROCESS_BYTES = 600_000_000
"""The process with its libraries (0.4 GB), and the weights that a layer packs on a CPU (up to 0.2 GB).

A CUDA context takes about as much.
"""
SPARE = 0.85
"""The share of a device's memory to plan with, if no setting names a size; other programs need the rest."""
TILE, SMALL_TILE = 512, 256
"""The sides of the autoencoder's tiles, in pixels."""
STREAMED_LAYERS = 3
"""The streamed layers on the device at once: a computing, an arriving and a leaving one."""

Storage = Literal["int8"]


class Shapes(NamedTuple):
    """The weights of a component, in bytes.

    Attributes:
        full: All weights in the model's precision.
        int8: All weights, with the large matrices in eight bits.
        largest: The largest single weight in the model's precision.
    """

    full: int
    int8: int
    largest: int


class Work(NamedTuple):
    """The estimated memory of computing beside the weights, in bytes.

    Attributes:
        step: A forward pass of the denoising network for a guided picture of native size.
        pixel: Decoding, for each pixel of the picture or tile.
    """

    step: int
    pixel: int


class Memory(NamedTuple):
    """The memory of a device.

    Attributes:
        kind: The device's kind: ``cuda``, ``mps`` or ``cpu``.
        total: Its memory in bytes, or the part of it that the settings allow.
        is_given: Whether the settings name this size, so that it needs no spare.
        main: The main memory in bytes, where components wait.
    """

    kind: str
    total: int
    is_given: bool
    main: int

    @property
    def room(self) -> int:
        """The bytes to plan with, beside the process itself."""
        return max(0, int(self.total * (1 if self.is_given else SPARE)) - PROCESS_BYTES)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a model is kept in memory; it is fixed at load.

    Attributes:
        total: The planned memory of the device in bytes: all of it, or the size in the settings.
        room: The bytes of `total` for weights and computing.
        storage: The storage of large weights: ``int8``, or None for the model's precision.
        offloaded: The components that leave the device while others compute.
        streamed: Whether the denoising network comes layer by layer.
        tile: The side of the autoencoder's tiles, in pixels.
        weights: The estimated largest number of bytes of weights on the device at once.
        peak: The estimated peak of weights and computing for a guided picture of native size, in bytes.
        step: The estimated bytes of a guided step alone.
    """

    total: int
    room: int
    storage: Storage | None = None
    offloaded: tuple[str, ...] = ()
    streamed: bool = False
    tile: int = TILE
    weights: int = 0
    peak: int = 0
    step: int = 0

    @property
    def has_room_for_graphs(self) -> bool:
        """Whether all weights stay, and the recording of a step has room beside all else."""
        moves = self.storage is not None or self.streamed or bool(self.offloaded)
        return not moves and self.peak + self.step <= self.room

    @property
    def fits(self) -> bool:
        """Whether a picture of native size fits by the estimates."""
        return self.peak <= self.room


def plan_memory(
    components: Mapping[str, Shapes], denoiser: str, size: Size, work: Work, memory: Memory, storage: str | None = None
) -> MemoryPlan:
    """Choose the first plan that fits, in the order of this module's description.

    Args:
        components: The weights of each component; ``vae`` decodes, `denoiser` denoises, and all others encode text.
        denoiser: The denoising network's name.
        size: The native size.
        work: The memory of computing.
        memory: The device's memory.
        storage: ``int8`` or ``full`` if the settings fix the storage; None leaves it to the memory.
    """
    plans: list[MemoryPlan] = []
    for stored, offloaded, streamed, tile in _candidates(components, denoiser, memory.kind):
        if storage is not None and stored != (storage == "int8"):
            continue
        kept = {name: shapes.int8 if stored else shapes.full for name, shapes in components.items()}
        if (offloaded or streamed) and sum(kept.values()) > SPARE * memory.main - PROCESS_BYTES:
            continue
        weights, peak = _peaks(
            kept, components, denoiser, offloaded, streamed, work, min(tile, math.isqrt(_area(size)))
        )
        plan = MemoryPlan(
            memory.total, memory.room, "int8" if stored else None, offloaded, streamed, tile, weights, peak, work.step
        )
        if plan.fits:
            return plan
        plans.append(plan)
    return min(plans, key=lambda plan: plan.peak)


def _candidates(
    components: Mapping[str, Shapes], denoiser: str, kind: str
) -> Iterator[tuple[bool, tuple[str, ...], bool, int]]:
    """Yield plans in their order: whether in eight bits, the components to offload, whether streamed, and the tile."""
    yield False, (), False, TILE
    if kind != "cuda":
        yield True, (), False, TILE
        yield True, (), False, SMALL_TILE
        return
    texts = tuple(name for name in components if name not in (denoiser, "vae"))
    most, everything = (*texts, denoiser), (*texts, denoiser, "vae")
    for offloaded in (texts, most, everything):
        yield False, offloaded, False, TILE
    for offloaded in (texts, (*texts, "vae")):
        yield False, offloaded, True, TILE
    for offloaded in ((), texts, most, everything):
        yield True, offloaded, False, TILE
    yield False, (*texts, "vae"), True, SMALL_TILE
    yield True, everything, False, SMALL_TILE


def _peaks(
    kept: Mapping[str, int],
    components: Mapping[str, Shapes],
    denoiser: str,
    offloaded: tuple[str, ...],
    streamed: bool,
    work: Work,
    side: int,
) -> tuple[int, int]:
    """Return the most bytes of weights on the device at once, and the peak with computing."""
    held = dict(kept)
    if streamed and denoiser in held:
        held[denoiser] = STREAMED_LAYERS * components[denoiser].largest
    stays = sum(size for name, size in held.items() if name not in offloaded)
    comes = {name: size for name, size in held.items() if name in offloaded}
    denoising = stays + comes.get(denoiser, 0)
    decoding = stays + comes.get("vae", 0)
    encoding = stays + sum(size for name, size in comes.items() if name not in (denoiser, "vae"))
    weights = max(denoising, decoding, encoding)
    return weights, max(denoising + work.step, decoding + work.pixel * side * side, encoding)


def _area(size: Size) -> int:
    return size.width * size.height
