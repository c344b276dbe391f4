"""HTTP in calls: what a handler reads of a client's request, and what it gives to the client."""

import logging
import unittest
from unittest import mock

from pilcrow import Cookie, Html, HttpRequest, HttpResponse, Node, Redirect, Refused, ServiceError, StartError, Text
from pilcrow import node as node_module
from pilcrow.handler.http import HttpRequest as Request

from .mesh import Raw

ASKED = {
    "a": "192.0.2.1",
    "o": "shop.test",
    "id": "4bf9",
    "m": "HEAD",
    "t": "/me?a=%20",
    "s": True,
    "h": [["cookie", 'sid=1; a="x y"'], ["cookie", "sid=2; b="], ["x-a", "1"], ["x-a", "2¶"]],
}
LAX = "SameSite=Lax; HttpOnly"


class HttpTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        logging.getLogger("pilcrow").setLevel(logging.CRITICAL)
        self.node = Node("tested", distributor="127.0.0.1:1")
        self.add_routes(self.node.route)
        await self.node.start()
        self.addAsyncCleanup(self.stop)
        self.raw = await Raw.to(self.node.address)
        self.addCleanup(self.raw.close)

    async def stop(self):
        with mock.patch.object(node_module, "LEAVE_TIME", 0.0):
            await self.node.stop()

    async def call(self, uri, q=None):
        """The answer to a gateway's call, or, without `q`, to that of a node."""
        self.raw.send({"uri": uri, "method": "GET", "key": 1, "$": {} if q is None else {"q": q}})
        answer = await self.raw.next()
        return answer["$"], answer.get("params")

    @property
    def stated(self):
        return self.node._description(("127.0.0.1", 1))["$"]["routes"]


class Requests(HttpTest):
    def add_routes(self, route):
        @route("GET/all", headers=["X-A", "cookie", "x-a"], public=True)
        async def every(request: HttpRequest):
            said = {name: value for name, value in vars(request).items() if not name.startswith("_")}
            return {**said, "cookies": request.cookies, "a": request.header("X-A")}

        @route("GET/none")
        async def none(request: HttpRequest):
            return request.path

        @route("GET/perhaps")
        async def perhaps(request: HttpRequest | None):
            return request is not None

        @route("GET/by-call", headers=[])
        async def by_call(call):
            return call.request is not None

        @route("GET/unstated", headers=[])
        async def unstated(request: HttpRequest):
            return request.header("x-b")

        @route("GET/usual")
        async def usual(call):
            return call.request is not None

    async def test_a_route_registers_what_it_reads(self):
        both = {"at": [0], "public": True, "headers": ["cookie", "x-a"]}
        self.assertEqual(self.stated, [both, {"at": [1, 2, 3, 4], "headers": []}])

    async def test_a_handler_reads_the_request(self):
        expected = {
            "method": "HEAD",
            "target": "/me?a=%20",
            "path": "/me",
            "query": "a=%20",
            "host": "shop.test",
            "is_https": True,
            "client_address": "192.0.2.1",
            "id": "4bf9",
            "headers": ASKED["h"],
            "cookies": {"sid": "1", "a": "x y", "b": ""},
            "a": "1",
        }
        self.assertEqual(await self.call("/all", ASKED), ({}, expected))
        self.assertEqual(await self.call("/none", ASKED), ({}, "/me"))
        self.assertEqual(await self.call("/by-call", ASKED), ({}, True))
        self.assertEqual(await self.call("/usual", ASKED), ({}, False))

    async def test_members_of_wrong_types_count_as_absent(self):
        for h in (7, [["a"]], [["a", 7]], {"a": "b"}, ["ab"]):
            _, said = await self.call("/all", {"a": 7, "o": [], "s": "true", "t": None, "h": h})
            self.assertEqual([said[name] for name in ("client_address", "host", "is_https", "path")], ["", "", False, ""])
            self.assertEqual(said["headers"], [])

    async def test_a_call_of_a_node_has_none(self):
        refused = {"s": 400, "r": "not_http", "m": "this route answers HTTP requests that come through a gateway"}
        for q in (None, [], "x"):
            self.assertEqual(await self.call("/none", q), (refused, None))
            self.assertEqual(await self.call("/perhaps", q), ({}, False))
        with self.assertRaisesRegex(Refused, "not_http"):
            await self.node.call("GET/none")

    async def test_a_field_that_the_route_does_not_name_is_a_fault_of_it(self):
        with self.assertLogs("pilcrow", "ERROR") as log:
            said, _ = await self.call("/unstated", ASKED)
        self.assertEqual(said["r"], "internal")
        self.assertIn("write headers=['x-b'] in @node.route", log.output[0])


class Responses(HttpTest):
    def add_routes(self, route):
        def offer(url, make, **options):
            async def handle():
                return make()

            route(url, **{"headers": [], **options})(handle)

        offer("GET/tag", lambda: HttpResponse({"a": 1}, headers={"ETag": '"1"', "x-n": ["1", "2"]}))
        offer("GET/known", lambda: HttpResponse(status=304))
        offer("GET/text", lambda: Text("안녕 ¶"))
        offer("GET/csv", lambda: Text("a,b", content_type="text/csv", status=203))
        offer("GET/page", lambda: Html("<p>"))
        offer("GET/lost", lambda: Html("<p>", status=404))
        offer("GET/elsewhere", lambda: Redirect("/상품?a=1\ud800"))
        offer("GET/moved", lambda: Redirect("/a", 308))
        other = Cookie("x", 60, "/b", "a.test", "strict", http_only=False, secure=False)
        cookies = {"a": "1", "old": None, "b": other, "c": Cookie("", same_site="none")}
        offer("GET/cookies", lambda: HttpResponse(status=204, cookies=cookies))
        offer("GET/plain", lambda: Text("a"), headers=None, public=True)

        @route("GET/refuses", headers=[])
        async def refuses():
            headers = {"www-authenticate": "Bearer"}
            raise ServiceError(401, "sign_in", "sign in", headers=headers, cookies={"a": None})

        @route("GET/annotated")
        async def annotated() -> Redirect:
            return Redirect("/x")

    async def test_a_handler_gives_a_client_what_a_node_does_not_get(self):
        def cookies(secure):
            return [
                ["set-cookie", f"a=1; Path=/; {LAX}{secure}"],
                ["set-cookie", f"old=; Path=/; Max-Age=0; {LAX}{secure}"],
                ["set-cookie", "b=x; Path=/b; Domain=a.test; Max-Age=60; SameSite=Strict"],
                ["set-cookie", "c=; Path=/; SameSite=None; HttpOnly; Secure"],
            ]

        def typed(name):
            return [["content-type", name]]

        refused = [["www-authenticate", "Bearer"], ["set-cookie", f"a=; Path=/; Max-Age=0; {LAX}; Secure"]]
        for uri, said, params in (
            ("/tag", {"h": [["etag", '"1"'], ["x-n", "1"], ["x-n", "2"]]}, {"a": 1}),
            ("/known", {"s": 304}, None),
            ("/text", {"h": typed("text/plain; charset=utf-8")}, "안녕 ¶"),
            ("/csv", {"s": 203, "h": typed("text/csv")}, "a,b"),
            ("/lost", {"s": 404, "h": typed("text/html; charset=utf-8")}, "<p>"),
            ("/page", {"h": typed("text/html; charset=utf-8")}, "<p>"),
            ("/elsewhere", {"s": 303, "h": [["location", "/%EC%83%81%ED%92%88?a=1"]]}, None),
            ("/moved", {"s": 308, "h": [["location", "/a"]]}, None),
            ("/cookies", {"s": 204, "h": cookies("; Secure")}, None),
            ("/refuses", {"s": 401, "r": "sign_in", "m": "sign in", "h": refused}, None),
            ("/annotated", {"s": 303, "h": [["location", "/x"]]}, None),
        ):
            self.assertEqual(await self.call(uri, {"a": "::1", "s": True}), (said, params))
            said.pop("h", None)
            self.assertEqual(await self.call(uri), (said, params))
        self.assertEqual((await self.call("/cookies", {}))[0]["h"], cookies(""))

    async def test_a_route_that_does_not_say_that_it_answers_so_is_told_to(self):
        with self.assertLogs("pilcrow", "WARNING") as log:
            for _ in range(3):
                self.assertEqual(await self.call("/plain", {}), ({}, "a"))
        self.assertEqual(len(log.output), 1)
        self.assertIn("GET/plain answers with header fields, which no client gets: write headers=[]", log.output[0])


class Faults(unittest.TestCase):
    def test_what_no_response_can_have_says_what_to_do(self):
        many = {f"x-{number}": "" for number in range(65)}
        for make, words in (
            (lambda: HttpResponse(status=404), "from 200 to 399, and not 404: raise a ServiceError"),
            (lambda: HttpResponse(1, content_type="text/csv"), "the body of a response of type text/csv is a text"),
            (lambda: HttpResponse(headers={"a b": ""}), "a b is not the name of a header field"),
            (lambda: HttpResponse(headers={"a": "b\r\nc: d"}), "the header field a has a line break"),
            (lambda: HttpResponse(headers=many), "64 header fields and 32768 bytes of them at most"),
            (lambda: HttpResponse(headers={"a": "x" * 32768}), "64 header fields and 32768 bytes"),
            (lambda: Redirect("/a\n"), "the header field location has a line break"),
            (lambda: Redirect("/a", 200), "200 is none of 301, 302"),
            (lambda: HttpResponse(cookies={"a;": ""}), "a; is not the name of a cookie"),
            (lambda: HttpResponse(cookies={"a": "x;y"}), "a character that a cookie cannot have: encode it"),
            (lambda: Cookie("", same_site="Lax"), "same_site of a cookie is strict, lax or none, and not Lax"),
            (lambda: Cookie("", path="/;"), "path and domain of a cookie have no ;"),
            (lambda: Cookie("", max_age=-1), "max_age of a cookie is 0 or more"),
        ):
            with self.assertRaises(ValueError) as caught:
                make()
            self.assertIn(words, str(caught.exception))
        self.assertEqual(HttpResponse([], content_type="application/problem+json").result, [])

    def test_what_no_route_can_read_is_told_at_the_start(self):
        async def handle(): ...

        async def reads(event, request: HttpRequest): ...

        one = Node("a")
        for make, words in (
            (lambda: one.route("GET/a", headers="cookie")(handle), "headers of GET/a: a list of names is due"),
            (lambda: one.route("GET/a", headers=["a:"])(handle), "a: is not the name of a header field"),
            (lambda: one.route("GET/a", headers=["x" * 65])(handle), "has more than 64 characters"),
            (lambda: one.route("GET/a", headers=map(str, range(33)))(handle), "there are 33; a route reads 32"),
            (lambda: one.on("a")(reads), "no client emits an event"),
        ):
            with self.assertRaises(StartError) as caught:
                make()
            self.assertIn(words, str(caught.exception))

    def test_cookies_are_read_as_browsers_send_them(self):
        for field, expected in (
            ("", {}),
            ("a=1;a=2; c=x=y;", {"a": "1", "c": "x=y"}),
            (' a = "1 2" ; =x; y ;z=', {"a": "1 2", "z": ""}),
            ('a="; b=""', {"a": '"', "b": ""}),
        ):
            self.assertEqual(Request({"h": [["cookie", field]]}, ["cookie"]).cookies, expected)

