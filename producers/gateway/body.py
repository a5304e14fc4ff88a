"""Bodies of requests: read and decompressed within bounds, whatever is sent."""

import asyncio
import zlib
from typing import Final

from starlette.requests import ClientDisconnect, Request

from headrace.problem import Problem

drained_bytes_max: Final = 8 * 2**20
"""Most bytes of a body that is too large which are read and dropped, so that the client sees the answer."""
drain_s_max: Final = 1.0
left_bytes_max: Final = 64 * 2**10
"""Most bytes of an unread body that are left to the server, which drops them; its connection stays open."""


async def read_body(request: Request, *, bytes_max: int, seconds_max: float) -> bytes:
    """Return a request's body, decompressed.

    Raises:
        Problem: it is too large, came too slowly, is compressed in another way than gzip, was broken off, or its length
            is stated in two ways.
    """
    request.state.body_read = True
    if "transfer-encoding" in request.headers and "content-length" in request.headers:
        # Whoever passed it on may have read another body. Source: RFC 9112, section 6.3.
        raise Problem("bad-body", "wanted Content-Length or Transfer-Encoding, found both", closes=True)
    stated = request.headers.get("content-length", "0")
    too_large = f"wanted at most {bytes_max} bytes"
    if stated.isdecimal() and int(stated) > bytes_max:
        if request.headers.get("expect", "").lower() != "100-continue":
            await _drain(request)
        raise Problem("too-large", f"{too_large}, found {stated[:20]}", closes=True)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        raise Problem("bad-encoding", f"wanted gzip or no content encoding, found {encoding[:20]}", closes=True)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds_max):
            async for chunk in request.stream():
                body += chunk
                if len(body) > bytes_max:
                    break
    except TimeoutError:
        raise Problem("too-slow", f"wanted the body within {seconds_max:g} s", closes=True) from None
    except ClientDisconnect:
        raise Problem("bad-body", "wanted the whole body, found the connection closed", closes=True) from None
    if len(body) > bytes_max:
        await _drain(request)
        raise Problem("too-large", f"{too_large}, found more", closes=True)
    if encoding != "gzip":
        return bytes(body)
    inflated = zlib.decompressobj(wbits=31)
    try:
        found = inflated.decompress(body, bytes_max + 1)
    except zlib.error as error:
        raise Problem("bad-body", f"wanted a body in gzip, found: {error}") from None
    if len(found) > bytes_max:
        raise Problem("too-large", f"{too_large} after decompression, found more")
    if inflated.unused_data:
        raise Problem("bad-body", "wanted a body in gzip of one member, found more behind it")
    if not inflated.eof:
        raise Problem("bad-body", "wanted a whole body in gzip, found one that is cut off")
    return found


async def leave_body(request: Request, problem: Problem) -> None:
    """Let the connection of a refused request end if its body was not read and may be long, or has not been sent."""
    if getattr(request.state, "body_read", False):
        return
    stated = request.headers.get("content-length", "0")
    if "expect" in request.headers:
        problem.closes = True
    elif "transfer-encoding" in request.headers or (stated.isdecimal() and int(stated) > left_bytes_max):
        await _drain(request)
        problem.closes = True


async def _drain(request: Request) -> None:
    """Read and drop what follows, for a short while."""
    drained = 0
    try:
        async with asyncio.timeout(drain_s_max):
            while drained < drained_bytes_max:
                message = await request.receive()
                drained += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        return
