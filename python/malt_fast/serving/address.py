"""Where the server listens, and the token that its clients must send."""

import ipaddress
import os
import socket

from malt_fast.utils.errors import MaltError

TOKEN = "MALT_FAST_API_KEY"  # not a setting: settings are written to files and shown to people


def take_token() -> str | None:
    """The token, if one is set; it leaves the environment, so that no child process inherits it."""
    return os.environ.pop(TOKEN, "").strip() or None


def check_host(host: str, token: str | None) -> None:
    """Raises MaltError for an address that others can reach, unless there is a token."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and token is None:
        raise MaltError(
            f"serve.host = '{host}' can be reached by others, and no token keeps them out: set "
            f"{TOKEN} to a token that clients send, or leave serve.host at 127.0.0.1"
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises MaltError for a port in use or a host of another machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise MaltError(
            f"cannot listen at {host}:{port} ({error.strerror or error}): give another "
            "--serve.port or --serve.host"
        ) from None
    # Connections inherit it. asyncio sets it only for sockets that name their protocol; without it
    # the second half of an answer waits for the client's delayed acknowledgement: 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
