//! Entries of lists and changes in packed form: blocks of entries, each compressed as zlib does
//! (RFC 1950) and written in base64 (RFC 4648), since a packet is text.
//!
//! A list that thousands of nodes are sent is packed once for all of them. Blocks are independent,
//! so that a list which has changed in one place is packed anew in that place only.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_zlib_with_limit};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::Text;

/// Maximum bytes that the blocks of one packet may have together when they are unpacked: as many as
/// the largest list that a node takes. A few bytes could unpack to a thousand times as many.
pub const MAX_UNPACKED_BYTES: usize = 16 << 20;
/// Maximum number of blocks of one packet: a list of 16 MiB in blocks of 4 KiB. The Distributor's
/// blocks are larger.
pub const MAX_BLOCKS: usize = 4096;
/// How hard to compress. Higher levels take four times as long, and make random ids no shorter.
const LEVEL: u8 = 1;

/// Why packed entries cannot be read. The receiver keeps what it knows.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The member is of a wrong type, or has too many blocks.
    #[error("packed is not a list of at most {MAX_BLOCKS} texts")]
    Blocks(#[source] serde_json::Error),
    /// The blocks would take more memory than any list.
    #[error("the packed entries have more than {MAX_UNPACKED_BYTES} bytes")]
    TooLarge,
    /// A block is not base64, not zlib, not UTF-8, or holds a `¶` that is not escaped.
    #[error("a packed block is broken")]
    Broken,
    /// A block does not unpack to entries and their ids.
    #[error("a packed block does not hold entries with ids")]
    Entries(#[source] Option<serde_json::Error>),
}

/// The unpacked blocks of one packet, which a [`ListUpdate`](crate::ListUpdate) borrows from.
#[derive(Debug, Default)]
pub struct UnpackedBlocks(Vec<String>);

/// Writes the text of a block, which [`pack`] takes. In the entries `¶` is escaped.
pub fn write_block<'a>(out: &mut String, entries: impl Iterator<Item = (u64, &'a str)> + Clone) {
    out.push_str(r#"{"ids":["#);
    for (position, (id, _)) in entries.clone().enumerate() {
        let comma = if position > 0 { "," } else { "" };
        out.push_str(comma);
        out.push_str(itoa::Buffer::new().format(id));
    }
    out.push_str(r#"],"entries":["#);
    for (position, (_, entry)) in entries.enumerate() {
        let comma = if position > 0 { "," } else { "" };
        out.push_str(comma);
        out.push_str(entry);
    }
    out.push_str("]}");
}

/// Packs the text of a block. It takes about half a millisecond for 64 KiB.
pub fn pack(block: &str) -> String {
    STANDARD.encode(compress_to_vec_zlib(block.as_bytes(), LEVEL))
}

impl UnpackedBlocks {
    /// Unpacks the blocks of a packet's member `packed`, and returns their entries.
    ///
    /// # Errors
    /// [`UnpackError`] when a block cannot be read, or a limit is exceeded. No more memory than
    /// the limit is used.
    pub(crate) fn unpack(&mut self, packed: &RawValue) -> Result<(Vec<u64>, Vec<&RawValue>), UnpackError> {
        #[derive(Deserialize)]
        struct RawBlock<'a> {
            ids: Vec<u64>,
            #[serde(borrow)]
            entries: Vec<&'a RawValue>,
        }
        let Blocks(blocks) = serde_json::from_str(packed.get()).map_err(UnpackError::Blocks)?;
        let mut room = MAX_UNPACKED_BYTES;
        for Text(block) in &blocks {
            let stream = STANDARD.decode(block.as_bytes()).map_err(|_not_base64| UnpackError::Broken)?;
            let text = decompress_to_vec_zlib_with_limit(&stream, room).map_err(|error| match error.status {
                TINFLStatus::HasMoreOutput => UnpackError::TooLarge,
                _broken => UnpackError::Broken,
            })?;
            room -= text.len();
            let text = String::from_utf8(text).map_err(|_not_utf8| UnpackError::Broken)?;
            // Entries are passed on as they came, and then a delimiter would end the packet.
            if text.contains('¶') {
                return Err(UnpackError::Broken);
            }
            self.0.push(text);
        }
        let (mut ids, mut entries) = (Vec::new(), Vec::new());
        for text in &self.0 {
            let block: RawBlock<'_> = serde_json::from_str(text).map_err(|error| UnpackError::Entries(Some(error)))?;
            if block.ids.len() != block.entries.len() {
                return Err(UnpackError::Entries(None));
            }
            ids.extend(block.ids);
            entries.extend(block.entries);
        }
        Ok((ids, entries))
    }
}

/// The blocks in the order of the packet. A packet of the largest size could have millions of empty
/// ones.
struct Blocks<'a>(Vec<Text<'a>>);

impl<'de> Deserialize<'de> for Blocks<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;
        impl<'de> Visitor<'de> for Bounded {
            type Value = Blocks<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut blocks = Vec::new();
                while let Some(block) = seq.next_element()? {
                    if blocks.len() == MAX_BLOCKS {
                        return Err(A::Error::custom("too many blocks"));
                    }
                    blocks.push(block);
                }
                Ok(Blocks(blocks))
            }
        }
        deserializer.deserialize_seq(Bounded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(entries: &[(u64, &str)]) -> String {
        let mut text = String::new();
        write_block(&mut text, entries.iter().copied());
        pack(&text)
    }

    /// The entries of a member `packed`, or the beginning of an error about it.
    #[track_caller]
    fn check(packed: &str, expected: Result<&[(u64, &str)], &str>) {
        let mut unpacked = UnpackedBlocks::default();
        let seen = unpacked.unpack(serde_json::from_str(packed).unwrap()).map(|(ids, entries)| {
            ids.into_iter().zip(entries).map(|(id, entry)| (id, entry.get().to_owned())).collect::<Vec<_>>()
        });
        match (seen, expected) {
            (Ok(seen), Ok(expected)) => {
                assert_eq!(seen, expected.iter().map(|(id, entry)| (*id, (*entry).to_owned())).collect::<Vec<_>>());
            }
            (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected),
            (seen, expected) => panic!("{seen:?} instead of {expected:?}"),
        }
    }

    fn zeros(bytes: usize) -> String {
        STANDARD.encode(compress_to_vec_zlib(&vec![b'0'; bytes], LEVEL))
    }

    #[test]
    fn blocks_are_unpacked_in_their_order() {
        check("[]", Ok(&[]));
        let (one, two) = (block(&[(1, "{}"), (7, r#"{"name":"가\u00b6"}"#)]), block(&[(8, "7")]));
        check(&format!(r#"["{one}","{two}"]"#), Ok(&[(1, "{}"), (7, r#"{"name":"가\u00b6"}"#), (8, "7")]));
        check(&format!(r#"["{}"]"#, block(&[])), Ok(&[]));
        // Some writers escape the slash of base64.
        check(&format!(r#"["{}"]"#, one.replace('/', "\\/")), Ok(&[(1, "{}"), (7, r#"{"name":"가\u00b6"}"#)]));
    }

    #[test]
    fn bytes_that_are_not_a_block_are_refused_in_words() {
        for broken in [r#"["%"]"#, r#"["AAAA"]"#, r#"[""]"#] {
            check(broken, Err("a packed block is broken"));
        }
        let one = block(&[(1, "{}")]);
        check(&format!(r#"["{}"]"#, &one[..one.len() - 4]), Err("a packed block is broken"));
        check(
            &format!(r#"["{}"]"#, STANDARD.encode(compress_to_vec_zlib(b"\xff", LEVEL))),
            Err("a packed block is broken"),
        );
        check(&format!(r#"["{}"]"#, block(&[(1, "\"¶\"")])), Err("a packed block is broken"));
        for text in
            ["7", "{}", r#"{"ids":[1],"entries":[]}"#, r#"{"ids":["1"],"entries":[{}]}"#, r#"{"ids":[],"entries":[}"#]
        {
            check(&format!(r#"["{}"]"#, pack(text)), Err("a packed block does not hold entries with ids"));
        }
        for strange in ["7", "{}", "[7]", "\"\"", "null"] {
            check(strange, Err("packed is not a list of at most 4096 texts"));
        }
    }

    #[test]
    fn a_few_bytes_that_unpack_to_many_are_refused() {
        let limit = "the packed entries have more than 16777216 bytes";
        check(&format!(r#"["{}"]"#, zeros(MAX_UNPACKED_BYTES)), Err("a packed block does not hold entries with ids"));
        check(&format!(r#"["{}"]"#, zeros(MAX_UNPACKED_BYTES + 1)), Err(limit));
        // The limit is for all blocks together.
        let half = zeros(MAX_UNPACKED_BYTES / 2);
        check(&format!(r#"["{half}","{half}"]"#), Err("a packed block does not hold entries with ids"));
        check(&format!(r#"["{half}","{half}","{}"]"#, block(&[])), Err(limit));
    }

    #[test]
    fn the_number_of_blocks_is_limited() {
        let empty = format!("\"{}\"", block(&[]));
        let blocks = |count: usize| format!("[{}]", vec![&*empty; count].join(","));
        check(&blocks(MAX_BLOCKS), Ok(&[]));
        check(&blocks(MAX_BLOCKS + 1), Err("packed is not a list of at most 4096 texts"));
    }
}
