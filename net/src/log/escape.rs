//! Text from peers and clients, escaped for people to read.

use std::fmt::{self, Display, Write};

/// How much of a foreign text a log line or a table shows, unless there is a reason for another
/// limit. Any sensible name, address or reason fits, and a longer one does not fill the screen.
pub const MAX_ESCAPED_BYTES: usize = 128;

/// Text of a peer or a client, escaped for a log or a terminal: see [`escaped`].
#[derive(Clone, Copy)]
pub struct Escaped<T> {
    text: T,
    max_bytes: usize,
}

/// Escapes text of a peer or a client for a log or a terminal.
///
/// Characters that move a cursor, begin a line, change the order of characters or are invisible are
/// escaped as in Rust (`\n`, `\u{202e}`), and so is `\` itself. Letters of any script, their
/// accents and emoji stay. After `max_bytes` bytes of output the rest is omitted, and `… (N bytes)`
/// gives the length of the whole text.
///
/// [`Display`] writes the text, [`Debug`](fmt::Debug) puts it in quotes, which show where it ends.
/// Nothing is allocated, and no work is done before the text is written, so that it costs nothing
/// in a log that is off.
pub fn escaped<T: Display>(text: T, max_bytes: usize) -> Escaped<T> {
    Escaped { text, max_bytes }
}

impl<T: Display> Escaped<T> {
    fn write(&self, f: &mut fmt::Formatter<'_>, is_quoted: bool) -> fmt::Result {
        let mut cut = EscapeWriter { out: f, room: Some(self.max_bytes), bytes: 0, is_quoted };
        write!(cut, "{}", self.text)?;
        let EscapeWriter { room, bytes, .. } = cut;
        if room.is_none() { write!(f, "… ({bytes} bytes)") } else { Ok(()) }
    }
}

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, false)
    }
}

impl<T: Display> fmt::Debug for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        self.write(f, true)?;
        f.write_char('"')
    }
}

/// Escapes in JSON text, in the form of JSON (`\u202e`), the characters that a terminal or a reader
/// of lines might act on. The JSON means the same.
pub fn escaped_json(text: &str) -> impl Display {
    fmt::from_fn(move |f| {
        let mut begin = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| *c != '\\' && !is_plain(*c)) {
            f.write_str(&text[begin..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(f, "\\u{unit:04x}")?;
            }
            begin = at + c.len_utf8();
        }
        f.write_str(&text[begin..])
    })
}

/// Escapes the text that is written to it, up to a limit.
struct EscapeWriter<'a, 'f> {
    out: &'a mut fmt::Formatter<'f>,
    /// Bytes that may still be written; `None` once a character did not fit.
    room: Option<usize>,
    /// Bytes of the whole text.
    bytes: usize,
    is_quoted: bool,
}

impl Write for EscapeWriter<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes += text.len();
        let Some(mut room) = self.room else { return Ok(()) };
        let mut begin = 0;
        for (at, c) in text.char_indices() {
            let is_plain = is_plain(c) && !(self.is_quoted && c == '"');
            let needed = if is_plain { c.len_utf8() } else { c.escape_default().len() };
            let Some(rest) = room.checked_sub(needed) else {
                self.room = None;
                return self.out.write_str(&text[begin..at]);
            };
            room = rest;
            if !is_plain {
                self.out.write_str(&text[begin..at])?;
                write!(self.out, "{}", c.escape_default())?;
                begin = at + c.len_utf8();
            }
        }
        self.room = Some(room);
        self.out.write_str(&text[begin..])
    }
}

/// Whether a character is visible as itself and has no other effect.
fn is_plain(c: char) -> bool {
    match c {
        '\\' => false,
        ' '..='~' => true,
        '\0'..='\u{9f}' => false,
        // Spaces that are as wide as others.
        '\u{a0}' | '\u{3000}' => true,
        // These take no room or look like a space, though they count as letters or accents.
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}' => false,
        '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0000}'.. => false,
        _ => is_printable(c),
    }
}

/// Whether the standard library counts a character as printable. Controls, formats (the order of
/// characters, their joining), line separators, private and unassigned characters are not.
fn is_printable(c: char) -> bool {
    // It follows another character, because accents are escaped when they stand alone.
    let mut bytes = [b'x', 0, 0, 0, 0];
    let end = 1 + c.encode_utf8(&mut bytes[1..]).len();
    str::from_utf8(&bytes[..end]).is_ok_and(|text| text.escape_debug().nth(1) == Some(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(escaped(text, 1000).to_string(), expected);
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        for text in [
            "",
            "goods-2 (a/b:c) \"x\" '~'",
            "홍길동",
            "한국어 이름",
            "e\u{301}é",
            "日本\u{3000}語",
            "אבג العربية",
            "😀",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn characters_with_effects_are_escaped() {
        check("\x1b]0;pwned\x07\x1b[2J", r"\u{1b}]0;pwned\u{7}\u{1b}[2J");
        check("a\r\nb\tc\0", r"a\r\nb\tc\u{0}");
        check("\u{7f}\u{85}\u{9b}31m\u{9f}", r"\u{7f}\u{85}\u{9b}31m\u{9f}");
        check(r"\u{1b}", r"\\u{1b}");
        for c in ('\0'..=char::MAX).filter(|c| {
            c.is_control()
                || matches!(u32::from(*c), 0xad | 0x61c | 0x115f..=0x1160 | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f)
                || matches!(u32::from(*c), 0x3164 | 0xe000..=0xf8ff | 0xfdd0..=0xfdef | 0xfe00..=0xfe0f | 0xfeff | 0xffa0)
                || matches!(u32::from(*c), 0xfff0..=0xfffb | 0xfffe..=0xffff | 0x1d173..=0x1d17a | 0xe0000..)
        }) {
            let text = escaped(c, 100).to_string();
            assert!(text.starts_with('\\') && text.is_ascii(), "{text}");
        }
    }

    #[test]
    fn output_is_limited() {
        for (text, max_bytes, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "abc… (4 bytes)"),
            ("한국", 5, "한… (6 bytes)"),
            ("a\x1bb", 6, "a… (3 bytes)"),
            ("a\x1bb", 7, r"a\u{1b}… (3 bytes)"),
            ("ab", 0, "… (2 bytes)"),
            ("", 0, ""),
        ] {
            assert_eq!(escaped(text, max_bytes).to_string(), expected);
        }
        let long = "\u{200b}".repeat(21_000);
        assert!(escaped(&long, MAX_ESCAPED_BYTES).to_string().len() < MAX_ESCAPED_BYTES + 20);
        assert_eq!(escaped(format_args!("{}{}", "ab", "cd"), 3).to_string(), "abc… (4 bytes)", "in pieces");
    }

    #[test]
    fn json_means_the_same() {
        for text in ["plain", "한국", "\u{9b}31m\u{85}\u{202e}\u{7f}\u{e0001}", "a\\\"b\n"] {
            let json = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"));
            let shown = escaped_json(&json).to_string();
            assert!(shown.chars().all(|c| c == '\\' || is_plain(c)), "{shown}");
            if text.chars().all(is_plain) {
                assert_eq!(shown, json);
            }
        }
        assert_eq!(escaped_json("[\"\u{9b}\u{e0001}\"]").to_string(), r#"["\u009b\udb40\udc01"]"#);
    }

    #[test]
    fn quotes_show_the_end() {
        assert_eq!(format!("{:?}", escaped("x\" level=\"ERROR", 100)), r#""x\" level=\"ERROR""#);
    }
}
