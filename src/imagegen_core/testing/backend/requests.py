"""Checks of valid requests, and of the refusal of others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageOps

from imagegen_core.backend import Backend
from imagegen_core.errors import InvalidRequestError
from imagegen_core.job import Job
from imagegen_core.picture import Picture
from imagegen_core.request import (
    GenerateRequest,
    HiresOptions,
    InpaintOptions,
    MicroConditioning,
    OutpaintOptions,
    StyleLoraRequest,
    Variation,
)
from imagegen_core.testing.backend.kit import BackendKit, input_image, input_mask
from imagegen_core.testing.quick import QUICK
from imagegen_core.worker import Worker

_BAD: dict[str, dict[str, Any]] = {
    "no size at all": {"size": "12by7"},
    "no multiple of 8": {"size": "65x64"},
    "nothing wide": {"size": "0x64"},
    "no steps": {"num_inference_steps": 0},
    "a negative guidance scale": {"guidance_scale": -1.0},
    "a guidance scale that is not a number": {"guidance_scale": float("nan")},
    "a negative seed": {"seed": -1},
    "a seed that is too large": {"seed": 2**63},
}
# A request that uses a field, and a similar one that must look different.
_OPTIONAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "size": ({"size": "72x64"}, {}),
    "guidance_scale": ({"guidance_scale": 5.0}, {}),
    "negative_prompt": (
        {"guidance_scale": 3.0, "negative_prompt": "a green hill with trees"},
        {"guidance_scale": 3.0},
    ),
    "scheduler": ({"scheduler": "Euler"}, {"scheduler": "LCM"}),
    "clip_skip": ({"clip_skip": 1}, {}),
    "schedule": (
        {"scheduler": "Euler", "schedule": "Karras", "num_inference_steps": 4},
        {"scheduler": "Euler", "num_inference_steps": 4},
    ),
    "guidance_rescale": ({"guidance_scale": 5.0, "guidance_rescale": 0.7}, {"guidance_scale": 5.0}),
    "eta": ({"scheduler": "DDIM", "eta": 0.7}, {"scheduler": "DDIM"}),
    "s_churn": ({"scheduler": "Euler", "s_churn": 5.0}, {"scheduler": "Euler"}),
    "image": ({"image": input_image()}, {}),
    "mask": ({"image": input_image(), "mask": input_mask(), "strength": 0.8}, {"image": input_image()}),
    "strength": ({"image": input_image(), "strength": 0.5}, {"image": input_image(), "strength": 1.0}),
    "resize": (
        {"image": input_image(96, 32), "resize": "crop", "strength": 0.5},
        {"image": input_image(96, 32), "strength": 0.5},
    ),
    "inpaint": (
        {"image": input_image(), "mask": input_mask(), "inpaint": InpaintOptions(invert=True)},
        {"image": input_image(), "mask": input_mask()},
    ),
    "outpaint": ({"image": input_image(), "outpaint": OutpaintOptions(left=16)}, {"image": input_image()}),
    "image_guidance_scale": (
        {"image": input_image(), "guidance_scale": 3.0, "image_guidance_scale": 4.0},
        {"image": input_image(), "guidance_scale": 3.0},
    ),
    "variation": ({"variation": Variation(seed=5, strength=0.5)}, {}),
    "hires": ({"hires": HiresOptions(scale=1.5)}, {}),
    "hires.upscaler": (
        {"hires": HiresOptions(scale=1.5, upscaler="lanczos")},
        {"hires": HiresOptions(scale=1.5)},
    ),
    "micro_conditioning": ({"micro_conditioning": MicroConditioning(crop=(64, 32))}, {}),
    "style_lora": ({"style_lora": StyleLoraRequest(style="no-such-style", level=1)}, {}),
}
_PAINTED: dict[str, Any] = {"image": input_image(), "mask": input_mask(), "strength": 0.5}
_SPOTTED: dict[str, Any] = {**_PAINTED, "mask": ImageOps.expand(Image.new("L", (16, 16), 255), (8, 8, 40, 40))}
_CLOSE = InpaintOptions(only_masked=True, padding=0)
# The same for single options of a field.
_OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "inpaint.fill": ({**_PAINTED, "inpaint": InpaintOptions(fill="zeros")}, _PAINTED),
    "inpaint.blur": ({**_PAINTED, "inpaint": InpaintOptions(blur=6)}, _PAINTED),
    "inpaint.only_masked": ({**_SPOTTED, "inpaint": _CLOSE}, _SPOTTED),
    "inpaint.padding": (
        {**_SPOTTED, "inpaint": InpaintOptions(only_masked=True, padding=16)},
        {**_SPOTTED, "inpaint": _CLOSE},
    ),
    "variation.resize_from": ({"variation": Variation(resize_from="32x32")}, {}),
    "hires.size": ({"hires": HiresOptions(size="96x64")}, {"hires": HiresOptions(size="64x96")}),
    "hires.steps": ({"hires": HiresOptions(scale=1, steps=6)}, {"hires": HiresOptions(scale=1)}),
    "hires.strength": ({"hires": HiresOptions(scale=1, strength=1.0)}, {"hires": HiresOptions(scale=1, strength=0.5)}),
    "hires.scheduler": ({"hires": HiresOptions(scale=1, scheduler="Euler a")}, {"hires": HiresOptions(scale=1)}),
    "hires.prompt": ({"hires": HiresOptions(scale=1, prompt="a green hill")}, {"hires": HiresOptions(scale=1)}),
    "micro_conditioning.original_size": ({"micro_conditioning": MicroConditioning(original_size="16x16")}, {}),
    "micro_conditioning.target_size": ({"micro_conditioning": MicroConditioning(target_size="2048x16")}, {}),
    "micro_conditioning.aesthetic_score": ({"micro_conditioning": MicroConditioning(aesthetic_score=1.0)}, {}),
    "micro_conditioning.negative_crop": (
        {"guidance_scale": 3.0, "micro_conditioning": MicroConditioning(negative_crop=(64, 32))},
        {"guidance_scale": 3.0},
    ),
}


class RequestChecks(BackendKit):
    """Valid and invalid requests."""

    @QUICK
    @pytest.mark.parametrize("fields", _BAD.values(), ids=_BAD)
    def test_bad_input_is_refused(self, worker: Worker, fields: dict[str, Any]) -> None:
        """A server answers an InvalidRequestError with 422 and its sentence. Any other error becomes a 500."""
        request = GenerateRequest.model_construct(
            **{**self.ask().model_dump(), **fields, "style_lora": StyleLoraRequest()}
        )
        request.model_fields_set.update(fields)
        with pytest.raises(InvalidRequestError) as caught:
            worker.run_job(Job(req=request))
        assert len(str(caught.value)) > 20, "the error should be a sentence that says what to do"

    def test_a_refused_request_changes_nothing(self, worker: Worker) -> None:
        """An invalid request must not affect the next request."""
        before = self.draw(worker)
        for method in (worker.run_job, worker.run_job_with_latents):
            with pytest.raises(InvalidRequestError):
                method(Job(req=self.ask(size="12by7")))
        assert self.draw(worker).png == before.png

    def test_any_object_serves_as_a_request(self, worker: Worker) -> None:
        """Programs with older requests, or with their own request class, continue to work."""
        older = SimpleNamespace(prompt="a red lake", size=self.size, num_inference_steps=2, guidance_scale=1.0, seed=1)
        older.style_lora = None
        picture = Picture(*worker.run_job_with_latents(Job(req=older)))  # type: ignore[arg-type]
        assert picture.png == self.draw(worker).png

    def test_the_request_is_not_modified(self, worker: Worker) -> None:
        """A client may send the same object again."""
        request = self.ask(seed=None)
        before, given = request.model_dump(), set(request.model_fields_set)
        worker.run_job(Job(req=request))
        assert (request.model_dump(), request.model_fields_set) == (before, given)

    def test_the_future_is_not_touched(self, worker: Worker) -> None:
        """The worker's caller resolves the job's future, after it stores the picture, or if the job was cancelled."""
        job = Job(req=self.ask())
        worker.run_job(job)
        assert not job.fut.done(), "the worker resolved the job's future"

    @QUICK
    @pytest.mark.parametrize("field", _OPTIONAL)
    def test_unsupported_fields_are_refused(self, worker: Worker, description: Backend, field: str) -> None:
        """A backend must refuse fields that it cannot use: an ignored field gives a wrong picture."""
        asked, field = _OPTIONAL[field][0], field.partition(".")[0]
        if field not in description.lacking:
            pytest.skip(f"the backend supports {field} (Backend.without does not name it)")
        with pytest.raises(InvalidRequestError) as caught:
            self.draw(worker, **asked)
        named = (caught.value.field or "").partition(".")[0]
        assert named == field or (named in asked and named in description.lacking), (
            f"the error's field is {caught.value.field!r}: expected {field}"
        )

    @pytest.mark.parametrize(
        "field", [*(field for field in _OPTIONAL if field not in ("size", "style_lora")), *_OPTIONS]
    )
    def test_supported_fields_have_an_effect(self, worker: Worker, description: Backend, field: str) -> None:
        """An accepted field or option changes the picture. Otherwise name it in Backend.without, or refuse it."""
        used, unused = (_OPTIONAL | _OPTIONS)[field]
        if missing := {field.partition(".")[0], *used} & {*description.lacking}:
            pytest.skip(f"the backend is without {', '.join(sorted(missing))}, as it declares")
        try:
            heeded = self.pixels(worker, **used)
        except InvalidRequestError as error:
            pytest.skip(f"this checkpoint refuses it: {error}")
        assert heeded != self.pixels(worker, **unused), f"{field} was accepted and made no difference"

    @QUICK
    def test_a_refiner_is_not_ignored(self, worker: Worker) -> None:
        """A worker alone has no refiner: with `HandsOver` its caller asks for the first steps alone."""
        with pytest.raises(InvalidRequestError) as caught:
            self.draw(worker, refiner="no-such-model", switch_at=0.5)
        assert caught.value.field == "refiner", f"the error's field is {caught.value.field!r}: expected refiner"

    @QUICK
    def test_an_unknown_style_is_refused(self, worker: Worker) -> None:
        """An unknown style must not be drawn as a picture without it."""
        with pytest.raises(InvalidRequestError):
            self.draw(worker, style_lora=StyleLoraRequest(style="no-such-style", level=1))

    def test_level_0_means_no_style(self, worker: Worker) -> None:
        """Sliders start at 0, whatever style is selected."""
        off = StyleLoraRequest(style="no-such-style", level=0)
        assert self.draw(worker, style_lora=off).png == self.draw(worker).png

    def test_styles_change_pictures_and_leave_no_trace(self, worker: Worker) -> None:
        """A style affects its own request alone: the next picture is the same as before."""
        styles = getattr(worker, "styles", {})
        usable = {name: style for name, style in styles.items() if style.refusal is None}
        if not usable:
            pytest.skip("there is no style that the worker could use")
        plain = self.pixels(worker)
        for name, style in usable.items():
            last = len(style.levels)
            styled = self.pixels(worker, style_lora=StyleLoraRequest(style=name, level=last))
            assert styled != plain, f"the style {name} makes no difference"
            beyond = self.pixels(worker, style_lora=StyleLoraRequest(style=name, level=last + 5))
            assert beyond == styled, f"a level above {last} should mean {last}, the last"
            assert self.pixels(worker) == plain, f"the style {name} was not taken off again"
