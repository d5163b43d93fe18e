"""imagegen: a pluggable framework to generate images from prompts.

This module holds the public names. Each name loads on first use, because every plugin module imports this package.
The import therefore stays fast and never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagegen_core.backend import Backend as Backend
    from imagegen_core.callback_worker import CallbackWorker as CallbackWorker
    from imagegen_core.callback_worker import Progress as Progress
    from imagegen_core.description import PLAIN_FORMATS as PLAIN_FORMATS
    from imagegen_core.description import Description as Description
    from imagegen_core.engine import Engine as Engine
    from imagegen_core.engine import EngineReport as EngineReport
    from imagegen_core.engine import LocalEngine as LocalEngine
    from imagegen_core.engine import Ticket as Ticket
    from imagegen_core.errors import BackendNotFoundError as BackendNotFoundError
    from imagegen_core.errors import DeadlineError as DeadlineError
    from imagegen_core.errors import EngineClosedError as EngineClosedError
    from imagegen_core.errors import ImagegenError as ImagegenError
    from imagegen_core.errors import InvalidRequestError as InvalidRequestError
    from imagegen_core.errors import JobStoppedError as JobStoppedError
    from imagegen_core.errors import ModelLoadError as ModelLoadError
    from imagegen_core.errors import ModelNotFoundError as ModelNotFoundError
    from imagegen_core.errors import NotReadyError as NotReadyError
    from imagegen_core.errors import OutOfMemoryError as OutOfMemoryError
    from imagegen_core.errors import OutputError as OutputError
    from imagegen_core.errors import PictureError as PictureError
    from imagegen_core.errors import PluginError as PluginError
    from imagegen_core.errors import QueueFullError as QueueFullError
    from imagegen_core.errors import SettingsError as SettingsError
    from imagegen_core.errors import StorageError as StorageError
    from imagegen_core.extension import ExtensionDef as ExtensionDef
    from imagegen_core.family import Family as Family
    from imagegen_core.format import Format as Format
    from imagegen_core.images.png import encode_png as encode_png
    from imagegen_core.images.recipe import Recipe as Recipe
    from imagegen_core.images.recipe import read_recipe as read_recipe
    from imagegen_core.images.recipe import to_text as to_text
    from imagegen_core.images.upscaler import Upscaler as Upscaler
    from imagegen_core.images.upscaler import UpscalerDef as UpscalerDef
    from imagegen_core.images.upscaling import upscale as upscale
    from imagegen_core.job import Cancelled as Cancelled
    from imagegen_core.job import Done as Done
    from imagegen_core.job import Event as Event
    from imagegen_core.job import Failed as Failed
    from imagegen_core.job import Job as Job
    from imagegen_core.job import Queued as Queued
    from imagegen_core.job import Started as Started
    from imagegen_core.job import StepDone as StepDone
    from imagegen_core.models.locate import locate as locate
    from imagegen_core.models.named import NamedModel as NamedModel
    from imagegen_core.numerics import NumericsPlan as NumericsPlan
    from imagegen_core.original_names import LayerPart as LayerPart
    from imagegen_core.original_names import OriginalNames as OriginalNames
    from imagegen_core.parameter import Parameter as Parameter
    from imagegen_core.picture import Picture as Picture
    from imagegen_core.plugins.contract import CONTRACT_VERSION as CONTRACT_VERSION
    from imagegen_core.plugins.hookspecs import hookimpl as hookimpl
    from imagegen_core.plugins.registry import Registry as Registry
    from imagegen_core.request import GenerateRequest as GenerateRequest
    from imagegen_core.request import HiresOptions as HiresOptions
    from imagegen_core.request import InpaintOptions as InpaintOptions
    from imagegen_core.request import MicroConditioning as MicroConditioning
    from imagegen_core.request import OutpaintOptions as OutpaintOptions
    from imagegen_core.request import ResolvedRequest as ResolvedRequest
    from imagegen_core.request import Size as Size
    from imagegen_core.request import StyleLoraRequest as StyleLoraRequest
    from imagegen_core.request import Variation as Variation
    from imagegen_core.request import check_request as check_request
    from imagegen_core.resolution.checkpoints import checkpoint_family as checkpoint_family
    from imagegen_core.samplers import Sampler as Sampler
    from imagegen_core.settings import Settings as Settings
    from imagegen_core.shortcuts import generate as generate
    from imagegen_core.shortcuts import load_worker as load_worker
    from imagegen_core.stepped_worker import SteppedWorkerBase as SteppedWorkerBase
    from imagegen_core.storage import ImageStore as ImageStore
    from imagegen_core.storage import StoreDef as StoreDef
    from imagegen_core.styles import STYLE_REGISTRY as STYLE_REGISTRY
    from imagegen_core.styles import LoraUse as LoraUse
    from imagegen_core.styles import StyleDef as StyleDef
    from imagegen_core.worker import BatchInvariant as BatchInvariant
    from imagegen_core.worker import BeginsInParts as BeginsInParts
    from imagegen_core.worker import DenoisingState as DenoisingState
    from imagegen_core.worker import DeviceMemory as DeviceMemory
    from imagegen_core.worker import HandsOver as HandsOver
    from imagegen_core.worker import HasComputeThread as HasComputeThread
    from imagegen_core.worker import HasNumerics as HasNumerics
    from imagegen_core.worker import LimitsRows as LimitsRows
    from imagegen_core.worker import NeedsLibraries as NeedsLibraries
    from imagegen_core.worker import ReleasesStates as ReleasesStates
    from imagegen_core.worker import ReportsMemory as ReportsMemory
    from imagegen_core.worker import SharesComputeThread as SharesComputeThread
    from imagegen_core.worker import ShowsPreviews as ShowsPreviews
    from imagegen_core.worker import SteppedWorker as SteppedWorker
    from imagegen_core.worker import SupportsLoras as SupportsLoras
    from imagegen_core.worker import WarmsUp as WarmsUp
    from imagegen_core.worker import Worker as Worker

_HOME = {
    "Backend": "backend",
    "BackendNotFoundError": "errors",
    "BatchInvariant": "worker",
    "BeginsInParts": "worker",
    "CONTRACT_VERSION": "plugins.contract",
    "CallbackWorker": "callback_worker",
    "Cancelled": "job",
    "DeadlineError": "errors",
    "DenoisingState": "worker",
    "Description": "description",
    "DeviceMemory": "worker",
    "Done": "job",
    "Engine": "engine",
    "EngineClosedError": "errors",
    "EngineReport": "engine",
    "Event": "job",
    "ExtensionDef": "extension",
    "Failed": "job",
    "Family": "family",
    "Format": "format",
    "GenerateRequest": "request",
    "HandsOver": "worker",
    "HasComputeThread": "worker",
    "HasNumerics": "worker",
    "HiresOptions": "request",
    "ImageStore": "storage",
    "ImagegenError": "errors",
    "InpaintOptions": "request",
    "InvalidRequestError": "errors",
    "Job": "job",
    "JobStoppedError": "errors",
    "LayerPart": "original_names",
    "LimitsRows": "worker",
    "LocalEngine": "engine",
    "LoraUse": "styles",
    "ModelLoadError": "errors",
    "ModelNotFoundError": "errors",
    "MicroConditioning": "request",
    "NamedModel": "models.named",
    "NeedsLibraries": "worker",
    "NotReadyError": "errors",
    "NumericsPlan": "numerics",
    "PLAIN_FORMATS": "description",
    "OriginalNames": "original_names",
    "OutpaintOptions": "request",
    "OutOfMemoryError": "errors",
    "OutputError": "errors",
    "Parameter": "parameter",
    "Picture": "picture",
    "PictureError": "errors",
    "PluginError": "errors",
    "Progress": "callback_worker",
    "QueueFullError": "errors",
    "Queued": "job",
    "Recipe": "images.recipe",
    "Registry": "plugins.registry",
    "ReleasesStates": "worker",
    "ReportsMemory": "worker",
    "ResolvedRequest": "request",
    "STYLE_REGISTRY": "styles",
    "Sampler": "samplers",
    "Settings": "settings",
    "SettingsError": "errors",
    "SharesComputeThread": "worker",
    "ShowsPreviews": "worker",
    "Size": "request",
    "Started": "job",
    "StepDone": "job",
    "SteppedWorker": "worker",
    "SteppedWorkerBase": "stepped_worker",
    "StorageError": "errors",
    "StoreDef": "storage",
    "StyleDef": "styles",
    "StyleLoraRequest": "request",
    "SupportsLoras": "worker",
    "Ticket": "engine",
    "Upscaler": "images.upscaler",
    "UpscalerDef": "images.upscaler",
    "Variation": "request",
    "WarmsUp": "worker",
    "Worker": "worker",
    "check_request": "request",
    "checkpoint_family": "resolution.checkpoints",
    "encode_png": "images.png",
    "generate": "shortcuts",
    "hookimpl": "plugins.hookspecs",
    "load_worker": "shortcuts",
    "locate": "models.locate",
    "read_recipe": "images.recipe",
    "to_text": "images.recipe",
    "upscale": "images.upscaling",
}

__all__ = sorted(_HOME)  # noqa: PLE0605


if not TYPE_CHECKING:  # or type checkers would take any name for public

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
