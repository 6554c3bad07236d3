//! One type per unit: bytes, millicores, nano-USD, durations; each reads and writes the text a user knows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// Why a text is not a value of its type; says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

/// Splits a Kubernetes quantity into digits, fraction and suffix, and returns value × 1000 (rounded up).
///
/// Source: apimachinery `resource.Quantity`: binary suffixes Ki–Ei, decimal m, k–E.
fn quantity_milli(text: &str) -> Option<u128> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 || whole.len() > 20 {
        return None;
    }
    let multiplier: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("0{whole}{fraction}").parse().ok()?;
    Some(digits.checked_mul(multiplier)?.div_ceil(scale))
}

macro_rules! text_type {
    ($name:ident, $inner:ty, $pattern:expr, $doc:expr, $example:expr) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.to_string())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Text {
                    Text(String),
                    Number(serde_json::Number),
                }
                let text = match Text::deserialize(d)? {
                    Text::Text(text) => text,
                    Text::Number(number) => number.to_string(),
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern, "description": $doc, "example": $example })
            }
        }
    };
}

/// An amount of memory or disk, in bytes; written as a Kubernetes quantity (`4Gi`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    pub const MIB: u64 = 1 << 20;
    /// Whole mebibytes, rounded up: the unit of Proxmox' `memory`.
    pub fn mebibytes(self) -> u64 {
        self.0.div_ceil(Self::MIB)
    }
}
impl FromStr for Bytes {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        quantity_milli(text)
            .and_then(|milli| u64::try_from(milli.div_ceil(1000)).ok())
            .map(Self)
            .ok_or_else(|| ParseError(format!("`{text}` is not an amount of bytes; write for example `4Gi` or `512Mi`")))
    }
}
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, suffix) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}
text_type!(Bytes, u64, r"^[0-9.]+([kMGT]|[KMGT]i)?$", "An amount of bytes as a Kubernetes quantity.", "4Gi");

/// An amount of cpu, in thousandths of a core; written as a Kubernetes quantity (`2`, `500m`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millicores(pub u64);

impl Millicores {
    /// Whole cores, rounded up: the unit of Proxmox' `cores`.
    pub fn cores(self) -> u64 {
        self.0.div_ceil(1000).max(1)
    }
}
impl FromStr for Millicores {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        quantity_milli(text)
            .and_then(|milli| u64::try_from(milli).ok())
            .map(Self)
            .ok_or_else(|| ParseError(format!("`{text}` is not an amount of cpu; write for example `2` or `500m`")))
    }
}
impl fmt::Display for Millicores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}
text_type!(Millicores, u64, r"^[0-9.]+m?$", "An amount of cpu as a Kubernetes quantity.", "2");

/// An amount of money in nano-USD (10⁻⁹ USD); written as a decimal string (`"1.37"`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NanoUsd(pub i64);

impl NanoUsd {
    /// The amount in dollars with two decimals for people, more below a cent: `$1.37`, `$0.0042`.
    pub fn dollars(self) -> String {
        let amount = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, nano) = (amount / 1_000_000_000, amount % 1_000_000_000);
        if amount != 0 && amount < 10_000_000 {
            return format!("{sign}$0.{:04}", nano.div_ceil(100_000));
        }
        let cents = (amount + 5_000_000) / 10_000_000;
        let _ = whole;
        format!("{sign}${}.{:02}", cents / 100, cents % 100)
    }
}
impl FromStr for NanoUsd {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong =
            || ParseError(format!("`{text}` is not an amount of money; write a decimal with at most 9 places, for example \"1.50\""));
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || fraction.len() > 9 || !digits(whole) || !digits(fraction) {
            return Err(wrong());
        }
        format!("{whole}{fraction:0<9}").parse().map(Self).map_err(|_| wrong())
    }
}
impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let amount = self.0.unsigned_abs();
        let fraction = format!("{:09}", amount % 1_000_000_000);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{sign}{}", amount / 1_000_000_000),
            fraction => write!(f, "{sign}{}.{fraction}", amount / 1_000_000_000),
        }
    }
}
text_type!(NanoUsd, i64, r"^[0-9]+(\.[0-9]{1,9})?$", "An amount of money as a decimal string.", "1.50");

/// A span of time, written as a Go duration string (`90s`, `2h30m`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub Duration);

impl FromStr for GoDuration {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError(format!("`{text}` is not a duration; write for example `90s`, `10m` or `2h30m`"));
        if text == "0" {
            return Ok(Self::default());
        }
        let (mut rest, mut total) = (text, 0_u128);
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(split);
            let (nanos, length) =
                [("ns", 1_u128), ("us", 1000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000)]
                    .into_iter()
                    .find(|(unit, _)| tail.strip_prefix(unit).is_some_and(|next| !next.starts_with(|c: char| c.is_ascii_alphabetic())))
                    .map(|(unit, nanos)| (nanos, unit.len()))
                    .ok_or_else(wrong)?;
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if whole.is_empty() || fraction.len() > 9 || whole.len() > 12 {
                return Err(wrong());
            }
            let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
            let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
            total += digits * nanos / scale;
            rest = &tail[length..];
        }
        u64::try_from(total).map(|nanos| Self(Duration::from_nanos(nanos))).map_err(|_| wrong())
    }
}
impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        if seconds == 0 && nanos > 0 {
            return if nanos.is_multiple_of(1_000_000) { write!(f, "{}ms", nanos / 1_000_000) } else { write!(f, "{nanos}ns") };
        }
        let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let fraction = if nanos == 0 { String::new() } else { format!(".{}", format!("{nanos:09}").trim_end_matches('0')) };
        match (h, m) {
            (0, 0) => write!(f, "{s}{fraction}s"),
            (0, m) => write!(f, "{m}m{s}{fraction}s"),
            (h, m) => write!(f, "{h}h{m}m{s}{fraction}s"),
        }
    }
}
text_type!(GoDuration, Duration, r"^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$|^0$", "A duration as Go writes it.", "2h30m");

/// Money with its currency. Only USD is accepted in this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Money {
    /// The amount, as a decimal string.
    pub amount: NanoUsd,
    /// The currency; USD.
    #[serde(default)]
    pub currency: Currency,
}

/// A currency by its ISO 4217 code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Currency {
    #[default]
    USD,
}
