"""Lists and changes: what a node knows after them."""

import base64
import json
import unittest
import zlib
from unittest import mock

from pilcrow.routing import replica
from pilcrow.routing.replica import Outcome, Replica
from pilcrow.wire import checksum, to_json

A = {"port": 1, "name": "a", "urls": [], "host": "::ffff:10.0.0.1"}
B = {"port": 2, "name": "나 ¶", "urls": ["GET/b"], "$": {"v": 2, "id": "b"}, "host": "::ffff:10.0.0.2"}
C = {"port": 3, "name": "c", "urls": [], "host": "::ffff:127.0.0.1"}


def wire(entry):
    return to_json(entry).replace("¶", "\\u00b6")


def digest(entries):
    return sum(checksum(f"{at}:{wire(entry)}".encode()) for at, entry in entries.items()) % (1 << 32)


def listed(entries, rev, epoch=5, packed=(), **more):
    meta = {"epoch": epoch, "rev": rev, "digest": digest({**entries, **dict(packed)}), "ids": list(entries), **more}
    if packed:
        meta["packed"] = [block(dict(packed))]
    return {"uri": "/distributes", "method": "GET", "key": 0, "params": list(entries.values()), "$": meta}


def block(entries):
    inner = f'{{"ids":{json.dumps(list(entries))},"entries":[{",".join(map(wire, entries.values()))}]}}'
    return base64.b64encode(zlib.compress(inner.encode())).decode()


def changed(joined, left, after, rev, base, epoch=5, **more):
    meta = {"epoch": epoch, "rev": rev, "digest": digest(after), "base": base, "ids": list(joined), **more}
    params = {"joined": list(joined.values()), "left": [{"id": one, "reason": "closed"} for one in left]}
    return {"uri": "/distributes", "method": "PATCH", "key": 0, "params": params, "$": meta}


class Known(unittest.TestCase):
    def setUp(self):
        self.replica = Replica()
        self.replica.connected(None)

    def take(self, packet, outcome, now=0.0):
        self.assertIs(self.replica.take(packet, wire(packet), now), outcome)

    def ids(self, *expected):
        self.assertEqual(sorted(entry.id for entry in self.replica.nodes()), list(expected))

    def test_lists_and_changes(self):
        self.take(listed({1: A, 2: B}, 1), Outcome.CHANGED)
        self.take(listed({1: A, 2: B}, 2), Outcome.SAME)
        self.take(changed({3: C}, [1], {2: B, 3: C}, 4, 2), Outcome.CHANGED)
        self.ids(2, 3)
        self.take(changed({1: A}, [], {1: A, 2: B, 3: C}, 6, 5), Outcome.GAP)
        self.take(changed({1: A}, [], {1: A, 2: B, 3: C}, 3, 2), Outcome.STALE)
        self.take(changed({1: A}, [], {2: B}, 5, 4), Outcome.GAP)
        self.take(listed({1: A}, 1), Outcome.STALE)
        self.ids(2, 3)
        self.assertEqual(self.replica.rank("b"), 0.0)
        self.assertIsNone(self.replica.rank("c"))

    def test_packed_lists(self):
        self.take(listed({1: A}, 1, packed=[(2, B), (3, C)]), Outcome.CHANGED)
        self.ids(1, 2, 3)
        for broken in ("x", "AAAA", block({4: A})[:-8], base64.b64encode(zlib.compress("¶".encode())).decode()):
            packet = listed({1: A}, 9)
            packet["$"]["packed"] = [broken]
            self.take(packet, Outcome.BAD)
        with mock.patch.object(replica, "MAX_UNPACKED_BYTES", 100):
            self.take(listed({1: A}, 9, packed=[(2, B), (3, C)]), Outcome.BAD)
        with mock.patch.object(replica, "MAX_BLOCKS", 0):
            self.take(listed({1: A}, 9, packed=[(2, B), (3, C)]), Outcome.BAD)
        self.ids(1, 2, 3)

    def test_what_is_no_list(self):
        for packet in (
            {"method": "GET", "params": {}},
            {"method": "GET", "params": [1], "$": {"epoch": 1, "rev": 1, "ids": []}},
            {"method": "PATCH", "params": {"joined": []}, "$": {"epoch": 1, "rev": 1}},
            {"method": "PATCH", "params": {"joined": [], "left": []}},
        ):
            self.take({"uri": "/distributes", **packet}, Outcome.BAD)

    def test_suspects(self):
        self.take(listed({1: A, 2: B}, 1, suspect=[1]), Outcome.CHANGED)
        self.assertEqual(self.replica.suspects, {1})
        self.take(changed({}, [], {1: A, 2: B}, 2, 1, suspect=[2], trusted=[1]), Outcome.CHANGED)
        self.assertEqual(self.replica.suspects, {2})

    def test_a_restarted_distributor_that_knows_less_makes_it_forget_nothing(self):
        self.take(listed({1: A, 2: B}, 1), Outcome.CHANGED)
        self.replica.disconnected()
        self.replica.connected(None)
        self.take(listed({7: A}, 1, epoch=6, warming=True), Outcome.CHANGED)
        self.ids(2, 7)
        self.take(changed({}, [], {7: A}, 2, 1, epoch=6), Outcome.CHANGED)
        self.ids(7)

    def test_a_version_1_distributor_is_given_time(self):
        one = {"uri": "/distributes", "method": "GET", "key": 0, "params": [A, B]}
        self.take(one, Outcome.CHANGED)
        self.replica.disconnected()
        self.replica.connected(None)
        self.take({**one, "params": [A]}, Outcome.CHANGED, now=100.0)
        self.assertEqual(len(self.replica.nodes()), 2)
        self.assertFalse(self.replica.expire(100.0))
        self.assertTrue(self.replica.expire(100.0 + replica.RETENTION))
        self.assertEqual(len(self.replica.nodes()), 1)

    def test_a_distributor_elsewhere_shows_its_own_nodes_as_loopback(self):
        self.replica.connected("::ffff:10.9.9.9")
        self.take(listed({1: A, 3: C}, 1), Outcome.CHANGED)
        self.assertEqual([entry.content["host"] for entry in self.replica.nodes()], [A["host"], "::ffff:10.9.9.9"])

    def test_a_copy_is_what_came_in_small_packets(self):
        self.assertEqual(self.replica.copy(), [])
        many = {at: {**A, "port": at, "meta": "x" * 1000} for at in range(1, 100)}
        self.take(listed(many, 1), Outcome.CHANGED)
        parts = [json.loads(part) for part in self.replica.copy()]
        self.assertGreater(len(parts), 2)
        self.assertTrue(all(len(part) < 65_536 for part in self.replica.copy()))
        self.assertEqual([part["$"]["more"] for part in parts], [True] * (len(parts) - 1) + [False])
        self.assertEqual([one for part in parts for one in part["params"]], list(many.values()))
