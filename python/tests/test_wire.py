"""Frames, JSON, keys and texts as they go over the wire."""

import random
import unittest

from pilcrow import wire
from pilcrow.wire import FrameReader, FrameTooLarge, NotAPacket, encode, key_and_params, parse, seal, shown, to_json


def read(data, chunks=(), **options):
    """The packets of these bytes, cut at these positions. What is not a packet is shown as None."""
    reader = FrameReader(**options)
    found = []
    for begin, end in zip([0, *chunks], [*chunks, len(data)]):
        reader.feed(data[begin:end])
        found += [None if isinstance(one, NotAPacket) else one for one in reader.packets()]
    return found


class Frames(unittest.TestCase):
    def check(self, text, expected, **options):
        data = text if isinstance(text, bytes) else text.encode()
        self.assertEqual(read(data, **options), expected)
        # The same in pieces of one byte, and in others.
        self.assertEqual(read(data, range(1, len(data)), **options), expected)
        for _ in range(20):
            cuts = sorted(random.sample(range(len(data) + 1), min(3, len(data))))
            self.assertEqual(read(data, cuts, **options), expected, cuts)

    def test_frames_are_cut_at_the_delimiter_only(self):
        self.check('{"a":1}¶{"b":"굶 가"}¶', [{"a": 1}, {"b": "굶 가"}])
        self.check('¶ \r\n¶{"a":1}\r\n¶\n', [{"a": 1}])
        self.check("7¶null¶[1]¶", [7, None, [1]])
        self.check('{"a":1}', [])
        self.check(b'{"a":"\xff"}\xc2\xb6{"b":2}\xc2\xb6', [None, {"b": 2}])
        self.check('{"a":}¶{"b":2}¶', [None, {"b": 2}])
        self.check('{"a":1,"key":1,"key":2}¶', [None])
        self.check(r'{"key":1,"\u006bey":2}¶', [None])
        self.check('{"a":NaN}¶', [None])

    def test_pieces_of_old_writers_are_joined(self):
        self.check('{"a":"x¶y"}¶', [{"a": "x¶y"}])
        self.check('{"a":"¶¶","b":"\\"¶"}¶{"c":1}¶', [{"a": "¶¶", "b": '"¶'}, {"c": 1}])
        # The rest does not come: the next packet is one by itself.
        self.check('{"a":"x¶{"b":1}¶', [None, {"b": 1}])
        self.check('{"a":"x¶{"a":"y¶{"b":1}¶', [None, None, {"b": 1}])
        self.check('{"a":"x¶y"}¶', [None, None], joins_pieces=False)

    def test_limits(self):
        reader = FrameReader(limit=10)
        reader.feed(b"x" * 11)
        self.assertRaises(FrameTooLarge, list, reader.packets())
        reader = FrameReader(limit=10)
        reader.feed(b"x" * 11 + wire.DELIMITER)
        self.assertRaises(FrameTooLarge, list, reader.packets())
        pieces = wire.MAX_PIECES
        self.check('{"a":"' + "¶" * (pieces - 1) + '"}¶', [{"a": "¶" * (pieces - 1)}])
        self.assertNotIn({"a": "¶" * pieces}, read(('{"a":"' + "¶" * pieces + '"}¶').encode()))
        half = "x" * (wire.MAX_JOINED_BYTES // 2)
        whole = f"{half}¶{half}"
        self.assertNotIn({"a": whole}, read(f'{{"a":"{whole}"}}¶'.encode()))
        whole = f"{half[20:]}¶{half[20:]}"
        self.assertIn({"a": whole}, read(f'{{"a":"{whole}"}}¶'.encode()))

    def test_an_idle_reader_holds_nothing(self):
        reader = FrameReader()
        reader.feed(b'{"a":"' + b"x" * 100_000 + b'"}\xc2\xb6')
        self.assertEqual(len(list(reader.packets())), 1)
        self.assertEqual((len(reader), reader.has_more()), (0, False))


class Json(unittest.TestCase):
    def test_the_delimiter_and_lone_surrogates_are_escaped(self):
        self.assertEqual(encode({"a": "¶굶"}), '{"a":"\\u00b6굶"}'.encode() + wire.DELIMITER)
        self.assertEqual(seal('"\ud800"'), b'"\\ud800"' + wire.DELIMITER)

    def test_what_has_no_json_form_is_refused(self):
        loop = []
        loop.append(loop)
        for value in ({1, 2}, float("nan"), object(), loop):
            self.assertRaises((TypeError, ValueError), to_json, value)

    def test_deep_and_broken_json_is_no_packet(self):
        for text in ("[" * 100_000, "{" * 5, '{"a":1}x', "", "1" * 5000, "Infinity"):
            self.assertRaises(NotAPacket, parse, text)

    def test_the_spelling_of_entries_is_kept(self):
        text = ' {"params" : [ {"a":1.0, "b":"\\u00b6"} ,7 ] , "x":{}} '
        self.assertEqual([name for name, _, _ in wire.members(text)], ["params", "x"])
        listed = wire.members(text)[0][2]
        self.assertEqual([part for _, part in wire.items(listed)], ['{"a":1.0, "b":"\\u00b6"}', "7"])


class Keys(unittest.TestCase):
    def check(self, packet, is_v2, expected):
        self.assertEqual(key_and_params(packet, is_v2), expected)

    def test_the_key_stands_where_the_version_says(self):
        self.check({"key": 7, "params": {"key": 8}}, True, (7, {"key": 8}))
        self.check({"params": {"key": 8}}, True, (None, {"key": 8}))
        self.check({"key": 7, "params": {"key": 8, "a": 1}}, False, (7, {"a": 1}))
        self.check({"params": {"key": "k"}}, False, ("k", {}))
        self.check({"key": 0, "params": "a log line"}, False, (None, "a log line"))
        self.check({"key": True}, True, (None, None))


class Shown(unittest.TestCase):
    def test_foreign_text_is_cut_and_harmless(self):
        self.assertEqual(shown("a\x1b[31m\u202e"), "a\\u{1b}[31m\\u{202e}")
        self.assertEqual(shown("x" * 200), "x" * wire.SHOWN_CHARS + "…")
