"""The folder that a checkpoint is exported to, and the JSON file that says what the networks in it do not.

It holds ``unet.xml``, ``decoder.xml`` and ``text_encoder.xml``, for SDXL also ``text_encoder_2.xml``, each with its
weights beside it, a ``tokenizer.json`` for each text encoder, and ``imagegen-openvino.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from imagegen_core import ModelLoadError

MANIFEST = "imagegen-openvino.json"
UNET, DECODER = "unet.xml", "decoder.xml"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Marks:
    """The token ids a text encoder's prompt is framed with.

    Attributes:
        start: Before the prompt.
        end: After it.
        padding: Up to the length.
        length: Tokens the text encoder reads, with all of these.
    """

    start: int
    end: int
    padding: int
    length: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``imagegen-openvino.json`` says.

    Attributes:
        family: Whose architecture it is.
        native_size: ``WIDTHxHEIGHT`` it was trained at.
        scheduler: The configuration of diffusers' ``LCMScheduler`` for it.
        marks: Of each text encoder, in the order of `TEXT_ENCODERS`.
        absent_is_zero: Whether zeros stand for a negative prompt that was not given, instead of an empty one.
        checkpoint_hash: The first ten hexadecimal digits of the SHA-256 of the UNet's file it was exported from; None
            where that was no single file.
    """

    family: Literal["sd15", "sdxl"]
    native_size: str
    scheduler: Mapping[str, Any]
    marks: tuple[Marks, ...]
    absent_is_zero: bool
    checkpoint_hash: str | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder's.

        Raises:
            ModelLoadError: It has none, or one that is damaged or of a newer version of this plugin.
        """
        file = folder / MANIFEST
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise ModelLoadError(f"{file} is of another version of imagegen-openvino: export the checkpoint anew")
            return cls(**content | {"marks": tuple(Marks(**marks) for marks in content["marks"])})
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ModelLoadError(
                f"{folder} is no model exported to OpenVINO, as it has no {MANIFEST}; "
                f"make one of a checkpoint: imagegen openvino export {folder} FOLDER"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelLoadError(f"{file} is damaged ({error!r}): export the checkpoint anew") from error

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        text = json.dumps({"format": _FORMAT} | asdict(self), indent=2)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
