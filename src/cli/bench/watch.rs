//! `autovibe bench watch`: from a durable write to the writer's own watch event, through a hub's API server over TLS.

use super::place::{Appended, Place};
use super::report::{Figure, Report, Unit};
use super::samples::Samples;
use super::stage::NAMESPACE;
use crate::api::Budget;
use crate::cli::{Context, client::Client, resource, up::process::Hub};
use crate::clock::Clock;
use anyhow::Context as _;
use futures::StreamExt;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

/// So many before those that count: connections, caches and the statements of the database are warm then.
const WARM_UP: usize = 20;
const LABEL: &str = "bench";

/// Measures the way from a durable write to the writer's own watch event, over TLS.
#[derive(Debug, clap::Args)]
pub(super) struct Watch {
    /// How many writes
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    writes: u32,
}

impl Watch {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<Report> {
        let place = Place::new(context, "watch")?;
        let hub = Hub::start(place.path(), &HUB.map(OsStr::new), &Clock::system()).await?;
        let client = Client::open(&place.path().join("kubeconfig"), Some(NAMESPACE))?;
        let measured = self.measure(&client, place.path()).await;
        hub.stop().await?;
        let [syncs, answers, events] = measured?.map(|times| Samples::of(&times));
        let baseline = Appended::NAME;
        let figures = vec![
            Figure::new("write → own watch event, p50", events.p50(), Unit::Milliseconds).against(baseline, syncs.p50()),
            Figure::new("write → own watch event, p99", events.percentile(99), Unit::Milliseconds).against(baseline, syncs.percentile(99)),
            Figure::new("write → its answer, p50", answers.p50(), Unit::Milliseconds).against(baseline, syncs.p50()),
        ];
        let notes = vec![
            format!(
                "{} writes (merge patches of one Budget), one after the other, and as many appends between them, on the same disk",
                self.writes
            ),
            "a child process `autovibe up` serves; the client shares this machine's processors with it".into(),
        ];
        Ok(Report { bench: "watch", notes, figures })
    }

    /// Times of the appends, of the writes' answers and of their events.
    async fn measure(&self, client: &Client, directory: &Path) -> anyhow::Result<[Vec<Duration>; 3]> {
        let (collection, path) = (resource::our::<Budget>(Some(NAMESPACE), None), resource::our::<Budget>(Some(NAMESPACE), Some("bench")));
        let budget = json!({ "apiVersion": crate::api::API_VERSION, "kind": "Budget", "metadata": { "name": "bench" },
            "spec": { "limits": { "apiCalls": 1 } } });
        let made = client.create(&collection, &budget).await?;
        let from = made["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
        let mut events = client.lines(&format!("{collection}?watch=true&resourceVersion={from}"), "application/json").await?;
        let mut appended = Appended::new(directory)?;
        let mut times = [const { Vec::new() }; 3];
        for number in 0..WARM_UP + self.writes as usize {
            let synced = appended.append()?;
            let value = number.to_string();
            let patch = json!({ "metadata": { "labels": { LABEL: value } } });
            let begun = Instant::now();
            let write = async { client.merge(&path, &patch).await.map(|_| begun.elapsed()) };
            let event = async {
                loop {
                    let event: Value = events.next().await.context("the watch ended")??;
                    if event["object"]["metadata"]["labels"][LABEL] == value.as_str() {
                        return anyhow::Ok(begun.elapsed());
                    }
                }
            };
            let (answered, seen) = tokio::try_join!(async { Ok(write.await?) }, event)?;
            if number >= WARM_UP {
                for (all, time) in times.iter_mut().zip([synced, answered, seen]) {
                    all.push(time);
                }
            }
        }
        Ok(times)
    }
}

/// A hub of the bench's own: no lab, any free ports.
pub(super) const HUB: [&str; 6] = ["--lab", "off", "--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"];
