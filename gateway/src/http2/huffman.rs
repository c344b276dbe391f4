//! Texts as HTTP/2 compresses them: RFC 7541, 5.2 and appendix B. Pure.

/// Bits of the code of each octet, and of the end. The code is canonical, so they say it all.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
const SYMBOLS: usize = 257;
const SHORTEST: usize = 5;
const LONGEST: usize = 30;

/// All codes of one length: they follow each other, as the octets do that they stand for.
#[derive(Clone, Copy)]
struct Codes {
    /// The first of them, its bits at the left.
    first: u32,
    /// The first one that is too large. Codes that are longer are larger than all that are shorter.
    end: u64,
    /// Where in [`SORTED`] their octets are.
    at: u16,
}

/// Octets by their codes.
const SORTED: [u16; SYMBOLS] = sorted();
const CODES: [Codes; LONGEST + 1] = codes();

const fn sorted() -> [u16; SYMBOLS] {
    let mut sorted = [0; SYMBOLS];
    let (mut at, mut length) = (0, SHORTEST);
    while length <= LONGEST {
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                sorted[at] = symbol as u16;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    sorted
}

const fn codes() -> [Codes; LONGEST + 1] {
    let mut codes = [Codes { first: 0, end: 0, at: 0 }; LONGEST + 1];
    let (mut at, mut next, mut length) = (0, 0u64, SHORTEST);
    while length <= LONGEST {
        let mut count = 0;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                count += 1;
            }
            symbol += 1;
        }
        let end = next + ((count as u64) << (32 - length));
        codes[length] = Codes { first: next as u32, end, at };
        (next, at, length) = (end, at + count, length + 1);
    }
    codes
}

/// The octets of a compressed text, or `None` where it makes no sense, after which nothing follows.
#[derive(Clone, Debug)]
pub(crate) struct Huffman<'a> {
    bytes: std::slice::Iter<'a, u8>,
    /// Bits that have been read and not used, at the left.
    bits: u64,
    have: usize,
}

impl<'a> Huffman<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.iter(), bits: 0, have: 0 }
    }
}

impl Iterator for Huffman<'_> {
    type Item = Option<u8>;

    fn next(&mut self) -> Option<Option<u8>> {
        while self.have <= 56
            && let Some(byte) = self.bytes.next()
        {
            self.bits |= u64::from(*byte) << (56 - self.have);
            self.have += 8;
        }
        // What fills up the last byte are ones, as many as there can be of no code.
        let padded = self.bits | u64::MAX.checked_shr(self.have as u32).unwrap_or(0);
        if self.have < 8 && padded == u64::MAX {
            self.have = 0;
            return None;
        }
        let window = (padded >> 32) as u32;
        let found = (SHORTEST..=LONGEST).find(|length| u64::from(window) < CODES[*length].end);
        let symbol = found.filter(|length| *length <= self.have).and_then(|length| {
            let Codes { first, at, .. } = CODES[length];
            self.bits <<= length;
            self.have -= length;
            let index = usize::from(at) + ((window - first) >> (32 - length)) as usize;
            u8::try_from(*SORTED.get(index)?).ok()
        });
        if symbol.is_none() {
            // Nothing is read any more.
            (self.bytes, self.bits, self.have) = ([].iter(), 0, 0);
        }
        Some(symbol)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the standard writes it: bit by bit.
    fn encode(text: &[u8]) -> Vec<u8> {
        let code = |symbol: usize| {
            let length = usize::from(LENGTHS[symbol]);
            let before = SORTED.iter().position(|other| usize::from(*other) == symbol).unwrap();
            let Codes { first, at, .. } = CODES[length];
            let code = (first >> (32 - length)) + u32::try_from(before - usize::from(at)).unwrap();
            (0..length).rev().map(move |bit| code >> bit & 1 == 1)
        };
        let mut bits: Vec<bool> = text.iter().flat_map(|octet| code(usize::from(*octet))).collect();
        bits.resize(bits.len().div_ceil(8) * 8, true);
        bits.chunks(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
    }

    #[track_caller]
    fn check(compressed: &[u8], expected: Option<&[u8]>) {
        let seen: Option<Vec<u8>> = Huffman::new(compressed).collect();
        assert_eq!(seen.as_deref(), expected, "{compressed:02x?}");
    }

    #[test]
    fn texts_are_read_as_the_standard_writes_them() {
        // RFC 7541, C.4 and C.6.
        check(&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff], Some(b"www.example.com"));
        check(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], Some(b"no-cache"));
        check(&[0x64, 0x02], Some(b"302"));
        check(&[0xae, 0xc3, 0x77, 0x1a, 0x4b], Some(b"private"));
        check(b"", Some(b""));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        // A byte of nothing but padding; padding that is not ones; the end in the middle; a code that is cut.
        check(&[0xff], None);
        check(&[0x64, 0x02, 0x00], None);
        check(&[0xff, 0xff, 0xff, 0xff], None);
        check(&[0xfe], None);
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let seen: Option<Vec<u8>> = Huffman::new(&encode(&text)).collect();
            prop_assert_eq!(seen, Some(text));
        }

        #[test]
        fn bytes_of_any_kind_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Huffman::new(&bytes).count() <= bytes.len() * 8 / SHORTEST + 1);
        }
    }
}
