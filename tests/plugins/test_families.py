"""Families and formats of plugins: they tell files and folders apart, and choose the backend."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from imagegen_core import BackendNotFoundError, ModelLoadError, Registry, Settings
from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.models.inspect import Recognized, architecture, describe, native_size, recognize
from imagegen_core.models.locate import checkpoints_below
from imagegen_core.resolution.backends import select_backend
from imagegen_core.resolution.checkpoints import resolve_checkpoint
from tests.models.files import save_header
from tests.plugins.installed import Installer

FLUX = """
from imagegen_core import Backend, Family, hookimpl

@hookimpl
def imagegen_backends():
    return [Backend("flux", "FLUX.1", "nowhere:Worker", "1024x1024", architectures=("flux",), without=("scheduler",))]

@hookimpl
def imagegen_families():
    return [
        Family(
            name="flux",
            title="FLUX.1",
            package="imagegen-flux",
            components=("transformer", "vae", "text_encoder", "text_encoder_2"),
            pipelines=("FluxPipeline",),
            prefixes={"model.diffusion_model.": "transformer", "vae.": "vae", "image_encoder.": "image_encoder"},
            layouts={
                "original": ("img_in.weight", "double_blocks.0.", "single_blocks.0."),
                "diffusers": ("x_embedder.weight", "transformer_blocks.0.", "single_transformer_blocks.0."),
            },
            lora_marks=("single_transformer_blocks|double_blocks",),
            latent_channels=16,
            default_sampler="checkpoint",
        )
    ]
"""
# The names of https://huggingface.co/black-forest-labs/FLUX.1-dev, with the shapes of its first layers.
ORIGINAL = {
    "img_in.weight": (3072, 64),
    "double_blocks.0.img_attn.qkv.weight": (9216, 3072),
    "single_blocks.0.linear1.weight": (21504, 3072),
}
DIFFUSERS = {
    "x_embedder.weight": (3072, 64),
    "transformer_blocks.0.attn.add_k_proj.weight": (3072, 3072),
    "single_transformer_blocks.0.attn.to_k.weight": (3072, 3072),
}
VAE = {"decoder.conv_in.weight": (512, 16, 3, 3), "decoder.up.0.block.0.conv1.weight": (128, 128, 3, 3)}

GGJT = """
from imagegen_core import Backend, Description, Format, ModelLoadError, hookimpl

def describe(path):
    if not path.is_file() or path.read_bytes()[:4] != b"GGJT":
        return None
    if path.stat().st_size < 8:
        raise ModelLoadError(f"{path} is a cut GGJT file: download it again")
    told = {"layout": "ggjt", "family": "sdxl", "format": "ggjt", "size": 8, "native_size": "64x64"}
    return Description(kind="checkpoint", path=path, **told)

@hookimpl
def imagegen_backends():
    return [
        Backend("cpp", "GGJT", "nowhere:Worker", "512x512", architectures=("*",), formats=("ggjt",),
                without=("style_lora",))
    ]

@hookimpl
def imagegen_formats():
    return [Format(name="ggjt", title="GGJT file", package="imagegen-cpp", describe=describe, suffixes=(".ggjt",))]
"""


def _index(folder: Path, pipeline: str, **configs: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    for component, config in configs.items():
        (folder / component).mkdir()
        (folder / component / "config.json").write_text(json.dumps(config))
    return folder


def test_a_declared_family_is_recognized_in_files_of_each_layout(install: Installer, tmp_path: Path) -> None:
    install.add("flux", FLUX)
    alone = save_header(tmp_path / "a.safetensors", ORIGINAL)
    assert (describe(alone).kind, describe(alone).layout, describe(alone).family) == ("transformer", "original", "flux")
    prefixed = {f"model.diffusion_model.{name}": shape for name, shape in ORIGINAL.items()}
    whole = describe(save_header(tmp_path / "b.safetensors", prefixed | {f"vae.{name}": VAE[name] for name in VAE}))
    assert (whole.kind, whole.family, whole.components) == ("checkpoint", "flux", ("transformer", "vae"))
    assert whole.missing == ("text_encoder", "text_encoder_2")
    more = prefixed | {"image_encoder.visual_projection.weight": (768, 1024)}
    assert describe(save_header(tmp_path / "c.safetensors", more)).components == ("transformer", "image_encoder")
    assert describe(save_header(tmp_path / "c.safetensors", DIFFUSERS)).layout == "diffusers"
    lora = {"transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": (4, 3072)}
    assert describe(save_header(tmp_path / "d.safetensors", lora)).family == "flux"
    assert describe(save_header(tmp_path / "e.safetensors", VAE)).kind == "vae"


def test_a_declared_family_is_recognized_in_folders(install: Installer, tmp_path: Path) -> None:
    install.add("flux", FLUX)
    vae = {"block_out_channels": [128, 256, 512, 512], "latent_channels": 16}
    folder = _index(tmp_path / "flux", "FluxPipeline", transformer={"in_channels": 64}, vae=vae)
    assert architecture(folder) == "flux"
    assert (describe(folder).family, native_size(folder, "1024x1024")) == ("flux", "1024x1024")
    assert select_backend(Registry.discover(), Settings(model=str(folder))).name == "flux"
    incomplete = _index(tmp_path / "incomplete", "FluxPipeline")
    with pytest.raises(ModelLoadError, match="incomplete: transformer/config.json is missing; copy it again"):
        architecture(incomplete)


@pytest.mark.parametrize(
    ("pipeline", "package"),
    [
        ("FluxPipeline", "imagegen-flux"),
        ("StableDiffusion3Pipeline", "imagegen-sd3"),
        ("StableDiffusionXLPipeline", "imagegen-sdxl"),
        ("StableDiffusionPipeline", "imagegen-sd15"),
        ("QwenImagePipeline", "imagegen-diffusers"),
    ],
)
def test_an_undeclared_folder_names_the_package(
    install: Installer, tmp_path: Path, pipeline: str, package: str
) -> None:
    install.backend("mine", architectures=("mine",))
    folder = _index(tmp_path / "model", pipeline, transformer={})
    words = f"^{folder} is a {pipeline} checkpoint, and no installed plugin draws it: pip install {package}$"
    for function in (describe, architecture, recognize):
        with pytest.raises(ModelLoadError, match=words):
            function(folder)
    with pytest.raises(ModelLoadError, match=words):
        select_backend(Registry.discover(), Settings(model=str(folder)))


def test_an_undeclared_file_names_the_package(install: Installer, tmp_path: Path) -> None:
    install.backend("mine")
    path = save_header(tmp_path / "a.safetensors", ORIGINAL)
    with pytest.raises(
        ModelLoadError, match="is a FLUX.1 checkpoint, and no installed plugin draws it: pip install im"
    ):
        architecture(path)


def test_a_folder_of_a_known_package_and_another_architecture_is_refused(install: Installer, tmp_path: Path) -> None:
    install.backend("sdxl", architectures=("sdxl",))
    folder = _index(tmp_path / "model", "StableDiffusionXLPipeline", unet={"cross_attention_dim": 96})
    with pytest.raises(
        ModelLoadError, match="XLPipeline checkpoint of an architecture that imagegen-sdxl does not know"
    ):
        architecture(folder)


def test_a_broken_plugin_is_named_with_its_families(install: Installer, tmp_path: Path) -> None:
    install.add("flux", "import not_there")
    folder = _index(tmp_path / "model", "FluxPipeline", transformer={})
    with pytest.raises(
        ModelLoadError, match="imagegen-flux is installed, and broken: .*not_there.*; pip install not_t"
    ):
        architecture(folder)


def test_a_failing_family_leaves_the_others_alone(
    install: Installer, sdxl_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install.add(
        "bad",
        """
from imagegen_core import Family, hookimpl

@hookimpl
def imagegen_families():
    return [
        Family(name="bad", title="Bad", package=None, components=("unet",), layouts={"diffusers": ("conv_in.weight",)},
               matches_file=lambda shapes: 1 / 0, matches_folder=lambda index, config: 1 / 0)
    ]
""",
    )
    install.backend("sdxl", architectures=("sdxl",))
    assert architecture(sdxl_checkpoint) == "sdxl"
    assert architecture(next((sdxl_checkpoint / "unet").glob("*.safetensors"))) == "sdxl"
    for function in ("matches_file", "matches_folder"):
        assert f"The family bad is left out, as its {function} raised ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("components=()", "components are empty, where the denoising network comes first"),
        ("components=('unet',), layouts={'ldm': ()}", "layouts have an entry without names"),
        ("components=('unet',), lora_marks=('(',)", "lora_marks hold '\\('.*not a regular expression"),
        ("components='unet'", "components is 'unet', where tuple.* belongs"),
        ("components=('unet',), prefixes=3", "prefixes is 3, where Mapping.* belongs"),
    ],
)
def test_an_unusable_family_breaks_its_plugin(install: Installer, fields: str, words: str) -> None:
    install.add(
        "bad",
        f"""
from imagegen_core import Family, hookimpl

@hookimpl
def imagegen_families():
    return [Family(name="bad", title="Bad", package=None, {fields})]
""",
    )
    (plugin,) = Registry.discover({}).plugins
    assert plugin.status == "broken"
    assert re.search(words, plugin.cause)


def test_a_declared_format_is_recognized(install: Installer, tmp_path: Path) -> None:
    install.add("cpp", GGJT)
    install.backend("sdxl", architectures=("sdxl",))
    registry, path = Registry.discover(), tmp_path / "model.ggjt"
    path.write_bytes(b"GGJT" + bytes(4))
    assert recognize(path) == Recognized("ggjt", "sdxl")
    assert (describe(path).format, native_size(path, "512x512")) == ("ggjt", "64x64")
    assert checkpoints_below(tmp_path, registry.formats.values()) == [path]
    settings = Settings(model=str(path))
    assert select_backend(registry, settings).name == "cpp"
    card = ModelCard.of_files(settings, registry)
    assert (card.path, card.size, card.styles, card.sampler) == (path, "64x64", {}, None)
    with pytest.raises(ModelLoadError, match="in the format ggjt, which backend 'sdxl' does not load; .*BACKEND=cpp"):
        resolve_checkpoint(settings, registry.backend("sdxl"), registry)
    path.write_bytes(b"GGJT")
    with pytest.raises(ModelLoadError, match="is a cut GGJT file: download it again"):
        select_backend(registry, settings)


def test_a_format_comes_before_the_families_and_a_fallback_after_them(
    install: Installer, sdxl_checkpoint: Path, tmp_path: Path
) -> None:
    code = """
from imagegen_core import Description, Format, hookimpl

@hookimpl
def imagegen_formats():
    return [Format(name="any", title="anything", package="imagegen-any", is_fallback={is_fallback},
                   describe=lambda path: Description(kind="checkpoint", layout="any", path=path, format="any", size=0))]
"""
    install.backend("sdxl", architectures=("sdxl",))
    install.add("last", code.format(is_fallback=True))
    other = _index(tmp_path / "other", "QwenImagePipeline")
    assert recognize(sdxl_checkpoint) == Recognized("folder", "sdxl")
    assert recognize(other) == Recognized("any", None)
    with pytest.raises(BackendNotFoundError, match="No installed backend draws any .*pip install imagegen-any"):
        select_backend(Registry.discover(), Settings(model=str(other)))
    with pytest.raises(ModelLoadError, match="Cannot tell the family of .*: its format, any, does not say it"):
        architecture(other)
    incomplete = _index(tmp_path / "incomplete", "StableDiffusionXLPipeline")
    with pytest.raises(ModelLoadError, match="is incomplete: unet/config.json is missing"):
        recognize(incomplete)
    install.add("first", code.format(is_fallback=False).replace('"any"', '"mine"'))
    assert recognize(sdxl_checkpoint) == Recognized("mine", None)


def test_a_failing_format_leaves_the_others_alone(
    install: Installer, sdxl_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install.add("cpp", GGJT.replace("def describe(path):", "def describe(path):\n    1 / 0"))
    install.backend("sdxl", architectures=("sdxl",))
    assert recognize(sdxl_checkpoint) == Recognized("folder", "sdxl")
    assert "The format ggjt is left out, as its describe raised ZeroDivisionError" in caplog.text
    wrong = GGJT.replace("ggjt", "odd").replace('"cpp"', '"odd"')
    install.add("wrong", wrong.replace("def describe(path):", "def describe(path):\n    return 3"))
    assert recognize(sdxl_checkpoint) == Recognized("folder", "sdxl")
    assert "The format odd is left out, as its describe returned <class 'int'>" in caplog.text
