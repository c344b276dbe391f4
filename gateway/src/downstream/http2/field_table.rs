//! The memory of a connection's table of header fields (RFC 7541, 2.3.2). Pure.
//!
//! An entry of the h2 crate keeps the whole buffer that it was read from, and the one that it was
//! decompressed to. A hundred entries of one byte can keep a hundred buffers of 16 kB. The crate
//! does not show its table, so this type parses the same header blocks and estimates the memory. It
//! knows which blocks have put entries into the table, how long these can be there, and how much
//! was read since the last entry.

use std::collections::VecDeque;

use super::frames::{FrameHead, stream_id};

/// The size of the table, as RFC 7541 counts it, unless a SETTINGS frame says otherwise. A client
/// may make it smaller, but not larger.
const TABLE_SIZE: usize = 4096;
/// The bytes that an entry counts beside its name and value (RFC 7541, 4.1).
const ENTRY_OVERHEAD: usize = 32;
/// The buffer that frames are read to holds at most this many bytes of earlier frames, and so does
/// the buffer of decompressed bytes.
const MAX_BEFORE: usize = 16 * 1024;
/// Decompression at most doubles the number of bytes (RFC 7541, appendix B).
const DECOMPRESSED: usize = 2;
const HEAD_BYTES: usize = 9;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;

/// Follows the header blocks of one client.
#[derive(Debug, Default)]
pub(super) struct FieldTable {
    /// Bytes of the present frame's priority, which stands before its fields, that have not
    /// arrived; and the part of its stream id that has.
    before: usize,
    dependency: u32,
    is_padded: bool,
    stream: u32,
    /// Bytes of frames, and of header blocks alone, that came after the last block with an entry.
    read_before: usize,
    fields_before: usize,
    /// Bytes of fields that are left in the present frame.
    left: usize,
    position: Position,
    /// The least that name and value of the present field count, if it is put into the table.
    entry: Option<usize>,
    /// The bytes of the present header block so far.
    block: usize,
    /// Header blocks with entries in the table: their bytes, and the least that their entries
    /// count.
    blocks: VecDeque<(usize, usize)>,
    /// The sums of both.
    block_bytes: usize,
    entry_size: usize,
    /// Whether the last of the blocks is the present one.
    is_last_present: bool,
}

/// The meaning of the next byte of a header block (RFC 7541, 5 and 6).
#[derive(Clone, Copy, Debug, Default)]
enum Position {
    #[default]
    Field,
    /// A byte of a number: its purpose, and the value and the number of the bits read so far.
    Number(NumberPurpose, usize, u32),
    StringLength(StringPurpose),
    /// The reader is in a string, of which this many bytes are left.
    String(StringPurpose, usize),
}

#[derive(Clone, Copy, Debug)]
enum NumberPurpose {
    /// The name of a field whose value follows.
    Name,
    /// A whole field, or the size of the table.
    Whole,
    /// The length of a string, which may be compressed.
    Length(StringPurpose, bool),
}

#[derive(Clone, Copy, Debug)]
enum StringPurpose {
    Name,
    Value,
}

impl FieldTable {
    /// Begins a frame.
    pub(super) fn begin(&mut self, head: FrameHead) {
        let length = usize::try_from(head.length).unwrap_or(usize::MAX);
        self.left = 0;
        if !matches!(head.kind, HEADERS | CONTINUATION) {
            self.read_before = (self.read_before + HEAD_BYTES + length).min(MAX_BEFORE);
            return;
        }
        self.left = length;
        (self.before, self.is_padded) = (0, false);
        if head.kind == HEADERS {
            if !self.is_last_present && self.block > 0 {
                self.read_before = (self.read_before + HEAD_BYTES + self.block).min(MAX_BEFORE);
                self.fields_before = (self.fields_before + self.block).min(MAX_BEFORE);
            }
            (self.position, self.entry, self.block, self.is_last_present) = (Position::Field, None, 0, false);
            (self.stream, self.dependency) = (head.stream, 0);
            self.is_padded = head.flags & PADDED != 0;
            self.before = if head.flags & PRIORITY == 0 { 0 } else { PRIORITY_BYTES };
        }
        self.block += self.left;
        if self.is_last_present
            && let Some((bytes, _)) = self.blocks.back_mut()
        {
            *bytes += (1 + DECOMPRESSED) * self.left;
            self.block_bytes += (1 + DECOMPRESSED) * self.left;
        }
    }

    /// Reads some of the payload of the present frame.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while self.left > 0
            && let [first, rest @ ..] = bytes
        {
            if self.is_padded {
                // The length of the padding, which is at the frame's end.
                self.is_padded = false;
                self.left = self.left.saturating_sub(1 + usize::from(*first));
                bytes = rest;
            } else if self.before > 0 {
                (self.before, self.left, bytes) = (self.before - 1, self.left - 1, rest);
                if self.before > 0 {
                    self.dependency = self.dependency << 8 | u32::from(*first);
                } else if stream_id(self.dependency.to_be_bytes()) == self.stream {
                    // The h2 crate resets such a stream, and reads none of its fields.
                    self.left = 0;
                }
            } else {
                let fields = &bytes[..bytes.len().min(self.left)];
                let taken = self.read_fields(fields);
                self.left -= taken;
                bytes = &bytes[taken..];
            }
        }
    }

    /// The most that the table keeps in memory.
    pub(super) fn bytes(&self) -> usize {
        self.block_bytes
    }

    /// Reads one byte of fields, or as much of a string as there is. Returns the number of bytes.
    fn read_fields(&mut self, bytes: &[u8]) -> usize {
        let byte = bytes[0];
        self.position = match self.position {
            Position::Field => {
                let (of, bits, is_entry) = match byte {
                    0x80.. => (NumberPurpose::Whole, 7, false),
                    0x40..0x80 => (NumberPurpose::Name, 6, true),
                    0x20..0x40 => (NumberPurpose::Whole, 5, false),
                    _ => (NumberPurpose::Name, 4, false),
                };
                self.entry = is_entry.then_some(ENTRY_OVERHEAD);
                self.begin_number(of, byte, bits)
            }
            // No number of a field has more than four further bytes; the h2 crate refuses others.
            Position::Number(of, value, bits) => {
                let value = value + (usize::from(byte & 0x7F) << bits.min(28));
                if byte & 0x80 == 0 { self.end_number(of, value) } else { Position::Number(of, value, bits + 7) }
            }
            Position::StringLength(of) => self.begin_number(NumberPurpose::Length(of, byte & 0x80 != 0), byte, 7),
            Position::String(of, left) => {
                let taken = left.min(bytes.len());
                self.position = if taken == left { self.end_string(of) } else { Position::String(of, left - taken) };
                return taken;
            }
        };
        1
    }

    /// Reads the first byte of a number, which has `bits` bits of it.
    fn begin_number(&mut self, purpose: NumberPurpose, byte: u8, bits: u32) -> Position {
        let max = (1 << bits) - 1;
        match usize::from(byte) & max {
            value if value < max => self.end_number(purpose, value),
            value => Position::Number(purpose, value, 0),
        }
    }

    fn end_number(&mut self, purpose: NumberPurpose, value: usize) -> Position {
        match purpose {
            NumberPurpose::Whole => Position::Field,
            NumberPurpose::Name if value == 0 => Position::StringLength(StringPurpose::Name),
            NumberPurpose::Name => Position::StringLength(StringPurpose::Value),
            NumberPurpose::Length(purpose, is_compressed) => {
                // The longest code of a byte has 30 bits.
                let least = if is_compressed { value * 8 / 30 } else { value };
                self.entry = self.entry.map(|entry| entry + least);
                if value == 0 { self.end_string(purpose) } else { Position::String(purpose, value) }
            }
        }
    }

    fn end_string(&mut self, purpose: StringPurpose) -> Position {
        match purpose {
            StringPurpose::Name => Position::StringLength(StringPurpose::Value),
            StringPurpose::Value => {
                if let Some(size) = self.entry.take() {
                    self.insert(size);
                }
                Position::Field
            }
        }
    }

    /// Inserts an entry of at least this size, which the present block puts into the table. A block
    /// is there as long as one of its entries may be: entries go in the order in which they came.
    fn insert(&mut self, size: usize) {
        match self.blocks.back_mut() {
            Some((_, entries)) if self.is_last_present => *entries += size,
            _ => {
                let bytes = self.read_before + self.block + DECOMPRESSED * (self.fields_before + self.block);
                self.blocks.push_back((bytes, size));
                self.block_bytes += bytes;
                (self.is_last_present, self.read_before, self.fields_before) = (true, 0, 0);
            }
        }
        self.entry_size += size;
        while self.blocks.len() > 1
            && let Some((bytes, entries)) = self.blocks.front().copied()
            && self.entry_size - entries >= TABLE_SIZE
        {
            self.blocks.pop_front();
            self.block_bytes -= bytes;
            self.entry_size -= entries;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A HEADERS frame, in pieces of `step` bytes.
    fn read(table: &mut FieldTable, kind: u8, flags: u8, payload: &[u8], step: usize) {
        let length = u32::try_from(payload.len()).unwrap();
        table.begin(FrameHead { length, kind, flags, stream: 5 });
        payload.chunks(step).for_each(|piece| table.read(piece));
    }

    /// The bytes of the blocks that these HEADERS frames leave in the table.
    #[track_caller]
    fn check(frames: &[(u8, u8, &[u8])], expected: usize) {
        for step in [1, 2, 7, 100_000] {
            let mut table = FieldTable::default();
            frames.iter().for_each(|(kind, flags, payload)| read(&mut table, *kind, *flags, payload, step));
            assert_eq!(table.bytes(), expected, "in pieces of {step}");
            assert!(matches!(table.position, Position::Field), "in pieces of {step}: {table:?}");
        }
    }

    /// A field with a name of its own: `form` is the first byte of its representation.
    fn field(form: u8, value: usize) -> Vec<u8> {
        assert!(value < 127);
        [&[form, 1, b'x', u8::try_from(value).unwrap()][..], &vec![b'y'; value]].concat()
    }

    #[test]
    fn gh12_blocks_with_entries_in_the_table_are_counted() {
        check(&[(1, 4, &[0x82, 0x86])], 0);
        check(&[(1, 4, &field(0, 100))], 0);
        check(&[(1, 4, &field(0x10, 100))], 0);
        check(&[(1, 4, &field(0x40, 100))], 3 * 104);
        // The authority, by its index in the static table; then 300 bytes that are not put there.
        let large = [&[0x41, 1, b'g'][..], &field(0, 100).repeat(3)].concat();
        check(&[(1, 4, &large)], 3 * 315);
        check(&[(1, 4, &large), (1, 4, &large)], 3 * 630);
        // A value of 300 bytes, whose length takes three bytes; then a size of the table.
        check(
            &[(1, 4, &[&[0x41, 0x7F, 0xAD, 1][..], &[b'y'; 300]].concat()), (1, 4, &[0x3F, 0xE1, 0x1F, 0x82])],
            3 * 304,
        );
        // Compressed: at least 27 bytes.
        check(&[(1, 4, &[&[0x41, 0x80 | 102][..], &[0xAA; 102]].concat())], 3 * 104);
    }

    #[test]
    fn gh12_padding_and_priority_do_not_count_as_fields() {
        let entry = field(0x40, 3);
        let padded = [&[4][..], &entry, &[0x40; 4]].concat();
        check(&[(1, 4 | PADDED, &padded)], 3 * padded.len());
        let both = [&[4, 0x40, 0x40, 0x40, 0x40, 0x40][..], &entry, &[0; 4]].concat();
        check(&[(1, 4 | PADDED | PRIORITY, &both)], 3 * both.len());
        check(&[(0, 0, &entry), (1, 4, &[0x82])], 0);
    }

    #[test]
    fn gh12_a_block_goes_on_in_continuations() {
        let entry = field(0x40, 100);
        check(&[(1, 0, &entry[..50]), (9, 4, &entry[50..])], 3 * 104);
        check(&[(1, 0, &entry), (9, 0, &[0x82]), (9, 4, &[0x82; 10]), (1, 4, &[0x82; 50])], 3 * 115);
    }

    #[test]
    fn gh12_what_was_read_before_an_entry_may_be_in_the_same_buffer() {
        let (unlisted, small) = (field(0, 100).repeat(9), field(0x40, 0));
        check(&[(0, 0, &[0; 100]), (1, 4, &small)], 109 + 3 * 4);
        check(&[(1, 4, &unlisted), (1, 4, &small)], 9 + 3 * (936 + 4));
        check(&[(1, 4, &small), (1, 4, &unlisted), (1, 4, &small)], 3 * 4 + 9 + 3 * (936 + 4));
        let long = vec![(1, 4, &unlisted[..]); 100];
        check(&[&long[..], &[(1, 4, &small)]].concat(), 3 * (MAX_BEFORE + 4));
    }

    #[test]
    fn gh12_a_stream_that_depends_on_itself_puts_nothing_into_the_table() {
        let entries = field(0x40, 100).repeat(40);
        let on = |stream: u8| [&[0x80, 0, 0, stream, 9][..], &entries].concat();
        check(&[(1, 4, &entries)], 3 * 40 * 104);
        check(&[(1, 4 | PRIORITY, &on(3))], 3 * (40 * 104 + 5));
        check(&[(1, 4 | PRIORITY, &on(5))], 0);
    }

    #[test]
    fn gh12_entries_leave_the_table_in_their_order() {
        let small = field(0x40, 0);
        let large = [&small[..], &field(0, 100).repeat(9)].concat();
        let mut frames = vec![(1, 4, &large[..]); 10];
        check(&frames, 3 * 9400);
        // 33 bytes each: 125 of them are more than the table has.
        frames.extend(vec![(1, 4, &small[..]); 114]);
        check(&frames, 3 * (9400 + 114 * 4));
        frames.extend(vec![(1, 4, &small[..]); 11]);
        check(&frames, 3 * 125 * 4);
        let most = vec![(1, 4, &large[..]); 1000];
        check(&most, 3 * 125 * 940);
    }
}
