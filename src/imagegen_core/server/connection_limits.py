"""Limits on the number of connections and on slow clients."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagegen_core.errors import SettingsError

if TYPE_CHECKING:
    from imagegen_core.settings import Settings

_LOOPBACK = ("127.0.0.0/8", "::1/128")
_PROBES = ("/health", "/ready")
_OTHER_FILES = 128  # for weights, stores and pipes


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits on connections.

    Attributes:
        connections: Maximum number of open connections.
        share: Maximum number of open connections from one address.
        seconds: Seconds for a complete request head. A body or a response must also make progress in each such period.
        many: Networks of addresses with many clients each, such as proxies; `share` does not apply to them.
        probes: Paths with an answer even when there are too many connections.
    """

    connections: int
    share: int
    seconds: float
    many: tuple[str, ...] = _LOOPBACK
    probes: tuple[str, ...] = _PROBES

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        """Return the configured limits; one address may have a quarter of the connections."""
        most = settings.max_connections
        probes = (*_PROBES, *(settings.root_path + path for path in _PROBES))
        return cls(most, max(1, most // 4), settings.read_timeout, (*settings.trusted_proxies, *_LOOPBACK), probes)

    def limits_address(self, address: str) -> bool:
        """Return True if `share` applies to an address."""
        return not any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in self.many)


def allow_files(settings: Settings) -> None:
    """Raise the process's limit on open files, if it is too low for `Settings.max_connections`.

    Raises:
        SettingsError: The hard limit is too low.
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
