"""How many connections a server keeps, and how slow their clients may be."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagegen_core.errors import SettingsError

if TYPE_CHECKING:
    from imagegen_core.settings import Settings

_LOOPBACK = ("127.0.0.0/8", "::1/128")
_PROBES = ("/health", "/ready")
_OTHER_FILES = 128  # weights, stores, pipes


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What is asked of connections.

    Attributes:
        connections: Connections that may be open at a time.
        share: Connections of one address among them.
        seconds: Seconds in which a request's head must be complete, and in which a body or an answer must move on.
        many: Networks whose addresses stand for many clients each, such as a proxy's: they have no `share`.
        probes: Paths that are answered also when there are too many connections.
    """

    connections: int
    share: int
    seconds: float
    many: tuple[str, ...] = _LOOPBACK
    probes: tuple[str, ...] = _PROBES

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        """Return the limits that are configured; an address has a quarter of the connections."""
        most = settings.max_connections
        probes = (*_PROBES, *(settings.root_path + path for path in _PROBES))
        return cls(most, max(1, most // 4), settings.read_timeout, (*settings.trusted_proxies, *_LOOPBACK), probes)

    def limits_address(self, address: str) -> bool:
        """Whether connections from an address have a limit of their own."""
        return not any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in self.many)


def allow_files(settings: Settings) -> None:
    """Let this process open as many files as `Settings.max_connections` takes, where the system's limit is lower.

    Raises:
        SettingsError: It may not.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    needed = settings.max_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard < needed and hard != resource.RLIM_INFINITY:
        raise SettingsError(
            f"{settings.source('max_connections')}={settings.max_connections} needs {needed} open files, and this "
            f"process may have {hard}: lower it, or raise `ulimit -n`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
