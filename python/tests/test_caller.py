"""Calls, streams and events of a node, among nodes that the test plays."""

import asyncio
import logging
import unittest
from unittest import mock

from pilcrow import (
    BadAnswer,
    BadArguments,
    Deadline,
    Ended,
    Lost,
    NoList,
    NoProvider,
    NoRoute,
    Node,
    Overloaded,
    Refused,
    ServiceError,
    TooLarge,
    node,
)
from pilcrow.client import caller
from pilcrow.routing import registry, table
from pilcrow.transport import connection, flow, link
from pilcrow.wire import LEGACY_READ_BYTES, MAX_LEGACY_KEY, encode

from . import mesh
from .mesh import PATIENCE, Distributor, eventually


def v2(result=1, **meta):
    """Answers each call with this."""

    def answer(packet, raw):
        if packet["uri"] == "$hello":
            raw.send({"uri": "$hello", "$": {"f": packet["$"]["to"]}})
        elif "key" in packet and not packet["uri"].startswith("$"):
            raw.send({"key": packet["key"], "$": meta, "params": result})

    return answer


class CallerTest(unittest.IsolatedAsyncioTestCase):
    version = 2

    async def asyncSetUp(self):
        logging.getLogger("pilcrow").setLevel(logging.CRITICAL)
        self.distributor = await self.enter(Distributor(self.version))
        self.node = Node("caller", distributor=self.distributor.address)
        self.add_routes()
        await self.node.start()
        self.addAsyncCleanup(self.stop)
        await asyncio.wait_for(self.node._registry.listed.wait(), PATIENCE)

    def add_routes(self): ...

    async def stop(self):
        with mock.patch.object(node, "LEAVE_TIME", 0.0), mock.patch.object(node, "FINISH_TIME", 1.0):
            await self.node.stop()

    async def enter(self, context):
        entered = await context.__aenter__()
        self.addAsyncCleanup(context.__aexit__)
        return entered

    async def offer(self, answer, *urls, is_v2=True, name="goods", instance=None, **entry):
        """A node that the test plays, once the caller knows it."""
        played = await self.enter(mesh.Node(answer))
        if is_v2:
            entry["$"] = {"v": 2, "id": instance or f"i{played.port}", **entry.pop("meta", {})}
        played.number = self.distributor.add(played.port, name=name, urls=list(urls or ["GET/a"]), **entry)
        address = f"127.0.0.1:{played.port}"
        await eventually(lambda: address in self.node._caller.table._nodes)
        return played

    def calls(self, played):
        return [packet for packet in played.received if not packet.get("uri", "$").startswith("$")]


class Calls(CallerTest):
    async def fails(self, kind, url="GET/a", params=None, **options):
        with self.assertRaises(kind) as caught:
            await self.node.call(url, params, **options)
        return str(caught.exception)

    async def test_a_call_says_who_calls_whom_and_for_how_long(self):
        played = await self.offer(v2({"이름": "¶"}), "GET/상품/{id}")
        self.assertEqual(await self.node.call("GET/상품/7", {"a": 1}, timeout=2), {"이름": "¶"})
        self.assertEqual(await self.node.call("GET/상품/8"), {"이름": "¶"})
        hello, first, second = played.received
        self.assertEqual(hello["$"], {"f": self.node.instance, "n": "caller", "to": f"i{played.port}"})
        self.assertEqual((first["uri"], first["method"], first["params"]), ("/상품/7", "GET", {"a": 1}))
        self.assertTrue(0 < first["$"]["d"] <= 2000)
        self.assertTrue(4000 < second["$"]["d"] <= 5000 and second["$"]["t"] >= 0)

    async def test_errors_say_what_to_do(self):
        await self.offer(v2(1, s=409, r="exists", m="there is one", ra=500))
        self.assertEqual(await self.fails(Refused), "409 exists: there is one")
        self.assertIn("is it GET/a?", await self.fails(NoRoute, "get/a"))
        self.assertIn("is it GET/a?", await self.fails(NoRoute, "GET/aa"))
        self.assertIn("write the value in place of {id}", await self.fails(NoRoute, "GET/a/{id}"))
        self.assertIn("no JSON form", await self.fails(BadArguments, params={1}))
        await self.offer(lambda *_: None, "GET/slow")
        self.assertIn("no answer from GET/slow within 50 ms", await self.fails(Deadline, "GET/slow", timeout=0.05))
        gone = await self.offer(v2(), "GET/gone")
        self.distributor.remove(gone.number)
        await eventually(lambda: self.node._caller.table.find("GET", "/gone") is None)
        self.assertIn("can be reached", await self.fails(NoProvider, "GET/gone"))
        self.assertIn("larger than", await self.fails(TooLarge, params="x" * (8 << 20)))

    async def test_a_call_waits_for_the_first_list(self):
        async with Node("lonely", distributor="127.0.0.1:1") as lonely:
            with self.assertRaisesRegex(NoList, "the Distributor at 127.0.0.1:1 has sent no list"):
                await lonely.call("GET/a", timeout=0.05)
            with self.assertRaises(NoList):
                lonely.emit("a")

    async def test_what_was_not_sent_or_not_begun_is_made_elsewhere(self):
        first = await self.offer(v2(1, s=503, r="overloaded", m=""), "POST/a")
        dead = self.distributor.add(1, name="dead", urls=["POST/a"], **{"$": {"v": 2, "id": "dead"}})
        last = await self.offer(v2("last"), "POST/a")
        for _ in range(10):
            self.assertEqual(await self.node.call("POST/a"), "last")
        self.assertEqual(len(self.calls(last)), 10)
        self.assertGreater(len(self.calls(first)), 0)
        self.distributor.remove(dead)
        self.distributor.remove(last.number)
        await eventually(lambda: len(self.node._caller.table.find("POST", "/a")[1].members) == 1)
        with self.assertRaises(Refused):
            await self.node.call("POST/a")

    async def test_a_lost_call_is_made_again_once_if_it_may_be(self):
        def crash(packet, raw):
            if not packet["uri"].startswith("$"):
                raw.close()

        crashing = [await self.offer(crash, "GET/a", "POST/a") for _ in range(2)]
        for url, made in (("POST/a", 1), ("GET/a", 2)):
            with self.assertRaises(Lost):
                await self.node.call(url)
            self.assertEqual(sum(len(self.calls(one)) for one in crashing), made)
            for one in crashing:
                one.received.clear()
        ids = {one.number for one in crashing}
        await self.distributor.saw(lambda packet: ids & set((packet.get("params") or {}).get("failed", [])))
        self.distributor.remove(crashing[1].number)
        await eventually(lambda: len(self.node._caller.table.find("GET", "/a")[1].members) == 1)
        self.node._caller.crashing.record_response("GET/a")
        self.node._caller.crashing.record_response("POST/a")
        fine = await self.offer(v2("fine"), "GET/a", "POST/a")
        for _ in range(4):
            self.assertEqual(await self.node.call("GET/a"), "fine")
            self.assertEqual(await self.node.call("POST/a", idempotent=True), "fine")
        self.assertEqual({packet["$"].get("i") for packet in self.calls(fine)}, {None, True})

    async def test_a_call_whose_task_ends_is_cancelled(self):
        played = await self.offer(lambda *_: None)
        for timeout, end in ((3600, lambda task: task.cancel()), (0.2, lambda task: None)):
            task = asyncio.ensure_future(self.node.call("GET/a", timeout=timeout))
            await eventually(lambda: len(self.calls(played)) == 1)
            end(task)
            await asyncio.gather(task, return_exceptions=True)
            key = self.calls(played)[0]["key"]
            await eventually(lambda: {"uri": "$cancel", "key": key, "$": {}} in played.received)
            played.received.clear()

    async def test_another_instance_is_not_called(self):
        def other(packet, raw):
            if packet["uri"] == "$hello":
                raw.send({"uri": "$hello", "$": {"f": "other"}})

        await self.offer(other, "POST/a")
        with self.assertRaises(NoProvider):
            await self.node.call("POST/a")
        self.assertEqual(await self.reaches_next("POST/a"), "next")

    async def reaches_next(self, url):
        await self.offer(v2("next"), url)
        return await self.node.call(url)

    async def test_an_advertised_address_has_to_say_who_it_is(self):
        silent = await self.offer(lambda *_: None, meta={"advertise": "127.0.0.1:9"})
        with mock.patch.object(connection, "CONNECT_TIME", 0.1):
            first = asyncio.ensure_future(self.node.call("GET/a"))
            await eventually(lambda: silent.received)
            outcomes = await asyncio.gather(first, self.node.call("GET/a"), return_exceptions=True)
            self.assertEqual([type(one) for one in outcomes], [NoProvider, NoProvider])
        self.assertEqual(self.calls(silent), [])

    async def test_a_worker_that_is_gone_is_called_over_a_new_connection(self):
        played = await self.offer(lambda packet, raw: first(packet, raw))
        proper = v2("proper")

        def first(packet, raw):
            if raw is not played.connections[0]:
                proper(packet, raw)

        with mock.patch.object(link, "PROOF_TIME", 0.05):
            waiting = asyncio.ensure_future(self.node.call("GET/a", timeout=1))
            await eventually(lambda: len(self.calls(played)) == 1)
            way = self.node._caller.table.find("GET", "/a")[1].members[0].connection
            old = way._link
            await eventually(lambda: way._link is not old)
            self.assertEqual(await self.node.call("GET/a"), "proper")
            waiting.cancel()

    async def test_packets_that_no_call_waits_for_end_the_connection(self):
        def noisy(packet, raw):
            v2()(packet, raw)
            if packet.get("key"):
                raw.send(encode({"key": 10_000_000, "$": {}}) * 50)

        await self.offer(noisy)
        with mock.patch.object(link, "USELESS_BURST", 20.0), mock.patch.object(link, "USELESS_PER_SECOND", 0.0):
            found = self.node._caller.table.find("GET", "/a")[1].members[0].connection
            await self.node.call("GET/a")
            await eventually(lambda: found._link is None)
            with self.assertRaises(NoProvider):
                await self.node.call("GET/a")
                await self.node.call("GET/a")

    async def test_what_waits_for_one_node_is_bounded(self):
        await self.offer(lambda *_: None)
        with mock.patch.object(link, "MAX_CALLS", 1):
            first = asyncio.ensure_future(self.node.call("GET/a", timeout=0.3))
            await asyncio.sleep(0.05)
            with self.assertRaises(Overloaded):
                await self.node.call("GET/a")
            with self.assertRaises(Deadline):
                await first
        with mock.patch.object(link, "MAX_QUEUED_BYTES", 1000):
            with self.assertRaises(Overloaded):
                await self.node.call("GET/a", "x" * 2000)

    async def test_a_node_that_reads_nothing_is_given_up(self):
        async def deaf(packet, raw):
            raw.reader._transport.pause_reading()
            await asyncio.sleep(3600)

        await self.offer(deaf, "POST/a")
        with mock.patch.object(link, "STALL_TIME", 0.1):
            calls = [self.node.call("POST/a", "x" * 7_000_000, timeout=5) for _ in range(2)]
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                self.assertIsInstance(outcome, Lost)

    async def test_addresses_that_are_never_called(self):
        hosts = "169.254.169.254 ::ffff:169.254.0.1 224.0.0.1 64:ff9b::a9fe:a9fe 0.1.2.3 fd00:ec2::254"
        for host in hosts.split():
            number = self.distributor.next_id
            self.distributor.add(9, name="bad", urls=["GET/bad"], **{"$": {"v": 2, "id": "bad"}})
            self.distributor.extra[number]["host"] = host
            self.distributor.tell()
        await self.offer(v2())
        self.assertIsNone(self.node._caller.table.find("GET", "/bad"))

    async def test_a_node_that_stays_unreachable_is_reported(self):
        dead = self.distributor.add(1, name="dead", urls=["GET/dead"], **{"$": {"v": 2, "id": "dead"}})
        await eventually(lambda: self.node._caller.table.find("GET", "/dead"))

        def reports():
            return [packet["params"] for packet in self.distributor.received if packet.get("method") == "PATCH"]

        with mock.patch.object(caller, "CONFIRM_UNREACHABLE", 0.05):
            while not reports():
                await self.fails(NoProvider, "GET/dead")
                await asyncio.sleep(0.05)
        self.assertEqual(reports()[0], {"unreachable": [[dead, "refused"]]})

    async def test_routes_that_nobody_offers_any_more_are_remembered_up_to_a_limit(self):
        with mock.patch.object(table, "MAX_KNOWN_ROUTES", 1):
            gone = await self.offer(v2(), "GET/first", "GET/second")
            self.distributor.remove(gone.number)
            await eventually(lambda: self.node._caller.table.find("GET", "/first") is None)
            await self.fails(NoProvider, "GET/first")
            await self.fails(NoRoute, "GET/second")

    async def test_suspects_are_called_when_no_other_is_there(self):
        first, second = await self.offer(v2("first")), await self.offer(v2("second"))
        for _ in range(4):  # Both are connected then.
            await self.node.call("GET/a")

        async def suspect(*ids):
            packet = self.distributor.list()
            packet["$"]["suspect"] = list(ids)
            next(iter(self.distributor.peers.values())).send(packet)
            await eventually(lambda: self.node._registry.replica.suspects == set(ids))

        await suspect(first.number)
        self.assertEqual({await self.node.call("GET/a") for _ in range(6)}, {"second"})
        await suspect(second.number)
        self.assertEqual({await self.node.call("GET/a") for _ in range(6)}, {"first"})
        await suspect()
        self.assertEqual({await self.node.call("GET/a") for _ in range(6)}, {"first", "second"})

    async def test_several_instances_at_one_address(self):
        played = await self.offer(v2("any"), instance="one")
        await self.node.call("GET/a")
        self.distributor.add(played.port, name="goods", urls=["GET/a"], **{"$": {"v": 2, "id": "two"}})
        await eventually(lambda: self.node._caller.table.nodes()[-1].is_shared)
        self.assertEqual(await self.node.call("GET/a"), "any")
        hellos = [packet["$"]["to"] for packet in played.received if packet["uri"] == "$hello"]
        self.assertEqual(hellos, ["one", "*"])

    async def test_http_and_draining_nodes_are_not_called(self):
        await self.offer(v2(), "GET/http", meta={"http": {"prefixes": ["/"]}})
        await self.offer(v2(), "GET/draining", meta={"draining": True})
        await self.offer(v2(), "GET/none", meta={"weight": 0})
        for url in ("GET/draining", "GET/none"):
            await self.fails(NoProvider, url)
        await self.fails(NoRoute, "GET/http")


class Shared(CallerTest):
    def add_routes(self):
        @self.node.route("GET/own")
        async def own(call):
            if call.params == "ask":
                return await call.call("GET/inner")
            return "own"

        @self.node.route("GET/full", max_concurrency=1)
        async def full():
            await asyncio.sleep(0.2)
            return "own"

        @self.node.route("GET/read")
        async def read(call):
            try:
                return [part async for part in call.stream("GET/endless")]
            except Deadline as error:
                return type(error).__name__

        @self.node.route("GET/loop")
        async def loop(call):
            return await call.call("GET/loop")

        self.events = []

        @self.node.on("own")
        async def on_own(event):
            self.events.append(event)

        @self.node.on("bad")
        async def on_bad(event):
            raise ServiceError(400, "bad", "no")

    async def test_a_node_calls_its_own_urls_itself(self):
        other = await self.offer(v2("other"), "GET/own", "GET/full")
        self.assertEqual(await self.node.call("GET/own"), "own")
        first = asyncio.ensure_future(self.node.call("GET/full"))
        await asyncio.sleep(0.05)
        self.assertEqual(await self.node.call("GET/full"), "other")
        self.assertEqual(await first, "own")
        self.assertEqual(len(self.calls(other)), 1)
        with self.assertRaises(Deadline):
            await self.node.call("GET/full", timeout=0.05)

    async def test_the_context_is_handed_down(self):
        inner = await self.offer(v2("inner"), "GET/inner")
        raw = await mesh.Raw.to(self.node.address)
        self.addCleanup(raw.close)
        parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        meta = {"d": 1000, "tp": parent, "h": 4}
        raw.send({"uri": "/own", "method": "GET", "key": 1, "$": meta, "params": "ask"})
        self.assertEqual((await raw.next())["params"], "inner")
        said = self.calls(inner)[0]["$"]
        self.assertTrue(600 < said["d"] <= 900, said)
        self.assertEqual((said["h"], said["tp"][:35]), (5, parent[:35]))
        self.assertNotEqual(said["tp"], parent)

    async def test_a_stream_that_is_opened_for_a_call_ends_before_it(self):
        await self.offer(Streams.opens, "GET/endless")
        raw = await mesh.Raw.to(self.node.address)
        self.addCleanup(raw.close)
        raw.send({"uri": "/read", "method": "GET", "key": 1, "$": {"d": 300}, "params": None})
        self.assertEqual((await raw.next())["params"], "Deadline")

    async def test_a_loop_of_calls_ends(self):
        with self.assertRaises(Refused) as caught:
            await self.node.call("GET/loop")
        self.assertEqual(caught.exception.status, 502)

    async def test_events_go_to_one_of_each_name_or_to_all(self):
        played = [await self.offer(v2(), "EVENT/sold", name=name) for name in ("one", "one", "two")]
        self.assertEqual(self.node.emit("sold", {"n": "¶"}), 2)
        await eventually(lambda: sum(len(self.calls(one)) for one in played) == 2)
        self.assertEqual(self.node.broadcast("sold"), 3)
        await eventually(lambda: sum(len(self.calls(one)) for one in played) == 5)
        self.assertTrue(all("key" not in packet for one in played for packet in self.calls(one)))
        self.assertEqual(self.node.emit("unheard"), 0)

    async def test_an_event_goes_once_to_each_name_whose_patterns_it_belongs_to(self):
        urls = [("EVENT/sold.*", "one"), ("EVENT/sold.shoes", "one"), ("EVENT/>", "two"), ("EVENT/*.shoes", "two")]
        played = [await self.offer(v2(), url, name=name) for url, name in urls]
        got = lambda: [len(self.calls(one)) for one in played]
        self.assertEqual(self.node.emit("sold.shoes"), 2)
        await eventually(lambda: got() == [0, 1, 0, 1])
        self.assertEqual(self.node.emit("sold.socks"), 2)
        await eventually(lambda: got() == [1, 1, 1, 1])
        self.assertEqual(self.node.broadcast("sold.shoes"), 4)
        await eventually(lambda: got() == [2, 2, 2, 2])
        self.assertEqual(self.node.emit("bought"), 1)
        with self.assertRaisesRegex(NoRoute, "whole name"):
            self.node.emit("sold.*")

    async def test_own_events_and_lost_ones(self):
        self.assertEqual(self.node.emit("own", [1]), 1)
        await eventually(lambda: self.events == [[1]])
        self.node.emit("bad")
        await eventually(lambda: self.node.lost_events == 1)
        self.distributor.add(1, name="dead", urls=["EVENT/dead"], **{"$": {"v": 2, "id": "dead"}})
        await eventually(lambda: self.node._caller.table.subscribers("dead"))
        self.node.emit("dead")
        await eventually(lambda: self.node.lost_events == 2)
        with self.assertRaises(TooLarge):
            self.node.emit("own", "x" * (8 << 20))
        for name in ("a b", "orders?of=7", "orders/../sold", "\x7f", "EVENT/own", "", "{own}"):
            with self.assertRaisesRegex(NoRoute, "no node can subscribe to"):
                self.node.emit(name)


class Streams(CallerTest):
    @staticmethod
    def opens(packet, raw):
        """Makes each call a stream, and says no more."""
        if not packet["uri"].startswith("$"):
            raw.send({"key": packet["key"], "$": {"n": 0}})

    async def test_parts_are_read_and_credit_is_given_back(self):
        granted = []

        def answer(packet, raw):
            if packet["uri"] == "$credit":
                granted.append(packet["$"]["c"])
                raw.send({"key": packet["key"], "$": {"n": 201, "end": True}})
            elif not packet["uri"].startswith("$"):
                raw.send({"key": packet["key"], "$": {"n": 0}})
                for at in range(1, 201):
                    raw.send({"key": packet["key"], "$": {"n": at}, "params": "x" * 1000})

        await self.offer(answer)
        self.assertEqual(len([part async for part in self.node.stream("GET/a")]), 200)
        self.assertGreaterEqual(granted[0], flow.GRANT)

    async def test_an_answer_in_one_piece_is_a_stream_of_one_part(self):
        await self.offer(v2("whole"))
        self.assertEqual([part async for part in self.node.stream("GET/a")], ["whole"])

    async def test_the_end_may_be_an_error(self):
        def answer(packet, raw):
            if not packet["uri"].startswith("$"):
                raw.send({"key": packet["key"], "$": {"n": 0}})
                raw.send({"key": packet["key"], "$": {"n": 1}, "params": 1})
                raw.send({"key": packet["key"], "$": {"s": 503, "r": "leaving", "m": ""}})

        await self.offer(answer)
        seen = []
        with self.assertRaisesRegex(Refused, "leaving"):
            async for part in self.node.stream("GET/a"):
                seen.append(part)
        self.assertEqual(seen, [1])

    async def test_a_node_that_breaks_flow_control_is_given_up(self):
        async def check(*numbers, size=1):
            def answer(packet, raw):
                if not packet["uri"].startswith("$"):
                    for number in numbers:
                        params = {"params": "x" * size} if number else {}
                        raw.send({"key": packet["key"], "$": {"n": number}, **params})

            await self.offer(answer, f"GET/{numbers[-1]}")
            with self.assertRaises(BadAnswer):
                async with self.node.stream(f"GET/{numbers[-1]}") as stream_of_it:
                    await eventually(lambda: stream_of_it._pending.inbox.is_over)
                    async for _ in stream_of_it:
                        pass

        await check(1)
        await check(0, 2)
        await check(0, 1, 2, 3, size=flow.WINDOW // 2)

    async def test_parts_that_nobody_reads_are_bounded(self):
        def answer(packet, raw):
            if not packet["uri"].startswith("$"):
                raw.send({"key": packet["key"], "$": {"n": 0}})
                for number in (1, 2):
                    raw.send({"key": packet["key"], "$": {"n": number}, "params": "x" * 1000})

        await self.offer(answer)
        with mock.patch.object(caller, "MAX_PART_BYTES", 1500):
            async with self.node.stream("GET/a") as one:
                await eventually(lambda: one._pending.inbox.is_over)
                with self.assertRaisesRegex(BadAnswer, "no memory is left"):
                    async for _ in one:
                        pass
        self.assertEqual(self.node._caller._part_bytes, 0)

    async def test_a_stream_that_is_left_is_cancelled(self):
        played = await self.offer(self.opens)
        async with self.node.stream("GET/a"):
            pass
        await eventually(lambda: any(packet["uri"] == "$cancel" for packet in played.received))

    async def test_parts_are_sent_as_credit_allows(self):
        played = await self.offer(self.opens, "POST/a")
        async with self.node.stream("POST/a") as sums:
            for _ in range(3):
                await sums.send("x" * (flow.WINDOW // 3))
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(sums.send(1), 0.05)
            key = self.calls(played)[0]["key"]
            played.connections[0].send({"uri": "$credit", "key": key, "$": {"c": 1000}})
            await asyncio.wait_for(sums.send(1), PATIENCE)
            await sums.finish()
            with self.assertRaises(Ended):
                await sums.send(2)
            await eventually(lambda: played.received[-1].get("$") == {"n": 5, "end": True})


class Legacy(CallerTest):
    """A Distributor and nodes of version 1."""

    version = 1

    @staticmethod
    def answer(packet, raw):
        raw.send({"key": packet["key"], "errorcode": 0, "errormessage": "success", "results": packet["params"]})

    async def offer_legacy(self, answer, *urls, **entry):
        return await self.offer(answer, *urls, is_v2=False, **entry)

    async def test_calls_have_their_form(self):
        played = await self.offer_legacy(self.answer, "GET/goods/{id}")
        result = await self.node.call("GET/goods/%EC%82%AC", {"a": 1, "key": "lost"})
        packet = {"uri": "/goods/%EC%82%AC", "method": "GET", "key": 1, "params": {"a": 1, "id": "사", "key": 1}}
        self.assertEqual(played.received, [packet])
        self.assertEqual(result, {"a": 1, "id": "사", "key": 1})
        with self.assertRaisesRegex(BadArguments, "take only objects"):
            await self.node.call("GET/goods/7", [1])

    async def test_answers_of_all_kinds(self):
        said = {}

        def answer(packet, raw):
            raw.send(encode({"key": packet["key"], **said}) if said else b"null\xc2\xb6")

        await self.offer_legacy(answer)

        async def check(expected, **members):
            said.clear()
            said.update(members)
            try:
                self.assertEqual(await self.node.call("GET/a"), expected)
            except Refused as error:
                self.assertEqual((error.status, error.reason), expected)

        await check([1], errorcode=0, errormessage="success", results=[1])
        await check({"x": 1}, errorcode=0, errormessage={"x": 1})
        await check({"results": 1, "total": 2}, errorcode="0", results=1, total=2)
        await check(None, errorcode=0, errormessage="success")
        await check((404, "errorcode_404"), errorcode=404, errormessage="no")
        await check((500, "errorcode_4040"), errorcode=4040, errormessage="no")
        await check((500, "errorcode_e_7"), errorcode="E_7", errormessage="no")
        await check((500, "errorcode"), errorcode="a b", errormessage="no")
        await check((501, "old_error"))

    async def test_no_more_is_written_than_it_can_read(self):
        going = asyncio.Event()

        async def slow(packet, raw):
            if packet["params"].get("wait"):
                await going.wait()
            self.answer(packet, raw)

        played = await self.offer_legacy(slow)
        await self.node.call("GET/a")
        text = "x" * 30_000
        calls = [asyncio.ensure_future(self.node.call("GET/a", {"text": text, "wait": 1})) for _ in range(4)]
        await eventually(lambda: len(played.received) == 2)
        links = self.node._caller.table._nodes[f"127.0.0.1:{played.port}"].connection._link
        self.assertLessEqual(links._written - links._read, LEGACY_READ_BYTES)
        self.assertGreater(len(links._queue), 0)
        going.set()
        self.assertEqual(len(await asyncio.gather(*calls)), 4)
        with self.assertRaises(TooLarge):
            await self.node.call("GET/a", {"text": "x" * LEGACY_READ_BYTES})

    async def test_it_may_say_that_it_can_read_more(self):
        await self.offer_legacy(self.answer, readWindow=1 << 20)
        self.assertEqual(len((await self.node.call("GET/a", {"text": "x" * 100_000}))["text"]), 100_000)

    async def test_a_new_connection_is_given_one_call_at_a_time(self):
        played = await self.offer_legacy(lambda *_: None)
        calls = [asyncio.ensure_future(self.node.call("GET/a", timeout=0.3)) for _ in range(2)]
        await eventually(lambda: len(played.received) == 1)
        await asyncio.sleep(0.05)
        self.assertEqual(len(played.received), 1)
        await asyncio.gather(*calls, return_exceptions=True)

    async def test_keys_stay_below_2_to_the_31(self):
        await self.offer_legacy(self.answer)
        await self.node.call("GET/a")
        found = self.node._caller.table.find("GET", "/a")[1].members[0].connection._link
        found._next_key = MAX_LEGACY_KEY - 1
        keys = [(await self.node.call("GET/a"))["key"] for _ in range(3)]
        self.assertEqual(keys, [MAX_LEGACY_KEY, 1, 2])


class Registering(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        logging.getLogger("pilcrow").setLevel(logging.CRITICAL)

    async def test_it_answers_pings_and_asks_when_it_knows_another_list(self):
        async with Distributor() as distributor, Node("a", distributor=distributor.address) as one:
            await asyncio.wait_for(one._registry.is_registered.wait(), PATIENCE)
            peer = next(iter(distributor.peers.values()))
            state = {"epoch": 5, "rev": distributor.rev, "digest": one._registry.replica.digest}
            peer.send({"uri": "$ping", "$": {**state, "every": 1000}})
            await distributor.saw(lambda packet: packet == {"uri": "$pong", "$": state})
            peer.send({"uri": "$ping", "$": {**state, "digest": 1}})
            await distributor.saw(lambda packet: packet.get("method") == "GET")
            # It is given a copy when it asks.
            peer.send({"uri": "/distributes", "method": "GET", "key": 0, "params": [], "$": {"copy": True}})
            await distributor.saw(lambda packet: packet.get("method") == "PUT" and packet["$"]["digest"])

    async def test_it_registers_again_when_it_is_told_to(self):
        async with Distributor() as distributor, Node("a", distributor=distributor.address) as one:
            await asyncio.wait_for(one._registry.is_registered.wait(), PATIENCE)
            peer = next(iter(distributor.peers.values()))
            before = len(distributor.received)
            meta = {"s": 503, "r": "busy", "m": "later", "ra": 1}
            peer.send({"uri": "/distributes", "method": "GET", "key": 0, "params": [], "$": meta})
            await eventually(
                lambda: any(packet.get("method") == "POST" for packet in distributor.received[before:])
            )
            again = [packet for packet in distributor.received[before:] if packet.get("method") == "POST"][0]
            self.assertEqual(again["$"]["have"]["epoch"], 5)
            with mock.patch.object(registry, "NOT_YOURS_PAUSE", 0.01):
                peer.send({"uri": "/distributes", "method": "GET", "params": [], "$": {"s": 403, "r": "not_yours"}})
                await eventually(lambda: not one._registry.is_registered.is_set())
                await asyncio.wait_for(one._registry.is_registered.wait(), PATIENCE)

    async def test_it_comes_back(self):
        with mock.patch.object(registry, "RECONNECT", 0.05), self.assertLogs("pilcrow", "WARNING") as log:
            async with Distributor() as distributor, Node("a", distributor=distributor.address) as one:
                for _ in range(3):
                    await asyncio.wait_for(one._registry.is_registered.wait(), PATIENCE)
                    one._registry.is_registered.clear()
                    next(iter(distributor.peers.values())).close()
                await asyncio.wait_for(one._registry.is_registered.wait(), PATIENCE)
        self.assertIn("lost the connection to the Distributor", log.output[0])

    async def test_a_server_that_is_no_distributor(self):
        for begin, words in ((b"HTTP/1.1 400 Bad\r\n\r\n", "it speaks HTTP"), (b"SSH-2.0-x\r\n", "it speaks SSH")):

            async with mesh.Node(lambda _, raw, begin=begin: (raw.send(begin), raw.close())) as server:
                with self.assertLogs("pilcrow", "WARNING") as log:
                    async with Node("a", distributor=server.address):
                        await eventually(lambda: log.output)
            self.assertIn(f"is not a Distributor: {words}. Is the address right?", log.output[0])

    async def test_a_list_that_is_too_large_ends_the_connection(self):
        with mock.patch.object(registry, "MAX_LIST_BYTES", 1000), self.assertLogs("pilcrow", "WARNING") as log:
            async with Distributor() as distributor, Node("a", distributor=distributor.address, meta="x" * 2000):
                await eventually(lambda: log.output)
        self.assertIn("a frame is longer than 1000 bytes", log.output[0])

    async def test_a_distributor_that_reads_nothing_is_given_up(self):
        async with Distributor() as distributor, Node("a", distributor=distributor.address) as one:
            await asyncio.wait_for(one._registry.is_registered.wait(), PATIENCE)
            first = next(iter(distributor.peers.values()))
            with mock.patch.object(registry, "MAX_UNSENT_BYTES", -1):
                one._registry._pong()
            await eventually(lambda: first not in distributor.peers.values())

    async def test_a_report_names_not_too_many_nodes(self):
        async with Distributor() as distributor, Node("a", distributor=distributor.address) as one:
            await asyncio.wait_for(one._registry.is_registered.wait(), PATIENCE)
            ids = [distributor.add(port, name="x", urls=[]) for port in range(1, 80)]
            await eventually(lambda: set(ids) <= set(one._registry.replica.entries))
            for at in ids:
                one._registry.report(at)
                one._registry.report(at, "refused")
            await distributor.saw(lambda packet: packet.get("method") == "PATCH")
            report = next(packet for packet in distributor.received if packet.get("method") == "PATCH")["params"]
            self.assertEqual(len(report["failed"]), registry.MAX_REPORTED)
            self.assertEqual(len(report["unreachable"]), registry.MAX_REPORTED)

    async def test_a_silent_distributor_is_given_up(self):
        async with mesh.Node(lambda *_: None) as server:
            with mock.patch.object(registry, "SILENCE", 0.05), self.assertLogs("pilcrow", "WARNING") as log:
                async with Node("a", distributor=server.address):
                    await eventually(lambda: log.output)
        self.assertIn("it gives no sign of life", log.output[0])
