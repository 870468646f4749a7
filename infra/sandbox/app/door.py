"""TLS before the gateway: each connection is decrypted and passed on to the plain port beside it."""

from __future__ import annotations

import asyncio
import base64
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.settings import PATIENCE, Settings


@asynccontextmanager
async def door(settings: Settings) -> AsyncIterator[None]:
    """Keep the door open while the block runs; there is none without a certificate."""
    if not settings.tls_pem:
        yield
        return

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", settings.port)
        except (OSError, TimeoutError):
            writer.close()
            return
        await asyncio.gather(_pipe(reader, inner_writer), _pipe(inner_reader, writer))

    server = await asyncio.start_server(passed_on, settings.host, settings.tls_port, ssl=_context(settings.tls_pem))
    try:
        yield
    finally:
        server.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        # Whichever side is gone, the other one is told by its own connection ending.
        pass
    finally:
        writer.close()


def _context(pem: str) -> ssl.SSLContext:
    """Give the server's side of TLS; ``pem`` is base64 of the certificate and its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # OpenSSL takes a file only; a temporary one is private and gone at once.
    with tempfile.NamedTemporaryFile() as file:
        file.write(base64.b64decode(pem))
        file.flush()
        context.load_cert_chain(file.name)
    return context
