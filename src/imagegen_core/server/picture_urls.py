"""Fetch pictures from hosts that the server's settings allow, and from no other address.

The host's name is resolved once, and the connection goes to the checked address, so that a name cannot point elsewhere
between the check and the connection (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import anyio

from imagegen_core.errors import InvalidRequestError
from imagegen_core.server.middleware.hosts import ANY, plain_host

if TYPE_CHECKING:
    import httpx2

_CONNECT, _TOTAL = 5.0, 20.0  # seconds
_REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65_535


class _Source(NamedTuple):
    """The allowed hosts, the maximum number of bytes, and the field of the request."""

    hosts: Sequence[str]
    limit: int
    field: str

    def error(self, url: httpx2.URL | str, said: str) -> InvalidRequestError:
        host = url if isinstance(url, str) else url.host
        return InvalidRequestError(f"Cannot fetch the {self.field} from {host[:64]!r}: {said}", self.field)


async def fetch_picture(url: str, hosts: Sequence[str], limit: int, field: str) -> bytes:
    """Fetch a picture.

    Args:
        url: Its URL.
        hosts: The allowed hosts, as in `Settings.picture_hosts`.
        limit: The maximum number of bytes.
        field: The field of the request, for errors.

    Raises:
        InvalidRequestError: The host is not allowed, its address is private, it fails or is slow, or sends too much.
    """
    import httpx2  # takes 0.1 s, and few servers fetch pictures

    source = _Source(hosts, limit, field)
    try:
        target = httpx2.URL(url)
        with anyio.fail_after(_TOTAL):
            return await _followed(target, source)
    except (httpx2.InvalidURL, ValueError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise source.error(url[:64], "it is not a URL; send the picture as base64") from error
    except TimeoutError as error:
        raise source.error(target, f"it took more than {_TOTAL:g} seconds; send the picture as base64") from error
    except (httpx2.HTTPError, OSError) as error:
        raise source.error(target, f"the connection failed ({type(error).__name__}); check the URL") from error


async def _followed(url: httpx2.URL, source: _Source) -> bytes:
    """Fetch a picture, and follow redirects on its host."""
    host = url.host
    for _ in range(1 + _REDIRECTS):
        answer = await _fetched(url, source)
        if isinstance(answer, bytes):
            return answer
        url = url.join(answer)
        if url.host != host:
            raise source.error(url, "another host redirects there; give the picture's own URL")
    raise source.error(url, f"it redirects more than {_REDIRECTS} times; give the picture's own URL")


async def _fetched(url: httpx2.URL, source: _Source) -> bytes | str:
    """Return the body, or the address of a redirect."""
    import httpx2

    address = await _allowed_address(url, source)
    # The URL has the address alone. The name stays in the header, and in TLS for the certificate.
    headers = {"Host": url.netloc.decode("ascii"), "Accept": "image/*", "Accept-Encoding": "identity"}
    target = url.copy_with(host=address, fragment=None)
    timeout = httpx2.Timeout(_TOTAL, connect=_CONNECT)
    async with (
        httpx2.AsyncClient(trust_env=False, timeout=timeout) as client,
        client.stream("GET", target, headers=headers, extensions={"sni_hostname": url.host}) as response,
    ):
        if response.has_redirect_location:
            return response.headers["location"]
        if response.status_code != httpx2.codes.OK:
            raise source.error(url, f"it answers {response.status_code}; check the URL")
        parts, count = [], 0
        async for part in response.aiter_raw():
            parts.append(part)
            count += len(part)
            if count > source.limit:
                raise source.error(url, f"it sends more than {source.limit} bytes; send a smaller picture")
        return b"".join(parts)


async def _allowed_address(url: httpx2.URL, source: _Source) -> str:
    """Return the address of a URL's host.

    Raises:
        InvalidRequestError: The host is not allowed, or one of its addresses is private and not allowed.
        OSError: The host is unknown.
    """
    host = plain_host(url.host)
    port = url.port or _PORTS.get(url.scheme, 0)
    if url.scheme not in _PORTS or port > _LAST_PORT or not host or url.userinfo:
        raise source.error(url, "expected a URL such as https://example.org/picture.png")
    if not source.hosts:
        raise source.error(
            url, "this server fetches no pictures (IMAGEGEN_PICTURE_HOSTS allows hosts); send the picture as base64"
        )
    if not _is_listed(host, source.hosts):
        raise source.error(
            url, "IMAGEGEN_PICTURE_HOSTS does not list this host; send the picture as base64, or list the host"
        )
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(each[4][0]) for each in found]
    for address in addresses:
        if not _is_public(address) and plain_host(address) not in map(plain_host, source.hosts):
            raise source.error(
                url, "its address is not a public one; list the address itself in IMAGEGEN_PICTURE_HOSTS"
            )
    return addresses[0]


def _is_listed(host: str, hosts: Sequence[str]) -> bool:
    """Return True if a host is listed, or is below a listed ``*.example.org``, or any host is allowed."""
    endings = tuple(pattern[1:].lower() for pattern in hosts if pattern.startswith("*."))
    return ANY in hosts or host in map(plain_host, hosts) or host.endswith(endings)


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return found.is_global and not found.is_multicast
