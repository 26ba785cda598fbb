"""A clamd that knows one virus, EICAR, and speaks the part of the protocol that is used."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


@asynccontextmanager
async def running_clamd(folder: Path, *, most: int = 2**20, is_silent: bool = False) -> AsyncIterator[str]:
    """Its address. ``most`` is its StreamMaxLength; where it is silent, it takes everything and answers nothing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = await reader.readuntil(b"\0")
        if command == b"zVERSION\0":
            writer.write(b"ClamAV 1.4.6/27000/Mon Nov 23 2026\0")
        elif is_silent:
            await reader.read()
        else:
            assert command == b"zINSTREAM\0"
            content = b""
            while (size := int.from_bytes(await reader.readexactly(4))) and len(content) + size <= most:
                content += await reader.readexactly(size)
            if size:
                writer.write(b"INSTREAM size limit exceeded. ERROR\0")
            else:
                writer.write(b"stream: Win.Test.EICAR_HDB-1 FOUND\0" if EICAR in content else b"stream: OK\0")
        await writer.drain()
        writer.close()

    address = folder / "clamd.ctl"
    async with await asyncio.start_unix_server(answer, address):
        yield f"unix://{address}"
