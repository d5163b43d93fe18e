"""The format of exported folders: it lets imagegen recognize them, and choose the backend."""

from __future__ import annotations

from pathlib import Path

from imagegen_core import Description, Format
from imagegen_openvino.folder import DECODER, MANIFEST, TEXT_ENCODERS, UNET, Manifest

NAME = "openvino"


def describe(path: Path) -> Description | None:
    """Describe an exported folder by its manifest; return None for another path.

    Raises:
        ModelLoadError: The manifest is damaged, or of another version of this plugin.
    """
    if not (path / MANIFEST).is_file():
        return None
    manifest = Manifest.read(path)
    encoders = TEXT_ENCODERS[: len(manifest.marks)]
    networks = [path / UNET, path / DECODER, *(path / f"{name}.xml" for name in encoders)]
    there = [network for network in networks if network.is_file() and network.with_suffix(".bin").is_file()]
    return Description(
        kind="checkpoint",
        layout=NAME,
        family=manifest.family,
        components=tuple(network.stem for network in there),
        missing=tuple(network.stem for network in networks if network not in there),
        path=path,
        format=NAME,
        size=sum(network.with_suffix(suffix).stat().st_size for network in there for suffix in (".xml", ".bin")),
        native_size=manifest.native_size,
    )


FORMAT = Format(
    name=NAME,
    title="folder of `imagegen openvino export`",
    package="imagegen-openvino",
    describe=describe,
    folder_marks=(MANIFEST,),
)
