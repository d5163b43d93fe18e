"""OpenVINO's device, and its precision."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import openvino
import torch

from imagegen_core import Settings, SettingsError

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}
_CPU = "CPU"
_CORE_LOCK = threading.Lock()
_INT8_INSTRUCTIONS = ("avx512_vnni", "amx_int8")  # without them, products of bytes may overflow 16 bits


class Runtime:
    """A device of OpenVINO, and the configuration of networks on it.

    Attributes:
        core: OpenVINO's entry point.
        device: OpenVINO's name of the device, such as ``CPU`` or ``GPU.0``.
        processor: The full name of the device.
        precision: The precision of computations: ``fp32``, ``bf16`` or ``fp16``.
        is_cpu: Whether the device is the CPU.
        threads: The number of threads on a CPU; None on other devices.
    """

    def __init__(self, settings: Settings) -> None:
        """Take the configured device and precision, else the CPU and the fastest precision that keeps half the digits.

        Raises:
            SettingsError: The device does not exist, or does not compute in this precision or in int8.
        """
        self.core = shared_core()
        self.device = _device(settings, self.core.available_devices)
        self.processor = str(self.core.get_property(self.device, "FULL_DEVICE_NAME"))
        capabilities = self.core.get_property(self.device, "OPTIMIZATION_CAPABILITIES")
        self.precision = _precision(settings, self.device, capabilities)
        self.is_cpu = self.device == _CPU
        if settings.int8:
            _check_int8(settings, self.device)
        # torch knows a container's share of the CPUs, and OMP_NUM_THREADS.
        self.threads = torch.get_num_threads() if self.is_cpu else None

    def compile(self, model: Any, precision: str) -> Any:
        """Return a request for inferences with a network, in `precision`."""
        return self.core.compile_model(model, self.device, self.configuration(precision)).create_infer_request()

    def configuration(self, precision: str) -> dict[str, Any]:
        """Return OpenVINO's properties of a network: one inference at a time."""
        properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[precision]}
        if self.threads is not None:
            properties |= {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": self.threads}
        return properties


def shared_core() -> openvino.Core:
    """Return the only entry point of this process, which stays.

    OpenVINO's plugin for CPUs gives a thread a stack for signals, and frees it with the entry point. With several of
    them, a thread keeps a freed stack, and the next signal, such as Ctrl-C, ends the process.
    """
    with _CORE_LOCK:
        return _core()


@cache
def _core() -> openvino.Core:
    return openvino.Core()


def _device(settings: Settings, available: Sequence[str]) -> str:
    if settings.device is None:
        return _CPU
    requested = settings.device.upper()
    if any(requested in (device, device.partition(".")[0]) for device in available):
        return requested
    raise SettingsError(
        f"{settings.source('device')}={settings.device}, but OpenVINO finds no such device here, only "
        f"{', '.join(available).lower()}: choose one of them, or leave it unset"
    )


def _precision(settings: Settings, device: str, capabilities: Sequence[str]) -> str:
    for field in ("dtype", "vae_dtype"):
        asked = getattr(settings, field)
        if asked is not None and _CAPABILITIES[asked] not in capabilities:
            raise SettingsError(
                f"{settings.source(field)}={asked}, but OpenVINO's {device} does not compute in that precision here: "
                "choose another, or leave it unset"
            )
    preferred = ("bf16", "fp32") if device == _CPU else ("fp16", "fp32")
    return settings.dtype or next(name for name in preferred if _CAPABILITIES[name] in capabilities)


def _check_int8(settings: Settings, device: str) -> None:
    asked = f"{settings.source('int8')}=true"
    if device != _CPU:
        raise SettingsError(
            f"{asked} asks for products in int8, which only a CPU has here, not {device.lower()}: unset it"
        )
    capabilities = torch.cpu.get_capabilities()
    if not any(capabilities.get(name) for name in _INT8_INSTRUCTIONS):
        raise SettingsError(
            f"{asked} needs a CPU with VNNI or AMX ({', '.join(_INT8_INSTRUCTIONS)}), and this CPU has none: unset it"
        )


def versions() -> dict[str, str]:
    """Return the versions that decide a converted network and what it computes."""
    packages = ("imagegen-core", "imagegen-openvino", "diffusers", "torch")
    return {"openvino": str(openvino.get_version()), **{name: version(name) for name in packages}}
