"""Convert a network's layers from the names of its original code to diffusers' names."""

from __future__ import annotations

from collections.abc import Sequence

from imagegen_core.models.networks.source import Layers, Rows, Source
from imagegen_core.original_names import LayerPart, OriginalNames


def rows_of_parts(parts: Sequence[LayerPart], height: int) -> dict[str, tuple[Rows, ...]]:
    """Return the rows of each part in an original layer of `height` rows; empty for a part that is the whole layer.

    Raises:
        ValueError: The rows do not divide into the parts.
    """
    unit, rest = divmod(height, sum(part.share for part in parts))
    if rest:
        raise ValueError(f"the {height} rows of its layer do not divide into those of {parts[0].name} and others")
    if len(parts) == 1 and not parts[0].swapped:
        return {parts[0].name: ()}
    rows: dict[str, tuple[Rows, ...]] = {}
    begin = 0
    for part in parts:
        middle, end = begin + part.share * unit // 2, begin + part.share * unit
        rows[part.name] = ((middle, end), (begin, middle)) if part.swapped else ((begin, end),)
        begin = end
    return rows


def diffusers_layers(layers: Layers, names: OriginalNames) -> dict[str, Source]:
    """Return the layers by diffusers' names; layers without an entry in `names` keep their own.

    Raises:
        ValueError: The rows of a layer do not divide into its parts.
    """
    new = {part.name for parts in names.values() for part in parts}
    result: dict[str, Source] = {}
    for name, source in layers.items():
        layer, _, parameter = name.rpartition(".")
        if name in new:
            result[name] = source
        elif name in names:  # the original code has another name for this parameter, too
            result[names[name][0].name] = source
        elif layer in names:
            for part, rows in rows_of_parts(names[layer], source.shape[0] if source.shape else 0).items():
                result[f"{part}.{parameter}"] = source.taking(*rows) if rows else source
        else:
            result[name] = source
    return result
