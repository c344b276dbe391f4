//! The configuration file: TOML, with the names of the command line, and with tables for longer
//! settings.
//!
//! It must not read the command line, or apply a setting: it gives the settings to its caller.

mod cors_settings;
mod file_reader;
pub(super) mod route_settings;
mod syntax;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use net::Settings as _;
use toml::Spanned;
use toml::de::DeValue;

use self::file_reader::{Entry, FileReader, entries};
use self::route_settings::{RouteSettings, read_routes};
use crate::config::CertificateFiles;
use crate::config::conflicts::conflicts;
use crate::config::settings::{Settings, top_level};
use crate::config::settings_error::SettingsError;

/// Maximum bytes of a file: many times the size of ten thousand routes.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// The port of https unless a url names another.
const HTTPS: u16 = 443;
/// The names of the file's tables.
const TABLES: [&str; 2] = ["tls", "route"];

net::settings! {
    /// The keys of `[tls]`.
    #[derive(Debug)]
    pub(crate) struct TlsSettings {
        /// Address to serve TLS 1.2 and 1.3 on, with HTTP/2 and 1.1.
        @File listen: Option<SocketAddr> = None, like "0.0.0.0:443";
        /// A list of `{ chain = "cert.pem", key = "key.pem" }`; paths are relative to the file. The
        /// first one is for clients that name no host.
        @File certificates: Vec<CertificateFiles> = Vec::new();
    }
}

net::settings! {
    /// A certificate.
    #[derive(Debug)]
    struct CertificateSettings {
        /// The certificate, followed by its chain.
        @File chain: Option<PathBuf> = None;
        /// Its private key.
        @File key: Option<PathBuf> = None;
    }
}

/// Reads `file`, if there is one, and then applies `arguments`, which win over it and return their
/// own mistakes.
///
/// # Errors
/// All mistakes.
pub(crate) fn read_settings(
    file: Option<&Path>,
    arguments: impl FnOnce(&mut Settings) -> Vec<String>,
) -> Result<Settings, SettingsError> {
    let (settings, mistakes) = try_settings(file, arguments);
    if mistakes.is_empty() { Ok(settings) } else { Err(SettingsError::new(mistakes)) }
}

/// Reads the settings that can be read, and returns a line for each mistake.
pub(crate) fn try_settings(
    file: Option<&Path>,
    arguments: impl FnOnce(&mut Settings) -> Vec<String>,
) -> (Settings, Vec<String>) {
    match file.map(|file| read_text(file).map_err(|error| format!("{}: {error}", file.display()))) {
        None => parse(Path::new(""), "", arguments),
        Some(Ok(text)) => parse(file.unwrap_or_else(|| Path::new("")), &text, arguments),
        Some(Err(mistake)) => (Settings::default(), vec![mistake]),
    }
}

fn read_text(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(|error| error.to_string())?;
    let bytes = opened.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes > MAX_FILE_BYTES) {
        return Err(format!("it has more than {MAX_FILE_BYTES} bytes"));
    }
    // Such a file counts as lost, or cut while it was written: defaults need no file.
    let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    match text.trim_start_matches('\u{feff}').lines().any(says) {
        true => Ok(text),
        false => Err("it says nothing; a gateway that is to have the defaults needs no file".to_owned()),
    }
}

fn parse(file: &Path, text: &str, arguments: impl FnOnce(&mut Settings) -> Vec<String>) -> (Settings, Vec<String>) {
    let mut settings = Settings::default();
    let mut reader = FileReader::new(file, text);
    let table = reader.parse();
    if let Some(table) = &table {
        read_file(&mut reader, entries(table), &mut settings);
    }
    let mut wrong = arguments(&mut settings);
    // Without TLS of its own, clients use that of a proxy, at the usual port.
    let https = settings.tls.map_or(HTTPS, |address| address.port());
    settings.config.redirect = settings.process.redirect.then_some(https);
    let mut found = conflicts(&settings);
    found.retain(|conflict| reader.are_usable(&conflict.depends_on));
    for conflict in found {
        match reader.offset(&conflict.key) {
            Some(at) if conflict.is_mistake => reader.mistake(at, conflict.message),
            Some(_) => reader.warning(&conflict.key, conflict.message),
            None if conflict.is_mistake => wrong.push(conflict.message),
            None => settings.warnings.push(conflict.message),
        }
    }
    let (mut mistakes, warnings) = reader.finish();
    mistakes.append(&mut wrong);
    settings.warnings.extend(warnings);
    (settings, mistakes)
}

/// Checks a text as if it were the file `f`. The error has a line for each mistake.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_text(text: &str) -> Result<(), Vec<String>> {
    let (_, mistakes) = parse(Path::new("f"), text, |_| Vec::new());
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
}

fn read_file<'t>(reader: &mut FileReader<'t>, entries: Vec<Entry<'_, 't>>, settings: &mut Settings) {
    let rest = reader.apply("", entries, &mut settings.process);
    let rest = reader.apply("", rest, &mut settings.config);
    let mut unknown = Vec::new();
    for (key, value) in rest {
        match &**key.get_ref() {
            "tls" => read_tls(reader, value, settings),
            "route" => settings.config.routes = read_routes(reader, value),
            _ => unknown.push((key, value)),
        }
    }
    let names = top_level().map(|setting| setting.name).chain(TABLES);
    reader.unknown(unknown, &names, "the file", |name| {
        if RouteSettings::SETTINGS.iter().any(|setting| setting.name == name) {
            return Some("below [[route]]");
        }
        TlsSettings::SETTINGS.iter().any(|setting| setting.name == name).then_some("below [tls]")
    });
}

fn read_tls<'t>(reader: &mut FileReader<'t>, value: &Spanned<DeValue<'t>>, settings: &mut Settings) {
    let Some(table) = reader.table("tls", value, "[tls] with one bracket") else { return };
    let mut keys = TlsSettings::default();
    let mut unknown = Vec::new();
    for (key, value) in reader.apply("tls.", entries(table), &mut keys) {
        match &**key.get_ref() {
            "certificates" => keys.certificates = read_certificates(reader, value),
            _ => unknown.push((key, value)),
        }
    }
    reader.unknown_in::<TlsSettings>(unknown, "[tls]");
    for (key, example) in [("listen", "listen = \"0.0.0.0:443\""), ("certificates", CERTIFICATES)] {
        if !table.contains_key(key) {
            reader.mistake(value.span().start, format!("this [tls] has no `{key}`, such as {example}"));
            reader.mark_unusable(format!("tls.{key}"));
        }
    }
    settings.tls = keys.listen;
    settings.config.certificates = keys.certificates;
}

const CERTIFICATES: &str = "certificates = [{ chain = \"cert.pem\", key = \"key.pem\" }]";

fn read_certificates<'t>(reader: &mut FileReader<'t>, value: &Spanned<DeValue<'t>>) -> Vec<CertificateFiles> {
    let mut certificates = Vec::new();
    let Some(list) = reader.list("certificates", value, CERTIFICATES) else { return certificates };
    for item in list {
        let Some(table) = reader.table("certificates", item, "{ chain = \"cert.pem\", key = \"key.pem\" }") else {
            continue;
        };
        let mut keys = CertificateSettings::default();
        let rest = reader.apply("", entries(table), &mut keys);
        reader.unknown_in::<CertificateSettings>(rest, "a certificate");
        for key in ["chain", "key"].into_iter().filter(|key| !table.contains_key(*key)) {
            reader
                .mistake(item.span().start, format!("this certificate has no `{key}`, such as {key} = \"{key}.pem\""));
        }
        if let (Some(chain), Some(key)) = (keys.chain, keys.key) {
            certificates.push(CertificateFiles { chain, key });
        }
    }
    if list.is_empty() {
        reader.mistake(value.span().start, format!("certificates: TLS needs one: {CERTIFICATES}"));
    }
    certificates
}

#[cfg(test)]
pub(crate) mod tests;
