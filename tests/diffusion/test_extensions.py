"""Extensions of plugins take part in denoising, and the plain pipelines' pictures are their oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from imagegen_core import GenerateRequest, InvalidRequestError, Job, LocalEngine, PluginError, Settings, generate
from imagegen_sd15 import DiffusersCudaWorker
from tests.checkpoints import save_sd15
from tests.diffusion.extensions import control_picture
from tests.plugins.installed import Installer

PLUGIN = """
from imagegen_core import hookimpl
from imagegen_sd15.plugin import imagegen_families
from tests.diffusion.extensions import extension

@hookimpl
def imagegen_extensions():
    return [{extensions}]
"""
OFFERS = ", ".join(f"extension({name!r})" for name in ("ControlNet", "Faded", "Inexact"))
OPTIONS: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SD1.5 with a random ControlNet beside it."""
    folder = save_sd15(tmp_path_factory.mktemp("control") / "model")
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet", local_files_only=True)
    torch.manual_seed(3)
    network = diffusers.ControlNetModel.from_unet(unet)
    for parameter in network.parameters():  # its last layers begin with zeros, and so without effect
        if not parameter.any():
            parameter.data = torch.randn_like(parameter) / 10
    network.save_pretrained(folder.with_name("controlnet"))
    return folder


@pytest.fixture(scope="module")
def worker(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        install = Installer(tmp_path_factory.mktemp("plugins") / "site-packages", patch)
        install.add("extras", PLUGIN.format(extensions=OFFERS))
        return DiffusersCudaWorker(settings=_settings(checkpoint))


def _settings(checkpoint: Path, **fields: Any) -> Settings:
    return Settings(model=str(checkpoint), device="cpu", dtype="fp32", recipe=False, scheduler="Euler", **fields)


def _plain(checkpoint: Path, kind: Any = diffusers.StableDiffusionPipeline, **components: Any) -> Any:
    plain = kind.from_pretrained(checkpoint, local_files_only=True, **components)
    plain.scheduler = diffusers.EulerDiscreteScheduler.from_config(plain.scheduler.config)
    plain.set_progress_bar_config(disable=True)
    return plain


def _assert_equal(drawn: Any, expected: Any) -> None:
    assert np.abs(np.asarray(drawn, int) - np.asarray(expected, int)).max() <= 1


def _generator() -> torch.Generator:
    return torch.Generator("cpu").manual_seed(5)


def test_a_controlnet_draws_the_plain_pipelines_picture(worker: Any, checkpoint: Path) -> None:
    network = diffusers.ControlNetModel.from_pretrained(checkpoint.with_name("controlnet"), local_files_only=True)
    plain = _plain(checkpoint, diffusers.StableDiffusionControlNetPipeline, controlnet=network)
    picture = control_picture(5)
    expected = plain("a controlled lake", image=picture, generator=_generator(), **OPTIONS).images[0]
    drawn = generate("a controlled lake", worker=worker, seed=5, **OPTIONS).image
    _assert_equal(drawn, expected)
    free = _plain(checkpoint)("a controlled lake", width=64, height=64, generator=_generator(), **OPTIONS).images[0]
    with pytest.raises(AssertionError):
        _assert_equal(drawn, free)


def test_an_extension_changes_the_latents_after_each_step(worker: Any, checkpoint: Path) -> None:
    def halved(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"] / 2}

    plain = _plain(checkpoint)
    options = {**OPTIONS, "width": 64, "height": 64, "callback_on_step_end": halved}
    expected = plain("a faded lake", generator=_generator(), **options).images[0]
    _assert_equal(generate("a faded lake", worker=worker, seed=5, **OPTIONS).image, expected)


def test_an_extension_changes_the_guided_prediction(worker: Any, checkpoint: Path) -> None:
    plain = _plain(checkpoint)
    plain.unet.register_forward_hook(lambda _module, _inputs, output: (output[0] / 2,))
    expected = plain("a weak lake", width=64, height=64, generator=_generator(), **OPTIONS).images[0]
    _assert_equal(generate("a weak lake", worker=worker, seed=5, **OPTIONS).image, expected)


def _state(worker: Any, prompt: str) -> Any:
    return worker.begin(Job(req=GenerateRequest(prompt=prompt, seed=1)))


def test_only_requests_with_equal_keys_share_a_pass(worker: Any) -> None:
    def group(prompt: str) -> Any:
        return worker.group(_state(worker, prompt))

    assert group("a controlled lake") == group("a controlled sea") != group("a lake")
    assert str(group("a controlled lake")) == f"{group('a lake')}, controlnet canny"
    assert group("a faded lake") == group("a lake")


@pytest.mark.parametrize("batching", ["exact", "fast"])
def test_requests_of_an_inexact_extension_are_drawn_alone(checkpoint: Path, install: Installer, batching: str) -> None:
    install.add("extras", PLUGIN.format(extensions="extension('Inexact')"))
    worker = DiffusersCudaWorker(settings=_settings(checkpoint, batching=batching))
    first, second = (_state(worker, "an inexact lake") for _ in range(2))
    assert (worker.group(first) == worker.group(second)) == (batching == "fast")


@pytest.mark.parametrize("rows", [1, 4])
def test_extensions_keep_pictures_in_company_exact(checkpoint: Path, install: Installer, rows: int) -> None:
    install.add("extras", PLUGIN.format(extensions=OFFERS))
    worker = DiffusersCudaWorker(settings=_settings(checkpoint, rows_per_pass=rows))
    prompts = ["a controlled lake", "a lake", "a controlled sea", "a faded lake", "a weak lake", "an inexact lake"]
    requests = [GenerateRequest(prompt=prompt, seed=seed, **OPTIONS) for seed, prompt in enumerate(prompts)]
    alone = [worker.run_job(Job(req=request))[0] for request in requests]
    with LocalEngine(worker) as engine:
        tickets = [engine.submit(request) for request in requests]
        assert [ticket.result(60).png for ticket in tickets] == alone


def test_a_fault_of_an_extension_concerns_its_request_alone(worker: Any) -> None:
    with LocalEngine(worker) as engine:
        tickets = [engine.submit(GenerateRequest(prompt=prompt, seed=1)) for prompt in ("a faulty lake", "a lake")]
        with pytest.raises(RuntimeError, match="a fault"):
            tickets[0].result(60)
        tickets[1].result(60)


def test_an_extension_that_cannot_be_made_is_named(checkpoint: Path, install: Installer) -> None:
    install.add("extras", PLUGIN.format(extensions="extension('Broken')"))
    with pytest.raises(PluginError, match=r"Extension 'broken' cannot be used, .*Broken raised ValueError: no weights"):
        DiffusersCudaWorker(settings=_settings(checkpoint))


def test_the_numerics_plan_names_the_extensions_distributions(worker: Any) -> None:
    assert worker.numerics.versions["imagegen-extras"] == "1.0"


def test_an_extension_of_other_families_is_not_made(checkpoint: Path, install: Installer) -> None:
    install.add("extras", PLUGIN.format(extensions="extension('Broken', architectures=('sdxl',))"))
    DiffusersCudaWorker(settings=_settings(checkpoint))


def test_a_refusal_by_an_extension_is_the_requests(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_extension: Any, _state: Any) -> None:
        raise InvalidRequestError("Invalid mask: it is empty", "mask")

    monkeypatch.setattr("tests.diffusion.extensions.Faded.begin", refuse)
    with pytest.raises(InvalidRequestError, match="Invalid mask"):
        generate("a lake", worker=worker)
