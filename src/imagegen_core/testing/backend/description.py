"""Checks of a backend's description, and of creating its worker."""

from __future__ import annotations

import inspect

import pytest

from imagegen_core.backend import Backend
from imagegen_core.description import PLAIN_FORMATS
from imagegen_core.errors import ImagegenError, SettingsError
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import Size
from imagegen_core.settings import Settings
from imagegen_core.testing.backend.kit import BackendKit
from imagegen_core.testing.doctor import check_plugin
from imagegen_core.testing.quick import QUICK
from imagegen_core.worker import Worker


class DescriptionChecks(BackendKit):
    """The description."""

    @QUICK
    def test_plugin_works(self, description: Backend) -> None:
        """Every command imports every plugin: a plugin that imports torch, prints or is broken harms all of them."""
        check_plugin("backend", description.name)

    @QUICK
    def test_the_description_is_complete(self, description: Backend) -> None:
        """Users choose by the summary. A request without a size is drawn at the default size."""
        assert description.summary.strip(), "the summary is empty: say in one line what the backend draws with"
        assert "\n" not in description.summary, "the summary has several lines: `imagegen plugins list` shows one"
        Size.parse(description.default_size)

    @QUICK
    def test_its_families_and_formats_are_declared(self, description: Backend) -> None:
        """A checkpoint selects its backend by its family and format. An undeclared one is never recognized."""
        registry = Registry.discover()
        undeclared = [name for name in description.architectures if name not in {"*", *registry.families}]
        undeclared += [name for name in description.formats if name not in {*PLAIN_FORMATS, *registry.formats}]
        assert not undeclared, f"no installed plugin declares {', '.join(undeclared)} (imagegen_families)"

    @pytest.mark.usefixtures("worker")  # without a checkpoint, the kit says so once
    def test_worker_is_constructed_from_settings(self, description: Backend, settings: Settings) -> None:
        """The command line, the server and the engine all make workers as `Class(worker_id=…, settings=…)`."""
        worker = description.load()(worker_id=3, settings=settings)
        assert isinstance(worker, Worker), "the worker lacks a method of imagegen_core.Worker"
        assert worker.worker_id == 3, f"worker_id is {worker.worker_id}: it should be the 3 that was given"

    @QUICK
    def test_worker_is_constructed_without_arguments(self, description: Backend) -> None:
        """Library users make a worker as `Class()`; it then reads the environment."""
        needed = [
            name
            for name, parameter in inspect.signature(description.load()).parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ]
        assert not needed, f"these have no default: {', '.join(needed)}"

    @QUICK
    @pytest.mark.usefixtures("worker")
    def test_a_missing_device_is_refused(self, description: Backend, settings: Settings) -> None:
        """A user must not silently get another device than requested, and notice it only by the cost or the speed."""
        with pytest.raises(SettingsError):
            description.load()(worker_id=0, settings=settings.override(device="cuda:99"))

    @QUICK
    def test_a_missing_checkpoint_is_refused(self, description: Backend, settings: Settings) -> None:
        """A mistyped path must be reported in a sentence, before anything else is tried."""
        if not description.architectures:
            pytest.skip("the backend loads no checkpoints (Backend.architectures is empty)")
        with pytest.raises(ImagegenError):
            description.load()(worker_id=0, settings=settings.override(model="/no/such/checkpoint"))
