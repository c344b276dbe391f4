//! The settings with their defaults, for people: a file, and tables for the documentation.

use std::fmt::Write as _;

use net::{Setting, Settings as _, ValueKind};

use super::file::TlsSettings;
use super::file::route_settings::RouteSettings;
use super::settings::top_level;

/// `gateway --print-defaults`: a file that changes nothing. A setting without a default is an
/// example behind `#`, without a space.
pub(crate) fn print_defaults() -> String {
    let mut out = String::new();
    for setting in top_level() {
        let mark = if (setting.default)().is_none() { "#" } else { "" };
        let _ = writeln!(out, "# {}\n{mark}{} = {}\n", setting.help(), setting.name, written(setting));
    }
    for (header, settings) in [("[tls]", TlsSettings::SETTINGS), ("[[route]]", RouteSettings::SETTINGS)] {
        let _ = writeln!(out, "#{header}\n");
        for setting in settings {
            let _ = writeln!(out, "# {}\n#{} = {}\n", setting.help(), setting.name, written(setting));
        }
    }
    out
}

/// A value as the file has it: the default, or an example.
fn written(setting: &Setting) -> String {
    let text = setting.example();
    match setting.kind {
        ValueKind::Number | ValueKind::Switch | ValueKind::SwitchOrList | ValueKind::Table => text,
        ValueKind::Text | ValueKind::Path => format!("{:?}", text.split('|').next().unwrap_or_default()),
        ValueKind::Tables if text.starts_with('{') => format!("[{text}]"),
        ValueKind::List | ValueKind::Tables => format!("[{text:?}]"),
    }
}

#[cfg(test)]
mod tests {
    use net::{SettingPlace, settings_table};

    use super::*;
    use crate::config::Config;
    use crate::config::file::tests::parsed;
    use crate::config::settings::{ProcessSettings, Settings};

    #[test]
    fn oe14_the_defaults_that_are_printed_are_a_file_that_changes_nothing() {
        let text = print_defaults();
        let seen = format!("{:?}", parsed(&text).unwrap());
        assert_eq!(seen, format!("{:?}", Settings::default()));
        for line in ["idle_timeout = \"1m\"", "h2c = false", "#workers = 4", "#[[route]]", "#at_most = 100"] {
            assert!(text.contains(&format!("\n{line}\n")), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn examples_that_are_printed_are_values_of_their_settings() {
        let text: String = print_defaults()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(example) if !example.starts_with(' ') => format!("{example}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        assert_eq!(parsed(&text).map(|settings| settings.config.routes.len()), Ok(1), "{text}");
    }

    /// If this fails, replace the table by the text that it prints.
    #[track_caller]
    fn check_table<'a>(settings: impl Iterator<Item = &'a Setting>, name: impl Fn(&Setting) -> String) {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/GATEWAY.md")).unwrap();
        let table = settings_table(settings, name);
        assert!(text.contains(&table), "docs/GATEWAY.md needs this table:\n\n{table}");
    }

    #[test]
    fn the_tables_of_the_documentation_are_these() {
        let all = || ProcessSettings::SETTINGS.iter().chain(Config::SETTINGS);
        let key = |setting: &Setting| setting.name.to_owned();
        check_table(all().filter(|setting| setting.place == SettingPlace::Everywhere), key);
        check_table(all().filter(|setting| setting.place == SettingPlace::File), key);
        check_table(TlsSettings::SETTINGS.iter(), |setting| format!("tls.{}", setting.name));
        check_table(all().filter(|setting| setting.place == SettingPlace::CommandLine), Setting::flag);
        check_table(RouteSettings::SETTINGS.iter(), key);
    }
}
