//! The types that settings have, and how a text becomes one.

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use protocol::HostPort;

use super::cli::{MAX_DURATION, duration, listen_address};
use super::setting::GivenValue;
use crate::{LogFormat, LogLevel};

/// How a file writes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// A text in quotes.
    Text,
    /// A whole number, without quotes.
    Number,
    /// `true` or `false`, without quotes.
    Switch,
    /// A path in quotes. A relative one begins in the folder of the file.
    Path,
    /// Texts in brackets, or one text.
    List,
    /// `true` or `false` without quotes, or a list.
    SwitchOrList,
    /// A table, which only the reader of the file knows.
    Table,
    /// Several of these in brackets.
    Tables,
}

impl ValueKind {
    /// Several of these.
    const fn list(self) -> Self {
        match self {
            Self::Table | Self::Tables => Self::Tables,
            Self::Text | Self::Number | Self::Switch | Self::Path | Self::List | Self::SwitchOrList => Self::List,
        }
    }
}

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError {
    /// The position of the wrong item, if the value is a list.
    pub item: usize,
    /// What to write instead.
    pub message: String,
}

/// A type that a setting can have.
pub trait SettingValue: Sized {
    /// How a file writes it.
    const KIND: ValueKind;
    /// The word for a value in capital letters, or all its possible words with `|` between them.
    const UNIT: &'static str;
    /// A value as a text.
    const EXAMPLE: &'static str;
    /// A restriction on the values of one setting.
    type Rule;

    /// Reads a text.
    ///
    /// # Errors
    /// A sentence that says what to write.
    fn read(text: &str, rule: Option<&Self::Rule>) -> Result<Self, String>;

    /// Reads the items that a file lists.
    ///
    /// # Errors
    /// As [`read`](Self::read), with the item.
    fn read_items(items: &[&str], rule: Option<&Self::Rule>) -> Result<Self, ValueError> {
        let whole = |message| ValueError { item: 0, message };
        match items {
            [one] => Self::read(one, rule).map_err(whole),
            _ => Err(whole("write one value".to_owned())),
        }
    }

    /// Reads a flag or a variable.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_os(text: &OsStr, rule: Option<&Self::Rule>) -> Result<Self, ValueError> {
        let text = text.to_str().ok_or_else(|| ValueError { item: 0, message: "it is not UTF-8".to_owned() })?;
        match Self::KIND {
            ValueKind::List | ValueKind::SwitchOrList => Self::read_items(&text.split(',').collect::<Vec<_>>(), rule),
            ValueKind::Text
            | ValueKind::Number
            | ValueKind::Switch
            | ValueKind::Path
            | ValueKind::Table
            | ValueKind::Tables => Self::read_items(&[text], rule),
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_given(given: GivenValue<'_>, rule: Option<&Self::Rule>) -> Result<Self, ValueError> {
        match given {
            GivenValue::Text(text) => Self::read_os(text, rule),
            GivenValue::Items(items) => Self::read_items(items, rule),
        }
    }

    /// As a text that can be read again. `None` for a value that is not set.
    fn show(&self) -> Option<String>;
}

macro_rules! numbers {
    ($($number:ty),*) => { $(
        impl SettingValue for $number {
            const KIND: ValueKind = ValueKind::Number;
            const UNIT: &'static str = "N";
            const EXAMPLE: &'static str = "100";
            type Rule = RangeInclusive<$number>;

            fn read(text: &str, rule: Option<&Self::Rule>) -> Result<Self, String> {
                let (least, most) = rule.map_or((<$number>::MIN, <$number>::MAX), |rule| (*rule.start(), *rule.end()));
                let number = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
                number.ok_or_else(|| match (least, most) {
                    (0, <$number>::MAX) => "write a whole number".to_owned(),
                    (least, <$number>::MAX) => format!("write a whole number of at least {least}"),
                    (least, most) => format!("write a whole number from {least} to {most}"),
                })
            }

            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )* };
}
numbers!(u8, u16, u32, usize);

impl SettingValue for Duration {
    const KIND: ValueKind = ValueKind::Text;
    const UNIT: &'static str = "TIME";
    const EXAMPLE: &'static str = "10s";
    type Rule = RangeInclusive<Self>;

    fn read(text: &str, rule: Option<&Self::Rule>) -> Result<Self, String> {
        let time = duration(text)?;
        let (least, most) = rule.map_or((Self::ZERO, MAX_DURATION), |rule| (*rule.start(), *rule.end()));
        let show = |time| humantime::format_duration(time).to_string();
        if time < least {
            return Err(format!("write a time of at least {}", show(least)));
        }
        if time > most {
            return Err(format!("write a time of at most {}", show(most)));
        }
        Ok(time)
    }

    fn show(&self) -> Option<String> {
        Some(humantime::format_duration(*self).to_string())
    }
}

impl SettingValue for bool {
    const KIND: ValueKind = ValueKind::Switch;
    const UNIT: &'static str = "true|false";
    const EXAMPLE: &'static str = "true";
    type Rule = ();

    fn read(text: &str, _rule: Option<&()>) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err("write true or false".to_owned()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl SettingValue for SocketAddr {
    const KIND: ValueKind = ValueKind::Text;
    const UNIT: &'static str = "ADDRESS";
    const EXAMPLE: &'static str = "127.0.0.1:9000";
    type Rule = ();

    fn read(text: &str, _rule: Option<&()>) -> Result<Self, String> {
        listen_address(text)
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl SettingValue for HostPort {
    const KIND: ValueKind = ValueKind::Text;
    const UNIT: &'static str = "ADDRESS";
    const EXAMPLE: &'static str = "service.example:8080";
    type Rule = ();

    fn read(text: &str, _rule: Option<&()>) -> Result<Self, String> {
        text.parse::<Self>().map_err(|error| error.to_string())
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// An address is the network that has only that.
impl SettingValue for IpNet {
    const KIND: ValueKind = ValueKind::Text;
    const UNIT: &'static str = "NETWORK";
    const EXAMPLE: &'static str = "10.0.0.0/8";
    type Rule = ();

    fn read(text: &str, _rule: Option<&()>) -> Result<Self, String> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(Self::from));
        network.map_err(|_| "write a network such as 10.0.0.0/8, or an address".to_owned())
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl SettingValue for PathBuf {
    const KIND: ValueKind = ValueKind::Path;
    const UNIT: &'static str = "FILE";
    const EXAMPLE: &'static str = "/var/lib/a-file";
    type Rule = ();

    fn read(text: &str, rule: Option<&()>) -> Result<Self, String> {
        Self::read_os(text.as_ref(), rule).map_err(|error| error.message)
    }

    fn read_os(text: &OsStr, _rule: Option<&()>) -> Result<Self, ValueError> {
        match text.is_empty() {
            true => Err(ValueError { item: 0, message: "write the path of a file".to_owned() }),
            false => Ok(text.into()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.display().to_string())
    }
}

/// Says what to write instead of a text that is not a value of a setting.
pub type TextRule = fn(&str) -> Result<(), String>;

/// Any text, or one that its rule takes.
impl SettingValue for String {
    const KIND: ValueKind = ValueKind::Text;
    const UNIT: &'static str = "TEXT";
    const EXAMPLE: &'static str = "text";
    type Rule = TextRule;

    fn read(text: &str, rule: Option<&Self::Rule>) -> Result<Self, String> {
        rule.map_or(Ok(()), |rule| rule(text))?;
        Ok(text.to_owned())
    }

    fn show(&self) -> Option<String> {
        Some(self.clone())
    }
}

impl SettingValue for LogLevel {
    const KIND: ValueKind = ValueKind::Text;
    const UNIT: &'static str = "LEVEL";
    const EXAMPLE: &'static str = "info";
    type Rule = ();

    fn read(text: &str, _rule: Option<&()>) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> Option<String> {
        Some(self.as_str().to_owned())
    }
}

impl<T: SettingValue> SettingValue for Option<T> {
    const KIND: ValueKind = T::KIND;
    const UNIT: &'static str = T::UNIT;
    const EXAMPLE: &'static str = T::EXAMPLE;
    type Rule = T::Rule;

    fn read(text: &str, rule: Option<&T::Rule>) -> Result<Self, String> {
        T::read(text, rule).map(Some)
    }

    fn read_items(items: &[&str], rule: Option<&T::Rule>) -> Result<Self, ValueError> {
        T::read_items(items, rule).map(Some)
    }

    fn read_os(text: &OsStr, rule: Option<&T::Rule>) -> Result<Self, ValueError> {
        T::read_os(text, rule).map(Some)
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }
}

impl<T: SettingValue> SettingValue for Vec<T> {
    const KIND: ValueKind = T::KIND.list();
    const UNIT: &'static str = T::UNIT;
    const EXAMPLE: &'static str = T::EXAMPLE;
    type Rule = T::Rule;

    fn read(text: &str, rule: Option<&T::Rule>) -> Result<Self, String> {
        Ok(vec![T::read(text, rule)?])
    }

    fn read_items(items: &[&str], rule: Option<&T::Rule>) -> Result<Self, ValueError> {
        let read = |(item, text): (usize, &&str)| T::read(text, rule).map_err(|message| ValueError { item, message });
        items.iter().enumerate().map(read).collect()
    }

    fn show(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(T::show).collect();
        (!items.is_empty()).then(|| items.join(","))
    }
}

/// Makes an enum of words, which derives [`clap::ValueEnum`], a type that settings can have. The
/// words are given as they are shown, with `|` between.
#[macro_export]
macro_rules! word_setting {
    ($Enum:ty, $words:literal) => {
        impl $crate::SettingValue for $Enum {
            const KIND: $crate::ValueKind = $crate::ValueKind::Text;
            const UNIT: &'static str = $words;
            const EXAMPLE: &'static str = $words;
            type Rule = ();

            fn read(text: &str, _rule: Option<&()>) -> Result<Self, String> {
                let how = |_| format!("write {}", $words.replace('|', " or "));
                <Self as clap::ValueEnum>::from_str(text, false).map_err(how)
            }

            fn show(&self) -> Option<String> {
                clap::ValueEnum::to_possible_value(self).map(|value| value.get_name().to_owned())
            }
        }
    };
}
word_setting!(LogFormat, "text|json");

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    #[track_caller]
    fn check<T: SettingValue + PartialEq + Debug>(text: &str, rule: Option<&T::Rule>, expected: Result<T, &str>) {
        let seen = T::read_os(text.as_ref(), rule).map_err(|error| error.message);
        assert_eq!(seen, expected.map_err(str::to_owned), "{text}");
        if let Ok(value) = seen {
            let shown = value.show().unwrap();
            assert_eq!(T::read_os(shown.as_ref(), rule).unwrap(), value, "{shown} can be read again");
        }
    }

    #[test]
    fn texts_become_values_or_say_what_to_write() {
        check("7", None, Ok(7_usize));
        check("-1", None, Err::<usize, _>("write a whole number"));
        check("1.5", None, Err::<usize, _>("write a whole number"));
        check("0", Some(&(1..=usize::MAX)), Err::<usize, _>("write a whole number of at least 1"));
        check("1025", Some(&(1..=1024)), Err::<u16, _>("write a whole number from 1 to 1024"));
        check("65536", None, Err::<u16, _>("write a whole number"));
        check("1m 30s", None, Ok(Duration::from_secs(90)));
        check("10", None, Err::<Duration, _>("write a time with its unit, such as 10s or 250ms"));
        check("soon", None, Err::<Duration, _>("write a time with its unit, such as 10s or 250ms"));
        check("2days", None, Err::<Duration, _>("write a time of at most 1day"));
        let some = Duration::from_millis(1)..=Duration::from_secs(1);
        check("0s", Some(&some), Err::<Duration, _>("write a time of at least 1ms"));
        check("2s", Some(&some), Err::<Duration, _>("write a time of at most 1s"));
        for (text, expected) in [("1", true), ("on", true), ("Yes", true), ("0", false), ("off", false), ("no", false)]
        {
            check(text, None, Ok(expected));
        }
        check("maybe", None, Err::<bool, _>("write true or false"));
        check("", None, Err::<PathBuf, _>("write the path of a file"));
        check("json", None, Ok(LogFormat::Json));
        check("xml", None, Err::<LogFormat, _>("write text or json"));
        check("", None, Err::<Option<u8>, _>("write a whole number"));
        check("1,2", None, Ok(vec![1_u8, 2]));
        check("1,x", None, Err::<Vec<u8>, _>("write a whole number"));
    }
}
