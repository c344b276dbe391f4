//! The fields of a head: one piece of memory, and the position of each field in it. Pure.

/// The bytes of a head, and the positions of its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    bytes: Box<[u8]>,
    spans: Vec<(Span, Span)>,
}

/// A part of the head's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Fields {
    /// Fields that we made ourselves.
    pub(crate) fn from_pairs(pairs: &[(&str, &str)]) -> Self {
        let mut builder = FieldsBuilder::default();
        for (name, value) in pairs {
            builder.push(name.as_bytes(), value.as_bytes());
        }
        builder.finish()
    }

    /// A position in `bytes`.
    pub(crate) fn new(bytes: Box<[u8]>, spans: Vec<(Span, Span)>) -> Self {
        Self { bytes, spans }
    }

    /// The positions in `bytes` of `headers` that were parsed from them.
    pub(crate) fn spans(bytes: &[u8], headers: &[httparse::Header<'_>]) -> Vec<(Span, Span)> {
        let span = |part: &[u8]| Span::within(part, bytes);
        headers.iter().map(|field| (span(field.name.as_bytes()), span(field.value))).collect()
    }

    /// The first value under this name.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// Names and values as received.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(|(name, value)| (&self.bytes[name.range()], &self.bytes[value.range()]))
    }

    /// Moves the bytes of `span` one byte to the left and puts `last` behind them. Returns the
    /// spans of both: of the text without `last`, and of `last`.
    pub(super) fn shift_left(&mut self, span: Span, last: u8) -> Option<(Span, Span)> {
        let Span { start, end } = Span { start: span.start.checked_sub(1)?, end: span.end.checked_sub(1)? };
        self.bytes.copy_within(span.range(), start as usize);
        *self.bytes.get_mut(end as usize)? = last;
        Some((Span { start, end }, Span { start: end, end: end + 1 }))
    }

    pub(crate) fn text(&self, span: Span) -> &str {
        std::str::from_utf8(&self.bytes[span.range()]).unwrap_or_default()
    }
}

/// Builds fields, beside other texts of the same head.
#[derive(Debug, Default)]
pub(crate) struct FieldsBuilder {
    bytes: Vec<u8>,
    spans: Vec<(Span, Span)>,
}

impl FieldsBuilder {
    /// Adds a text that is not a field.
    pub(crate) fn text(&mut self, text: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text);
        Span { start: offset(start), end: offset(self.bytes.len()) }
    }

    /// Adds a field. Returns the position of its value.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) -> Span {
        let (name, value) = (self.text(name), self.text(value));
        self.spans.push((name, value));
        value
    }

    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    pub(crate) fn finish(self) -> Fields {
        Fields { bytes: self.bytes.into_boxed_slice(), spans: self.spans }
    }
}

/// The parts of a list in a field.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Heads are shorter than 4 GB.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

impl Span {
    /// The position of `part` in `whole`, of which it is a part.
    pub(crate) fn within(part: &[u8], whole: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        let bound = |at: usize| u32::try_from(at.min(whole.len())).unwrap_or(u32::MAX);
        Self { start: bound(start), end: bound(start + part.len()) }
    }

    fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}
