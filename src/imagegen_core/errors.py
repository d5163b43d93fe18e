"""The errors of imagegen; each message is a sentence with the problem and its solution."""

from __future__ import annotations


class ImagegenError(RuntimeError):
    """Base class of all errors that imagegen raises on purpose."""


class InvalidRequestError(ImagegenError, ValueError):
    """The request is invalid for every worker, for example with a size of ``12by7``.

    Attributes:
        field: The wrong field, such as ``size`` or ``style_lora.level``; None if no single field is wrong.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class SettingsError(ImagegenError):
    """A setting is malformed, unknown, or not available on this machine."""


class BackendNotFoundError(ImagegenError):
    """No installed backend fits."""


class PluginError(ImagegenError):
    """A requested plugin is broken; the message names its distribution and the repair."""


class ModelNotFoundError(ImagegenError):
    """The configured checkpoint's name matches no file, folder or named model."""


class ModelLoadError(ImagegenError):
    """The checkpoint exists but cannot be loaded: damaged, incomplete, or of another family."""


class OutputError(ImagegenError):
    """A picture cannot be written to the requested target."""


class WriteError(OutputError):
    """Writing to a valid target failed: the disk is full, or the reader has closed the pipe."""


class PictureError(ImagegenError):
    """An input picture cannot be read, or has no recipe."""


class OutOfMemoryError(ImagegenError):
    """The picture does not fit in the device's memory; the message tells how to reduce it."""


class StorageError(ImagegenError):
    """The image store does not work at the moment."""


class QueueFullError(ImagegenError):
    """The request queue is full.

    Attributes:
        retry_after: Estimated seconds until there is room.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[QueueFullError], tuple[str, float]]:
        return type(self), (str(self), self.retry_after)


class NotReadyError(ImagegenError):
    """The model is still loading, or failed to load."""


class DeadlineError(ImagegenError):
    """The picture was not finished before its deadline, and the job was stopped."""


class JobStoppedError(ImagegenError):
    """A worker stopped drawing, because the job was cancelled or late; the job's own future tells which."""


class EngineClosedError(ImagegenError):
    """The engine accepts no more requests."""


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error without its final full stop, or the error's class if it is empty."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
