//! Which requests have a `#` in their `:path`: the `h2` crate cuts off what follows it and does not tell, so that what is routed would
//! not be what the client wrote. Follows header compression (RFC 7541) as far as that takes, and no further. Pure.

use std::collections::VecDeque;

use super::frames::{FrameHead, Part};
use super::huffman::Huffman;

/// Bytes of one compressed header block. The `h2` crate takes no more than this either.
const MAX_BLOCK_BYTES: usize = 128 * 1024;
/// Requests with a `#` that nobody has asked for yet.
const MAX_FRAGMENTS: usize = 1024;
/// What a client may have us remember: the default, as we never say another (RFC 9113, 6.5.2).
const TABLE_BYTES: usize = 4096;
/// What every entry counts for beyond its text: RFC 7541, 4.1.
const ENTRY_BYTES: usize = 32;
/// Bytes of an integer: more would not fit into 32 bits.
const MAX_INTEGER_BYTES: u32 = 5;

/// Frames: RFC 9113, 6.2 and 6.10.
const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// How long the names of the static table are: RFC 7541, appendix A.
#[rustfmt::skip]
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4, 4, 6, 7, 4, 4,
    8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];
/// Which of them are `:path`, counted from 1.
const STATIC_PATHS: [usize; 2] = [4, 5];

/// Follows the header blocks of one client.
#[derive(Debug, Default)]
pub(crate) struct PathWatch {
    table: Table,
    open: Option<Block>,
    /// Streams whose path has a `#`, as they came.
    fragments: VecDeque<u32>,
    /// Something made no sense, so nothing is known of what comes after it.
    is_lost: bool,
}

/// A header block that is not whole.
#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    frame: FrameHead,
}

impl PathWatch {
    /// Takes the next part of what the client sends.
    pub(crate) fn take(&mut self, part: Part<'_>) {
        if !self.is_lost && self.follow(part).is_none() {
            *self = Self { is_lost: true, ..Self::default() };
        }
    }

    /// Whether the request of this stream has a `#` in its path, or nobody can tell. To be asked once for each, in their order.
    pub(crate) fn has_fragment(&mut self, stream: u32) -> bool {
        let mut found = false;
        // Fields after a body come when later streams have begun, and may stand between them.
        while self.fragments.front().is_some_and(|first| *first <= stream) {
            found |= self.fragments.pop_front() == Some(stream);
        }
        self.is_lost || found
    }

    fn follow(&mut self, part: Part<'_>) -> Option<()> {
        match (part, &mut self.open) {
            (Part::Head(frame), None) if frame.kind == HEADERS => self.open = Some(Block { bytes: Vec::new(), frame }),
            (Part::Head(frame), Some(block)) if frame.kind == CONTINUATION && frame.stream == block.frame.stream => {
                block.frame = frame;
            }
            // Nothing else may come in the middle of a block; and what servers push, clients do not: there is a block in it.
            (Part::Head(_), Some(_)) => return None,
            (Part::Head(frame), None) if frame.kind == PUSH_PROMISE => return None,
            (Part::Head(_) | Part::Payload { .. }, None) => {}
            (Part::Payload { bytes, last }, Some(block)) => {
                if block.bytes.len() + bytes.len() > MAX_BLOCK_BYTES {
                    return None;
                }
                block.bytes.extend_from_slice(bytes);
                if last && block.ends_with_frame()? {
                    let has_fragment = self.table.read(&block.bytes)?;
                    if has_fragment && self.fragments.len() == MAX_FRAGMENTS {
                        return None;
                    }
                    self.fragments.extend(has_fragment.then_some(block.frame.stream));
                    self.open = None;
                }
            }
        }
        Some(())
    }
}

impl Block {
    /// After a frame: takes away what it has around its part of the block, and tells whether that was the last.
    fn ends_with_frame(&mut self) -> Option<bool> {
        let FrameHead { kind, flags, .. } = self.frame;
        if kind == HEADERS {
            let is_padded = flags & PADDED != 0;
            let padding = if is_padded { usize::from(*self.bytes.first()?) } else { 0 };
            let before = usize::from(is_padded) + if flags & PRIORITY != 0 { 5 } else { 0 };
            let end = self.bytes.len().checked_sub(padding).filter(|end| *end >= before)?;
            // The crate does not read the block of a stream that depends on itself.
            let depends_on = self.bytes[..before].last_chunk::<5>().and_then(|priority| priority.first_chunk::<4>());
            let is_itself = |on: &[u8; 4]| u32::from_be_bytes(*on) & (u32::MAX >> 1) == self.frame.stream;
            if flags & PRIORITY != 0 && depends_on.is_some_and(is_itself) {
                return None;
            }
            self.bytes.truncate(end);
            self.bytes.drain(..before);
        }
        Some(flags & END_HEADERS != 0)
    }
}

/// What the client has us remember, without the texts.
#[derive(Debug)]
struct Table {
    /// The latest first.
    entries: VecDeque<Field>,
    bytes: usize,
    max_bytes: usize,
}

/// A header field, as far as it matters.
#[derive(Clone, Copy, Debug)]
struct Field {
    is_path: bool,
    has_hash: bool,
    name_bytes: usize,
    value_bytes: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), bytes: 0, max_bytes: TABLE_BYTES }
    }
}

impl Table {
    /// Whether a block has a path with a `#`; `None` if it makes no sense. Which representation begins how: RFC 7541, 6.
    fn read(&mut self, mut block: &[u8]) -> Option<bool> {
        let mut found = false;
        while let Some(first) = block.first() {
            let field = match first {
                0x80.. => self.field(integer(&mut block, 7)?)?,
                0x40.. => {
                    let field = self.literal(&mut block, 6)?;
                    self.bytes += field.bytes();
                    self.entries.push_front(field);
                    self.forget();
                    field
                }
                0x20.. => {
                    self.max_bytes = integer(&mut block, 5).filter(|size| *size <= TABLE_BYTES)?;
                    self.forget();
                    continue;
                }
                _ => self.literal(&mut block, 4)?,
            };
            found |= field.is_path && field.has_hash;
        }
        Some(found)
    }

    /// A field whose value is written, and whose name is too if it is not one of the table.
    fn literal(&self, block: &mut &[u8], prefix: u32) -> Option<Field> {
        let (is_path, name_bytes) = match integer(block, prefix)? {
            0 => {
                let name = Text::take(block)?;
                let mut path = b":path".iter();
                name.fold((true, 0), |(is_path, bytes), octet| (is_path & (path.next() == Some(&octet)), bytes + 1))
                    // What has no name is no field, and the crate may or may not remember it.
                    .filter(|(_, bytes)| *bytes > 0)
                    .map(|(is_path, bytes)| (is_path && path.len() == 0, bytes))?
            }
            index => self.field(index).map(|named| (named.is_path, named.name_bytes))?,
        };
        let value = Text::take(block)?;
        let (has_hash, value_bytes) =
            value.fold((false, 0), |(has, bytes), octet| (has | (octet == b'#'), bytes + 1))?;
        Some(Field { is_path, has_hash, name_bytes, value_bytes })
    }

    /// By its index, from 1: the static table comes first.
    fn field(&self, index: usize) -> Option<Field> {
        let at = index.checked_sub(1)?;
        match STATIC_NAMES.get(at) {
            Some(bytes) => Some(Field {
                is_path: STATIC_PATHS.contains(&index),
                has_hash: false,
                name_bytes: usize::from(*bytes),
                value_bytes: 0,
            }),
            None => self.entries.get(at - STATIC_NAMES.len()).copied(),
        }
    }

    fn forget(&mut self) {
        while self.bytes > self.max_bytes
            && let Some(oldest) = self.entries.pop_back()
        {
            self.bytes -= oldest.bytes();
        }
    }
}

impl Field {
    fn bytes(&self) -> usize {
        self.name_bytes + self.value_bytes + ENTRY_BYTES
    }
}

/// A text of a block: RFC 7541, 5.2.
enum Text<'a> {
    Plain(&'a [u8]),
    Compressed(Huffman<'a>),
}

impl<'a> Text<'a> {
    fn take(block: &mut &'a [u8]) -> Option<Self> {
        let is_compressed = block.first()? & 0x80 != 0;
        let length = integer(block, 7)?;
        let (text, rest) = block.split_at_checked(length)?;
        *block = rest;
        Some(if is_compressed { Self::Compressed(Huffman::new(text)) } else { Self::Plain(text) })
    }

    /// Over all its octets; `None` if they make no sense.
    fn fold<T>(self, begin: T, mut with: impl FnMut(T, u8) -> T) -> Option<T> {
        match self {
            Self::Plain(octets) => Some(octets.iter().fold(begin, |so_far, octet| with(so_far, *octet))),
            Self::Compressed(mut octets) => octets.try_fold(begin, |so_far, octet| Some(with(so_far, octet?))),
        }
    }
}

/// An integer whose first bits are the last ones of a byte: RFC 7541, 5.1.
fn integer(block: &mut &[u8], prefix: u32) -> Option<usize> {
    let most = (1 << prefix) - 1;
    let (first, rest) = block.split_first()?;
    *block = rest;
    let mut value = usize::from(*first) & most;
    if value < most {
        return Some(value);
    }
    for at in 0..MAX_INTEGER_BYTES {
        let (next, rest) = block.split_first()?;
        *block = rest;
        value = value.checked_add(usize::from(next & 0x7f).checked_mul(1 << (7 * at))?)?;
        if next & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATH: u8 = 4;

    fn literal(kind: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
        let text = |text: &[u8]| [&[u8::try_from(text.len()).unwrap()], text].concat();
        [&[kind][..], &text(name), &text(value)].concat()
    }

    /// A field with a name that is known by its index, below 15.
    fn named(kind: u8, index: u8, value: &[u8]) -> Vec<u8> {
        [&[kind | index, u8::try_from(value.len()).unwrap()][..], value].concat()
    }

    /// What is seen in blocks that follow each other on one connection.
    #[track_caller]
    fn check(blocks: &[&[u8]], expected: &[Option<bool>]) {
        let mut table = Table::default();
        let seen: Vec<_> = blocks.iter().map(|block| table.read(block)).collect();
        assert_eq!(seen, expected, "{blocks:02x?}");
    }

    #[test]
    fn gh18_a_hash_in_a_path_is_seen_however_it_is_written() {
        // Without being remembered, never to be, and to be: then by its index, and its name by its index too.
        check(&[&named(0, PATH, b"/a")], &[Some(false)]);
        check(&[&named(0, PATH, b"/a#b")], &[Some(true)]);
        check(&[&named(0x10, PATH, b"/a#b")], &[Some(true)]);
        check(
            &[&named(0x40, PATH, b"/a#b"), &[0x80 | 62], &[0x84], &[0x80 | 62]],
            &[Some(true), Some(true), Some(false), Some(true)],
        );
        let by_name = [0x0f, 62 - 15, 2, b'/', b'#'];
        check(&[&named(0x40, PATH, b"/a"), &by_name], &[Some(false), Some(true)]);
        check(&[&literal(0, b":path", b"/#")], &[Some(true)]);
        // Huffman's code of "#" is twelve bits.
        check(&[&[PATH, 0x82, 0xff, 0xaf]], &[Some(true)]);
        // Other fields may have one, and other names begin as this one does.
        check(&[&literal(0, b":pat", b"#")], &[Some(false)]);
        check(&[&literal(0, b":paths", b"#")], &[Some(false)]);
        check(&[&literal(0x40, b"referer", b"/#"), &[0x80 | 62]], &[Some(false), Some(false)]);
    }

    #[test]
    fn blocks_that_make_no_sense_are_not_taken() {
        for block in [
            &[0x80][..],
            &[0x80 | 62],
            &[0x44],
            &[0x44, 5, b'/'],
            &[0x44, 0x81, 0xff],
            &[0x40, 0, 0],
            &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
            // 4097 bytes to remember.
            &[0x3f, 0xe2, 0x1f],
        ] {
            check(&[block], &[None]);
        }
        check(&[&[0x3f, 0xe1, 0x1f]], &[Some(false)]);
    }

    #[test]
    fn the_table_is_as_large_as_the_standard_has_it() {
        // RFC 7541, C.6: responses, compressed, with 256 bytes to remember.
        let mut table = Table { max_bytes: 256, ..Table::default() };
        let blocks: [&[u8]; 3] = [
            &[
                0x48, 0x82, 0x64, 0x02, 0x58, 0x85, 0xae, 0xc3, 0x77, 0x1a, 0x4b, 0x61, 0x96, 0xd0, 0x7a, 0xbe, 0x94,
                0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66, 0xe0, 0x82, 0xa6, 0x2d, 0x1b,
                0xff, 0x6e, 0x91, 0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82,
                0xae, 0x43, 0xd3,
            ],
            &[0x48, 0x83, 0x64, 0x0e, 0xff, 0xc1, 0xc0, 0xbf],
            &[
                0x88, 0xc1, 0x61, 0x96, 0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04,
                0x0b, 0x81, 0x66, 0xe0, 0x84, 0xa6, 0x2d, 0x1b, 0xff, 0xc0, 0x5a, 0x83, 0x9b, 0xd9, 0xab, 0x77, 0xad,
                0x94, 0xe7, 0x82, 0x1d, 0xd7, 0xf2, 0xe6, 0xc7, 0xb3, 0x35, 0xdf, 0xdf, 0xcd, 0x5b, 0x39, 0x60, 0xd5,
                0xaf, 0x27, 0x08, 0x7f, 0x36, 0x72, 0xc1, 0xab, 0x27, 0x0f, 0xb5, 0x29, 0x1f, 0x95, 0x87, 0x31, 0x60,
                0x65, 0xc0, 0x03, 0xed, 0x4e, 0xe5, 0xb1, 0x06, 0x3d, 0x50, 0x07,
            ],
        ];
        let sizes = blocks.map(|block| {
            assert_eq!(table.read(block), Some(false));
            table.bytes
        });
        assert_eq!(sizes, [222, 222, 215]);
        assert_eq!(table.read(&[0x20]), Some(false));
        assert_eq!((table.bytes, table.entries.len()), (0, 0));
    }

    fn frame(kind: u8, flags: u8, stream: u32) -> Part<'static> {
        Part::Head(FrameHead { length: 0, kind, flags, stream })
    }

    fn payload(bytes: &[u8]) -> Part<'_> {
        Part::Payload { bytes, last: true }
    }

    #[test]
    fn gh18_streams_with_a_hash_are_known_by_their_number() {
        let mut watch = PathWatch::default();
        let with = named(0, PATH, b"/#");
        let take = |watch: &mut PathWatch, parts: &[Part<'_>]| parts.iter().for_each(|part| watch.take(*part));
        take(&mut watch, &[payload(b"preface"), frame(HEADERS, END_HEADERS, 1), payload(&with)]);
        take(&mut watch, &[frame(HEADERS, END_HEADERS, 3), payload(&[0x84]), frame(0, 0, 3), payload(b"#")]);
        // Padding, priority and a block in two pieces.
        let padded = [&[2][..], &[0; 5], &with[..1], &[0, 0]].concat();
        take(&mut watch, &[frame(HEADERS, PADDED | PRIORITY, 5), payload(&padded)]);
        take(&mut watch, &[frame(CONTINUATION, END_HEADERS, 5), payload(&with[1..])]);
        assert_eq!([1, 3, 5].map(|stream| watch.has_fragment(stream)), [true, false, true]);
        // Fields after the body of an earlier stream.
        let path = literal(0, b":path", b"/#");
        take(
            &mut watch,
            &[frame(HEADERS, END_HEADERS, 7), payload(&with), frame(HEADERS, END_HEADERS, 5), payload(&path)],
        );
        assert!(watch.has_fragment(7));
        // Nobody has asked for these: they were refused.
        for stream in 0..u32::try_from(MAX_FRAGMENTS).unwrap() {
            take(&mut watch, &[frame(HEADERS, END_HEADERS, 9 + 2 * stream), payload(&with)]);
        }
        assert!(!watch.is_lost && watch.fragments.len() == MAX_FRAGMENTS);
        take(&mut watch, &[frame(HEADERS, END_HEADERS, 9999), payload(&with)]);
        assert!(watch.is_lost && watch.has_fragment(10_001));
    }

    #[test]
    fn whoever_cannot_be_followed_is_believed_nothing() {
        let check = |parts: &[Part<'_>]| {
            let mut watch = PathWatch::default();
            parts.iter().for_each(|part| watch.take(*part));
            assert!(watch.has_fragment(1), "{parts:?}");
        };
        check(&[frame(HEADERS, END_HEADERS, 1), payload(&[0x80])]);
        check(&[frame(PUSH_PROMISE, END_HEADERS, 1)]);
        check(&[frame(HEADERS, END_HEADERS | PRIORITY, 1), payload(&[0x80, 0, 0, 1, 0, 0x84])]);
        check(&[frame(HEADERS, 0, 1), payload(&[0x84]), frame(0, 0, 1)]);
        check(&[frame(HEADERS, 0, 1), payload(&[0x84]), frame(CONTINUATION, END_HEADERS, 3)]);
        check(&[frame(HEADERS, END_HEADERS | PADDED, 1), payload(&[])]);
        check(&[frame(HEADERS, END_HEADERS | PADDED, 1), payload(&[2, 0])]);
        check(&[frame(HEADERS, 0, 1), payload(&[0; MAX_BLOCK_BYTES]), frame(CONTINUATION, 0, 1), payload(&[0])]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 1..20)) {
            let mut table = Table::default();
            for block in blocks {
                table.read(&block);
                prop_assert!(table.bytes <= TABLE_BYTES);
                prop_assert_eq!(table.bytes, table.entries.iter().map(Field::bytes).sum::<usize>());
            }
        }
    }
}
