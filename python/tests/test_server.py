"""A node as its callers see it: raw packets, and each bound of what a caller may hold."""

import asyncio
import logging
import unittest
from unittest import mock

from pilcrow import Node, ServiceError, Status, node
from pilcrow.handler import handler, key_turns, service
from pilcrow.handler.handler import Handler
from pilcrow.routing.router import event_route
from pilcrow.server import answer_writer, caller_connection, running_call, server
from pilcrow.transport import flow
from pilcrow.wire import MAX_FRAME_BYTES

from .mesh import PATIENCE, Distributor, Raw, eventually


def call(uri="/echo", key=7, method="GET", params=None, **meta):
    return {"uri": uri, "method": method, "key": key, "$": meta, "params": params}


class ServerTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        logging.getLogger("pilcrow").setLevel(logging.CRITICAL)
        # Nothing listens there: a node serves without a Distributor.
        self.node = Node("tested", distributor="127.0.0.1:1")
        self.going = asyncio.Event()
        self.done = []
        self.cancelled = []
        self.parts = 0
        self.add_routes()
        await self.node.start()
        self.addAsyncCleanup(self.stop)

    async def stop(self):
        self.going.set()
        with mock.patch.object(node, "LEAVE_TIME", 0.0), mock.patch.object(node, "FINISH_TIME", 1.0):
            await self.node.stop()

    def add_routes(self):
        @self.node.route("GET/echo")
        async def echo(params):
            return params

        @self.node.route("GET/caller")
        async def who_calls(call):
            return call.caller

        @self.node.route("POST/echo")
        async def create(params):
            return Status(201, params)

        @self.node.route("GET/fail")
        async def fail(kind="bug"):
            if kind == "said":
                raise ServiceError(409, "exists", "there is one ¶", retry_after=0.5)
            raise RuntimeError("a secret of 10.0.0.7")

        async def wait():
            try:
                await self.going.wait()
            except asyncio.CancelledError:
                self.cancelled.append(1)
                raise
            self.done.append(1)
            return "done"

        self.node.route("GET/wait")(wait)
        self.node.route("POST/wait")(wait)
        self.node.route("GET/narrow", max_concurrency=1)(wait)
        self.node.on("narrow", max_concurrency=1)(self.on_event)

        @self.node.route("GET/large")
        async def large(size: int):
            return "x" * size

        @self.node.route("GET/count")
        async def count(to: int = 1 << 60, first: str = ""):
            if first == "refuse":
                raise ServiceError(403, "no", "not you")
            if first == "wait":
                await self.going.wait()
            for number in range(to):
                yield number

        @self.node.route("GET/parts")
        async def parts():
            while True:
                self.parts += 1
                yield "x" * 1000

        @self.node.route("GET/cancelled")
        async def waits_for_a_cancelled_task():
            task = asyncio.ensure_future(asyncio.sleep(60))
            task.cancel()
            await task

        @self.node.route("POST/hold")
        async def hold(call):
            async for _ in call.items():
                await self.going.wait()

        @self.node.route("POST/sum")
        async def total(call):
            return sum([item async for item in call.items()])

    async def on_event(self, event):
        await self.going.wait()
        self.done.append(event)

    async def raw(self):
        raw = await Raw.to(self.node.address)
        self.addCleanup(raw.close)
        return raw

    async def ask(self, packet):
        raw = await self.raw()
        raw.send(packet)
        return await raw.next()


class Answers(ServerTest):
    async def check(self, packet, expected):
        self.assertEqual(await self.ask(packet), expected)

    async def test_each_packet_is_answered_in_its_own_form(self):
        await self.check(call(params={"a": "¶"}), {"key": 7, "$": {}, "params": {"a": "¶"}})
        await self.check(call(method="POST", params=[1]), {"key": 7, "$": {"s": 201}, "params": [1]})
        said = {"key": 7, "$": {"s": 409, "r": "exists", "m": "there is one ¶", "ra": 500}}
        await self.check(call("/fail", params={"kind": "said"}), said)
        old = {"uri": "/echo", "method": "GET", "key": 7, "params": {"a": 1, "key": 7}}
        await self.check(old, {"key": 7, "errorcode": 0, "errormessage": "success", "results": {"a": 1}})
        await self.check({**old, "uri": "/no"}, {"key": 7, "errorcode": 404, "errormessage": mock.ANY})

    async def test_a_bug_is_told_to_the_log_and_not_to_callers(self):
        with self.assertLogs("pilcrow", "ERROR") as log:
            answer = await self.ask(call("/fail"))
        self.assertEqual((answer["$"]["s"], answer["$"]["r"]), (500, "internal"))
        self.assertNotIn("10.0.0.7", str(answer))
        self.assertIn("a secret of 10.0.0.7", log.output[0])
        self.assertIn("Traceback", log.output[0])

    async def test_a_handler_that_waits_for_a_cancelled_task_has_an_answer(self):
        answer = await self.ask(call("/cancelled"))
        self.assertEqual((answer["$"]["s"], answer["$"]["r"]), (500, "internal"))

    async def test_credit_without_end_fills_no_memory_and_keeps_no_other_waiting(self):
        raw = await self.raw()
        raw.writer.transport.pause_reading()
        raw.send(call("/parts", c=(1 << 53) - 1))
        before = -1
        while self.parts < 1000 or self.parts != before:
            before = self.parts
            await asyncio.wait_for(asyncio.sleep(0.1), PATIENCE)
        self.assertEqual((await self.ask(call()))["$"], {})
        raw.writer.transport.resume_reading()
        while self.parts <= 2 * before:
            await raw.next()

    async def test_calls_that_came_too_late_or_too_deep_are_not_begun(self):
        self.assertEqual((await self.ask(call(d=0)))["$"]["r"], "deadline")
        self.assertEqual((await self.ask(call(h=32)))["$"]["r"], "loop")
        self.assertEqual((await self.ask(call(h=31)))["$"], {})
        raw = await self.raw()
        raw.send(call(t=10_000, d=1000))
        self.assertEqual((await raw.next())["$"], {})
        raw.send(call(t=9_400, d=1000))
        self.assertEqual((await raw.next())["$"]["r"], "overloaded")
        raw.send(call(t=8_900, d=1000))
        self.assertEqual((await raw.next())["$"]["r"], "deadline")

    async def test_another_instance_begins_nothing(self):
        raw = await self.raw()
        raw.send({"uri": "$hello", "$": {"f": "me", "to": "another"}})
        self.assertEqual(await raw.next(), {"uri": "$hello", "$": {"f": self.node.instance}})
        raw.send(call("/wait"))
        self.assertEqual((await raw.next())["$"]["r"], "wrong_instance")

    async def test_a_caller_has_the_name_that_it_gives_itself(self):
        raw = await self.raw()
        raw.send(call("/caller"))
        self.assertTrue((await raw.next())["params"].startswith("127.0.0.1:"))
        raw.send({"uri": "$hello", "$": {"f": "x" * 1000}})
        raw.send(call("/caller"))
        self.assertEqual((await raw.next())["params"], "x" * caller_connection.MAX_ID_CHARS)
        raw.send(call("/caller", f="other"))
        self.assertEqual((await raw.next())["params"], "other")

    async def test_too_many_calls_of_a_route(self):
        raw = await self.raw()
        raw.send(call("/narrow", key=1))
        raw.send(call("/narrow", key=2))
        answer = await raw.next()
        self.assertEqual((answer["key"], answer["$"]["r"]), (2, "overloaded"))
        self.going.set()
        self.assertEqual((await raw.next())["key"], 1)

    async def test_events_wait_for_their_turn_up_to_a_limit(self):
        raw = await self.raw()
        with mock.patch.object(handler, "MAX_WAITING", 2):
            for number in range(5):
                raw.send({"uri": "/narrow", "method": "EVENT", "$": {}, "params": number})
            await eventually(lambda: self.node.lost_events == 2)
        self.going.set()
        await eventually(lambda: self.done == [0, 1, 2])


    async def test_an_event_that_says_which_one_it_is_is_acknowledged_in_turn(self):
        seen = []

        async def handle(payload, call):
            seen.append((payload, call.event.name, call.event.id, call.event.key, call.event.attempt))
            await asyncio.sleep(0)
            if payload == "bad":
                raise ServiceError(409, "no", "not this one")

        self.node._service.router.put(event_route("sold.*"), Handler(event_route("sold.*"), handle))
        raw = await self.raw()
        raw.send({"uri": "/sold.shoes", "method": "EVENT", "key": 1, "$": {"k": "7"}, "params": "unanswered"})
        for key, payload in ((2, "good"), (3, "bad"), (4, "last")):
            meta = {"e": f"e{key}", "k": "7", "at": 1}
            raw.send({"uri": "/sold.shoes", "method": "EVENT", "key": key, "$": meta, "params": payload})
        answers = [await raw.next() for _ in range(3)]
        self.assertEqual([(one["key"], one["$"].get("s")) for one in answers], [(2, None), (3, 409), (4, None)])
        self.assertEqual(seen[0], ("unanswered", "sold.shoes", None, "7", 0))
        expected = [(one, "sold.shoes", f"e{key}", "7", 1) for key, one in ((2, "good"), (3, "bad"), (4, "last"))]
        self.assertEqual(seen[1:], expected)
        turns = self.node._service.turns
        self.assertEqual((turns._locks, turns._waiting), ({}, 0))

    async def test_events_of_a_key_run_one_after_the_other_and_only_so_many_wait(self):
        turns, order = key_turns.KeyTurns(), []

        async def one(key, number):
            async with turns.turn(key):
                order.append((key, number))
                await self.going.wait()
                order.append((key, number))

        tasks = [asyncio.ensure_future(one("a", number)) for number in range(3)]
        tasks.append(asyncio.ensure_future(one("b", 9)))
        await asyncio.sleep(0.01)
        self.assertEqual(order, [("a", 0), ("b", 9)])
        with mock.patch.object(key_turns, "MAX_WAITING_OF_KEY", 2), self.assertRaises(ServiceError) as caught:
            await one("a", 4)
        self.assertEqual(caught.exception.reason, "overloaded")
        tasks[1].cancel()
        self.going.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.assertEqual([number for key, number in order if key == "a"], [0, 0, 2, 2])
        self.assertEqual((turns._locks, turns._waiting), ({}, 0))


class Leaving(ServerTest):
    async def test_what_may_be_carried_out_twice_is_dropped_and_the_rest_is_finished(self):
        raw = await self.raw()
        raw.send(call("/wait", key=1))
        raw.send(call("/wait", key=2, method="POST"))
        raw.send(call("/wait", key=3, method="POST", i=True))
        raw.send(call())
        await raw.next()
        raw.send({"uri": "$cancel", "key": 1, "$": {}})
        await eventually(lambda: len(self.cancelled) == 1)
        raw.reset()
        await eventually(lambda: len(self.cancelled) == 2)
        self.going.set()
        await eventually(lambda: len(self.done) == 1)

    async def test_released_calls_are_bounded_in_number_and_time(self):
        async def leave(*cancelled):
            raw = await self.raw()
            for key in (1, 2):
                raw.send(call("/wait", key=key, method="POST"))
            raw.send(call())
            await raw.next()
            self.cancelled.clear()
            raw.reset()
            await eventually(lambda: self.cancelled == list(cancelled))

        with mock.patch.object(service, "MAX_RELEASED_TIME", 0.05):
            await leave(1, 1)
        with mock.patch.object(service, "MAX_RELEASED", 1):
            await leave(1)
            self.going.set()
            await eventually(lambda: self.done == [1])

    async def test_a_node_that_stops_answers_what_it_has_begun(self):
        raw = await self.raw()
        raw.send(call("/wait"))
        raw.send(call(key=8))
        await raw.next()
        with mock.patch.object(node, "LEAVE_TIME", 0.05):
            stopping = asyncio.ensure_future(self.node.stop())
            await asyncio.sleep(0.2)
            with self.assertRaises(OSError):
                await Raw.to(self.node.address)
            self.going.set()
            self.assertEqual((await raw.next())["params"], "done")
            self.assertIsNone(await raw.next())
            self.assertTrue(await stopping)

    async def test_streams_end_when_the_node_leaves(self):
        raw = await self.raw()
        raw.send(call("/count", c=1 << 20, params={"first": "wait"}))
        self.assertEqual((await raw.next())["$"], {"n": 0})
        with mock.patch.object(node, "LEAVE_TIME", 0.0):
            await self.node.stop()
        self.assertEqual((await raw.next())["$"]["r"], "leaving")


class Streams(ServerTest):
    async def test_parts_wait_for_credit(self):
        raw = await self.raw()
        raw.send(call("/count", c=1, params={"to": 2}))
        self.assertEqual(await raw.next(), {"key": 7, "$": {"n": 0}})
        self.assertEqual(await raw.next(), {"key": 7, "$": {"n": 1}, "params": 0})
        self.assertTrue(await raw.is_silent())
        raw.send({"uri": "$credit", "key": 7, "$": {"c": 1000}})
        self.assertEqual(await raw.next(), {"key": 7, "$": {"n": 2}, "params": 1})
        self.assertEqual(await raw.next(), {"key": 7, "$": {"n": 3, "end": True}})

    async def test_a_stream_can_be_refused_before_it_begins(self):
        self.assertEqual((await self.ask(call("/count", c=9, params={"first": "refuse"})))["$"]["r"], "no")
        self.assertEqual((await self.ask(call("/count")))["$"]["r"], "stream")
        self.assertEqual((await self.ask(call("/sum", method="POST")))["$"]["r"], "stream")

    async def test_a_stream_that_has_nothing_yet_is_opened(self):
        raw = await self.raw()
        with mock.patch.object(running_call, "OPEN_AFTER", 0.01):
            raw.send(call("/count", c=9, params={"first": "wait"}))
            self.assertEqual((await raw.next())["$"], {"n": 0})

    async def test_the_caller_sends_parts(self):
        raw = await self.raw()
        raw.send(call("/sum", method="POST", c=1000))
        self.assertEqual((await raw.next())["$"], {"n": 0})
        raw.send({"uri": "$part", "key": 7, "$": {"n": 1}, "params": 3})
        raw.send({"uri": "$part", "key": 7, "$": {"n": 2}, "params": 4})
        raw.send({"uri": "$part", "key": 7, "$": {"n": 3, "end": True}})
        self.assertEqual(await raw.next(), {"key": 7, "$": {"n": 1}, "params": 7})
        self.assertEqual((await raw.next())["$"], {"n": 2, "end": True})

    async def test_a_caller_that_breaks_flow_control_is_cut(self):
        async def check(*parts):
            raw = await self.raw()
            raw.send(call("/sum", method="POST", c=1000))
            await raw.next()
            for number, params in parts:
                raw.send({"uri": "$part", "key": 7, "$": {"n": number}, "params": params})
            self.assertIsNone(await raw.next())

        await check((2, 1))
        await check((1, 1), (3, 1))
        # The handler reads the first part, for which it gives credit, and no more. Two others use
        # up the credit.
        raw = await self.raw()
        raw.send(call("/hold", method="POST", c=1000))
        await raw.next()
        large = "x" * (flow.WINDOW // 2)
        for number in range(1, 4):
            raw.send({"uri": "$part", "key": 7, "$": {"n": number}, "params": large})
        self.assertEqual((await raw.next())["uri"], "$credit")
        self.assertTrue(await raw.is_silent())
        raw.send({"uri": "$part", "key": 7, "$": {"n": 4}, "params": 1})
        self.assertIsNone(await raw.next())


    async def test_parts_that_nobody_reads_are_bounded(self):
        with mock.patch.object(caller_connection, "MAX_CALLER_BYTES", 100_000):
            raw = await self.raw()
            raw.send(call("/hold", method="POST", c=1000))
            await raw.next()
            for number in range(1, 4):
                raw.send({"uri": "$part", "key": 7, "$": {"n": number}, "params": "x" * 60_000})
            self.assertIsNone(await raw.next())


class Limits(ServerTest):
    async def test_numbers_without_measure_do_no_harm(self):
        huge = "9" * 400
        raw = await self.raw()
        for member in (f'"d":{huge}', f'"t":{huge}', '"d":1e999', f'"c":{huge}', f'"i":{huge}'):
            raw.send(f'{{"uri":"/echo","method":"GET","key":7,"$":{{{member}}},"params":1}}¶'.encode())
            self.assertEqual((await raw.next())["params"], 1, member)
        raw.send(f'{{"uri":"/echo","method":"GET","key":7,"$":{{"h":{huge}}},"params":1}}¶'.encode())
        self.assertEqual((await raw.next())["$"]["r"], "loop")
        raw.send('{"uri":"/echo","method":"GET","key":1e999,"$":{},"params":1}¶'.encode())
        raw.send(call(key=8))
        self.assertEqual((await raw.next())["key"], 8)

    async def test_broken_packets(self):
        raw = await self.raw()
        raw.send(b"{]\xc2\xb6" * (caller_connection.MAX_STRIKES - 1))
        raw.send(call())
        self.assertEqual((await raw.next())["key"], 7)
        raw.send(b"{]\xc2\xb6")
        self.assertIsNone(await raw.next())
        # Pieces of packets that never become one are broken packets, too.
        raw = await self.raw()
        raw.send('{"a":"x¶'.encode() * (caller_connection.MAX_STRIKES + 1))
        self.assertIsNone(await raw.next())
        # Of a version 1 gateway they are its clients'.
        raw = await self.raw()
        raw.send({"uri": "/echo", "method": "GET", "key": 1, "params": {}})
        await raw.next()
        raw.send(b"{]\xc2\xb6" * 10)
        raw.send({"uri": "/echo", "method": "GET", "key": 2, "params": {}})
        self.assertEqual((await raw.next())["key"], 2)

    async def test_a_packet_that_is_too_large(self):
        raw = await self.raw()
        raw.send(b"x" * (MAX_FRAME_BYTES + 1))
        self.assertIsNone(await raw.next())

    async def test_a_packet_that_does_not_end(self):
        with mock.patch.object(caller_connection, "FRAME_TIME", 0.05), mock.patch.object(server, "TIDY", 0.02):
            raw = await self.raw()
            raw.send(b'{"uri":"/echo","method":"GET"')
            self.assertIsNone(await raw.next())

    async def test_calls_of_one_caller_at_work(self):
        with mock.patch.object(caller_connection, "MAX_RUNNING", 2):
            raw = await self.raw()
            for key in range(4):
                raw.send(call("/wait", key=key))
            raw.send(call(key=9))
            self.assertTrue(await raw.is_silent())
            self.going.set()
            self.assertEqual({(await raw.next())["key"] for _ in range(5)}, {0, 1, 2, 3, 9})

    async def test_bytes_of_one_caller_and_of_all(self):
        params = "x" * 4000
        for what in ((caller_connection, "MAX_CALLER_BYTES"), None):
            if what is None:
                patched = mock.patch.object(self.node._service, "max_buffer_bytes", 40_000)
            else:
                patched = mock.patch.object(*what, 40_000)
            self.going.clear()
            with patched:
                raw = await self.raw()
                for key in range(3):
                    raw.send(call("/wait", key=key, params={"x": params}))
                raw.send(call(key=9))
                self.assertTrue(await raw.is_silent())
                self.going.set()
                self.assertEqual({(await raw.next())["key"] for _ in range(4)}, {0, 1, 2, 9})

    async def test_an_answer_that_has_no_room(self):
        answer = await self.ask(call("/large", params={"size": MAX_FRAME_BYTES}))
        self.assertEqual(answer["$"]["r"], "answer_too_large")
        with mock.patch.object(self.node._service, "max_buffer_bytes", 40_000):
            self.assertEqual((await self.ask(call("/large", params={"size": 100_000})))["$"]["r"], "no_room")

    async def test_unread_answers_stop_further_calls(self):
        with mock.patch.object(caller_connection, "MAX_UNREAD_BYTES", 100_000):
            raw = await self.raw()
            for key in range(2):
                raw.send(call("/large", key=key, params={"size": 8_000_000}))
            caller = next(iter(self.node._server._callers))
            await eventually(lambda: caller._writer.waiting > 1_000_000)
            self.going.set()
            raw.send(call("/wait", key=9))
            await asyncio.sleep(0.1)
            self.assertEqual(self.done, [])
            self.assertEqual([(await raw.next())["key"] for _ in range(3)], [0, 1, 9])

    async def test_a_caller_that_reads_nothing_is_cut(self):
        with mock.patch.object(caller_connection, "STALL_TIME", 0.05), mock.patch.object(server, "TIDY", 0.02):
            raw = await self.raw()
            for key in range(20):
                raw.send(call("/large", key=key, params={"size": 1_000_000}))
            await eventually(lambda: not self.node._server._callers)

    async def test_callers_are_bounded(self):
        with mock.patch.object(server, "MAX_CALLERS", 1):
            first = await self.raw()
            first.send(call())
            await first.next()
            self.assertIsNone(await (await self.raw()).next())

    async def test_a_version_1_caller_is_sent_no_more_than_it_can_read(self):
        raw = await self.raw()
        with mock.patch.object(answer_writer, "LEGACY_READ_TIME", 0.2):
            for key in (1, 2, 3):
                raw.send({"uri": "/large", "method": "GET", "key": key, "params": {"size": 30_000}})
            self.assertEqual([(await raw.next())["key"] for _ in range(2)], [1, 2])
            self.assertTrue(await raw.is_silent(0.05))
            self.assertEqual((await raw.next())["key"], 3)
        raw.send({"uri": "/large", "method": "GET", "key": 4, "params": {"size": 70_000}})
        self.assertEqual((await raw.next())["errorcode"], 500)

    async def test_a_version_1_peer_says_what_it_can_read(self):
        self.node._server.read_windows = {"127.0.0.1": 200_000}
        raw = await self.raw()
        raw.send({"uri": "/large", "method": "GET", "key": 4, "params": {"size": 70_000}})
        self.assertEqual((await raw.next())["errorcode"], 0)


class Starting(unittest.IsolatedAsyncioTestCase):
    async def test_errors_say_what_to_do(self):
        async with Node("one", distributor="127.0.0.1:1") as one:
            with self.assertRaisesRegex(Exception, "another program is using that port. Choose another one"):
                await Node("two", listen=one.address, distributor="127.0.0.1:1").start()
        with self.assertRaisesRegex(Exception, "more than 65000 bytes"):
            await Node("large", meta="x" * node.MAX_REGISTRATION_BYTES, distributor="127.0.0.1:1").start()
        with self.assertRaisesRegex(RuntimeError, "has not been started"):
            await Node("idle").call("GET/x")

    async def test_a_distributor_that_is_not_there_is_a_line_of_the_log(self):
        with self.assertLogs("pilcrow", "WARNING") as log:
            async with Node("lonely", distributor="127.0.0.1:1"):
                await eventually(lambda: log.output)
        self.assertIn("cannot connect to the Distributor at 127.0.0.1:1: nothing is listening there", log.output[0])

    async def test_a_route_is_internal_unless_its_author_says_that_it_is_public(self):
        async def handle(params): ...

        for options, public in (({}, [0]), ({"public_routes": True}, [0, 1])):
            one = Node("a", distributor="127.0.0.1:1", **options)
            one.route("GET/open", public=True)(handle)
            one.route("GET/usual")(handle)
            one.on("e")(handle)
            one.route("GET/closed", public=False)(handle)
            registered = one._description(("127.0.0.1", 1))
            self.assertEqual(registered["urls"], ["GET/open", "GET/usual", "EVENT/e", "GET/closed"])
            expected = [{"at": public, "public": True}, {"at": [2], "acks": True}]
            self.assertEqual(sorted(registered["$"]["routes"], key=str), sorted(expected, key=str))

    async def test_a_node_registers_and_leaves_before_it_closes(self):
        async with Distributor() as distributor:
            async with Node("orders", distributor=distributor.address, zone="a", version="1.2") as one:

                await asyncio.wait_for(one._registry.is_registered.wait(), PATIENCE)
                first = distributor.received[0]
                self.assertEqual(first["params"]["name"], "orders")
                expected = {"v": 2, "id": one.instance, "version": "1.2", "zone": "a", "routes": []}
                self.assertEqual(first["params"]["$"], expected)
                self.assertEqual(set(first["$"]), {"secret", "packed", "loopback"})
            await distributor.saw(lambda packet: packet["uri"] == "/distributes" and packet["method"] == "DELETE")
