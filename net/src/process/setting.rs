//! A setting is written once: a struct that [`settings!`](crate::settings) declares gives the flag,
//! the environment variable, the key of a file, the default, the unit and the help of each of its
//! fields.

use std::ffi::{OsStr, OsString};

use clap::builder::OsStringValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

use super::setting_value::{ValueError, ValueKind};

/// Names that are this alike may have been meant.
const MIN_SIMILARITY: f64 = 0.8;
/// Variables of the environment that a process warns of at its start: more say nothing more.
const MAX_UNKNOWN_VARIABLES: usize = 8;

/// The name and the purpose of one setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The name, as a key in a file. The flag has `-` for `_`; the variable is in capital letters,
    /// behind the prefix of the program.
    pub name: &'static str,
    /// The word for the value in help texts, as in `--idle-timeout <TIME>`.
    pub unit: &'static str,
    /// How a file writes the value.
    pub kind: ValueKind,
    /// Where it can be set.
    pub place: SettingPlace,
    /// A value of the type, as a text.
    #[doc(hidden)]
    pub example: &'static str,
    /// The comment of the field, line by line.
    #[doc(hidden)]
    pub comment: &'static str,
    /// The default as a text, if there is one.
    pub default: fn() -> Option<String>,
}

/// Where a setting can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingPlace {
    /// A flag, a variable, or a key of a file sets it.
    Everywhere,
    /// Only a key of a file sets it.
    File,
    /// Only a flag or a variable sets it.
    CommandLine,
}

/// A value as it was given.
#[derive(Clone, Copy, Debug)]
pub enum GivenValue<'a> {
    /// The text of a flag or a variable. A list has commas.
    Text(&'a OsStr),
    /// The texts of a file, one for each item of a list.
    Items(&'a [&'a str]),
}

/// A struct each of whose fields is a setting; see [`settings!`](crate::settings).
pub trait Settings {
    /// All settings, in the order of the struct.
    const SETTINGS: &'static [Setting];

    /// Sets one of [`SETTINGS`](Self::SETTINGS) by its name.
    ///
    /// # Errors When the text is not a value of this setting, which then stays as it was.
    fn set(&mut self, name: &str, given: GivenValue<'_>) -> Result<(), ValueError>;
}

impl Setting {
    /// The effect of the setting, as one paragraph without a full stop at its end.
    pub fn help(&self) -> String {
        let lines = self.comment.lines().map(str::trim).take_while(|line| !line.is_empty());
        let text = lines.collect::<Vec<_>>().join(" ");
        text.strip_suffix('.').unwrap_or(&text).to_owned()
    }

    /// The flag of the setting.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// The variable of the setting; `prefix` is that of the program, such as `GATEWAY_`.
    pub fn variable(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.name.to_ascii_uppercase())
    }

    /// A value that the setting can have, as a text.
    pub fn example(&self) -> String {
        (self.default)().unwrap_or_else(|| self.example.to_owned())
    }

    /// The argument of the setting on the command line, with its variable. What it takes is a text:
    /// [`apply_arguments`] reads it.
    pub fn argument(&self, prefix: &str) -> Arg {
        let argument = Arg::new(self.name)
            .long(self.name.replace('_', "-"))
            .env(self.variable(prefix))
            .value_name(self.unit)
            .value_parser(OsStringValueParser::new())
            .help(self.help());
        let argument = match self.kind {
            ValueKind::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
            ValueKind::List | ValueKind::SwitchOrList => argument.action(ArgAction::Append),
            ValueKind::Text | ValueKind::Number | ValueKind::Path | ValueKind::Table | ValueKind::Tables => argument,
        };
        match (self.default)() {
            Some(default) => argument.default_value(default),
            None => argument,
        }
    }
}

/// A table in Markdown: each setting by its `name`, its unit, what it does, and its default.
pub fn settings_table<'a>(
    settings: impl IntoIterator<Item = &'a Setting>,
    name: impl Fn(&Setting) -> String,
) -> String {
    let mut table = String::from("| setting | value | what it sets | default |\n|---|---|---|---|\n");
    for setting in settings {
        let default = (setting.default)().map_or_else(String::new, |default| format!("`{default}`"));
        let [unit, help] = [setting.unit, &setting.help()].map(|text| text.replace('|', "\\|"));
        table.push_str(&format!("| `{}` | {unit} | {help} | {default} |\n", name(setting)));
    }
    table
}

/// Applies flags and variables. Returns all mistakes in them.
pub fn apply_arguments<S: Settings>(settings: &mut S, matches: &ArgMatches, prefix: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for setting in S::SETTINGS.iter().filter(|setting| setting.place != SettingPlace::File) {
        let source = match matches.value_source(setting.name) {
            Some(ValueSource::CommandLine) => format!("{} ", setting.flag()),
            Some(ValueSource::EnvVariable) => format!("{}=", setting.variable(prefix)),
            _ => continue,
        };
        let values: Vec<&OsString> = matches.get_many(setting.name).unwrap_or_default().collect();
        let text = values.iter().map(|value| value.as_os_str()).collect::<Vec<_>>().join(OsStr::new(","));
        if let Err(error) = settings.set(setting.name, GivenValue::Text(&text)) {
            wrong.push(format!("{source}{}: {}", text.display(), error.message));
        }
    }
    wrong
}

/// Lines about variables that begin with `prefix` and set nothing: they may be typing errors.
/// Variables that Kubernetes and Docker set for a service of that name are left out. `known` are
/// variables without a setting.
pub fn unknown_variables(
    names: impl IntoIterator<Item = OsString>,
    prefix: &str,
    settings: &[&[Setting]],
    known: &[&str],
) -> Vec<String> {
    let usable = settings.iter().copied().flatten().filter(|setting| setting.place != SettingPlace::File);
    let all: Vec<String> = usable.map(|setting| setting.variable(prefix)).collect();
    let mut names: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
    names.retain(|name| {
        let rest = name.strip_prefix(prefix);
        rest.is_some_and(|rest| !is_service_link(rest)) && !all.contains(name) && !known.contains(&name.as_str())
    });
    names.sort_unstable();
    names.truncate(MAX_UNKNOWN_VARIABLES);
    let line = |name: String| {
        let is_key = |setting: &&Setting| setting.place == SettingPlace::File && setting.variable(prefix) == name;
        if let Some(setting) = settings.iter().copied().flatten().find(is_key) {
            return format!("the variable {name} sets nothing: only the file can set `{}`", setting.name);
        }
        match most_alike(&name, all.iter().map(String::as_str)) {
            Some(meant) => format!("the variable {name} sets nothing; did you mean {meant}?"),
            None => format!("the variable {name} sets nothing"),
        }
    };
    names.into_iter().map(line).collect()
}

/// Whether Kubernetes or Docker has set a variable, by the `rest` of its name behind the name of
/// the service. Kubernetes sets some for each service of a namespace (`SERVICE_HOST`,
/// `PORT_80_TCP_ADDR`), also for services whose names only begin alike (`ADMIN_SERVICE_HOST`).
/// Docker sets them for links.
fn is_service_link(rest: &str) -> bool {
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let words: Vec<&str> = rest.split('_').collect();
    let has_pair =
        |first: &str, second: &dyn Fn(&str) -> bool| words.windows(2).any(|pair| pair[0] == first && second(pair[1]));
    words.last() == Some(&"PORT")
        || has_pair("SERVICE", &|word| word == "HOST" || word == "PORT")
        || has_pair("PORT", &is_number)
        || words.first() == Some(&"ENV")
        || rest == "NAME"
}

/// The one of `names` that was probably meant by `unknown`.
pub fn most_alike<'a>(unknown: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = names.into_iter().map(|name| (strsim::jaro_winkler(unknown, name), name));
    let alike = alike.filter(|(alike, _)| *alike >= MIN_SIMILARITY);
    alike.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, name)| name)
}

/// Declares a struct whose fields are settings, its defaults, and their [`Settings`].
///
/// Each field has a comment, of which the first paragraph is its help, and a default. It has a unit
/// unless its type has one. After `where` stands what values it may have
/// ([`SettingValue::Rule`](crate::SettingValue::Rule)), and after `like` an example as a text, if
/// that of its type does not fit. `@File` and `@CommandLine` say that it can be set only there.
/// Fields after `also` are not settings.
///
/// ```
/// net::settings! {
///     /// Limits.
///     #[derive(Clone, Debug)]
///     pub struct Limits {
///         /// Clients at a time.
///         pub max_clients: usize = 100, "N", where 1..=1000;
///         /// How long a client may be idle.
///         pub idle_timeout: std::time::Duration = std::time::Duration::from_secs(60);
///     }
/// }
/// let mut limits = Limits::default();
/// let given = std::ffi::OsStr::new("1m 30s");
/// net::Settings::set(&mut limits, "idle_timeout", net::GivenValue::Text(given)).expect("a time");
/// assert_eq!((limits.max_clients, limits.idle_timeout.as_secs()), (100, 90));
/// ```
#[macro_export]
macro_rules! settings {
    (
        $(#[$meta:meta])*
        $vis:vis struct $Struct:ident {
            $(
                $(#[doc = $doc:literal])*
                $(@$place:ident)? $field_vis:vis $field:ident: $ty:ty = $default:expr
                $(, $unit:literal)? $(, where $rule:expr)? $(, like $example:literal)?;
            )*
        }
        $(also {
            $( $(#[$also_meta:meta])* $also_vis:vis $also:ident: $also_ty:ty = $also_default:expr; )*
        })?
    ) => {
        $(#[$meta])*
        $vis struct $Struct {
            $( $(#[doc = $doc])* $field_vis $field: $ty, )*
            $( $( $(#[$also_meta])* $also_vis $also: $also_ty, )* )?
        }

        impl Default for $Struct {
            fn default() -> Self {
                Self {
                    $( $field: $default, )*
                    $( $( $also: $also_default, )* )?
                }
            }
        }

        impl $crate::Settings for $Struct {
            const SETTINGS: &'static [$crate::Setting] = &[$(
                $crate::Setting {
                    name: stringify!($field),
                    unit: [$($unit,)? <$ty as $crate::SettingValue>::UNIT][0],
                    kind: <$ty as $crate::SettingValue>::KIND,
                    place: [$($crate::SettingPlace::$place,)? $crate::SettingPlace::Everywhere][0],
                    example: [$($example,)? <$ty as $crate::SettingValue>::EXAMPLE][0],
                    comment: concat!($($doc, "\n"),*),
                    default: || {
                        let default: $ty = $default;
                        $crate::SettingValue::show(&default)
                    },
                },
            )*];

            fn set(&mut self, name: &str, given: $crate::GivenValue<'_>) -> Result<(), $crate::ValueError> {
                match name {
                    $(
                        stringify!($field) => {
                            let rule: Option<<$ty as $crate::SettingValue>::Rule> = None;
                            $( let rule = rule.or_else(|| Some($rule)); )?
                            self.$field = $crate::SettingValue::read_given(given, rule.as_ref())?;
                            Ok(())
                        }
                    )*
                    _ => Err($crate::ValueError { item: 0, message: format!("there is no setting {name}") }),
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::PathBuf;
    use std::time::Duration;

    use clap::Command;

    use super::*;

    crate::settings! {
        /// Settings of a program that is none.
        #[derive(Clone, Debug, PartialEq)]
        struct Sample {
            /// Where to listen.
            ///
            /// More than one address is possible.
            listen: Vec<SocketAddr> = vec![([127, 0, 0, 1], 80).into()];
            /// Clients at a time.
            max_clients: usize = 10, "N", where 1..=100;
            /// How long a client may be idle.
            idle_timeout: Duration = Duration::from_secs(60);
            /// Speak loudly.
            loud: bool = false;
            /// A file to keep.
            cache: Option<PathBuf> = None;
            /// What is believed.
            @File trusted: Vec<SocketAddr> = Vec::new();
        }
        also {
            more: u8 = 7;
        }
    }

    fn command() -> Command {
        let settings = Sample::SETTINGS.iter().filter(|setting| setting.place != SettingPlace::File);
        // No test sets a variable of its own process: others run at the same time.
        Command::new("sample").args(settings.map(|setting| setting.argument("NONE_OF_THE_SYSTEM_")))
    }

    #[track_caller]
    fn check(arguments: &[&str], expected: Result<Sample, &[&str]>) {
        let matches = command().try_get_matches_from(["sample"].iter().chain(arguments)).unwrap();
        let mut sample = Sample::default();
        let wrong = apply_arguments(&mut sample, &matches, "NONE_OF_THE_SYSTEM_");
        match expected {
            Ok(expected) => assert_eq!((sample, wrong), (expected, Vec::new())),
            Err(expected) => assert_eq!(wrong, expected),
        }
    }

    #[test]
    fn flags_set_what_they_name_and_all_that_is_wrong_is_told() {
        check(&[], Ok(Sample::default()));
        check(&["--max-clients", "7"], Ok(Sample { max_clients: 7, ..Sample::default() }));
        check(&["--loud"], Ok(Sample { loud: true, ..Sample::default() }));
        check(&["--loud=off"], Ok(Sample::default()));
        check(&["--cache", "a/b"], Ok(Sample { cache: Some("a/b".into()), ..Sample::default() }));
        let listen: Vec<SocketAddr> = ["[::1]:1", "127.0.0.1:2", "127.0.0.1:3"].map(|at| at.parse().unwrap()).into();
        check(
            &["--listen", "[::1]:1,127.0.0.1:2", "--listen", "127.0.0.1:3"],
            Ok(Sample { listen, ..Sample::default() }),
        );
        check(
            &["--max-clients", "0", "--idle-timeout", "10", "--loud=maybe", "--cache="],
            Err(&[
                "--max-clients 0: write a whole number from 1 to 100",
                "--idle-timeout 10: write a time with its unit, such as 10s or 250ms",
                "--loud maybe: write true or false",
                "--cache : write the path of a file",
            ]),
        );
    }

    #[test]
    fn a_setting_is_one_line_of_help() {
        let help = command().term_width(200).render_help().to_string();
        for text in [
            "--max-clients <N>      Clients at a time [env: NONE_OF_THE_SYSTEM_MAX_CLIENTS=] [default: 10]",
            "--listen <ADDRESS>     Where to listen [env: NONE_OF_THE_SYSTEM_LISTEN=] [default: 127.0.0.1:80]",
            "[default: 1m]",
        ] {
            assert!(help.contains(text), "{text} is not in\n{help}");
        }
        assert!(!help.contains("trusted"), "{help}");
        assert_eq!(Sample::default().more, 7);
    }

    #[test]
    fn oe19_a_variable_that_sets_nothing_is_named_and_service_links_are_not() {
        let check = |name: &str, expected: Option<&str>| {
            let seen = unknown_variables([name.into()], "S_", &[Sample::SETTINGS], &["S_KNOWN"]);
            assert_eq!(seen.first().map(String::as_str), expected, "{name}");
        };
        check("S_LISTEN", None);
        check("OTHER", None);
        check("S_KNOWN", None);
        check("S_LISTN", Some("the variable S_LISTN sets nothing; did you mean S_LISTEN?"));
        check("S_IDLE_TIMOUT", Some("the variable S_IDLE_TIMOUT sets nothing; did you mean S_IDLE_TIMEOUT?"));
        check("S_XYZZY", Some("the variable S_XYZZY sets nothing"));
        check("S_TRUSTED", Some("the variable S_TRUSTED sets nothing: only the file can set `trusted`"));
        for link in [
            "S_PORT",
            "S_SERVICE_HOST",
            "S_SERVICE_PORT",
            "S_SERVICE_PORT_HTTP",
            "S_PORT_8000_TCP",
            "S_PORT_8000_TCP_ADDR",
            "S_ADMIN_SERVICE_HOST",
            "S_ADMIN_PORT_80_TCP_PROTO",
            "S_NAME",
            "S_ENV_PATH",
        ] {
            check(link, None);
        }
        let many = (0..100).map(|number| OsString::from(format!("S_X{number}")));
        assert_eq!(unknown_variables(many, "S_", &[Sample::SETTINGS], &[]).len(), MAX_UNKNOWN_VARIABLES);
    }
}
