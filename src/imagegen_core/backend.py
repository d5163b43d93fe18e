"""Description of a backend, for plugins to register, and the lazy import of its worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, cast

from imagegen_core.description import PLAIN_FORMATS
from imagegen_core.errors import InvalidRequestError
from imagegen_core.importing import load_named

if TYPE_CHECKING:
    from imagegen_core.request import ResolvedRequest
    from imagegen_core.worker import Worker

_GO_WITH: Mapping[str, tuple[str, ...]] = {
    "scheduler": ("schedule", "eta", "s_churn", "s_tmin", "s_tmax", "s_noise"),
    "guidance_scale": ("guidance_rescale",),
    "image": ("mask", "strength", "resize", "inpaint", "outpaint", "image_guidance_scale"),
    "mask": ("inpaint", "outpaint"),
    "refiner": ("switch_at",),
}


@dataclass(frozen=True, slots=True)
class Backend:
    """Description of a backend; creating it imports none of the backend's libraries.

    Attributes:
        name: The backend's name in the configuration, such as ``mine``; in upper case it is the prefix of the
            backend's own environment variables (``MINE_MODEL``).
        summary: One line for ``imagegen plugins list``.
        worker: ``module:Class`` of its `Worker`, imported on first use.
        default_size: Default size as ``WIDTHxHEIGHT``, if neither the request nor the checkpoint gives a size.
        architectures: The names of the checkpoint families that it draws with; ``*`` is any family.
        without: The request fields that it does not support, of `GenerateRequest` or declared by a plugin
            (`Parameter`); `resolve` refuses requests that set them. Every backend supports ``prompt`` and ``seed``.
            ``size`` means that only the native size is supported. ``scheduler`` includes ``schedule`` and all
            `StepOptions`; ``guidance_scale`` includes ``guidance_rescale``. ``image`` includes ``mask``, ``strength``,
            ``resize``, ``inpaint``, ``outpaint`` and ``image_guidance_scale``; ``mask`` includes ``inpaint`` and
            ``outpaint``; ``refiner`` includes ``switch_at``.
        formats: The formats that it loads: `PLAIN_FORMATS`, or names of plugins' formats.
        priority: Of several backends for a checkpoint, the highest priority draws, unless the setting ``backends``
            prefers another.
        settings: ``module:Model`` of a pydantic model for the backend's own settings, imported on first use; see
            `Settings.own`. None if it has none.
    """

    name: str
    summary: str
    worker: str
    default_size: str
    architectures: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    formats: tuple[str, ...] = PLAIN_FORMATS
    priority: int = 0
    settings: str | None = None

    @property
    def lacking(self) -> tuple[str, ...]:
        """All unsupported request fields: `without` and the dependent fields."""
        return tuple(lacking for named in self.without for lacking in (named, *_GO_WITH.get(named, ())))

    @property
    def supported(self) -> tuple[str, ...]:
        """The fields of `GenerateRequest` that it supports."""
        from imagegen_core.request import GenerateRequest

        return tuple(field for field in GenerateRequest.model_fields if field not in self.lacking)

    @property
    def environment_prefix(self) -> str:
        """Prefix of this backend's own environment variables."""
        return self.name.upper().replace("-", "_")

    def draws(self, model_format: str, family: str | None) -> bool:
        """Return whether it draws with a checkpoint of this format and family; None is an unknown family."""
        return model_format in self.formats and (family in self.architectures or "*" in self.architectures)

    def load(self) -> Callable[..., Worker]:
        """Import the worker class.

        Raises:
            PluginError: The module cannot be imported, or has no such class.
        """
        return cast("Callable[..., Worker]", load_named(f"Backend '{self.name}'", self.worker))

    def resolve(self, request: object, native_size: str | None = None) -> ResolvedRequest:
        """Check a request with `ResolvedRequest.of`, and refuse unsupported fields.

        Args:
            request: A `GenerateRequest`, or any object with (some of) its attributes.
            native_size: The checkpoint's native size; None uses `default_size`.

        Raises:
            InvalidRequestError: A value is out of range, or its field is not supported.
        """
        from imagegen_core.request import ResolvedRequest

        resolved = ResolvedRequest.of(request, native_size or self.default_size)
        self.check(resolved, native_size)
        return resolved

    def check(self, resolved: ResolvedRequest, native_size: str | None = None) -> None:
        """Refuse unsupported fields of a resolved request.

        Args:
            resolved: The request.
            native_size: The checkpoint's native size; None uses `default_size`.

        Raises:
            InvalidRequestError: A field is not supported.
        """
        from imagegen_core.request import GenerateRequest, Size

        native = native_size or self.default_size
        fields_of_requests = GenerateRequest.model_fields
        left_alone: dict[str, Any] = {
            **{name: field.get_default(call_default_factory=True) for name, field in fields_of_requests.items()},
            "size": Size.parse(native),
            "guidance_scale": min(resolved.guidance_scale, 1.0),
            "style_lora": None,
        }
        asked = {
            **{field.name: getattr(resolved, field.name) for field in fields(resolved)},
            **asdict(resolved.step_options),
            **resolved.parameters.given,
            "size": resolved.size,
            "num_inference_steps": resolved.steps,
            "style_lora": resolved.style,
        }
        for field in self.lacking:
            if asked.get(field) != left_alone.get(field):
                expected = f"it draws only {native}" if field == "size" else "it does not support it; leave it out"
                raise InvalidRequestError(
                    f"Invalid {field} {str(asked[field])!r} for the backend '{self.name}': {expected}",
                    "style_lora.style" if field == "style_lora" else field,
                )
