"""The memory plan: decided by weights and total memory, with the sizes of the released networks."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagegen_core import Settings, SettingsError, Size
from imagegen_core.diffusion.memory_planning import checkpoint_bytes, device_budget, estimated_work
from imagegen_core.memory_plan import Memory, MemoryPlan, Shapes, Work, plan_memory
from imagegen_core.models.component_shapes import component_shapes
from imagegen_sd15.families import SD15
from imagegen_sdxl.families import SDXL
from tests.docs.networks import released
from tests.layouts import save_single_file

GIB = 2**30
MAIN = 64 * GIB
SIZES = {"sd15": Size(512, 512), "sdxl": Size(1024, 1024)}
FAMILIES = {"sd15": SD15, "sdxl": SDXL}


def _shapes(family: str) -> dict[str, dict[str, tuple[int, ...]]]:
    networks = released(family)
    parts = {"unet": networks.unet, "vae": networks.vae}
    parts |= {f"text_encoder{'_2' if number else ''}": text for number, text in enumerate(networks.texts)}
    return {
        name: {key: tuple(tensor.shape) for key, tensor in part.state_dict().items()} for name, part in parts.items()
    }


SHAPES = {family: _shapes(family) for family in SIZES}


def _plan(
    family: str,
    kind: str,
    total: float,
    *,
    given: bool = False,
    main: int = MAIN,
    storage: str | None = None,
    vae_dtype: torch.dtype | None = None,
) -> MemoryPlan:
    dtype = torch.bfloat16 if kind == "cpu" else torch.float16
    shapes, size = SHAPES[family], SIZES[family]
    memory = Memory(kind, int(total), is_given=given, main=main)
    work = estimated_work(shapes, FAMILIES[family], size, dtype, vae_dtype or dtype)
    return plan_memory(checkpoint_bytes(shapes, dtype), "unet", size, work, memory, storage)


def _kept(plan: MemoryPlan) -> str:
    offloaded = {name.partition("_")[0] for name in plan.offloaded}
    words = [plan.storage, *sorted(offloaded), "streamed" if plan.streamed else None]
    return " ".join(word for word in words if word) or "whole"


@pytest.mark.parametrize(
    ("family", "gigabytes", "since_ampere", "before"),
    [
        ("sd15", 2, "text streamed", "text vae streamed"),
        ("sd15", 4, "whole", "text unet"),
        ("sd15", 6, "whole", "whole"),
        ("sdxl", 4, "text streamed", "text streamed"),
        ("sdxl", 6, "text streamed", "text streamed"),
        ("sdxl", 8, "text unet", "text unet"),
        ("sdxl", 10, "whole", "text"),
        ("sdxl", 12, "whole", "whole"),
        ("sdxl", 24, "whole", "whole"),
    ],
)
def test_a_gpu_keeps_the_pictures_and_moves_weights(
    family: str, gigabytes: int, since_ampere: str, before: str
) -> None:
    """GPUs before Ampere decode in fp32."""
    for vae_dtype, kept in ((torch.bfloat16, since_ampere), (torch.float32, before)):
        plan = _plan(family, "cuda", gigabytes * GIB, vae_dtype=vae_dtype)
        assert plan.fits
        assert plan.storage is None
        assert _kept(plan) == kept


@pytest.mark.parametrize(
    ("family", "gigabytes", "kept", "tile"),
    [
        ("sd15", 2, "int8", 256),
        ("sd15", 4, "whole", 512),
        ("sd15", 6, "whole", 512),
        ("sdxl", 6, "int8", 512),
        ("sdxl", 8, "int8", 512),
        ("sdxl", 12, "whole", 512),
        ("sdxl", 24, "whole", 512),
    ],
)
def test_a_cpu_stores_weights_in_eight_bits(family: str, gigabytes: int, kept: str, tile: int) -> None:
    plan = _plan(family, "cpu", gigabytes * 1e9, given=True)
    assert plan.fits
    assert (_kept(plan), plan.tile) == (kept, tile)


def test_without_main_memory_for_the_offloaded_weights_a_gpu_stores_eight_bits() -> None:
    assert _plan("sdxl", "cuda", 6 * GIB, main=8 * GIB).storage == "int8"


def test_the_settings_fix_the_storage() -> None:
    assert _plan("sdxl", "cpu", 64 * GIB, storage="int8").storage == "int8"
    assert _plan("sdxl", "cpu", 4 * GIB, storage="full").storage is None


def test_a_model_that_fits_nowhere_has_the_smallest_plan() -> None:
    plan = _plan("sdxl", "cuda", 1 * GIB, vae_dtype=torch.float32)
    assert not plan.fits
    assert plan.tile == 256
    assert plan.peak == min(
        _plan("sdxl", "cuda", bytes_, vae_dtype=torch.float32).peak for bytes_ in range(GIB, 24 * GIB, GIB)
    )


@given(
    full=st.lists(st.integers(10**6, 10**10), min_size=3, max_size=5),
    total=st.integers(10**8, 10**11),
    kind=st.sampled_from(["cpu", "cuda", "mps"]),
)
def test_more_memory_never_needs_more_savings(full: list[int], total: int, kind: str) -> None:
    names = ["unet", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"]
    components = {name: Shapes(size, size // 2, size // 100) for name, size in zip(names, full, strict=False)}

    def peak(total: int) -> int:
        memory = Memory(kind, total, is_given=True, main=10**12)
        plan = plan_memory(components, "unet", Size(512, 512), Work(10**8, 4000), memory)
        assert plan.fits == (plan.peak <= plan.room)
        return plan.peak

    assert peak(total) <= peak(2 * total) <= peak(10**12)


def test_the_headers_tell_the_shapes(sdxl_checkpoint: Path, tmp_path: Path) -> None:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    loaded = {
        name: sum(tensor.nbytes for tensor in getattr(pipe, name).parameters())
        for name in ("unet", "vae", "text_encoder", "text_encoder_2")
    }
    save_single_file(pipe, tmp_path / "model.safetensors")
    for path in (sdxl_checkpoint, tmp_path / "model.safetensors"):
        found = checkpoint_bytes(component_shapes(path, SDXL), torch.float32)
        assert {name: shapes.full for name, shapes in found.items()} == loaded


def test_the_settings_limit_the_memory() -> None:
    device = torch.device("cpu")
    everything, part = device_budget(device, Settings()), device_budget(device, Settings(memory="2GB"))
    assert (part.total, part.room) == (2 * 10**9, 14 * 10**8)
    assert everything.room < everything.total
    assert Settings(memory="auto") == Settings()
    with pytest.raises(SettingsError, match=r"allows 9000\.0 GB, and cpu has [\d.]+ GB: name less, or unset it$"):
        device_budget(device, Settings.load(environ={"IMAGEGEN_MEMORY": "9TB"}))
