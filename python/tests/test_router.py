"""Routes, and what a path belongs to."""

import unittest

from pilcrow import RouteError
from pilcrow.routing import router
from pilcrow.routing.router import Route, Router, own_route, split_url


class Routes(unittest.TestCase):
    def refused(self, text, words, read=own_route):
        with self.assertRaises(RouteError) as caught:
            read(text)
        self.assertIn(words, str(caught.exception))

    def test_mistakes_are_told_in_words(self):
        self.refused("get/goods", "(is it GET?)")
        self.refused("GTE/goods", "is it GET?")
        self.refused("DELTE/goods", "is it DELETE?")
        self.refused("goods", "capital letters")
        self.refused("GET", "no path follows")
        self.refused("GET/a b", "not allowed in paths")
        self.refused("GET/a?b=1", "not allowed in paths")
        self.refused("GET/../a", "a dot segment")
        self.refused("GET/{}", "no name")
        self.refused("GET/{a}/{a}", "same name")
        self.refused("GET/x{a}", "a whole segment")
        self.refused("GET/*", "no wildcards")
        self.refused("GET/:id", "written {name}")
        self.refused("GET/<id>", "written {name}")
        self.refused("GET/{id:int}", "no expressions")
        self.refused("GET/" + "x" * router.MAX_ROUTE_BYTES, "longer than 512 bytes")
        self.refused("A" * 18 + "/x", "capital letters")
        self.refused("get/goods", "is it GET/goods?", split_url)
        self.refused("GET/goods?a=1", "belongs to the arguments", split_url)

    def test_other_methods_are_allowed(self):
        self.assertEqual(own_route("SEARCH/goods").method, "SEARCH")
        self.assertEqual(split_url("GET/상품/7"), ("GET", "/상품/7"))


class Look(unittest.TestCase):
    def setUp(self):
        self.router = Router()
        for text in ("GET/goods/{id}", "GET/goods/new", "GET/{a}/{b}", "GET/상품/{이름}", "GET/goods/{id}/parts"):
            self.router.put(Route(text), text)

    def check(self, url, expected, captured=None):
        found = self.router.find(*split_url(url))
        self.assertEqual((found and found[1], found and found[2]), (expected, captured))

    def test_literals_are_preferred_from_the_left(self):
        self.check("GET/goods/new", "GET/goods/new", {})
        self.check("GET/goods/7", "GET/goods/{id}", {"id": "7"})
        self.check("GET/other/7", "GET/{a}/{b}", {"a": "other", "b": "7"})
        self.check("GET/상품/%EC%82%AC%EA%B3%BC", "GET/상품/{이름}", {"이름": "사과"})
        self.check("GET/goods/", None)
        self.check("POST/goods/7", None)
        self.check("GET/goods/7/parts", "GET/goods/{id}/parts", {"id": "7"})

    def test_names_of_parameters_make_no_difference_and_nothing_is_left_behind(self):
        self.router.put(Route("GET/goods/{other}"), "again")
        self.check("GET/goods/7", "again", {"id": "7"})
        for route in list(self.router.routes()):
            self.router.remove(route)
        self.assertEqual((self.router._shapes, self.router._counts, self.router._patterns), ({}, {}, {}))
        self.check("GET/goods/7", None)

    def test_limits(self):
        many = Router()
        texts = ["/".join("{p%d}" % at if number >> at & 1 else "x" for at in range(6)) for number in range(1, 40)]
        with self.assertRaises(RouteError):
            for text in texts:
                many.put(Route(f"GET/a/{text}"), 1)
        self.assertEqual(len(list(many.routes())), router.MAX_SHAPES)
        self.assertRaises(RouteError, many.put, Route("GET/{a}" + "/x" * router.MAX_SEGMENTS), 1)
