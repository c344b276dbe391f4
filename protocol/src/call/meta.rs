//! The `$` of a version 2 request, as one table of its members.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::Text;
use crate::json::{digits, is_object, plain_text, put_number, put_text, read_member, value_prefix};

/// Makes the struct, its readers and its writer from one row for each member:
///
/// `field: type = "name on the wire": form, read, write;`
///
/// The form is the type of the value in JSON. `read` converts it to the field's type; `None` counts
/// as absent. `write` converts the field to a value of the form; `None` leaves the member out.
macro_rules! call_meta {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $name:tt: $form:ty, $read:expr, $write:expr;)*) => {
        /// Metadata of a call from a version 2 caller, in `$`.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct CallMeta<'a> {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl<'a> CallMeta<'a> {
            /// Parses all members. A member of a wrong type counts as absent, and the others
            /// remain.
            pub(super) fn parse(meta: &'a RawValue) -> Self {
                #[derive(Default, Deserialize)]
                #[serde(default)]
                struct RawCallMeta<'a> {
                    $(#[serde(borrow, rename = $name)] $field: Option<&'a RawValue>,)*
                }
                let raw: RawCallMeta<'a> = serde_json::from_str(meta.get()).unwrap_or_default();
                Self {
                    $($field: <$form>::parse(raw.$field).and_then($read).map(<$type>::from).unwrap_or_default(),)*
                }
            }

            /// Reads the usual form, which [`write`](Self::write) writes, without a JSON parser,
            /// and the closing brace after it. `None`: parse it.
            pub(super) fn parse_fast(mut rest: &'a str) -> Option<(Self, &'a str)> {
                let mut meta = Self::default();
                let mut members = Separator::default();
                $(if let Some(value) = members.strip_name(rest, concat!("\"", $name, "\":")) {
                    let (value, after) = <$form>::parse_prefix(value)?;
                    (meta.$field, rest) = (<$type>::from($read(value)?), after);
                })*
                // A member in another form or order is still there instead of the brace.
                Some((meta, rest.strip_prefix('}')?))
            }

            /// Appends the members, without the braces around them.
            pub(super) fn write(&self, out: &mut BytesMut) {
                let mut members = Separator::default();
                $(if let Some(value) = $write(&self.$field) {
                    members.put_name(out, concat!("\"", $name, "\":"));
                    value.put(out);
                })*
            }
        }
    };
}

call_meta! {
    /// `d`: how long the caller still waits, in milliseconds, rounded up.
    time_left: Option<Duration> = "d": u64, from_milliseconds, |left: &Option<Duration>| left.map(milliseconds_up);
    /// `t`: how long after its `$hello` the caller made the call, in milliseconds. From this the
    /// callee estimates how long the call has waited on its way.
    sent: Option<Duration> = "t": u64, from_milliseconds, |sent: &Option<Duration>| sent.map(milliseconds_down);
    /// `tp`: W3C trace context, a `traceparent`.
    trace: Option<Cow<'a, str>> = "tp": Cow<'a, str>, Some, Option::as_deref;
    /// `f`: the instance that calls, or for which a gateway calls. It applies to later calls on the
    /// connection too.
    from: Option<Cow<'a, str>> = "f": Cow<'a, str>, Some, Option::as_deref;
    /// Whether the call is idempotent (`i`).
    idempotent: bool = "i": bool, Some, |is: &bool| is.then_some(true);
    /// `at`: the number of this attempt; 0 for the first.
    attempt: u8 = "at": u64, |attempt| u8::try_from(attempt).ok(), non_zero;
    /// `c`: the response may come in parts, and the arguments may continue in parts. The bytes of
    /// `params` that the caller accepts before it grants more.
    credit: Option<u32> = "c": u64, |credit| u32::try_from(credit).ok(), |credit: &Option<u32>| credit.map(u64::from);
    /// `h`: how many calls led to this one, each made by the handler of the one before; 0 for the
    /// first.
    hops: u8 = "h": u64, |hops| Some(u8::try_from(hops).unwrap_or(u8::MAX)), non_zero;
    /// `b`: the body of the client's request follows in parts of raw bytes.
    body_follows: bool = "b": bool, Some, |follows: &bool| follows.then_some(true);
    /// `q`: the request of the client for which a gateway calls, as JSON:
    /// [`ClientRequest`](crate::ClientRequest) reads it.
    request: Option<JsonText<'a>> = "q": JsonText<'a>, Some, Clone::clone;
    /// `e`: the id of the event, which is the same in each attempt. Its emitter wants an
    /// acknowledgement.
    event: Option<Cow<'a, str>> = "e": Cow<'a, str>, Some, Option::as_deref;
    /// `k`: the key of the event. Events of one key are handled one after the other.
    event_key: Option<Cow<'a, str>> = "k": Cow<'a, str>, Some, Option::as_deref;
}

fn from_milliseconds(milliseconds: u64) -> Option<Duration> {
    Some(Duration::from_millis(milliseconds))
}

/// Rounds up, so that a call with time left does not look like one without.
fn milliseconds_up(left: Duration) -> u64 {
    u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn milliseconds_down(sent: Duration) -> u64 {
    u64::try_from(sent.as_millis()).unwrap_or(u64::MAX)
}

fn non_zero(number: &u8) -> Option<u64> {
    (*number > 0).then(|| u64::from(*number))
}

/// The text of a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonText<'a>(pub &'a str);

/// A type of value in JSON.
trait Form<'a>: Sized {
    /// Parses a member; `None` when it is absent or of another type.
    fn parse(member: Option<&'a RawValue>) -> Option<Self>;
    /// Reads the form that [`Put`] writes, and returns what follows it.
    fn parse_prefix(text: &'a str) -> Option<(Self, &'a str)>;
}

impl<'a> Form<'a> for u64 {
    fn parse(member: Option<&'a RawValue>) -> Option<Self> {
        read_member(member)
    }

    fn parse_prefix(text: &'a str) -> Option<(Self, &'a str)> {
        digits(text)
    }
}

impl<'a> Form<'a> for Cow<'a, str> {
    fn parse(member: Option<&'a RawValue>) -> Option<Self> {
        read_member(member).map(|Text(text)| text)
    }

    fn parse_prefix(text: &'a str) -> Option<(Self, &'a str)> {
        let (text, after) = plain_text(text.strip_prefix('"')?)?;
        Some((Cow::Borrowed(text), after))
    }
}

impl<'a> Form<'a> for bool {
    fn parse(member: Option<&'a RawValue>) -> Option<Self> {
        read_member(member)
    }

    fn parse_prefix(text: &'a str) -> Option<(Self, &'a str)> {
        Some((true, text.strip_prefix("true")?))
    }
}

impl<'a> Form<'a> for JsonText<'a> {
    fn parse(member: Option<&'a RawValue>) -> Option<Self> {
        member.map(RawValue::get).filter(|text| is_object(text)).map(Self)
    }

    /// An object ends where a parser says so: this costs a parser for the member, and not for the
    /// packet.
    fn parse_prefix(text: &'a str) -> Option<(Self, &'a str)> {
        let (value, after) = value_prefix(text.as_bytes()).filter(|_| text.starts_with('{'))?;
        Some((Self(value), &text[text.len() - after.len()..]))
    }
}

/// Appends a value as JSON.
trait Put {
    fn put(self, out: &mut BytesMut);
}

impl Put for u64 {
    fn put(self, out: &mut BytesMut) {
        put_number(out, self);
    }
}

impl Put for &str {
    fn put(self, out: &mut BytesMut) {
        put_text(out, self);
    }
}

impl Put for bool {
    fn put(self, out: &mut BytesMut) {
        out.put_slice(if self { b"true" } else { b"false" });
    }
}

impl Put for JsonText<'_> {
    fn put(self, out: &mut BytesMut) {
        out.put_slice(self.0.as_bytes());
    }
}

/// Puts commas between members, and expects them there. Inlined, so that names are compared as
/// numbers.
#[derive(Default)]
struct Separator {
    has_comma: bool,
}

impl Separator {
    /// The text after a member's name, if that member is next.
    #[inline(always)]
    fn strip_name<'a>(&mut self, rest: &'a str, name: &str) -> Option<&'a str> {
        let rest = if self.has_comma { rest.strip_prefix(',')? } else { rest };
        let value = rest.strip_prefix(name)?;
        self.has_comma = true;
        Some(value)
    }

    #[inline(always)]
    fn put_name(&mut self, out: &mut BytesMut, name: &str) {
        if std::mem::replace(&mut self.has_comma, true) {
            out.put_u8(b',');
        }
        out.put_slice(name.as_bytes());
    }
}
