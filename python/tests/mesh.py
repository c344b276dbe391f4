"""A small Distributor, raw callers and raw nodes, for tests within one process."""

import asyncio
import socket
import struct

from pilcrow.wire import FrameReader, NotAPacket, checksum, encode, to_json

PATIENCE = 20.0


class Raw:
    """One end of a connection that a test plays."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.frames = FrameReader()
        self.waiting = []

    @classmethod
    async def to(cls, address):
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    def send(self, packet):
        self.writer.write(packet if isinstance(packet, bytes) else encode(packet))

    async def next(self, timeout=PATIENCE):
        """The next packet; None at the end of the stream."""
        while not self.waiting:
            try:
                data = await asyncio.wait_for(self.reader.read(1 << 16), timeout)
            except ConnectionError:
                return None
            if not data:
                return None
            self.frames.feed(data)
            self.waiting += [one for one in self.frames.packets() if not isinstance(one, NotAPacket)]
        return self.waiting.pop(0)

    async def is_silent(self, seconds=0.1):
        try:
            await self.next(seconds)
            return False
        except asyncio.TimeoutError:
            return True

    def close(self):
        self.writer.close()

    def reset(self):
        """Goes without a word: the other side sees the connection reset."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


class Server:
    """Serves connections by `serve`, until it ends with all of them."""

    async def __aenter__(self):
        self.tasks = []

        def begin(reader, writer):
            self.tasks.append(asyncio.ensure_future(self.serve(Raw(reader, writer))))

        self.server = await asyncio.start_server(begin, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_):
        self.server.close()
        while pending := {task for task in self.tasks if not task.done()}:
            # `wait_for` may lose a cancellation that comes together with data.
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=0.1)

    @property
    def port(self):
        return self.server.sockets[0].getsockname()[1]

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"


class Distributor(Server):
    """Lists each node that registers. With `version=1` it shows no `$`."""

    def __init__(self, version=2):
        self.version = version
        self.entries = {}
        self.extra = {}
        self.peers = {}
        self.received = []
        self.next_id = 1
        self.rev = 0

    async def serve(self, peer):
        number = self.next_id
        self.next_id += 1
        self.peers[number] = peer
        try:
            while (packet := await peer.next(3600)) is not None:
                self.received.append(packet)
                if packet.get("uri") == "/distributes" and packet["method"] == "POST":
                    self.entries[number] = {**packet["params"], "host": "::ffff:127.0.0.1"}
                    self.tell()
                elif packet.get("uri") == "/distributes" and packet["method"] == "DELETE":
                    self.entries.pop(number, None)
                    self.tell()
                elif packet.get("uri") == "/distributes" and packet["method"] == "GET":
                    peer.send(self.list(packet["key"]))
        finally:
            self.peers.pop(number, None)
            if self.entries.pop(number, None):
                self.tell()
            peer.close()

    def add(self, port, **entry):
        """Lists a node that the test plays."""
        number = self.next_id
        self.next_id += 1
        self.extra[number] = {"port": port, "host": "::ffff:127.0.0.1", **entry}
        self.tell()
        return number

    def remove(self, number):
        self.extra.pop(number)
        self.tell()

    def list(self, key=0):
        listed = {**self.entries, **self.extra}
        packet = {"uri": "/distributes", "method": "GET", "key": key, "params": list(listed.values())}
        if self.version == 2:
            digest = sum(checksum(f"{at}:{to_json(entry)}".encode()) for at, entry in listed.items()) % (1 << 32)
            packet["$"] = {"epoch": 5, "rev": self.rev, "digest": digest, "ids": list(listed), "ack": True}
        return packet

    def tell(self):
        self.rev += 1
        for peer in self.peers.values():
            peer.send(self.list())

    async def saw(self, test):
        """Waits until a packet came that passes the test."""
        await eventually(lambda: any(test(packet) for packet in self.received))


class Node(Server):
    """A node that answers calls as `answer` says: it is given the packet and the connection."""

    def __init__(self, answer):
        self.answer = answer
        self.received = []
        self.connections = []

    async def serve(self, raw):
        self.connections.append(raw)
        try:
            while (packet := await raw.next(3600)) is not None:
                self.received.append(packet)
                answer = self.answer(packet, raw)
                if asyncio.iscoroutine(answer):
                    await answer
        finally:
            raw.close()


async def eventually(holds):
    """Waits until a condition holds."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while not holds():
        if asyncio.get_running_loop().time() > end:
            raise AssertionError("it did not happen")
        await asyncio.sleep(0.005)
