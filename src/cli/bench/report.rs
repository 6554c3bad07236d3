//! What a bench found: figures, each beside its baseline from the same run, and the targets that were set for them.

use crate::cli::{Output, print};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Milliseconds,
    Mebibytes,
    Kibibytes,
    Percent,
    /// A plain number.
    Count,
    PerMinute,
    PerSecond,
    Microseconds,
}

/// What was set as good enough.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// The figure is at most this; where the number comes from, when it is not obvious.
    AtMost(f64, &'static str),
    /// The figure is above its baseline by at most this.
    Over(f64, &'static str),
    /// The figure is at most so many baselines.
    Times(f64),
    /// The figure is at least so many baselines.
    AtLeastTimes(f64),
}

/// One measured number.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: Unit,
    /// What it is compared with, in the same unit.
    pub(super) baseline: Option<(String, f64)>,
    pub(super) target: Option<Target>,
}

/// A bench's figures, and what a reader must know of how they came about.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) bench: &'static str,
    pub(super) notes: Vec<String>,
    pub(super) figures: Vec<Figure>,
}

impl Unit {
    fn symbol(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::Kibibytes => "KiB",
            Self::Percent => "%",
            Self::Count => "",
            Self::PerMinute => "/min",
            Self::PerSecond => "/s",
            Self::Microseconds => "µs",
        }
    }

    fn show(self, value: f64) -> String {
        let number = match value.abs() {
            whole if self == Self::Count && whole.fract() == 0.0 => format!("{value:.0}"),
            100.0.. => format!("{value:.0}"),
            10.0..100.0 => format!("{value:.1}"),
            _ => format!("{value:.2}"),
        };
        format!("{number} {}", self.symbol()).trim_end().to_owned()
    }
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, value: f64, unit: Unit) -> Self {
        Self { name: name.into(), value, unit, baseline: None, target: None }
    }
    /// Compared with `value`, which is called `name`.
    pub(super) fn against(mut self, name: impl Into<String>, value: f64) -> Self {
        self.baseline = Some((name.into(), value));
        self
    }
    pub(super) fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// The figure in baselines; nothing where that says nothing.
    fn ratio(&self) -> Option<f64> {
        self.baseline.as_ref().filter(|(_, baseline)| *baseline > 0.0).map(|(_, baseline)| self.value / baseline)
    }

    /// By how much the figure is above its baseline.
    pub(super) fn over_baseline(&self) -> f64 {
        self.value - self.baseline.as_ref().map_or(0.0, |(_, value)| *value)
    }

    fn is_met(&self) -> Option<bool> {
        self.target.as_ref().and_then(|target| match target {
            Target::AtMost(limit, _) => Some(self.value <= *limit),
            Target::Over(limit, _) => Some(self.over_baseline() <= *limit),
            Target::Times(limit) => self.ratio().map(|ratio| ratio <= *limit),
            Target::AtLeastTimes(limit) => self.ratio().map(|ratio| ratio >= *limit),
        })
    }

    /// Whether the target is met; also where it cannot be said, which nobody is to overlook.
    fn verdict(&self) -> &'static str {
        match (self.is_met(), &self.target) {
            (Some(true), _) => "met",
            (Some(false), _) => "missed",
            (None, Some(_)) => "NOT COMPARED",
            (None, None) => "-",
        }
    }

    fn goal(&self) -> String {
        let (relation, limit, why) = match &self.target {
            None => return "-".into(),
            Some(Target::Times(limit)) => return format!("≤ {limit:.1} × baseline"),
            Some(Target::AtLeastTimes(limit)) => return format!("≥ {limit:.1} × baseline"),
            Some(Target::AtMost(limit, why)) => ("≤", limit, why),
            Some(Target::Over(limit, why)) => ("≤ baseline +", limit, why),
        };
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        format!("{relation} {}{why}", self.unit.show(*limit))
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.unit.show(self.value),
            self.baseline.as_ref().map_or_else(|| "-".into(), |(name, value)| format!("{} ({name})", self.unit.show(*value))),
            self.ratio().map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}")),
            self.goal(),
            self.verdict().into(),
        ]
    }

    fn document(&self) -> Value {
        let mut document = json!({ "name": self.name, "value": self.value, "unit": self.unit.symbol() });
        if let Some((name, value)) = &self.baseline {
            document["baseline"] = json!({ "name": name, "value": value });
        }
        if let Some(ratio) = self.ratio() {
            document["ratio"] = ratio.into();
        }
        if self.target.is_some() {
            document["target"] = self.goal().into();
            document["met"] = self.is_met().into();
        }
        document
    }
}

impl Report {
    pub(super) fn print(&self, output: Option<Output>) -> anyhow::Result<()> {
        match output {
            Some(output @ (Output::Json | Output::Yaml)) => print::out(&print::document(&self.document(), output)?),
            _ => print::out(&self.table()),
        }
    }

    fn document(&self) -> Value {
        let figures: Vec<Value> = self.figures.iter().map(Figure::document).collect();
        json!({ "bench": self.bench, "profile": profile(), "processors": processors(), "notes": self.notes, "figures": figures })
    }

    fn table(&self) -> String {
        let header = ["FIGURE", "VALUE", "BASELINE", "RATIO", "TARGET", ""].map(str::to_owned);
        let rows: Vec<Vec<String>> = self.figures.iter().map(Figure::row).collect();
        let mut text = format!("bench {}: {} build, {} processors\n\n", self.bench, profile(), processors());
        text += &print::columns(&header, &rows);
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "* {note}");
        }
        text
    }
}

/// A counter's number as a figure; none here is beyond what a `u32` holds.
pub(super) fn count(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// How this executable was compiled: only a release build's times mean anything.
fn profile() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_up_to_its_limit() {
        let figure = |value| Figure::new("calls", value, Unit::Count).target(Target::AtMost(12.0, ""));
        assert_eq!((figure(12.0).is_met(), figure(12.1).is_met()), (Some(true), Some(false)));
        let figure = |value| Figure::new("p50", value, Unit::Milliseconds).against("direct", 3.0).target(Target::Over(1.0, "noise"));
        assert_eq!((figure(4.0).is_met(), figure(4.5).is_met(), figure(4.5).ratio()), (Some(true), Some(false), Some(1.5)));
        assert_eq!(figure(4.5).row(), ["p50", "4.50 ms", "3.00 ms (direct)", "1.50", "≤ baseline + 1.00 ms (noise)", "missed"]);
    }

    #[test]
    fn a_target_in_baselines_that_has_none_says_so() {
        let figure = |value| Figure::new("rate", value, Unit::PerSecond).target(Target::AtLeastTimes(0.7));
        assert_eq!((figure(7.0).verdict(), figure(7.0).document()["met"].clone()), ("NOT COMPARED", Value::Null));
        let against = |value| figure(value).against("etcd", 10.0);
        assert_eq!((against(7.0).verdict(), against(6.9).verdict()), ("met", "missed"));
        let figure = |value| Figure::new("p50", value, Unit::Milliseconds).against("etcd", 2.0).target(Target::Times(1.0));
        assert_eq!((figure(2.0).verdict(), figure(2.1).verdict(), figure(2.1).goal()), ("met", "missed", "≤ 1.0 × baseline".into()));
    }

    #[test]
    fn without_a_baseline_or_a_target_nothing_is_claimed() {
        let figure = Figure::new("calls", 0.0, Unit::PerMinute).against("with 20", 0.0);
        assert_eq!((figure.ratio(), figure.is_met()), (None, None));
        assert_eq!(figure.row()[3..], ["-", "-", "-"]);
    }
}
