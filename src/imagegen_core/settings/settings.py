"""Configuration from arguments, the environment and ``imagegen.toml``, each value with its source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from imagegen_core.errors import SettingsError
from imagegen_core.request import MAX_GUIDANCE
from imagegen_core.settings.error_messages import sentence
from imagegen_core.settings.sources import (
    Value,
    find_files,
    from_backends_own,
    from_environment,
    from_file,
    ours,
)
from imagegen_core.settings.tables import ModeTables, StyleSettings
from imagegen_core.settings.values import (
    ByteCount,
    CommaSeparated,
    DeviceNames,
    HostNames,
    Networks,
    Origins,
    PredictionName,
    RootPath,
)


class Settings(BaseModel):
    """How this process draws and serves: built by `Settings.load`, or by hand with the fields as keywords.

    Attributes:
        backend: Name of the backend to draw with; None chooses it from the checkpoint.
        use_sdxl: True chooses a backend for SDXL checkpoints; `backend` comes first.
        model: A checkpoint: a path, a name below `model_root`, or a plugin's named model such as ``demo``.
        model_root: Folder that checkpoint names and relative LoRA paths start from.
        device: ``cuda:0``, ``mps``, ``cpu``; None takes the first of these that is there. With several, such as
            ``cuda:0,cuda:1``, a server draws on all of them, and everything else on the first.
        dtype: ``fp16``, ``bf16`` or ``fp32``; None takes what suits the device.
        vae_path: A VAE of its own, a file or a diffusers-format folder, instead of the checkpoint's.
        base_model: Diffusers-format folder that supplies what a single-file checkpoint lacks: its tokenizers, and
            configs and components where it has none or is of an unusual width.
        lora_root: Folder whose LoRA files are styles, each by its name.
        styles: Styles by id, each a table ``[styles.NAME]`` in the file.
        modes: Modes by name, each a table ``[modes.NAME]`` in the file; see `imagegen_core.modes`.
        modes_file: A ``modes.yaml`` instead, or the folder it is in; None looks for one beside the configuration file.
        default_mode: The mode where a request names none; None is the first.
        memory_budget: Bytes that the models of a server may take together on each device, such as ``6GB``; None is 0.8
            of what was free there before the first.
        embeddings_root: Folder of textual-inversion embeddings; prompts name them by their files' names.
        scheduler: The sampler where a request names none; see `imagegen_core.samplers`. Left out, it is LCM, and an EDM
            checkpoint's own.
        prediction: What the checkpoint's network predicts: ``epsilon``, ``v``, ``v-zsnr``, ``sample``, ``edm`` or
            ``edm-v``; None leaves it to what the checkpoint says of itself.
        recipe: Whether pictures carry how they were made; see `imagegen_core.images.recipe`.
        batching: ``exact`` has an engine share forward passes only where that leaves every picture as it is, ``fast``
            regardless.
        compile: Compile the network with ``torch.compile``: minutes more to start, for faster steps on most GPUs.
        enable_xformers: Use xformers' attention kernels.
        attention_slicing: Compute attention in slices: less memory, slower.
        num_workers: Copies of the model that a server draws with, dealt to the devices in turn; None is one a device.
        engine: ``local`` draws in the server's process, ``ray`` on a Ray cluster.
        replicas: Processes that draw on the cluster; the least, where `max_replicas` is given.
        max_replicas: The most, which come and go by load; None keeps their number.
        replica_gpus: GPUs that a replica has to itself; None is one for each device that is configured, or one where
            the cluster has any.
        replica_cpus: CPU cores that a replica has to itself.
        queue_max: Requests that may wait in a server; more are refused.
        queue_per_key: Of them, those of one API key; None sets no limit of its own.
        host: The address a server listens on.
        port: The port it listens on.
        root_path: The path below which a proxy serves it, such as ``/ai``.
        trusted_proxies: Addresses and networks of proxies whose ``X-Forwarded-For``, ``-Proto``, ``-Host`` and
            ``-Prefix`` count.
        max_connections: Connections that a server keeps open at a time.
        read_timeout: Seconds in which a request's headers must be complete, and in which a slow client must move on.
        default_timeout: Seconds after which a server gives a request up.
        default_size: The size where a request to a server names none; None is the checkpoint's own.
        default_steps: The denoising steps where a request to a server names none.
        default_guidance: The guidance scale where a request to a server names none.
        max_steps: The most denoising steps a server takes.
        max_prompt_chars: The longest prompt, and the longest negative prompt, that a server takes, in characters.
        max_prompt_chunks: The longest that is drawn, in chunks of up to 75 tokens.
        max_pixels: The largest picture a server draws, in pixels.
        max_upscaled_pixels: The largest picture a server upscales to, in pixels.
        max_body_bytes: The largest request a server reads.
        max_json_bytes: The largest of its JSON bodies that hold no picture.
        upscaler: The upscaler a server enlarges with: a plugin's, ``lanczos`` or a file; None is a plugin's first.
        api_keys: What clients of a server show to be let in; none lets everyone in.
        admin_keys: API keys that may also change the server for everybody; none leaves that to all keys.
        allow_no_keys: Listen on other addresses than loopback without API keys.
        cors_origins: Origins whose web pages may use a server, such as ``https://example.org``; ``*`` is any.
        allowed_hosts: Names by which clients reach a server, beside loopback's and the one it listens on;
            ``*.example.org`` is all below it, ``*`` any.
        log_prompts: Whether a server's logs hold prompts.
        shutdown_limit: Seconds that a server takes at most to finish what it has, once told to stop.
        storage_provider: Where a server keeps pictures: ``memory``, ``filesystem``, ``redis``, a plugin's, or
            ``disabled``.
        storage_url: The folder, object store or Redis server, as a path or URL.
        storage_max_items: Pictures that a server keeps.
        storage_max_bytes: What they may take together, and likewise the posted jobs that are done; such as ``1GB``.
        storage_ttl_image: Seconds for which a picture is kept.
        storage_enable_http: Whether a server has the routes below ``/storage``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    backend: str | None = None
    use_sdxl: bool | None = None
    model: str | None = None
    model_root: Path | None = None
    device: DeviceNames | None = None
    dtype: Literal["fp16", "bf16", "fp32"] | None = None
    vae_path: Path | None = None
    base_model: Path | None = None
    lora_root: Path | None = None
    styles: Mapping[str, StyleSettings] = Field(default_factory=dict)
    modes: ModeTables = Field(default_factory=dict)
    modes_file: Path | None = None
    default_mode: str | None = None
    memory_budget: ByteCount | None = Field(default=None, ge=1)
    embeddings_root: Path | None = None
    scheduler: str = "LCM"
    prediction: PredictionName | None = None
    recipe: bool = True
    batching: Literal["exact", "fast"] = "exact"
    compile: bool = False
    enable_xformers: bool = False
    attention_slicing: bool = False
    num_workers: int | None = Field(default=None, ge=1)
    engine: Literal["local", "ray"] = "local"
    replicas: int = Field(default=1, ge=1)
    max_replicas: int | None = Field(default=None, ge=1)
    replica_gpus: float | None = Field(default=None, ge=0)
    replica_cpus: float = Field(default=1, ge=0)
    queue_max: int = Field(default=64, ge=1)
    queue_per_key: int | None = Field(default=None, ge=1)
    host: str = "127.0.0.1"
    port: int = Field(default=4200, ge=0, le=65535)
    root_path: RootPath = ""
    trusted_proxies: Networks = ()
    max_connections: int = Field(default=512, ge=1)
    read_timeout: float = Field(default=20, gt=0)
    default_timeout: float = Field(default=120, gt=0)
    default_size: str | None = None
    default_steps: int = Field(default=4, ge=1)
    default_guidance: float = Field(default=1.0, ge=0, le=MAX_GUIDANCE)
    max_steps: int = Field(default=150, ge=1)
    max_prompt_chars: int = Field(default=10_000, ge=1)
    max_prompt_chunks: int = Field(default=64, ge=1)
    max_pixels: int = Field(default=2048 * 2048, ge=64)
    max_upscaled_pixels: int = Field(default=24_000_000, ge=64)
    max_body_bytes: int = Field(default=32 * 2**20, ge=1024)
    max_json_bytes: int = Field(default=2**20, ge=1024)
    upscaler: str | None = None
    api_keys: CommaSeparated = ()
    admin_keys: CommaSeparated = ()
    allow_no_keys: bool = False
    cors_origins: Origins = ()
    allowed_hosts: HostNames = ()
    log_prompts: bool = False
    shutdown_limit: float = Field(default=30, ge=0)
    storage_provider: str = "memory"
    storage_url: str | None = None
    storage_max_items: int = Field(default=512, ge=1)
    storage_max_bytes: ByteCount = Field(default=2**30, ge=2**20)
    storage_ttl_image: int = Field(default=3600, ge=1)
    storage_enable_http: bool = True

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    _environ: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _files: tuple[Path, ...] = PrivateAttr(default=())

    @classmethod
    def load(cls, *, environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
        """Gather the settings; arguments outrank the environment, which outranks the file.

        The file is ``$IMAGEGEN_CONFIG``; else ``imagegen.toml`` in the working directory, and beneath it the one in the
        user's ``~/.config/imagegen``, where they are.

        Args:
            environ: The environment; None means this process's.
            given: Fields set by hand; None leaves a field to the other sources.

        Raises:
            SettingsError: A value is malformed, a key unknown, or the file unreadable.
        """
        environ = ours(os.environ if environ is None else environ, cls.model_fields)
        return cls._read(find_files(environ), environ).override(**given)

    @property
    def files(self) -> tuple[Path, ...]:
        """The configuration files that these settings were read from, those that count more last."""
        return self._files

    def reread(self) -> Settings:
        """The same settings from the same files as they are now; what was given by hand stays.

        Raises:
            SettingsError: A value is malformed, a key unknown, or a file unreadable.
        """
        given = {field: value.value for field, value in self._found().items() if value.source == field}
        return self._read(self._files, self._environ).override(**given)

    @classmethod
    def _read(cls, files: tuple[Path, ...], environ: Mapping[str, str]) -> Settings:
        in_files = {field: value for file in files for field, value in from_file(file).items()}
        settings = cls._of(in_files | from_environment(environ, cls.model_fields), environ)
        settings._files = files  # noqa: SLF001 - its own
        return settings

    def override(self, **given: Any) -> Settings:
        """These settings with fields set by hand; None leaves a field as it is.

        Raises:
            SettingsError: A value is malformed.
        """
        arguments = {field: Value(value, field) for field, value in given.items() if value is not None}
        settings = self._of(self._found() | arguments, self._environ)
        settings._files = self._files  # noqa: SLF001 - its own
        return settings

    def for_backend(self, environment_prefix: str) -> Settings:
        """These settings with a backend's own variables, such as ``SDXL_MODEL`` for ``SDXL``, put first.

        What was given as an argument stays, and settings built by hand have no variables to look at.
        """
        own = from_backends_own(self._environ, environment_prefix)
        own = {field: value for field, value in own.items() if self.source(field) != field}
        return self._of(self._found() | own, self._environ)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that `device` names; none where the choice is left to the worker."""
        return tuple(self.device.split(",")) if self.device else ()

    def for_device(self, number: int = 0) -> Settings:
        """These settings with one of several devices, as a worker is given them.

        Args:
            number: Which of them, from 0; beyond the last it begins again.
        """
        if len(self.devices) <= 1:
            return self
        one = Value(self.devices[number % len(self.devices)], self.source("device"))
        return self._of(self._found() | {"device": one}, self._environ)

    def source(self, field: str) -> str:
        """Where it came from: ``SDXL_MODEL``, ``dtype in imagegen.toml, line 1``, ``dtype`` by hand, ``default``."""
        return self._sources.get(field, field if field in self.model_fields_set else "default")

    def _found(self) -> dict[str, Value]:
        return {field: Value(getattr(self, field), self.source(field)) for field in self.model_fields_set}

    @classmethod
    def _of(cls, found: Mapping[str, Value], environ: Mapping[str, str]) -> Settings:
        try:
            settings = cls(**{field: given.value for field, given in found.items()})
        except ValidationError as error:
            raise SettingsError(sentence(error, found, cls.model_fields)) from error
        settings._sources.update((field, given.source) for field, given in found.items())
        settings._environ = environ
        return settings
