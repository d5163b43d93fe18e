"""Setting types with another form in the file and the environment than in memory."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

PredictionName = Literal["epsilon", "v", "v-zsnr", "sample", "edm", "edm-v"]
"""The prediction type of a network for a noisy picture.

It is the noise (``epsilon``), the velocity (``v``), the velocity with training from pure noise (``v-zsnr``), or the
picture (``sample``). ``edm`` and ``edm-v`` are EDM's form of the first two (https://arxiv.org/abs/2206.00364).
"""

_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~@+-]+)*")
_BYTES = re.compile(r"\s*(?P<number>[0-9]+(\.[0-9]+)?)\s*(?P<prefix>[kKmMgGtT])?(?P<binary>i)?[bB]?\s*")


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


CommaSeparated = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Several words: an array in the file, separated by commas in the environment."""


_ORIGIN = re.compile(r"\*|null|[A-Za-z][A-Za-z0-9+.-]*://[^/?#@*\s]+/?")  # as browsers write it: RFC 6454, section 6.2
_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-][A-Za-z0-9._-]*|\[?[0-9A-Fa-f:.]+\]?")


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := next((origin for origin in origins if not _ORIGIN.fullmatch(origin)), None):
        raise ValueError(
            f"{wrong!r} is not an origin: expected a scheme and a host, such as http://localhost:5173, or *"
        )
    return origins


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := next((host for host in hosts if not _HOST.fullmatch(host)), None):
        raise ValueError(
            f"{wrong!r} is not a host: expected a name or an address without scheme and port, such as example.org, "
            "*.example.org or *"
        )
    return hosts


Origins = Annotated[CommaSeparated, AfterValidator(_check_origins)]
"""Origins of web pages."""

HostNames = Annotated[CommaSeparated, AfterValidator(_check_hosts)]
"""Names and addresses of hosts."""


def _check_aliases(aliases: tuple[str, ...]) -> tuple[str, ...]:
    names = [alias.partition("=")[0].strip() for alias in aliases]
    if wrong := next((alias for alias, name in zip(aliases, names, strict=True) if not name), None):
        raise ValueError(f"{wrong!r} is not an alias: expected NAME or NAME=MODE, such as gpt-image-1=portrait")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"the alias {twice!r} stands there twice: keep one")
    return aliases


ModelAliases = Annotated[CommaSeparated, AfterValidator(_check_aliases)]
"""Other names of models: ``NAME`` for the default mode, or ``NAME=MODE``."""


def _joined(value: object) -> object:
    """Join devices to one text with commas, also from an array."""
    words = _split(value)
    if isinstance(words, list | tuple) and all(isinstance(word, str) for word in words):
        return ",".join(words)
    return value


DeviceNames = Annotated[str, BeforeValidator(_joined)]
"""A device, or several separated by commas; in the file also an array."""


def _bytes(value: object) -> object:
    """Parse a number of bytes with an optional unit: ``6GB``, ``512 MiB``; a bare number is bytes."""
    if not isinstance(value, str):
        return value
    match = _BYTES.fullmatch(value)
    if match is None:
        raise ValueError("expected a number of bytes, such as 6GB")
    power = " kmgt".index((match["prefix"] or " ").lower())
    return int(float(match["number"]) * (1024 if match["binary"] else 1000) ** power)


ByteCount = Annotated[int, BeforeValidator(_bytes)]
"""A number of bytes, also with a unit: ``6GB`` is 6 * 1000**3, ``6GiB`` is 6 * 1024**3."""


def _memory_size(value: object) -> object:
    return None if value == "auto" else _bytes(value)


MemorySize = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_memory_size)]
"""A number of bytes as `ByteCount`, or ``auto``, which is None."""


def root_path(value: str) -> str:
    """Return a path prefix without its last slash, such as ``/ai``; ``/`` is no prefix.

    Raises:
        ValueError: It does not begin with a slash, or has other characters than a plain path.
    """
    prefix = value.removesuffix("/")
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("expected a path of letters, digits and ._~@+- such as /ai")
    return prefix


RootPath = Annotated[str, AfterValidator(root_path)]
"""The path prefix of a server's own paths for its clients; empty if it has the whole host."""


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            raise ValueError(f"expected addresses or networks, such as 10.0.0.0/8; {error}") from error
    return values


Networks = Annotated[CommaSeparated, AfterValidator(_networks)]
"""Addresses and networks: ``10.0.0.1``, ``10.0.0.0/8``, ``fd00::/8``."""
