//! The parts of the stream between a log of events and a node that reads it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The url that nodes with a log offer to other nodes, as a stream in both directions.
pub const EVENT_LOG_URL: &str = "POST/$events";

/// The arguments with which a node opens the stream.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct LogRequest {
    /// The name of the subscription, for the whole mesh: nodes that give the same name share the
    /// events.
    pub subscription: String,
    /// The name or the pattern of the events.
    pub pattern: String,
    /// Whether a subscription that the log does not know begins at the end of the log, and not as
    /// far back as the log goes.
    #[serde(default)]
    pub only_new: bool,
    /// Restarts the subscription at this time, in milliseconds since 1970. With 0 it restarts at
    /// the oldest event of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<u64>,
}

/// A part that a log sends.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct LogPart {
    /// The next event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<LoggedEvent>,
    /// How many events the log did not keep until the subscription got to them. Some may not have
    /// been for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
}

/// An event of a log.
#[derive(Debug, Serialize, Deserialize)]
pub struct LoggedEvent {
    /// Its position in the log.
    #[serde(rename = "n")]
    pub position: u64,
    /// Its id.
    #[serde(rename = "e")]
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its key.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When it was published, in milliseconds since 1970.
    #[serde(rename = "t")]
    pub published_at: u64,
    /// How many attempts to handle it have failed.
    #[serde(rename = "at", default)]
    pub failed_attempts: u32,
    /// The payload.
    pub params: Box<RawValue>,
}

/// A part that the reader sends. One without members is a sign of life.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct LogReport {
    /// The position of an event that is handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// The position of an event that could not be handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
    /// Whether another attempt would fail, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub for_good: bool,
    /// Why it could not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}
