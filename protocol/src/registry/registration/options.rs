//! Options of a registration for the Distributor only: the member `$` of its packet.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::{read_member, to_json};
use crate::{Digest, RegistrationError, RegistrationLimits, Revision, Secret};

/// Options that a version 2 node sets when it registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterOptions {
    /// The list that the node knows. The changes since then are enough.
    pub resume: Option<ResumePoint>,
    /// Service names and registered urls that the node wants to be told of; `None` means all.
    pub interests: Option<Vec<String>>,
    /// The node can ask who offers a route: see [`write_need`](crate::write_need). These are the
    /// registered urls, and events, that it has used so far; `None` from a node that cannot ask.
    pub uses: Option<Vec<String>>,
    /// Whether the node can ask, and had a partial view before.
    pub part: bool,
    /// Asks to be told when enough nodes know of the registration.
    pub visibility: Option<VisibilityTarget>,
    /// Proves that the instance id belongs to this node, when the id is made of a secret.
    pub secret: Option<Secret>,
    /// Whether the node listens only on the loopback of its machine, so that nodes on other
    /// machines cannot call it.
    pub loopback: bool,
    /// Whether the node reads packed entries: see [`UnpackedBlocks`](crate::UnpackedBlocks).
    pub packed: bool,
}

/// The list that a node knows when it registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct ResumePoint {
    /// The state of that list.
    #[serde(flatten)]
    pub revision: Revision,
    /// The digest of all its entries; `None` from a node that does not state one.
    #[serde(default)]
    pub digest: Option<Digest>,
}

impl From<Revision> for ResumePoint {
    /// The point to resume from at this state, without a digest.
    fn from(revision: Revision) -> Self {
        Self { revision, digest: None }
    }
}

/// How many nodes must know of a registration, and within which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct VisibilityTarget {
    /// Percent of all version 2 nodes, 1 to 100.
    pub percent: u8,
    /// Milliseconds after which the answer is sent in any case, with the names of nodes that have
    /// not acknowledged it.
    pub within: u32,
}

impl RegisterOptions {
    /// Reads the `$` of a registration's packet. A member of a wrong type counts as absent.
    ///
    /// # Errors
    /// [`RegistrationError::TooManyInterests`] when the interests, or the urls that are used,
    /// exceed the limits for urls.
    pub fn parse(meta: Option<&RawValue>, limits: &RegistrationLimits) -> Result<Self, RegistrationError> {
        #[derive(Default, Deserialize)]
        struct RawOptions<'a> {
            #[serde(borrow, default)]
            have: Option<&'a RawValue>,
            #[serde(borrow, default)]
            needs: Option<&'a RawValue>,
            #[serde(borrow, default)]
            uses: Option<&'a RawValue>,
            #[serde(borrow, default)]
            part: Option<&'a RawValue>,
            #[serde(borrow, default)]
            visible: Option<&'a RawValue>,
            #[serde(borrow, default)]
            secret: Option<&'a RawValue>,
            #[serde(borrow, default)]
            loopback: Option<&'a RawValue>,
            #[serde(borrow, default)]
            packed: Option<&'a RawValue>,
        }
        let raw: RawOptions<'_> = meta.and_then(|meta| serde_json::from_str(meta.get()).ok()).unwrap_or_default();
        let (interests, uses): (Option<Vec<String>>, Option<Vec<String>>) =
            (read_member(raw.needs), read_member(raw.uses));
        let is_long = |url: &String| url.len() > limits.max_url_bytes;
        let is_too_much = |urls: &Vec<String>| urls.len() > limits.max_urls || urls.iter().any(is_long);
        if [&interests, &uses].into_iter().flatten().any(is_too_much) {
            return Err(RegistrationError::TooManyInterests);
        }
        Ok(Self {
            resume: read_member(raw.have).filter(|resume: &ResumePoint| resume.revision.is_sound()),
            interests,
            uses,
            part: read_member(raw.part).unwrap_or(false),
            visibility: read_member(raw.visible)
                .filter(|target: &VisibilityTarget| (1..=100).contains(&target.percent)),
            secret: read_member(raw.secret),
            loopback: read_member(raw.loopback).unwrap_or(false),
            packed: read_member(raw.packed).unwrap_or(false),
        })
    }

    pub(crate) fn to_json(&self) -> String {
        let Self { resume, interests, uses, part, visibility, secret, loopback, packed } = self;
        let mut members = Vec::new();
        if let Some(ResumePoint { revision: Revision { epoch, rev }, digest }) = resume {
            let digest = digest.map_or_else(String::new, |Digest(digest)| format!(r#","digest":{digest}"#));
            members.push(format!(r#""have":{{"epoch":{epoch},"rev":{rev}{digest}}}"#));
        }
        if let Some(interests) = interests {
            members.push(format!(r#""needs":{}"#, to_json(interests)));
        }
        if let Some(uses) = uses {
            members.push(format!(r#""uses":{}"#, to_json(uses)));
        }
        if *part {
            members.push(r#""part":true"#.to_owned());
        }
        if let Some(VisibilityTarget { percent, within }) = visibility {
            members.push(format!(r#""visible":{{"percent":{percent},"within":{within}}}"#));
        }
        if let Some(secret) = secret {
            members.push(format!(r#""secret":{}"#, to_json(secret.reveal())));
        }
        if *loopback {
            members.push(r#""loopback":true"#.to_owned());
        }
        if *packed {
            members.push(r#""packed":true"#.to_owned());
        }
        format!("{{{}}}", members.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &Result<RegisterOptions, &str>) {
        let limits = RegistrationLimits { max_urls: 2, max_url_bytes: 5 };
        let options = RegisterOptions::parse(Some(serde_json::from_str(text).unwrap()), &limits);
        assert_eq!(&options.map_err(|error| error.reason()), expected);
    }

    #[test]
    fn options_are_read() {
        let nothing = RegisterOptions::default;
        check("{}", &Ok(nothing()));
        check("7", &Ok(nothing()));
        let resume = |digest| Some(ResumePoint { revision: Revision { epoch: 5, rev: 7 }, digest });
        check(r#"{"have":{"epoch":5,"rev":7}}"#, &Ok(RegisterOptions { resume: resume(None), ..nothing() }));
        check(
            r#"{"have":{"epoch":5,"rev":7,"digest":9}}"#,
            &Ok(RegisterOptions { resume: resume(Some(Digest(9))), ..nothing() }),
        );
        check(r#"{"have":{"epoch":9007199254740992,"rev":7}}"#, &Ok(nothing()));
        check(r#"{"have":{"epoch":5}}"#, &Ok(nothing()));
        check(
            r#"{"needs":["a","GET/b"]}"#,
            &Ok(RegisterOptions { interests: Some(vec!["a".into(), "GET/b".into()]), ..nothing() }),
        );
        for (text, part) in [(r#"{"uses":["b"]}"#, false), (r#"{"uses":["b"],"part":true}"#, true)] {
            check(text, &Ok(RegisterOptions { uses: Some(vec!["b".into()]), part, ..nothing() }));
        }
        check(r#"{"uses":"b","part":1}"#, &Ok(nothing()));
        check(r#"{"needs":["a","b","c"]}"#, &Err("too_many_needs"));
        check(r#"{"uses":["a","b","c"]}"#, &Err("too_many_needs"));
        check(r#"{"uses":["GET/bc"]}"#, &Err("too_many_needs"));
        check(r#"{"needs":["GET/bc"]}"#, &Err("too_many_needs"));
        check(
            r#"{"visible":{"percent":100,"within":5000}}"#,
            &Ok(RegisterOptions { visibility: Some(VisibilityTarget { percent: 100, within: 5000 }), ..nothing() }),
        );
        check(r#"{"visible":{"percent":0,"within":5000}}"#, &Ok(nothing()));
        check(r#"{"visible":{"percent":101,"within":5000}}"#, &Ok(nothing()));
        check(r#"{"secret":"s"}"#, &Ok(RegisterOptions { secret: Secret::new("s"), ..nothing() }));
        check(r#"{"secret":""}"#, &Ok(nothing()));
        check(r#"{"secret":7,"loopback":"no"}"#, &Ok(nothing()));
        check(r#"{"loopback":true}"#, &Ok(RegisterOptions { loopback: true, ..nothing() }));
        check(r#"{"packed":true}"#, &Ok(RegisterOptions { packed: true, ..nothing() }));
        check(r#"{"packed":"zlib"}"#, &Ok(nothing()));
    }

    #[test]
    fn what_is_written_is_read() {
        let all = RegisterOptions {
            resume: Some(ResumePoint { revision: Revision { epoch: 1, rev: 2 }, digest: Some(Digest(3)) }),
            interests: Some(vec!["a".into()]),
            uses: Some(vec!["b".into()]),
            part: true,
            visibility: Some(VisibilityTarget { percent: 50, within: 100 }),
            secret: Secret::new("\"¶\""),
            loopback: true,
            packed: true,
        };
        check(&all.to_json(), &Ok(all.clone()));
    }
}
