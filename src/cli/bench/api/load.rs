//! Writes: how many a second from many connections, how long one takes, and how long until it is heard of.

use super::side::{Connection, Side};
use anyhow::Context as _;
use futures::TryStreamExt;
use std::time::{Duration, Instant};

/// Creates `count` objects over `connections` at once, the names beginning with `prefix`. How many a second, and how many failed.
pub(super) async fn create(connections: &[Connection], prefix: &str, count: usize) -> anyhow::Result<(f64, u64)> {
    let begun = Instant::now();
    let writers = connections.iter().cloned().enumerate().map(|(writer, connection)| {
        let (prefix, each) = (prefix.to_owned(), count / connections.len() + usize::from(writer < count % connections.len()));
        tokio::spawn(async move {
            let mut failed = 0;
            for number in 0..each {
                if let Err(error) = connection.create(&format!("{prefix}-{writer}-{number}")).await {
                    tracing::warn!("a create failed: {error:#}");
                    failed += 1;
                }
            }
            failed
        })
    });
    let failed: u64 = futures::future::try_join_all(writers).await?.into_iter().sum();
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    Ok((count as f64 / begun.elapsed().as_secs_f64(), failed))
}

/// One writer who waits for the answer and for his own event before he writes again.
pub(super) struct Writer {
    connection: Connection,
    events: super::side::Events,
    name: String,
    written: usize,
    pub(super) answers: Vec<Duration>,
    pub(super) heard: Vec<Duration>,
}

impl Writer {
    pub(super) async fn new(side: &Side) -> anyhow::Result<Self> {
        let connection = side.connect().await?;
        let name = "written".to_owned();
        connection.create(&name).await?;
        let events = side.connect().await?.watches(1, false).await?.pop().context("no watch")?;
        Ok(Self { connection, events, name, written: 0, answers: Vec::new(), heard: Vec::new() })
    }

    /// Writes so often; times are kept where `counts`.
    pub(super) async fn write(&mut self, times: usize, counts: bool) -> anyhow::Result<()> {
        for _ in 0..times {
            self.written += 1;
            let round = self.written.to_string();
            let begun = Instant::now();
            let write = async { self.connection.patch(&self.name, &round).await.map(|()| begun.elapsed()) };
            let event = async {
                // Nobody else writes now, so the next event is his.
                self.events.try_next().await?.context("the watch ended")?;
                anyhow::Ok(begun.elapsed())
            };
            let (answered, heard) = tokio::try_join!(write, event)?;
            if counts {
                self.answers.push(answered);
                self.heard.push(heard);
            }
        }
        Ok(())
    }
}

/// How long a read takes, so often.
pub(super) async fn timed<T>(times: usize, read: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<Vec<Duration>> {
    let mut all = Vec::with_capacity(times);
    for _ in 0..times {
        let begun = Instant::now();
        read().await?;
        all.push(begun.elapsed());
    }
    Ok(all)
}
