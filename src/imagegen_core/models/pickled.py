"""The allowed names in a pickle of weights, and their plain descriptions."""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass

from imagegen_core.models.tensors import DTYPES, Tensor, elements_within, quoted


class DamagedPickleError(Exception):
    """A fault in a pickle; the file's reader adds the path."""


class RefusedPickleError(Exception):
    """The name of a refused object in a pickle: weights do not need it."""


@dataclass(frozen=True, slots=True)
class Global:
    """A function, class or dtype by its full name; never the object itself."""

    name: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """An object that is no weight, by the name of its constructor."""

    name: str


@dataclass(frozen=True, slots=True)
class View:
    """A tensor, as a view of a storage.

    Attributes:
        tensor: Its element type and shape.
        storage: The key of the storage.
        offset: The number of storage elements before the first one, in the tensor's element type.
        strides: The elements from one index to the next, for each dimension.
    """

    tensor: Tensor
    storage: str
    offset: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements in the file, with tensors as its views.

    Attributes:
        key: Its name in the file.
        dtype: The element type; None for bytes, if each tensor states its own type.
        elements: The number of elements; of bytes if `dtype` is None.
    """

    key: str
    dtype: str | None
    elements: int

    @property
    def bits(self) -> int:
        """The length in bits."""
        return self.elements * (BITS[self.dtype] if self.dtype else 8)


BITS = dict(DTYPES.values()) | {"complex32": 32, "complex128": 128}

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_UNTYPED = "torch.storage.UntypedStorage"
_STORAGE_DTYPES: dict[str, str | None] = {
    **{f"{module}.{name}": dtype for module in ("torch", "torch.cuda") for name, dtype in _STORAGES.items()},
    _UNTYPED: None,
}
_DTYPES = {f"torch.{name}" for name in BITS}
OPAQUE = {
    "_codecs.encode",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.set",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "torch.Tensor",
    "torch.device",
}
"""Names of harmless objects that are no weights: devices, and Lightning's notes."""


def named(module: str, name: str) -> Global:
    """Describe a name in a pickle. Torch's protocol 2 uses Python 2's names.

    Raises:
        RefusedPickleError: Weights do not need it.
    """
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    full = f"{module}.{name}"
    if full in _CALLS or full in OPAQUE or full in _DTYPES or full in _STORAGE_DTYPES:
        return Global(full)
    raise RefusedPickleError(quoted(full)[1:-1])


def call(function: Global, arguments: tuple[object, ...]) -> object:
    """Describe the result of a call."""
    if function.name in OPAQUE:
        return Opaque(function.name)
    if function.name in _CALLS:
        return _CALLS[function.name](*arguments)
    raise DamagedPickleError(f"its pickle calls {function.name}, which is not a function")


def stored(persistent: object) -> Storage:
    """Return the storage for a persistent id: ``("storage", type, key, location, elements, ...)``.

    Source: ``torch.serialization``. The legacy format adds a view's metadata, which is always None since torch 0.4.
    """
    match persistent:
        case ("storage", Global(name), str(key), _, int(elements), *view) if view in ([], [None]):
            if name in _STORAGE_DTYPES and elements >= 0:
                return Storage(key, _STORAGE_DTYPES[name], elements)
    raise DamagedPickleError("its pickle refers to a value that is not a storage of weights")


def _tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> View:
    """``torch._utils._rebuild_tensor_v2`` and its older form: a view of a storage with a dtype."""
    if not isinstance(storage, Storage) or storage.dtype is None:
        raise DamagedPickleError("its pickle makes a tensor from a value that is not a storage")
    return _view(storage, storage.dtype, offset, shape, strides)


def _tensor_of_bytes(
    storage: object, offset: object, shape: object, strides: object, _grad: object, _hooks: object, dtype: object
) -> View:
    """``torch._utils._rebuild_tensor_v3``: a view of bytes."""
    if not isinstance(storage, Storage) or not isinstance(dtype, Global) or dtype.name not in _DTYPES:
        raise DamagedPickleError("its pickle makes a tensor from a value that is not a storage")
    return _view(storage, dtype.name.removeprefix("torch."), offset, shape, strides)


def _view(storage: Storage, dtype: str, offset: object, shape: object, strides: object) -> View:
    extents, steps = _counts(shape), _counts(strides)
    (start,) = _counts((offset,))
    if len(extents) != len(steps):
        raise DamagedPickleError("its pickle holds a tensor whose shape and strides differ in length")
    tensor = Tensor(dtype, extents)
    held = storage.bits // BITS[dtype]
    last = sum((extent - 1) * step for extent, step in zip(extents, steps, strict=True))
    if 0 not in extents and start + last >= held:
        raise DamagedPickleError(f"its pickle holds a tensor that reaches beyond its storage of {held} elements")
    if elements_within(extents, held) > held:
        raise DamagedPickleError("its pickle holds a tensor that repeats its storage")
    return View(tensor, storage.key, start, steps)


def _counts(value: object) -> tuple[int, ...]:
    counts = tuple(count for count in value if type(count) is int and count >= 0) if isinstance(value, tuple) else ()
    if not isinstance(value, tuple) or len(counts) < len(value):
        raise DamagedPickleError("its pickle holds a tensor whose shape is not a list of sizes")
    return counts


def _parameter(data: object, *_: object) -> object:
    return data


def _subclass(function: object, _type: object, arguments: object, _state: object) -> object:
    """``torch._tensor._rebuild_from_type_v2``: a tensor with attributes."""
    if not isinstance(function, Global) or not isinstance(arguments, tuple) or function.name not in _TENSORS:
        raise DamagedPickleError("its pickle makes a tensor from a value that is not a tensor")
    return _TENSORS[function.name](*arguments)


def _dictionary(*pairs: object) -> dict[str, object]:
    """Rebuild an OrderedDict; Python 2 wrote its items along, as a list of pairs."""
    match pairs:
        case ():
            return {}
        case ([*items],):
            return {key: value for key, value in map(_pair, items) if isinstance(key, str)}
    raise DamagedPickleError("its pickle makes a dict from a value that is not a dict")


def _pair(item: object) -> tuple[object, object]:
    match item:
        case [key, value]:
            return key, value
    raise DamagedPickleError("its pickle makes a dict from a value that is not a dict")


_TENSORS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
}
_CALLS: dict[str, Callable[..., object]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": _counts,
    "collections.OrderedDict": _dictionary,
    "collections.Counter": lambda *_: {},
}
