"""The changes of a LoRA file: each of its tensors, by the layer of the checkpoint and its role there.

The plan is made from headers alone. A file has a plan only if every tensor is used and every layer fits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from imagegen_core.models.loras import adapter_config, shapes, tensor_names
from imagegen_core.models.loras.adapter_config import AdapterConfig, AdapterConfigError
from imagegen_core.models.loras.bundled_embeddings import BUNDLED, bundled_embeddings
from imagegen_core.models.loras.checkpoint_layers import LOOKUPS, CheckpointLayers, Shape
from imagegen_core.models.loras.refusals import FLOATS, MEND, LoraError, mismatch
from imagegen_core.models.networks.original import rows_of_parts
from imagegen_core.models.networks.source import Rows
from imagegen_core.models.tensors import Header, Tensor, quoted
from imagegen_core.original_names import LayerPart

Algorithm = Literal["lora", "loha", "lokr", "difference", "whole"]

# The roles of each algorithm's tensors: several sets, of which it needs one, and the optional roles.
_NEEDED: dict[Algorithm, tuple[tuple[str, ...], ...]] = {
    "lora": (("down", "up"),),
    "loha": (("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),),
    "lokr": tuple(
        (*first, *second)
        for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
    ),
}
_OPTIONAL: dict[Algorithm, tuple[str, ...]] = {
    "lora": ("mid", "up_bias"),
    "loha": ("hada_t1", "hada_t2"),
    "lokr": ("lokr_t2",),
}
_STRENGTH = ("alpha", "scale")
_DORA = ("dora_scale", "magnitude")
_PARAMETERS: dict[str, tuple[Algorithm, str]] = {
    "diff": ("difference", "weight"),
    "diff_b": ("difference", "bias"),
    "weight": ("whole", "weight"),
    "bias": ("whole", "bias"),
}
_WHOLE_NUMBERS = {"int64", "int32", "int16", "int8", "uint8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """A LoRA's change to one layer, in the same form for all dialects.

    Attributes:
        network: The network's component in the pipeline, such as ``unet`` or ``text_encoder``.
        module: The layer by diffusers' or transformers' name, without ``text_model.``.
        algorithm: ``lora``, ``loha`` and ``lokr`` multiply matrices. ``difference`` holds the change itself. ``whole``
            holds a parameter that replaces the checkpoint's.
        tensors: The names of the file's tensors by role: see `tensor_names`, and ``weight`` and ``bias``.
        rank: The divisor of alpha; None if alpha has no effect.
        scale: The factor from the file's settings, for layers without a tensor ``alpha`` or ``scale``.
        rows: The rows of a change for several layers together, as ranges joined in this order; empty for all rows.
    """

    network: str
    module: str
    algorithm: Algorithm
    tensors: Mapping[str, str]
    rank: int | None = None
    scale: float = 1.0
    rows: tuple[Rows, ...] = ()


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """All changes of a LoRA file.

    Attributes:
        layers: The changes of layers.
        embeddings: The bundled words. For each word, tensors' names by the keys of an embedding's own file.
    """

    layers: Sequence[LayerChange]
    embeddings: Mapping[str, Mapping[str, str]]


@dataclass
class _Group:
    """The tensors of one layer by role, with the layer's name in the file."""

    networks: tuple[str, ...]
    layer: str
    is_peft: bool
    tensors: dict[str, str] = field(default_factory=dict)


def plan_lora(header: Header, layers: CheckpointLayers) -> LoraPlan:
    """Plan the changes of a LoRA file to a checkpoint.

    Args:
        header: The file's header.
        layers: The checkpoint's layers.

    Raises:
        LoraError: The file holds an unknown tensor, an unsupported algorithm, or a layer that the checkpoint lacks or
            has in another shape.
    """
    for name in header.tensors:
        if algorithm := tensor_names.refused_algorithm(name):
            raise LoraError(
                f"its tensor {quoted(name)} is of {algorithm}, which is not drawn here; take a LoRA, LoHa, LoKr, DoRA "
                "or full-difference file"
            )
    embeddings = bundled_embeddings(header.tensors, layers)
    groups = _grouped(name for name in header.tensors if not name.startswith(BUNDLED))
    try:
        configs = adapter_config.configs_of(header, is_peft=any(group.is_peft for group in groups))
        changes = [change for group in groups for change in _changes(group, header.tensors, layers, configs)]
    except AdapterConfigError as error:
        raise LoraError(str(error)) from error
    return LoraPlan(changes, embeddings)


def _grouped(names: Iterable[str]) -> Sequence[_Group]:
    groups: dict[tuple[tuple[str, ...], str], _Group] = {}
    for name in names:
        parsed = tensor_names.parse(name)
        if parsed is None:
            raise LoraError(
                f"its tensor {quoted(name)} is of an unknown kind; take a file that kohya-ss, LyCORIS, OneTrainer, "
                "PEFT, diffusers or ComfyUI wrote"
            )
        key = (parsed.networks, parsed.layer)
        group = groups.setdefault(key, _Group(parsed.networks, parsed.layer, parsed.is_peft))
        if parsed.role in group.tensors:
            raise LoraError(
                f"its tensors {quoted(group.tensors[parsed.role])} and {quoted(name)} are of two adapters; save each "
                "into a file of its own"
            )
        group.tensors[parsed.role] = name
    return list(groups.values())


def _changes(
    group: _Group, tensors: Mapping[str, Tensor], layers: CheckpointLayers, configs: Mapping[str, AdapterConfig]
) -> Iterable[LayerChange]:
    for role, name in group.tensors.items():
        allowed = FLOATS | _WHOLE_NUMBERS if role in _STRENGTH else FLOATS
        if tensors[name].dtype not in allowed:
            raise LoraError(f"its tensor {quoted(name)} holds {tensors[name].dtype} numbers; save it as floating point")
    layer_shapes = {role: tensors[name].shape for role, name in group.tensors.items()}
    network, modules = _located(group, layer_shapes, layers)
    if len(modules) > 1 or modules[0].swapped:
        yield from _of_parts(group, layer_shapes, network, modules, layers, configs[network])
        return
    module = modules[0].name
    factors = layer_shapes.keys() - _PARAMETERS.keys()
    if factors - {"alpha"} or (factors and len(layer_shapes) == 1):  # alpha does not apply to full differences
        weight = layers.shape(network, module)
        yield _factored(group, layer_shapes, network, module, weight, configs[network])
    for algorithm in ("difference", "whole"):
        parts = {_PARAMETERS[role][1]: role for role in layer_shapes if _PARAMETERS.get(role, ("",))[0] == algorithm}
        for parameter, role in parts.items():
            shape = layers.shape(network, module, parameter)
            if shape is None or not (layer_shapes[role] == shape or shapes.fits(layer_shapes[role], shape)):
                raise LoraError(mismatch(group.tensors[role], layer_shapes[role], shape))
        if parts:
            names = {parameter: group.tensors[role] for parameter, role in parts.items()}
            yield LayerChange(network=network, module=module, algorithm=algorithm, tensors=names)


def _of_parts(
    group: _Group,
    layer_shapes: Mapping[str, Shape],
    network: str,
    parts: Sequence[LayerPart],
    layers: CheckpointLayers,
    config: AdapterConfig,
) -> Iterable[LayerChange]:
    """Divide the change of one layer in a family's original code among the checkpoint's layers."""
    first = group.tensors[min(layer_shapes)]
    if unusual := layer_shapes.keys() - {"down", "up", *_STRENGTH}:
        raise LoraError(
            f"its tensor {quoted(group.tensors[min(unusual)])} changes several layers of this checkpoint together, "
            "which is drawn here only for plain LoRAs; take a version of it with diffusers' names"
        )
    weights = [layers.shape(network, part.name) or () for part in parts]
    if len({weight[1:] for weight in weights}) != 1:
        raise LoraError(mismatch(first, layer_shapes[min(layer_shapes)], weights[0]))
    whole = (sum(weight[0] for weight in weights), *weights[0][1:])
    change = _factored(group, layer_shapes, network, group.layer, whole, config)
    for module, rows in rows_of_parts(parts, whole[0]).items():
        yield replace(change, module=module, rows=rows)


def _located(
    group: _Group, layer_shapes: Mapping[str, Shape], layers: CheckpointLayers
) -> tuple[str, Sequence[LayerPart]]:
    """Return the network of a layer's name and its modules there."""
    places = [(net, parts) for net in group.networks if (parts := layers.find(net, group.layer))]
    if len(places) > 1:
        fitting = [(net, parts) for net, parts in places if _could_fit(layer_shapes, layers.shape(net, parts[0].name))]
        places = fitting or places
    if len(places) > 1:
        raise LoraError(
            f"its layer {quoted(group.layer)} is in {' and in '.join(network for network, _ in places)}, and the file "
            "does not say which one it means; take one whose names begin with the network's"
        )
    if places:
        return places[0]
    absent = [network for network in group.networks if network not in layers.networks]
    name = quoted(next(iter(group.tensors.values())))
    if len(group.networks) == len(absent) == 1:
        raise LoraError(f"its tensor {name} is for the {absent[0]}, which this checkpoint does not have; {MEND}")
    raise LoraError(f"its tensor {name} changes a layer that this checkpoint does not have; {MEND}")


def _could_fit(layer_shapes: Mapping[str, Shape], weight: Shape | None) -> bool:
    whole = layer_shapes.get("diff") or layer_shapes.get("weight")
    try:
        return weight is not None and shapes.fits(whole or shapes.delta_shape(layer_shapes), weight)
    except (shapes.ShapeError, KeyError):
        return False


def _factored(
    group: _Group,
    layer_shapes: Mapping[str, Shape],
    network: str,
    module: str,
    weight: Shape | None,
    config: AdapterConfig,
) -> LayerChange:
    """Return the change from a layer's small matrices; `weight` is the shape of the layer's weight, if it has any."""
    roles = {role for role in layer_shapes if role not in _PARAMETERS}
    algorithm = _algorithm(group, roles)
    of_algorithm = {role: layer_shapes[role] for role in roles - {*_STRENGTH, *_DORA, "up_bias"}}
    example = group.tensors[min(of_algorithm)]
    try:
        delta = shapes.delta_shape(of_algorithm)
    except shapes.ShapeError as error:
        raise LoraError(
            f"its tensor {quoted(example)} does not fit those beside it: {error}; take a sound file"
        ) from error
    if weight is None or len(weight) == 1 or module in LOOKUPS or not shapes.fits(delta, weight):
        raise LoraError(mismatch(example, delta, weight))
    for role in roles & {*_STRENGTH, *_DORA, "up_bias"}:
        if not _is_vector_of(role, layer_shapes[role], weight):
            raise LoraError(mismatch(group.tensors[role], layer_shapes[role], weight))
    if config.is_decomposed and not roles & {*_DORA}:
        raise LoraError(f"its settings say use_dora, and {quoted(example)} has no magnitude beside it")
    rank = shapes.rank(of_algorithm)
    scale = config.scale(module, rank)
    names = {role: group.tensors[role] for role in roles}
    return LayerChange(network=network, module=module, algorithm=algorithm, tensors=names, rank=rank, scale=scale)


def _algorithm(group: _Group, roles: set[str]) -> Algorithm:
    for algorithm, sets in _NEEDED.items():
        for needed in sets:
            rest = roles - {*needed, *_OPTIONAL[algorithm], *_STRENGTH, *_DORA}
            cores = len(roles & {"hada_t1", "hada_t2"}) != 1  # both or none
            if roles >= {*needed} and not rest and cores and not {*_STRENGTH} <= roles and not {*_DORA} <= roles:
                return algorithm
    names = ", ".join(quoted(name) for _, name in sorted(group.tensors.items())[:3])
    raise LoraError(f"its tensors {names} are not a whole layer: some are missing or too many; take a complete file")


def _is_vector_of(role: str, shape: Shape, weight: Shape) -> bool:
    """Return whether a layer's single number, or its vector over the outputs or inputs, has a fitting shape."""
    length = math.prod(shape)
    if role in _STRENGTH:
        return length == 1
    by_output = length == weight[0]
    if role == "dora_scale":
        return by_output if shape[:1] == weight[:1] else len(shape) > 1 and shape[0] == 1 and shape[1:2] == weight[1:2]
    return by_output
