//! Reads the members of a registration in their order, as leniently as version 1 nodes need it, and
//! writes the text that lists show.

use std::borrow::Cow;

use serde::de::Error;
use serde_json::value::RawValue;

use super::{Advert, READ_WINDOW, Registration, RegistrationError, RegistrationLimits};
use crate::LEGACY_READ_BYTES;
use crate::json::{is_object, to_json, write_compact};

/// Unknown members that a registration may have: more than any real node sends, and few enough to
/// compare.
const MAX_EXTRA_MEMBERS: usize = 64;

/// Longest name of a version 2 node.
const MAX_NAME_BYTES: usize = 128;

/// A registration of which some members have been read.
pub(super) struct RegistrationReader<'l> {
    registration: Registration,
    seen: MembersSeen,
    limits: &'l RegistrationLimits,
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "a set of members, not a state")]
struct MembersSeen {
    port: bool,
    name: bool,
    plain_name: bool,
    urls: bool,
    host: bool,
}

impl<'l> RegistrationReader<'l> {
    /// A reader of these members, whose text has `bytes`.
    pub(super) fn new(members: &[(Cow<'_, str>, &RawValue)], bytes: usize, limits: &'l RegistrationLimits) -> Self {
        // Compact, as all others will read it.
        let meta = members.iter().find(|(name, _)| name == "$").map(|(_, value)| compact(value.get()));
        let registration = Registration {
            name: String::new(),
            port: 0,
            urls: Vec::new(),
            advert: meta.as_deref().and_then(Advert::parse),
            read_window: None,
            listed_at: None,
            before_host: String::with_capacity(bytes),
            after_host: String::new(),
        };
        Self { registration, seen: MembersSeen::default(), limits }
    }

    /// Reads the next member.
    ///
    /// # Errors
    /// [`RegistrationError`] when its value is faulty.
    pub(super) fn read(&mut self, name: &str, value: &RawValue) -> Result<(), RegistrationError> {
        match name {
            "host" => self.seen.host = true,
            "port" => {
                self.seen.port = true;
                let own = parse_port(value.get())?;
                let advertised = self.registration.advertised().map(|address| address.port);
                self.registration.port = advertised.unwrap_or(own);
                let port = self.registration.port.to_string();
                self.start_member(name).push_str(&port);
            }
            "urls" => {
                self.seen.urls = true;
                self.registration.urls = parse_urls(value, self.limits)?;
                let urls = to_json(&self.registration.urls);
                self.start_member(name).push_str(&urls);
            }
            "name" => {
                self.seen.name = true;
                let text = serde_json::from_str::<String>(value.get());
                self.seen.plain_name = text.as_deref().is_ok_and(is_plain_name);
                self.registration.name = text.unwrap_or_else(|_| compact(value.get()));
                write_compact(self.start_member(name), value.get());
            }
            "$" => {
                if self.registration.advert.is_none() && is_object(value.get()) {
                    let why = "`$` is an object with a duplicate member, or with a name that is not text";
                    return Err(RegistrationError::Shape(serde_json::Error::custom(why)));
                }
                Advert::check_advertise(value.get()).map_err(RegistrationError::Advertise)?;
                let http = self.registration.advert.as_ref().and_then(|advert| advert.http.as_ref());
                if http.is_some_and(|http| !http.is_within(self.limits)) {
                    return Err(RegistrationError::TooManyPrefixes);
                }
                write_compact(self.start_member(name), value.get());
            }
            READ_WINDOW => {
                self.registration.read_window = parse_read_window(value);
                write_compact(self.start_member(name), value.get());
            }
            _extra => write_compact(self.start_member(name), value.get()),
        }
        Ok(())
    }

    /// The registration, when all members have been read.
    ///
    /// # Errors
    /// [`RegistrationError`] when the port is missing, or a version 2 node has no plain name.
    pub(super) fn finish(mut self) -> Result<Registration, RegistrationError> {
        if !self.seen.port {
            return Err(RegistrationError::Port("missing".to_owned()));
        }
        // Version 1 gateways read `urls` without checking that it is there.
        if !self.seen.name {
            self.start_member("name").push_str(r#""""#);
        }
        if !self.seen.urls {
            self.start_member("urls").push_str("[]");
        }
        if self.registration.advert.is_some() && !self.seen.plain_name {
            return Err(RegistrationError::Name);
        }
        Ok(self.registration)
    }

    /// Writes the name of a member into the entry. Its value is to follow.
    fn start_member(&mut self, name: &str) -> &mut String {
        let Registration { before_host, after_host, .. } = &mut self.registration;
        let out = if self.seen.host { after_host } else { before_host };
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(&to_json(name));
        out.push(':');
        out
    }
}

fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    write_compact(&mut out, text);
    out
}

/// Checks that there are not too many members, and each name once, so that all readers understand
/// the same.
pub(super) fn check_members(list: &[(Cow<'_, str>, &RawValue)]) -> Result<(), RegistrationError> {
    const KNOWN: [&str; 5] = ["port", "name", "urls", "host", "$"];
    let wrong = |text| Err(RegistrationError::Shape(serde_json::Error::custom(text)));
    if list.iter().filter(|(name, _)| !KNOWN.contains(&name.as_ref())).count() > MAX_EXTRA_MEMBERS {
        return wrong(format!("more than {MAX_EXTRA_MEMBERS} unknown members"));
    }
    let mut names: Vec<_> = list.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => wrong(format!("duplicate member `{}`", pair[0].escape_debug())),
        None => Ok(()),
    }
}

fn parse_port(text: &str) -> Result<u16, RegistrationError> {
    // Version 1 nodes may send their port as a string of digits.
    let digits = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let whole = digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(port) if whole && port != 0 => Ok(port),
        _ => Err(RegistrationError::Port(text.chars().take(40).collect())),
    }
}

/// A value below what any peer of version 1 takes, or one that is not a number, is ignored.
fn parse_read_window(value: &RawValue) -> Option<usize> {
    let bytes: u64 = serde_json::from_str(value.get()).ok()?;
    usize::try_from(bytes).ok().filter(|bytes| *bytes >= LEGACY_READ_BYTES)
}

fn parse_urls(value: &RawValue, limits: &RegistrationLimits) -> Result<Vec<String>, RegistrationError> {
    let urls: Option<Vec<String>> = serde_json::from_str(value.get()).map_err(RegistrationError::Shape)?;
    let urls = urls.unwrap_or_default();
    if urls.len() > limits.max_urls {
        return Err(RegistrationError::TooManyUrls { count: urls.len(), max: limits.max_urls });
    }
    match urls.iter().map(String::len).find(|&bytes| bytes > limits.max_url_bytes) {
        Some(bytes) => Err(RegistrationError::UrlTooLong { bytes, max: limits.max_url_bytes }),
        None => Ok(urls),
    }
}

fn is_plain_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
