"""Configuration from arguments, the environment and ``imagegen.toml``, each value with its source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from imagegen_core.errors import SettingsError
from imagegen_core.request import MAX_GUIDANCE
from imagegen_core.settings.error_messages import sentence
from imagegen_core.settings.loading import TracedSource
from imagegen_core.settings.own import Own, prefix_of, validated
from imagegen_core.settings.sources import (
    PER_BACKEND,
    ProcessEnvironment,
    Value,
    find_files,
    from_backends_own,
    ours,
    variables,
)
from imagegen_core.settings.tables import ModeTables, StyleSettings
from imagegen_core.settings.values import (
    ByteCount,
    CommaSeparated,
    DeviceNames,
    HostNames,
    MemorySize,
    ModelAliases,
    Networks,
    Origins,
    PredictionName,
    RootPath,
)

_sources: ContextVar[tuple[PydanticBaseSettingsSource, ...]] = ContextVar("sources", default=())  # of `Settings.load`


class Settings(BaseSettings):
    """The configuration of this process: built by `Settings.load`, or directly with the fields as keywords.

    Attributes:
        backend: The name of the backend; None chooses it by the checkpoint.
        backends: Backends in order of preference, for a checkpoint that several can draw with; the others follow.
        use_sdxl: The contract's switch: True chooses a backend for the family of that name; `backend` has precedence.
        model: A checkpoint: a path, a name below `model_root`, or a plugin's named model such as ``demo``.
        model_root: The base folder of checkpoint names and relative LoRA paths.
        device: ``cuda:0``, ``mps``, ``cpu``; None takes the first that is available. With several, such as
            ``cuda:0,cuda:1``, a server draws on all of them, and everything else on the first.
        dtype: ``fp16``, ``bf16`` or ``fp32``; None takes the best one for the device.
        vae_path: A VAE file or diffusers-format folder, instead of the checkpoint's VAE.
        fast_decode: A tiny VAE's file or folder, such as TAESD's. It decodes pictures and previews in a fraction of the
            VAE's time, with other pixels.
        preview_decode: A tiny VAE's file or folder for previews alone; None takes that of `fast_decode`.
        base_model: A diffusers-format folder for the missing parts of a single-file checkpoint: its tokenizers, and
            configs and components if it has none or has an unusual width.
        lora_root: A folder of LoRA files, each a style with the file's name.
        styles: Styles by id, each a table ``[styles.NAME]`` in the file.
        tables: The own tables of backends by name, each a table ``[NAME]`` in the file; see `own`. Every backend has
            the keys ``model`` and ``model_root`` there.
        modes: Modes by name, each a table ``[modes.NAME]`` in the file; see `imagegen_core.modes`.
        modes_file: A ``modes.yaml`` instead, or its folder; None looks for one next to the configuration file.
        default_mode: The mode if a request names none; None is the first.
        memory_budget: Bytes for all models of a server together on each device, such as ``6GB``; None is 0.8 of the
            memory that is free there before the first model.
        embeddings_root: A folder of textual-inversion embeddings; prompts name them by their files' names.
        scheduler: The sampler if a request names none; see `imagegen_core.samplers`. The default is LCM, or for an EDM
            checkpoint its own.
        prediction: The prediction type of the checkpoint: ``epsilon``, ``v``, ``v-zsnr``, ``sample``, ``edm`` or
            ``edm-v``; None reads it from the checkpoint.
        recipe: Whether pictures carry their recipe; see `imagegen_core.images.recipe`.
        embed_inputs: The largest input picture that a recipe has itself, in bytes as PNG, such as ``256KB`` and up to
            ``1MiB``. Then a replay needs no picture. The default, 0, embeds none.
        batching: With ``exact``, an engine shares forward passes only if every picture stays the same; with ``fast``
            always.
        compile: Compile the network with ``torch.compile``: minutes more to start, but faster steps on most GPUs.
        cuda_graphs: Replay the network's passes from CUDA graphs: equal pictures with fewer launches from the CPU, for
            more memory; None does so on a GPU with room for it.
        enable_xformers: Use xformers' attention kernels.
        attention_slicing: Compute attention in slices: less memory, slower.
        vae_dtype: The VAE's precision: ``fp16``, ``bf16`` or ``fp32``. None is the model's; if its VAE overflows in
            fp16, then bf16 on NVIDIA GPUs since Ampere, and fp32 elsewhere.
        vae_channels_last: Keep the VAE's channels last in memory; None does so on a CPU and on NVIDIA GPUs since
            Ampere.
        int8: Compute large layers in int8 on a CPU: faster, with small changes of every picture.
        vae_tiling: Decode every picture in tiles, for less memory, or no picture; None decides by the device's total
            memory and the picture's size.
        memory: The bytes of the device's memory for a model and its pictures, such as ``6GB``; ``auto``, the default,
            means 0.85 of the device's total memory. It decides at load whether components leave the device while
            others compute, and whether weights are stored in eight bits.
        weight_storage: ``int8`` stores large weights in eight bits, which changes pictures a little; ``full`` stores
            them in the model's precision; None decides by `memory`.
        rows_per_pass: The rows that every forward pass is filled up to, so that pictures share passes exactly where
            results depend on the number of rows, as on GPUs; the default, 1, fills none.
        num_workers: The number of copies of the model in a server, assigned to the devices in turn; None is one per
            device.
        engine: ``local`` draws in the server's process, ``ray`` on a Ray cluster.
        replicas: The number of processes that draw on the cluster; the minimum if `max_replicas` is set.
        max_replicas: The maximum when the number follows the load; None keeps the number fixed.
        replica_gpus: GPUs reserved for a replica; None is one per configured device, or one if the cluster has GPUs.
        replica_cpus: CPU cores reserved for a replica.
        queue_max: The maximum number of waiting requests in a server; more are refused.
        queue_per_key: The maximum of these for one API key; None sets no separate limit.
        host: The address for a server to listen on.
        port: The port for a server to listen on.
        root_path: The path prefix of the server behind a proxy, such as ``/ai``.
        trusted_proxies: Addresses and networks of proxies with trusted ``X-Forwarded-For``, ``-Proto``, ``-Host`` and
            ``-Prefix`` headers.
        max_connections: The maximum number of open connections of a server.
        read_timeout: Seconds to complete a request's headers, and for a slow client to make progress.
        default_timeout: Seconds until a server gives up a request.
        default_size: The size if a request to a server names none; None is the checkpoint's native size.
        default_steps: The denoising steps if a request to a server names none.
        default_guidance: The guidance scale if a request to a server names none.
        max_steps: The maximum number of denoising steps in a server.
        max_prompt_chars: The maximum length of a prompt and of a negative prompt in a server, in characters.
        max_prompt_chunks: The maximum length of a prompt in chunks of up to 75 tokens.
        max_pixels: The largest picture that a server draws, in pixels.
        max_input_pixels: The largest input picture of a request to a server, in pixels.
        max_upscaled_pixels: The largest upscaled picture of a server, in pixels.
        max_body_bytes: The largest request body, in bytes.
        max_json_bytes: The largest JSON body without a picture, in bytes.
        picture_hosts: Hosts from which a server fetches input pictures given as URLs; ``*.example.org`` is every host
            below it, ``*`` any. A private address must stand here itself. Without any, a server fetches nothing.
        model_aliases: Other names of models in OpenAI's API, for clients with a fixed name: ``gpt-image-1`` for the
            default mode, ``gpt-image-1=portrait`` for another.
        upscaler: The upscaler of a server: a plugin's, ``lanczos`` or a file; None is a plugin's first.
        api_keys: The API keys that clients of a server need; without any, all clients have access.
        admin_keys: The API keys that may also change the server for all clients; without any, all keys may.
        allow_no_keys: Allow other addresses than loopback without API keys.
        cors_origins: Origins of web pages that may use a server, such as ``https://example.org``; ``*`` is any.
        allowed_hosts: Host names of a server, in addition to loopback and the address it listens on; ``*.example.org``
            is every host below it, ``*`` any.
        log_prompts: Whether a server's logs contain prompts.
        shutdown_limit: The maximum number of seconds to finish requests at shutdown.
        storage_provider: The picture store of a server: ``memory``, ``filesystem``, ``redis``, a plugin's, or
            ``disabled``.
        storage_url: The folder, object store or Redis server, as a path or URL.
        storage_max_items: The maximum number of stored pictures.
        storage_max_bytes: The maximum size of all stored pictures, and separately of all finished jobs, such as
            ``1GB``.
        storage_ttl_image: Seconds until a stored picture expires.
        storage_enable_http: Whether a server has the routes below ``/storage``.
    """

    model_config = SettingsConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_default=False)

    backend: str | None = None
    backends: CommaSeparated = ()
    use_sdxl: bool | None = None
    model: str | None = None
    model_root: Path | None = None
    device: DeviceNames | None = None
    dtype: Literal["fp16", "bf16", "fp32"] | None = None
    vae_path: Path | None = None
    fast_decode: Path | None = None
    preview_decode: Path | None = None
    base_model: Path | None = None
    lora_root: Path | None = None
    styles: Mapping[str, StyleSettings] = Field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    modes: ModeTables = Field(default_factory=dict)
    modes_file: Path | None = None
    default_mode: str | None = None
    memory_budget: ByteCount | None = Field(default=None, ge=1)
    embeddings_root: Path | None = None
    scheduler: str = "LCM"
    prediction: PredictionName | None = None
    recipe: bool = True
    embed_inputs: ByteCount = Field(default=0, ge=0, le=2**20)
    batching: Literal["exact", "fast"] = "exact"
    compile: bool = False
    cuda_graphs: bool | None = None
    enable_xformers: bool = False
    attention_slicing: bool = False
    vae_dtype: Literal["fp16", "bf16", "fp32"] | None = None
    vae_channels_last: bool | None = None
    int8: bool = False
    vae_tiling: bool | None = None
    memory: MemorySize | None = None
    weight_storage: Literal["full", "int8"] | None = None
    rows_per_pass: int = Field(default=1, ge=1, le=16)
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
    max_input_pixels: int = Field(default=24_000_000, ge=64)
    max_upscaled_pixels: int = Field(default=24_000_000, ge=64)
    max_body_bytes: int = Field(default=32 * 2**20, ge=1024)
    max_json_bytes: int = Field(default=2**20, ge=1024)
    picture_hosts: HostNames = ()
    model_aliases: ModelAliases = ()
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
    _places: Mapping[str, str] = PrivateAttr(default_factory=dict)  # of the keys of `tables`
    _process: ProcessEnvironment = PrivateAttr(default_factory=ProcessEnvironment)

    @classmethod
    def load(cls, *, environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
        """Gather the settings; arguments override the environment, and the environment overrides the file.

        The file is ``$IMAGEGEN_CONFIG``. Otherwise ``imagegen.toml`` in the working directory overrides the one in the
        user's ``~/.config/imagegen``; both are optional.

        Args:
            environ: The environment; None means this process's.
            given: Fields as arguments; None leaves a field to the other sources.

        Raises:
            SettingsError: A value is malformed, a key unknown, or the file unreadable.
        """
        process = ProcessEnvironment(os.environ if environ is None else environ)
        environ = ours(process, cls.model_fields)
        settings = cls._read(find_files(environ), environ)
        settings._process = process  # noqa: SLF001 - its own
        return settings.override(**given)

    @property
    def files(self) -> tuple[Path, ...]:
        """The configuration files of these settings; a later file overrides an earlier one."""
        return self._files

    def reread(self) -> Settings:
        """Read the same files again; arguments stay.

        Raises:
            SettingsError: A value is malformed, a key unknown, or a file unreadable.
        """
        given = {field: value.value for field, value in self._found().items() if value.source == field}
        settings = self._read(self._files, self._environ)
        settings._process = self._process  # noqa: SLF001 - its own
        return settings.override(**given)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a field's variables depend on more than its name
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return arguments and, within `load`, the environment and the files; the first source of a field counts."""
        return (init_settings, *_sources.get())

    @classmethod
    def _read(cls, files: tuple[Path, ...], environ: Mapping[str, str]) -> Settings:
        environment, in_files = TracedSource.environment(cls, environ), TracedSource.files(cls, files)
        reading = _sources.set((environment, in_files))
        try:
            settings = cls._of({}, environ, {**in_files.values, **environment.values})
        finally:
            _sources.reset(reading)
        settings._files, settings._places = files, in_files.places  # noqa: SLF001 - its own
        return settings

    def override(self, **given: Any) -> Settings:
        """Return a copy with some fields as arguments; None leaves a field as it is.

        Raises:
            SettingsError: A value is malformed.
        """
        arguments = {field: Value(value, field) for field, value in given.items() if value is not None}
        return self._with(arguments)

    def for_backend(self, environment_prefix: str) -> Settings:
        """Return a copy that prefers a backend's own values, such as ``MINE_MODEL`` or ``[mine] model`` for ``MINE``.

        Arguments stay. A variable without a backend's name comes before the backend's table in the file. Settings that
        were built directly have no variables to read.
        """
        own = self._of_table(environment_prefix) | from_backends_own(self._environ, environment_prefix)
        if self.source("tables") == "tables":
            own |= self._of_table(environment_prefix)
        return self._with({field: value for field, value in own.items() if self.source(field) != field})

    def own(self, name: str, model: type[Own]) -> Own:
        """Return a backend's own settings: its variables, such as ``MINE_THREADS``, then its table ``[mine]``.

        Args:
            name: The backend's name.
            model: Its pydantic model; a list or table in a variable is JSON.

        Raises:
            SettingsError: A value is malformed or missing.
        """
        return validated(model, self.own_values(name, model.model_fields), name)

    def own_values(self, name: str, fields: Iterable[str]) -> dict[str, Value]:
        """Return the values of a backend's own settings as they stand in their sources."""
        variables = {field: f"{prefix_of(name)}_{field.upper()}" for field in fields}
        environment = {
            field: Value(self._process[variable], variable)
            for field, variable in variables.items()
            if self._process.get(variable)
        }
        table = {
            key: Value(value, self.place(name, key))
            for key, value in self.tables.get(name, {}).items()
            if key in variables
        }
        return environment | table if self.source("tables") == "tables" else table | environment

    @property
    def devices(self) -> tuple[str, ...]:
        """The device names in `device`; none if the worker chooses."""
        return tuple(self.device.split(",")) if self.device else ()

    def for_device(self, number: int = 0) -> Settings:
        """Return a copy with one of the devices, for a worker.

        Args:
            number: The device's index, from 0; after the last it starts again.
        """
        if len(self.devices) <= 1:
            return self
        return self._with({"device": Value(self.devices[number % len(self.devices)], self.source("device"))})

    def source(self, field: str) -> str:
        """Return a field's source: ``MINE_MODEL``, ``dtype in imagegen.toml, line 1``, ``dtype`` or ``default``."""
        return self._sources.get(field, field if field in self.model_fields_set else "default")

    def place(self, table: str, key: str) -> str:
        """Return the place of a key in a backend's own table: ``mine.model in imagegen.toml, line 4``."""
        return self._places.get(f"{table}.{key}", f"{table}.{key}")

    def _of_table(self, environment_prefix: str) -> dict[str, Value]:
        """Return the general fields in a backend's table that no variable outranks."""
        found = {}
        for name, table in self.tables.items():
            for field in PER_BACKEND if prefix_of(name) == environment_prefix else ():
                is_outranked = self.source("tables") != "tables" and self.source(field) in variables(field)
                if field in table and not is_outranked:
                    found[field] = Value(table[field], self.place(name, field))
        return found

    def _with(self, values: Mapping[str, Value]) -> Settings:
        settings = self._of({**self._found(), **values}, self._environ)
        settings._files, settings._places, settings._process = self._files, self._places, self._process  # noqa: SLF001
        return settings

    def _found(self) -> dict[str, Value]:
        return {field: Value(getattr(self, field), self.source(field)) for field in self.model_fields_set}

    @classmethod
    def _of(
        cls, given: Mapping[str, Value], environ: Mapping[str, str], read: Mapping[str, Value] | None = None
    ) -> Settings:
        """Build settings from arguments; `read` tells the places of values from other sources."""
        values = {**(read or {}), **given}
        try:
            settings = cls(**{field: value.value for field, value in given.items()})
        except ValidationError as error:
            raise SettingsError(sentence(error, values, cls.model_fields)) from error
        settings._sources.update((field, value.source) for field, value in values.items())
        settings._environ = environ
        return settings
