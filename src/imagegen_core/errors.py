"""The errors imagegen raises. Every message is a sentence that says what is wrong and what to do."""

from __future__ import annotations


class ImagegenError(RuntimeError):
    """Base of everything imagegen raises on purpose: catch this to catch them all."""


class InvalidRequestError(ImagegenError, ValueError):
    """The request asks for something no worker could draw, such as a size of ``12by7``.

    Attributes:
        field: The request's field that is wrong, such as ``size`` or ``style_lora.level``, where it is one alone.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class SettingsError(ImagegenError):
    """A setting is malformed, unknown, or asks for something this machine does not have."""


class BackendNotFoundError(ImagegenError):
    """No installed backend fits, or several do and nothing chooses between them."""


class PluginError(ImagegenError):
    """A plugin that was asked for is broken; the message names its distribution and the mend."""


class ModelNotFoundError(ImagegenError):
    """The configured checkpoint's name leads to no file, folder or named model."""


class ModelLoadError(ImagegenError):
    """The checkpoint is there but cannot be loaded: damaged, incomplete, or of another family."""


class OutputError(ImagegenError):
    """A picture cannot be written where it was asked to go."""


class WriteError(OutputError):
    """Writing failed although the target was in order: the disk is full, or nobody reads any more."""


class PictureError(ImagegenError):
    """A picture given to work on cannot be read, or carries no recipe."""


class OutOfMemoryError(ImagegenError):
    """The device's memory does not take this picture; the message says what would make it fit."""


class StorageError(ImagegenError):
    """The store of pictures does not work at the moment."""


class QueueFullError(ImagegenError):
    """Too many requests wait already.

    Attributes:
        retry_after: Seconds after which there will probably be room.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[QueueFullError], tuple[str, float]]:
        return type(self), (str(self), self.retry_after)


class NotReadyError(ImagegenError):
    """The model is still being loaded, or could not be."""


class DeadlineError(ImagegenError):
    """The picture was not done by its deadline, and was given up."""


class EngineClosedError(ImagegenError):
    """The engine takes no more requests."""
