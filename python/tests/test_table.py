"""What a node knows of the routes that others offer."""

import unittest
from unittest import mock

from pilcrow.routing import table
from pilcrow.routing.table import Table


class Similar(unittest.TestCase):
    def setUp(self):
        self.table = Table("me", None, mock.Mock(), mock.Mock())

    def offer(self, *routes):
        for route in map(table.Route, routes):
            self.table._providers.put(route, {})

    def check(self, url, expected):
        self.assertEqual(self.table.similar(url), expected, url)

    def test_the_route_that_a_caller_has_meant_is_found(self):
        self.offer("GET/goods", "POST/goods", "GET/goods/{id}", "GET/members/{id}/orders", "DELETE/상품/{이름}")
        self.check("GET/godos", "GET/goods")
        self.check("GTE/goods", "GET/goods")
        self.check("GET/gods/7", "GET/goods/{id}")
        self.check("GET/members/7/oders", "GET/members/{id}/orders")
        self.check("DELETE/상픔/사과", "DELETE/상품/{이름}")
        self.check("GET/goods/7/8", None)
        self.check("GET/weather", None)

    def test_the_search_is_bounded(self):
        self.offer(*(f"GET/goods/{number}" for number in range(300)))
        self.check("GET/goods/299x", "GET/goods/99")
        with mock.patch.object(table, "MAX_COMPARED_ROUTES", 1):
            self.check("GET/goods/299x", "GET/goods/0")
        with mock.patch.object(table, "MAX_SCANNED_ROUTES", 10):
            self.check("GET/goods/299x", "GET/goods/9")
        with mock.patch.object(table, "MAX_COMPARED_CHARS", len("GET/goods/29")):
            self.check("GET/goods/299x", None)
