"""The description by which a plugin offers a backend, and what it means to import one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, cast

from imagegen_core.errors import InvalidRequestError
from imagegen_core.importing import load_named

if TYPE_CHECKING:
    from imagegen_core.request import ResolvedRequest
    from imagegen_core.worker import Worker

OptionalField = Literal[
    "size",
    "guidance_scale",
    "negative_prompt",
    "scheduler",
    "clip_skip",
    "style_lora",
    "schedule",
    "guidance_rescale",
    "eta",
    "s_churn",
    "s_tmin",
    "s_tmax",
    "s_noise",
]
"""The fields of a request that a backend may be without."""
_GO_WITH: Mapping[OptionalField, tuple[OptionalField, ...]] = {
    "scheduler": ("schedule", "eta", "s_churn", "s_tmin", "s_tmax", "s_noise"),
    "guidance_scale": ("guidance_rescale",),
}


@dataclass(frozen=True, slots=True)
class Backend:
    """A way to draw, described without importing what it takes.

    Attributes:
        name: What the configuration calls it, such as ``sdxl``; its upper-case form prefixes the
            backend's own environment variables (``SDXL_MODEL``).
        summary: One line for ``imagegen plugins list``.
        worker: ``module:Class`` of its `Worker`, imported on first use.
        default_size: ``WIDTHxHEIGHT`` drawn where neither request nor checkpoint says one.
        architectures: The checkpoint families it loads, as `imagegen_core.models.inspect` names them.
        without: The fields of a request that it cannot heed. It refuses a request that gives one of them, which
            `drawing` does for it; ``size`` says that it draws its native size alone, ``scheduler`` that it has no
            ``schedule`` and none of `StepOptions` either, ``guidance_scale`` the same of ``guidance_rescale``.
    """

    name: str
    summary: str
    worker: str
    default_size: str
    architectures: tuple[str, ...] = ()
    without: tuple[OptionalField, ...] = ()

    @property
    def lacking(self) -> tuple[OptionalField, ...]:
        """`without`, and the fields that go with those."""
        return tuple(lacking for named in self.without for lacking in (named, *_GO_WITH.get(named, ())))

    @property
    def environment_prefix(self) -> str:
        """What this backend's own variables begin with."""
        return self.name.upper().replace("-", "_")

    def load(self) -> Callable[..., Worker]:
        """Import the worker class.

        Raises:
            PluginError: The module does not import, or has no such class.
        """
        return cast("Callable[..., Worker]", load_named(f"Backend '{self.name}'", self.worker))

    def drawing(self, request: object, native_size: str | None = None) -> ResolvedRequest:
        """Check a request: see `ResolvedRequest.of`; and refuse what this backend is without.

        Args:
            request: A `GenerateRequest`, or any object with (some of) its attributes.
            native_size: The checkpoint's own size; None is `default_size`.

        Raises:
            InvalidRequestError: A value is outside what it may be, or of a field that the backend is without.
        """
        from imagegen_core.request import ResolvedRequest, Size

        native = native_size or self.default_size
        drawing = ResolvedRequest.of(request, native)
        left_alone = {
            "size": Size.parse(native),
            "guidance_scale": min(drawing.guidance_scale, 1.0),
            "clip_skip": 0,
            "guidance_rescale": 0.0,
        }
        asked = asdict(drawing) | asdict(drawing.step_options) | {"size": drawing.size, "style_lora": drawing.style}
        for field in self.lacking:
            if asked[field] != left_alone.get(field):
                expected = f"it draws {native} alone" if field == "size" else "it has none; leave it out"
                raise InvalidRequestError(
                    f"Invalid {field} {str(asked[field])!r} for the backend '{self.name}': {expected}",
                    "style_lora.style" if field == "style_lora" else field,
                )
        return drawing
