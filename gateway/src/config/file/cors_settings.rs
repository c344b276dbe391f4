//! The keys of the table `cors` of a `[[route]]`.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::file_reader::{FileReader, entries};
use crate::config::MAX_TIME;
use crate::config::settings_error::shown;
use crate::route::cors::{Cors, check_origin};

net::settings! {
    /// Which pages of other origins may read the answers of a route.
    #[derive(Debug)]
    struct CorsSettings {
        /// A list of origins such as `https://shop.example`; `*` stands for all.
        @File origins: Vec<String> = Vec::new(), "ORIGIN", like "https://shop.example";
        /// They may send cookies and other credentials.
        @File credentials: bool = false;
        /// A list of the header fields that they may send; `*` stands for all.
        @File headers: Vec<String> = Cors::HEADERS.map(str::to_owned).into(), "NAME", where field_name, like "authorization";
        /// A list of the header fields of answers that they may read.
        @File expose: Vec<String> = Vec::new(), "NAME", where field_name, like "etag";
        /// How long a browser remembers what it is told.
        @File max_age: Duration = Cors::MAX_AGE, where Duration::ZERO..=MAX_TIME;
    }
}

/// Reads the table.
pub(super) fn read_cors<'t>(reader: &mut FileReader<'t>, value: &Spanned<DeValue<'t>>) -> Option<Cors> {
    let table = reader.table("cors", value, "{ origins = [\"https://shop.example\"] }")?;
    let mut keys = CorsSettings::default();
    let rest = reader.apply("", entries(table), &mut keys);
    reader.unknown_in::<CorsSettings>(rest, "cors");
    let at = value.span().start;
    let CorsSettings { origins, credentials, headers, expose, max_age } = keys;
    if origins.is_empty() {
        reader.mistake(at, "this cors has no `origins`, such as origins = [\"https://shop.example\"]");
    }
    for origin in &origins {
        if let Err(why) = check_origin(origin) {
            reader.mistake(at, format!("origin `{}`: {why}", shown(origin)));
        }
    }
    if credentials && origins.iter().any(|origin| origin == "*") {
        reader
            .mistake(at, "cors: with `credentials`, name the origins: any page could act for people who are signed in");
    }
    Some(Cors { origins, credentials, headers, expose, max_age })
}

/// Whether a text is the name of a header field, or stands for all.
fn field_name(name: &str) -> Result<(), String> {
    match protocol::is_field_name(name) {
        true => Ok(()),
        false => Err("write the name of a header field, such as \"authorization\", or \"*\"".to_owned()),
    }
}
