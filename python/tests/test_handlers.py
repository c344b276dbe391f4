"""How arguments reach a handler, and what a call hands down."""

import ast
import pathlib
import re
import unittest
from typing import Optional
from unittest import mock

from pilcrow import Call, Node, ServiceError, StartError, Status, context, errors, node
from pilcrow.handler import service
from pilcrow.context import Context, child_trace, read_trace
from pilcrow.errors import Deadline, Lost, NoProvider, Overloaded, Refused, to_service_error
from pilcrow.handler.handler import Handler
from pilcrow.routing.router import event_route, own_route

README = pathlib.Path(__file__).parents[1] / "README.md"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Arguments(unittest.TestCase):
    def check(self, function, params, captured, expected, url="GET/a/{id}"):
        bound = Handler(own_route(url), function).bind("the call", params, captured)
        self.assertEqual(bound, expected)

    def refused(self, function, params, captured, words, url="GET/a/{id}"):
        with self.assertRaises(ServiceError) as caught:
            Handler(own_route(url), function).bind(None, params, captured)
        self.assertEqual(caught.exception.status, 400)
        self.assertIn(words, caught.exception.message)

    def test_members_are_read_as_annotations_say(self):
        async def typed(
            id: int, ratio: float = 1.0, on: bool = False, name: str = "", more: Optional[int] = None
        ): ...

        self.check(typed, None, {"id": "7"}, {"id": 7})
        given = {"ratio": "0.5", "on": "true", "name": "사과", "more": None, "unknown": 1}
        self.check(typed, given, {"id": "7"}, {"id": 7, "ratio": 0.5, "on": True, "name": "사과", "more": None})
        self.check(typed, {"id": 1, "more": 2.0}, {"id": "7"}, {"id": 7, "more": 2})
        self.refused(typed, None, {"id": "x"}, "id must be a whole number")
        self.refused(typed, {"on": 1}, {"id": "7"}, "on must be true or false")
        self.refused(typed, {"name": 1}, {"id": "7"}, "name must be a text")
        self.refused(typed, {"ratio": True}, {"id": "7"}, "ratio must be a number")

    def test_all_arguments_and_the_call(self):
        async def plain(call, params): ...

        async def annotated(it: Call, id): ...

        self.check(plain, {"a": 1}, {"id": "7"}, {"call": "the call", "params": {"a": 1, "id": "7"}})
        self.check(plain, [1], {}, {"call": "the call", "params": [1]}, url="GET/a")
        self.check(annotated, None, {"id": "7"}, {"it": "the call", "id": "7"})
        self.refused(annotated, None, {}, "id is missing")

    def test_a_handler_of_an_event_is_given_all_that_was_emitted(self):
        async def plain(it): ...

        async def number(id: int, call): ...

        on = event_route("goods.sold")
        self.assertEqual(Handler(on, plain).bind(None, {"id": 7}, {}), {"it": {"id": 7}})
        self.assertEqual(Handler(on, number).bind("the call", "7", {}), {"id": 7, "call": "the call"})
        with self.assertRaises(ServiceError) as caught:
            Handler(on, number).bind(None, {"id": 7}, {})
        self.assertEqual(caught.exception.message, "id must be a whole number")

    def test_mistakes_are_told_at_the_start(self):
        def check(function, words, url="GET/a/{id}", **options):
            with self.assertRaises(StartError) as caught:
                Handler(own_route(url), function, **options)
            self.assertIn(words, str(caught.exception))

        def not_async(id): ...

        async def other_name(name): ...

        async def with_stars(*ids): ...

        async def with_names(id, **rest): ...

        async def fine(id): ...

        async def yields(event):
            yield 1

        check(not_async, "async def")
        check(other_name, "a parameter id")
        check(with_stars, "passed by name")
        check(with_names, "write `params`")
        check(fine, "1 or more", max_concurrency=0)
        check(yields, "is not read", url="EVENT/a")

    def test_statuses(self):
        self.assertEqual(Status(201, 1).status, 201)
        self.assertRaises(ValueError, Status, 404)
        self.assertRaises(ValueError, ServiceError, 200, "ok", "fine")


class Nodes(unittest.TestCase):
    def check(self, make, words):
        with self.assertRaises(errors.StartError) as caught:
            make()
        self.assertIn(words, str(caught.exception))

    def test_settings_are_checked(self):
        self.check(lambda: Node("two words"), "is not a name")
        self.check(lambda: Node("a", distributor="nowhere"), "write host:port")
        self.check(lambda: Node("a", distributor="127.0.0.1:0"), "its port is not 0")
        self.check(lambda: Node("a", listen="9010"), "write host:port")
        self.check(lambda: Node("a", weight=1001), "from 0 to 1000")
        self.check(lambda: Node("a", distributor=9000), "9000 is not an address: write a text host:port")

    def test_mistakes_of_newcomers_say_what_to_do(self):
        async def handle(): ...

        async def reads(request): ...

        one = Node("a")
        self.check(lambda: one.route("GET/a", public="yes")(handle), "public of GET/a is 'yes': it is True or False")
        for make, words in (
            (lambda: one.route(handle), "'handle' is not a route: it is not a text"),
            (lambda: one.on("EVENT/a"), "an event is written like orders.created"),
            (lambda: one.on("a/{b}"), "an event has no parameters"),
        ):
            with self.assertRaisesRegex(errors.RouteError, words):
                make()
        self.assertEqual(Handler(own_route("GET/a"), reads, headers=[])._request, ("request", False))

    def test_routes_are_offered_once_and_not_too_many(self):
        one = Node("a")

        async def handle(params): ...

        one.route("GET/a/{x}")(handle)
        self.check(lambda: one.route("GET/a/{y}")(handle), "offered twice")
        with mock.patch.object(node, "MAX_ROUTES", 1):
            self.check(lambda: one.route("GET/b")(handle), "at most 1 routes")


class Readme(unittest.TestCase):
    def test_its_code_runs(self):
        blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
        self.assertEqual(len(blocks), 3)
        for block in blocks:
            compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        names = {}
        exec(blocks[0].replace("asyncio.run(node.serve())", ""), names)
        exec(blocks[2], names)
        routes = {str(route) for route in names["node"]._service.router.routes()}
        self.assertEqual(routes, {"GET/orders/{id}", "POST/sign-in", "GET/me"})


class Logs(unittest.TestCase):
    def test_a_stranger_cannot_fill_the_log(self):
        log = service.Throttle()
        lines = [log.allow(7.5) for _ in range(service.MAX_LOG_LINES + 5)]
        self.assertEqual(lines, [""] * service.MAX_LOG_LINES + [None] * 5)
        self.assertEqual([log.allow(8.0) for _ in range(2)], [" (5 lines before were suppressed)", ""])


class HandedDown(unittest.TestCase):
    def test_inner_calls_end_a_margin_earlier(self):
        for left, expected in ((10.0, 9.9), (1.0, 0.9), (0.2, 0.18), (0.0, 0.0)):
            self.assertAlmostEqual(Context(deadline=5.0 + left).inner_deadline(5.0), 5.0 + expected)
        self.assertIsNone(Context().inner_deadline(5.0))
        self.assertEqual(Context(1.0, PARENT, 3).outlasting(), Context(None, PARENT, 3))

    def test_traces(self):
        self.assertEqual(read_trace(PARENT), PARENT)
        child = read_trace(child_trace(PARENT))
        self.assertTrue(child != PARENT and child[:35] == PARENT[:35])
        for broken in (None, 7, "", PARENT[:-1], PARENT.upper(), "00-" + "0" * 32 + PARENT[35:], "01" + PARENT[2:]):
            self.assertIsNone(read_trace(broken))
        begun = context.trace_of(Context())
        self.assertIsNotNone(read_trace(begun))


class InnerErrors(unittest.TestCase):
    def test_callers_are_told_nothing_of_inner_services(self):
        secret = "10.0.0.7:9010 and GET/inner"
        for error, status, reason in (
            (Refused(404, "no_member", secret), 502, "inner_call"),
            (Refused(500, "internal", secret), 502, "inner_call"),
            (Refused(429, "slow_down", secret, 2.0), 429, "slow_down"),
            (Refused(503, "overloaded", secret, 0.1), 503, "inner_overloaded"),
            (Refused(504, "deadline", secret), 504, "deadline"),
            (Overloaded(secret), 503, "inner_overloaded"),
            (Deadline(secret), 504, "deadline"),
            (NoProvider(secret), 503, "no_provider"),
            (Lost(secret), 502, "inner_call"),
        ):
            told = to_service_error(error)
            self.assertEqual((told.status, told.reason), (status, reason), error)
            self.assertNotIn("10.0.0.7", told.message)
            self.assertNotIn("GET/", told.message)

    def test_it_is_known_whether_a_call_was_sent(self):
        sent = [one("").was_sent for one in (Deadline, Lost, NoProvider, Overloaded)]
        self.assertEqual(sent, [True, True, False, False])
        self.assertTrue(Refused(500, "a", "b").was_sent)
