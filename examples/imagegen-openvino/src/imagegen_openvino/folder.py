"""The folder of an exported checkpoint, and its JSON file with the facts missing from the networks.

The folder holds ``unet.xml``, ``decoder.xml`` and ``text_encoder.xml``, for SDXL also ``text_encoder_2.xml``. Each
network has its weights next to it, and each text encoder its ``text_encoder.tokenizer.json``. The JSON file is
``imagegen-openvino.json``.
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
    """The special token ids around a text encoder's prompt.

    Attributes:
        start: The token before the prompt.
        end: The token after the prompt.
        padding: The token to fill up to `length`.
        length: The number of tokens in the encoder's input, including these.
    """

    start: int
    end: int
    padding: int
    length: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of ``imagegen-openvino.json``.

    Attributes:
        family: The family of the architecture.
        native_size: ``WIDTHxHEIGHT`` of the training pictures.
        scheduler: The configuration of diffusers' ``LCMScheduler`` for the model.
        marks: The special tokens of each text encoder, in the order of `TEXT_ENCODERS`.
        absent_is_zero: Whether zeros replace a missing negative prompt, instead of an empty prompt.
        checkpoint_hash: The first ten hexadecimal digits of the SHA-256 of the exported UNet's file; None if it had
            several files.
    """

    family: Literal["sd15", "sdxl"]
    native_size: str
    scheduler: Mapping[str, Any]
    marks: tuple[Marks, ...]
    absent_is_zero: bool
    checkpoint_hash: str | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder's manifest.

        Raises:
            ModelLoadError: The folder has no manifest, or it is damaged or of a newer version of this plugin.
        """
        file = folder / MANIFEST
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise ModelLoadError(f"{file} is of another version of imagegen-openvino: export the checkpoint again")
            return cls(**content | {"marks": tuple(Marks(**marks) for marks in content["marks"])})
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ModelLoadError(
                f"{folder} is no model exported to OpenVINO, as it has no {MANIFEST}; "
                f"make one of a checkpoint: imagegen openvino export {folder} FOLDER"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelLoadError(f"{file} is damaged ({error!r}): export the checkpoint again") from error

    def write(self, folder: Path) -> None:
        """Write the manifest into a folder."""
        text = json.dumps({"format": _FORMAT} | asdict(self), indent=2)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
