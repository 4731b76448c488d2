"""Sends messages of all kinds and sizes to an echo and checks what comes back."""
import asyncio
import os
import sys

from websockets.asyncio.client import connect


async def main(url):
    async with connect(url, max_size=None, proxy=None) as socket:
        assert socket.response.status_code == 101
        for message in ["", "short", "ümläut", "x" * 125, "x" * 126, "x" * 70000, b"", b"\0\xff", os.urandom(3_000_000)]:
            await socket.send(message)
            assert await socket.recv() == message, len(message)
        await socket.send(["in ", "several ", "pieces"])
        assert await socket.recv() == "in several pieces"
        await (await socket.ping())
        many = [f"message {n}" for n in range(1000)]
        for message in many:
            await socket.send(message)
        assert [await socket.recv() for _ in many] == many
    assert socket.close_code == 1000, socket.close_code
    print("all messages came back")


asyncio.run(main(sys.argv[1]))
