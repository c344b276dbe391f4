"""Which provider is picked, and which calls are tried again. Time is a number here."""

import json
import pathlib
import random
import unittest

from pilcrow.balance.latency import HALF_LIFE, PERIOD, PERIODS
from pilcrow.balance.load import FAILURES, FIRST_EJECTION, MAX_EJECTION, SLOW_START, Load
from pilcrow.balance.pool import MAX_SCHEDULE_SHARE, MAX_SUBSET, ZONE_OVERFLOW, Pool, Readiness, schedule
from pilcrow.balance.rendezvous import score
from pilcrow.balance.retry import (
    CRASH_WINDOW,
    MAX_ROUTES,
    MAX_SAVED_RETRIES,
    NO_RETRY,
    RETRIES_PER_SECOND,
    CrashingRoutes,
    RetryBudget,
)

VECTORS = pathlib.Path(__file__).parents[2] / "protocol/tests/vectors/rendezvous.json"


class Provider:
    """A provider that is connected, unless it is told otherwise."""

    def __init__(self, port, weight=100, same_zone=False):
        self.address = f"10.0.0.1:{port}"
        self.instance = f"i{port}"
        self.weight = weight
        self.same_zone = same_zone
        self.is_local = False
        self.rank_score = 0
        self.load = Load(-100.0)
        self.ready = Readiness.READY

    def readiness(self, now):
        return Readiness.EJECTED if self.load.is_ejected(now) else self.ready


def counts(pool, calls, now=0.0, **options):
    """How often each provider is picked, by its port."""
    found = dict.fromkeys((one.address.rpartition(":")[2] for one in pool.members), 0)
    for _ in range(calls):
        found[pool.pick(now, **options).address.rpartition(":")[2]] += 1
    return list(found.values())


class Rendezvous(unittest.TestCase):
    def test_scores_are_those_of_other_languages(self):
        vectors = json.loads(VECTORS.read_text("utf-8"))
        self.assertGreaterEqual(len(vectors), 25)
        for vector in vectors:
            self.assertEqual(str(score(vector["key"], vector["address"])), vector["score"], vector)

    def test_a_key_stays_with_its_provider(self):
        pool = Pool([Provider(port) for port in range(1, 6)])
        for key in ("a", "사과", "7"):
            best = max(pool.members, key=lambda one: score(key, one.address))
            self.assertIs(pool.pick(0.0, sticky=key), best)
            # Others call it too, so it is called while it is being connected.
            best.ready = Readiness.CONNECTING
            self.assertIs(pool.pick(0.0, sticky=key), best)
            # If it fails, or has far more to do than others, the next one has the key.
            second = sorted(pool.members, key=lambda one: -score(key, one.address))[1]
            best.ready = Readiness.COOLING_DOWN
            self.assertIs(pool.pick(0.0, sticky=key), second)
            best.ready, best.load.in_flight = Readiness.READY, 10
            self.assertIs(pool.pick(0.0, sticky=key), second)
            best.load.in_flight = 0


class Shares(unittest.TestCase):
    def test_equal_providers_get_equal_shares(self):
        self.assertEqual(counts(Pool([Provider(1), Provider(2)]), 100), [50, 50])

    def test_weights(self):
        self.assertEqual(schedule([100, 200]), [1, 0, 1])
        self.assertEqual(counts(Pool([Provider(1), Provider(2, weight=300)]), 100), [25, 75])
        self.assertLessEqual(len(schedule([1, 1000])), MAX_SCHEDULE_SHARE + 1)

    def test_the_own_zone_is_preferred_until_it_overflows(self):
        near, far = Provider(1, same_zone=True), Provider(2)
        pool = Pool([near, far])
        self.assertEqual(counts(pool, 20), [20, 0])
        near.load.in_flight = ZONE_OVERFLOW
        self.assertGreater(counts(pool, 100)[1], 20)

    def test_a_clearly_slower_provider_gets_few_calls(self):
        quick, slow = Provider(1), Provider(2)
        for at in range(PERIODS):
            quick.load.record_response(2 * at * PERIOD, 0.001)
            slow.load.record_response(2 * at * PERIOD, 0.010)
        slow.load.in_flight = 1  # Nothing fades while a call is in flight.
        self.assertEqual(counts(Pool([quick, slow]), 100, now=0.08), [100, 0])
        # It is tried again after a while without a call.
        slow.load.in_flight = 0
        later = 0.08 + 8 * HALF_LIFE
        self.assertEqual(counts(Pool([quick, slow]), 100, now=later), [50, 50])

    def test_a_newcomer_is_spared_at_first(self):
        old, new = Provider(1), Provider(2)
        for one in (old, new):
            one.load.record_response(0.0, 0.001)
        new.load.connected(0.0)
        self.assertLess(counts(Pool([old, new]), 1000, now=0.01)[1], 150)
        self.assertEqual(counts(Pool([old, new]), 100, now=SLOW_START), [50, 50])

    def test_only_a_subset_of_many_is_called(self):
        many = [Provider(port) for port in range(1, MAX_SUBSET + 50)]
        for one in many:
            one.rank_score = random.getrandbits(64)
        pool = Pool(many)
        called = {pool.pick(0.0).address for _ in range(2000)}
        best = sorted(many, key=lambda one: -one.rank_score)[: MAX_SUBSET]
        self.assertEqual(called, {one.address for one in best})


class Failures(unittest.TestCase):
    def test_a_provider_that_fails_five_times_is_ejected_ever_longer(self):
        load, now, lasted = Load(0.0), 0.0, []
        for _ in range(7):
            for _ in range(FAILURES):
                load.record_failure(now)
            begin = now
            while load.is_ejected(now):
                now += 0.25
            lasted.append(now - begin)
        self.assertEqual(lasted, [1.0, 2.0, 4.0, 8.0, 16.0, MAX_EJECTION, MAX_EJECTION])
        # After it, one call tests the provider.
        load.begin(now)
        self.assertTrue(load.is_ejected(now))
        load.record_response(now, 0.001)
        self.assertFalse(load.is_ejected(now))

    def test_a_call_that_ran_out_of_time_ejects_for_a_moment(self):
        failing, other = Provider(1), Provider(2)
        failing.load.record_timeout(0.0)
        pool = Pool([failing, other])
        self.assertEqual(counts(pool, 10, now=0.5), [0, 10])
        self.assertEqual(counts(pool, 10, now=FIRST_EJECTION), [5, 5])

    def test_when_most_are_ejected_none_counts_as_ejected(self):
        pool = Pool([Provider(port) for port in range(1, 4)])
        for one in pool.members[:2]:
            one.load.record_timeout(0.0)
        picked = {pool.pick(0.1).address for _ in range(100)}
        self.assertEqual(len(picked), 3)

    def test_those_that_were_tried_are_not_picked_again(self):
        pool = Pool([Provider(1), Provider(2)])
        first = pool.pick(0.0)
        second = pool.pick(0.0, tried=[first.address])
        self.assertNotEqual(first.address, second.address)
        self.assertIsNone(pool.pick(0.0, tried=[first.address, second.address]))
        self.assertIsNone(Pool([Provider(1)]).pick(0.0, tried=["10.0.0.1:1"]))
        self.assertEqual(pool.pick(0.0, instance="i2").address, "10.0.0.1:2")
        self.assertIsNone(pool.pick(0.0, instance="none"))

    def test_providers_without_a_connection_are_connected(self):
        up, down = Provider(1), Provider(2)
        down.ready = Readiness.RECONNECT
        connected = []
        pool = Pool([up, down])
        for _ in range(4):
            self.assertIs(pool.pick(0.0, connect=connected.append), up)
        self.assertIn(down, connected)


class Retries(unittest.TestCase):
    def test_retries_keep_to_their_share(self):
        budget = RetryBudget(0.0)

        def taken(at):
            return sum(budget.try_withdraw(at) for _ in range(1000))

        self.assertEqual(taken(0.0), RETRIES_PER_SECOND)
        for _ in range(51):
            budget.deposit()
        self.assertEqual(taken(0.0), 10)
        self.assertEqual(taken(0.5), 5)
        self.assertEqual(taken(3600.0), MAX_SAVED_RETRIES)

    def test_a_route_that_crashes_nodes_is_not_tried_again(self):
        routes = CrashingRoutes()
        self.assertTrue(routes.record_loss(0.0, "POST/a", "one"))
        self.assertTrue(routes.record_loss(0.5, "POST/a", "one"), "one loss")
        self.assertFalse(routes.record_loss(5.0, "POST/a", "two"))
        self.assertFalse(routes.record_loss(NO_RETRY, "POST/a", "three"))
        self.assertTrue(routes.record_loss(3 * NO_RETRY, "POST/a", "four"))
        routes.record_response("POST/a")
        self.assertTrue(routes.record_loss(3 * NO_RETRY + 1, "POST/a", "five"))

    def test_the_routes_that_are_remembered_are_bounded(self):
        routes = CrashingRoutes()
        for number in range(MAX_ROUTES + 10):
            routes.record_loss(0.0, f"GET/{number}", "one")
        self.assertEqual(len(routes._losses), MAX_ROUTES)
        routes.record_loss(CRASH_WINDOW + 1, "GET/later", "one")
        self.assertEqual(len(routes._losses), 1)
