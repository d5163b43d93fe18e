"""OpenVINO's device, its precision, and compiled networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from imagegen_core import ModelLoadError, Settings, SettingsError
from imagegen_openvino.noise import Floats

_PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}
_NAMES = {openvino.Type.f32: "fp32", openvino.Type.bf16: "bf16", openvino.Type.f16: "fp16"}


class Runtime:
    """A device and its configuration.

    Attributes:
        device: OpenVINO's name of the device, such as ``CPU`` or ``GPU.0``.
        processor: The full name of the device.
    """

    def __init__(self, settings: Settings) -> None:
        """Take the configured device, else the CPU, and the configured precision, else OpenVINO's choice.

        Raises:
            SettingsError: The device does not exist, or does not compute in this precision.
        """
        self._core = openvino.Core()
        self.device = _device(settings, self._core.available_devices)
        self.processor = str(self._core.get_property(self.device, "FULL_DEVICE_NAME"))
        self._config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if settings.dtype is not None:
            if _CAPABILITIES[settings.dtype] not in self._core.get_property(self.device, "OPTIMIZATION_CAPABILITIES"):
                raise SettingsError(
                    f"{settings.source('dtype')}={settings.dtype}, but OpenVINO's {self.device} does not compute in "
                    "that precision here: choose another, or leave it unset"
                )
            self._config["INFERENCE_PRECISION_HINT"] = _PRECISIONS[settings.dtype]

    def load(self, file: Path) -> Network:
        """Read a network and compile it.

        Raises:
            ModelLoadError: The network is missing or damaged.
        """
        try:
            return Network(self._core.compile_model(file, self.device, self._config))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelLoadError(f"OpenVINO cannot load {file} ({reason}): export the checkpoint again") from error


class Network:
    """A compiled network; only one thread may call it at a time.

    Attributes:
        precision: The precision of its computations: ``fp32``, ``bf16`` or ``fp16``.
    """

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = len(compiled.outputs)
        self.precision = _NAMES[compiled.get_property("INFERENCE_PRECISION_HINT")]

    def __call__(self, **inputs: np.ndarray[Any, Any]) -> Sequence[Floats]:
        """Compute the outputs, in order, each as a separate array."""
        outputs = self._request.infer(inputs)
        return [outputs[index] for index in range(self._outputs)]


def _device(settings: Settings, available: Sequence[str]) -> str:
    if settings.device is None:
        return "CPU"
    requested = settings.device.upper()
    if any(requested in (device, device.partition(".")[0]) for device in available):
        return requested
    raise SettingsError(
        f"{settings.source('device')}={settings.device}, but OpenVINO finds no such device here, only "
        f"{', '.join(available).lower()}: choose one of them, or leave it unset"
    )
