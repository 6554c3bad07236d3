//! What was found as figures with their targets.

use super::super::place::Appended;
use super::super::report::{Figure, Target, Unit, count};
use super::super::samples::Samples;
use super::{Api, Found, WRITERS};
use std::time::Duration;

/// Targets. Source: the comparison with other API servers that the project began with.
const EVENT_TIMES_SQLITE: f64 = 1.0;
const EVENT_TIMES_POSTGRES: f64 = 2.0;
const RATE_TIMES: f64 = 0.7;
const LIST_MILLISECONDS: f64 = 100.0;
const FAN_OUT_TIMES: f64 = 5.0;
const MEBIBYTES: [f64; 2] = [50.0, 150.0];

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn milliseconds(times: &[Duration], percent: usize) -> f64 {
    Samples::of(times).percentile(percent)
}

/// Figures of one server, beside the same of etcd.
struct Beside<'a> {
    found: &'a Found,
    etcd: Option<&'a Found>,
    figures: Vec<Figure>,
}

impl Beside<'_> {
    fn add(&mut self, what: &str, unit: Unit, of: impl Fn(&Found) -> f64, target: Option<Target>) {
        let mut figure = Figure::new(format!("{}: {what}", self.found.name), of(self.found), unit);
        if let Some(etcd) = self.etcd {
            figure = figure.against("etcd", of(etcd));
        }
        self.figures.push(Figure { target, ..figure });
    }

    fn alone(&mut self, what: &str, figure: f64, unit: Unit, target: Option<Target>) {
        self.figures.push(Figure { target, ..Figure::new(format!("{}: {what}", self.found.name), figure, unit) });
    }

    /// One that is compared with the same server when it had less.
    fn slope(&mut self, what: &str, unit: Unit, [less, more]: [f64; 2], when: &str) {
        self.figures.push(Figure::new(format!("{}: {what}", self.found.name), more, unit).against(when, less));
    }
}

pub(super) fn figures(all: &[Found], syncs: &[Duration], bench: &Api) -> Vec<Figure> {
    let etcd = all.iter().find(|found| found.is_etcd);
    let mut figures = Vec::new();
    for found in all.iter().filter(|found| !found.is_etcd) {
        let event = if found.name == "SQLite" { EVENT_TIMES_SQLITE } else { EVENT_TIMES_POSTGRES };
        let mut beside = Beside { found, etcd, figures: Vec::new() };
        beside.add("patch → its answer, p50", Unit::Milliseconds, |f| milliseconds(&f.answers, 50), None);
        beside.add("patch → its answer, p99", Unit::Milliseconds, |f| milliseconds(&f.answers, 99), None);
        beside.add("patch → own watch event, p50", Unit::Milliseconds, |f| milliseconds(&f.heard, 50), Some(Target::Times(event)));
        beside.add("patch → own watch event, p99", Unit::Milliseconds, |f| milliseconds(&f.heard, 99), None);
        for (at, writers) in WRITERS.into_iter().enumerate() {
            let target = (writers == 64).then_some(Target::AtLeastTimes(RATE_TIMES));
            beside.add(&format!("creates, {writers} connections"), Unit::PerSecond, |f| median(f.rates[at].clone()), target);
        }
        beside.alone("creates that failed", count(found.failed), Unit::Count, Some(Target::AtMost(0.0, "")));
        let list = Some(Target::AtMost(LIST_MILLISECONDS, ""));
        beside.add(&format!("list of {}, p50", bench.objects), Unit::Milliseconds, |f| milliseconds(&f.lists, 50), list);
        beside.alone(&format!("Table of {}, p50", bench.objects), milliseconds(&found.tables, 50), Unit::Milliseconds, None);
        for (at, watchers) in [bench.watchers as usize / super::FEWER, bench.watchers as usize].into_iter().enumerate() {
            let rate = |f: &Found| median(f.told[at].iter().map(|told| told.rate).collect());
            let cost = |f: &Found| median(f.told[at].iter().map(|told| told.microseconds).collect());
            beside.add(&format!("events to {watchers} watchers"), Unit::PerSecond, rate, Some(Target::AtLeastTimes(FAN_OUT_TIMES)));
            beside.add(&format!("events to {watchers} watchers, server's time for each"), Unit::Microseconds, cost, None);
        }
        let when = format!("with {}", bench.objects / 10);
        let both = |times: &[Vec<Duration>; 2]| [0, 1].map(|at| milliseconds(&times[at], 50));
        beside.slope(&format!("get among {}, p50", bench.objects), Unit::Milliseconds, both(&found.gets), &when);
        beside.slope(&format!("page of {} among {}, p50", super::PAGE, bench.objects), Unit::Milliseconds, both(&found.pages), &when);
        beside.add("memory (RSS) at rest", Unit::Mebibytes, |f| f.memory[0], Some(Target::AtMost(MEBIBYTES[0], "")));
        let full = Some(Target::AtMost(MEBIBYTES[1], ""));
        beside.add(&format!("memory (RSS) with {}, after lists", bench.objects), Unit::Mebibytes, |f| f.memory[1], full);
        beside.add("memory (RSS) with all watchers", Unit::Mebibytes, |f| f.memory[2], None);
        figures.extend(beside.figures);
    }
    figures.push(Figure::new(Appended::NAME, milliseconds(syncs, 50), Unit::Milliseconds));
    figures
}
