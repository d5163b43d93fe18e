"""Description of a format of model files, for plugins to declare: other than weights files and diffusers' folders."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imagegen_core.description import Description
from imagegen_core.errors import ImagegenError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format of model files or folders, such as an exported OpenVINO folder.

    imagegen asks the formats before the families, in the order of the plugins.

    Attributes:
        name: The name in `Backend.formats` and `Description.format`, such as ``openvino``.
        title: The name for display, such as ``OpenVINO folder``.
        package: The distribution to install for a backend; None if no package draws this format.
        describe: Describes a path without loading it; returns None if the path has another format. It raises
            `ModelLoadError` if the path has this format, and is damaged.
        suffixes: The suffixes of such files, in lower case with the dot: ``imagegen models list`` looks for them.
        folder_marks: The names of files that mark such a folder: ``imagegen models list`` looks for them.
        is_fallback: Whether it is asked only about paths that no other format and no family recognizes.
    """

    name: str
    title: str
    package: str | None
    describe: Callable[[Path], Description | None]
    suffixes: tuple[str, ...] = ()
    folder_marks: tuple[str, ...] = ()
    is_fallback: bool = False

    def recognize(self, path: Path) -> Description | None:
        """Describe a path of this format; return None for another path.

        Raises:
            ImagegenError: The path has this format, and is damaged.
        """
        try:
            described = self.describe(path)
        except ImagegenError:
            raise
        except Exception as error:  # noqa: BLE001 - a plugin's fault concerns its own format alone
            logger.warning("The format %s is left out, as its describe raised %r: update its plugin", self.name, error)
            return None
        if described is None or isinstance(described, Description):
            return described
        logger.warning(
            "The format %s is left out, as its describe returned %r: update its plugin", self.name, type(described)
        )
        return None
