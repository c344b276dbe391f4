//! What a caller of version 2 says of a call in `$`, as one table.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::{digits, plain_text, put_number, put_text, read_member};
use crate::packet::Text;

/// Makes the struct and its readers and writer of one row for each member:
///
/// `field: type = "name on the wire": form, from the form, to the form;`
///
/// The form is what stands in JSON. A value that the type cannot hold, and one of another form, count as absent. `None`
/// as the form leaves a member out.
macro_rules! call_meta {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $name:tt: $form:ty, $read:expr, $write:expr;)*) => {
        /// What a caller of version 2 says of a call in `$`.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct CallMeta<'a> {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl<'a> CallMeta<'a> {
            /// Reads the members that are there; one of a wrong type counts as absent and spoils no other.
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

            /// Reads what [`write`](Self::write) has written, up to and with the closing brace, without a JSON parser.
            /// `None`: it may be spelled in another way, so parse it.
            pub(super) fn parse_fast(mut rest: &'a str) -> Option<(Self, &'a str)> {
                let mut meta = Self::default();
                let mut members = Members::default();
                $(if let Some(value) = members.strip_name(rest, concat!("\"", $name, "\":")) {
                    let (value, after) = <$form>::parse_prefix(value)?;
                    (meta.$field, rest) = (<$type>::from($read(value)?), after);
                })*
                // What no member has taken in the end is a closing brace.
                Some((meta, rest.strip_prefix('}')?))
            }

            /// Appends the members, without the braces around them.
            pub(super) fn write(&self, out: &mut BytesMut) {
                let mut members = Members::default();
                $(if let Some(value) = $write(&self.$field) {
                    members.put_name(out, concat!("\"", $name, "\":"));
                    value.put(out);
                })*
            }
        }
    };
}

call_meta! {
    /// `d`: how long the caller still waits. In milliseconds on the wire, rounded up.
    time_left: Option<Duration> = "d": u64, from_milliseconds, |left: &Option<Duration>| left.map(milliseconds_up);
    /// `t`: how long after its `$hello` the caller made the call. In milliseconds on the wire. A callee that reads calls
    /// later and later after that knows how long they have waited on the way.
    sent: Option<Duration> = "t": u64, from_milliseconds, |sent: &Option<Duration>| sent.map(milliseconds_down);
    /// `tp`: W3C trace context, a `traceparent`.
    trace: Option<Cow<'a, str>> = "tp": Cow<'a, str>, Some, Option::as_deref;
    /// `f`: the instance that calls, or on whose behalf a gateway does. It holds for later calls on the connection too.
    from: Option<Cow<'a, str>> = "f": Cow<'a, str>, Some, Option::as_deref;
    /// `i`: carrying it out twice does no harm.
    idempotent: bool = "i": bool, Some, |is: &bool| is.then_some(true);
    /// `at`: which attempt this is, from 1; 0 for the first.
    attempt: u8 = "at": u64, |attempt| u8::try_from(attempt).ok(), non_zero;
    /// `c`: the answer may come in parts, and the arguments may go on in parts; bytes of `params` that the caller takes
    /// before it grants more.
    credit: Option<u32> = "c": u64, |credit| u32::try_from(credit).ok(), |credit: &Option<u32>| credit.map(u64::from);
    /// `h`: how many calls this one is made for, each while the next is handled; 0 for one that begins by itself.
    hops: u8 = "h": u64, |hops| Some(u8::try_from(hops).unwrap_or(u8::MAX)), non_zero;
}

fn from_milliseconds(milliseconds: u64) -> Option<Duration> {
    Some(Duration::from_millis(milliseconds))
}

/// Rounded up: a call with time left must not look like one without.
fn milliseconds_up(left: Duration) -> u64 {
    u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn milliseconds_down(sent: Duration) -> u64 {
    u64::try_from(sent.as_millis()).unwrap_or(u64::MAX)
}

fn non_zero(number: &u8) -> Option<u64> {
    (*number > 0).then(|| u64::from(*number))
}

/// How a member is read from JSON.
trait Form<'a>: Sized {
    /// Reads a member with the JSON parser; `None` when it is absent, or something else.
    fn parse(member: Option<&'a RawValue>) -> Option<Self>;
    /// Reads it as [`Put`] writes it, and gives what comes after it.
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

/// How a member is written.
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

/// Where the commas between members are.
#[derive(Default)]
struct Members {
    comma: &'static str,
}

impl Members {
    /// The text of a member's value if that member comes next.
    fn strip_name<'a>(&mut self, rest: &'a str, name: &str) -> Option<&'a str> {
        let value = rest.strip_prefix(self.comma)?.strip_prefix(name)?;
        self.comma = ",";
        Some(value)
    }

    fn put_name(&mut self, out: &mut BytesMut, name: &str) {
        out.put_slice(std::mem::replace(&mut self.comma, ",").as_bytes());
        out.put_slice(name.as_bytes());
    }
}
