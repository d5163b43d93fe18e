"""The numerics plan: every choice besides the request with an effect on a picture's bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from imagegen_core.request import Size

_ELSEWHERE = frozenset(  # not among a picture's facts
    {"device", "precision", "network", "versions", "tiles_above", "upscalers"}
)


@dataclass(frozen=True, slots=True)
class NumericsPlan:
    """The choices of a loaded model: the same request and plan give the same bytes.

    A plan follows from the device, the model and the settings. It never follows from a measured time, from free memory
    or from earlier pictures. Only `device` and `precision` are required.

    Attributes:
        device: The kind of device: ``cpu``, ``cuda`` or ``mps``.
        precision: The precision of the network: ``fp16``, ``bf16`` or ``fp32``.
        computation: ``int8`` where large layers compute in int8; None for the precision everywhere.
        processor: The GPU's name, or the CPU's architecture and instruction sets.
        threads: The threads of an operator on a CPU; None on other devices.
        layout: The memory layout of the network and of the VAE, such as ``contiguous, VAE channels last``.
        attention: The implementation of attention: ``sdpa`` for torch's own, ``exponential`` for the products with a
            fused exponential on a CPU in bf16, ``sliced`` or ``xformers``.
        flags: The switches of the math libraries at load, by name.
        rows: The number of rows that each forward pass is filled up to; None leaves a picture with its own rows.
        vae_precision: The precision of the VAE that decodes.
        decoder: ``tiny`` if a tiny VAE decodes; None for the VAE.
        tile: The side of the VAE's tiles in pixels.
        tiles_above: The largest picture that the VAE decodes in one piece, in pixels; None sets no limit.
        compiled: Whether the network is compiled.
        storage: The storage of large weights: ``int8``, or ``full`` for the precision; None where there is no choice.
        batching: ``exact``, or ``fast`` for shared passes without a proof.
        exact: Whether equal requests give equal bytes. They do not with ``fast`` batching, a compiled network or
            cuDNN's benchmarks.
        network: A digest of the names, shapes and dtypes of the network's tensors.
        upscalers: What decides the bytes of each upscaler for second stages, by its name: the hash of its file, or the
            version of its plugin.
        versions: The versions of the libraries, by name.
    """

    device: str
    precision: str
    computation: str | None = None
    processor: str = ""
    threads: int | None = None
    layout: str = "contiguous"
    attention: str = "sdpa"
    flags: Mapping[str, bool | str] = field(default_factory=dict)
    rows: int | None = None
    vae_precision: str | None = None
    decoder: str | None = None
    tile: int | None = None
    tiles_above: int | None = None
    compiled: bool = False
    storage: str | None = None
    batching: Literal["exact", "fast"] = "exact"
    exact: bool = True
    network: str = ""
    upscalers: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def tile_of(self, size: Size) -> int | None:
        """Return the side of the tiles that a picture is decoded in, in pixels, or None for one piece."""
        return None if self.tiles_above is None or _pixels(size) <= self.tiles_above else self.tile

    def of_picture(self, size: Size) -> dict[str, Any]:
        """Return the choices for a picture of one size; a recipe states the other fields elsewhere."""
        facts = {name: value for name, value in asdict(self).items() if name not in _ELSEWHERE}
        return facts | {"tile": self.tile_of(size)}

    def differences(self, other: NumericsPlan) -> list[str]:
        """Describe each difference of another plan in words."""
        return differences(asdict(self), asdict(other))


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe each difference of two mappings in words; nested mappings count by their own names."""
    before, after = _flat(then), _flat(now)
    return [
        f"{name.replace('_', ' ')} was {before.get(name)}, and is {after.get(name)}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return flat


def _pixels(size: Size) -> int:
    return size.width * size.height
