//! A collection as it is and as it changes, through restarts of the hub.

use crate::cli::client::{self, Client};
use crate::clock::Clock;
use futures::{StreamExt, stream::BoxStream};
use serde_json::Value;
use std::time::Duration;

/// How soon a hub that went away is asked again.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) enum News {
    /// All that there is: at the beginning, and when too much was missed to be told one by one.
    List(Value),
    /// An event of the watch that is no bookmark: `type` and `object`.
    Event(Value),
}

/// The path of a collection with the parameters of its query.
pub(super) struct Collection {
    pub(super) path: String,
    /// Empty, or as `fieldSelector=…`.
    pub(super) query: String,
    /// The Accept header, which decides between documents and tables.
    pub(super) accept: &'static str,
}

/// Ends with the hub's refusal, and with any error before the first answer; else never.
pub(super) fn feed(client: Client, of: Collection) -> BoxStream<'static, anyhow::Result<News>> {
    let feed = Feed { client, of, since: None, lines: None, begun: false, complained: false, clock: Clock::system() };
    let next = async |feed: Option<Feed>| {
        let mut feed = feed?;
        match feed.next().await {
            Ok(news) => Some((Ok(news), Some(feed))),
            Err(error) => Some((Err(error), None)),
        }
    };
    futures::stream::unfold(Some(feed), next).boxed()
}

struct Feed {
    client: Client,
    of: Collection,
    /// The revision that is known; `None` when it must be listed.
    since: Option<String>,
    lines: Option<BoxStream<'static, Result<Value, client::Error>>>,
    begun: bool,
    /// Whether it was said that the hub does not answer.
    complained: bool,
    clock: Clock,
}

impl Feed {
    async fn next(&mut self) -> anyhow::Result<News> {
        loop {
            match self.step().await {
                Ok(Some(news)) => return Ok(news),
                Ok(None) => {}
                Err(error) if error.is("Expired") || error.is("Gone") => self.since = None,
                Err(error @ client::Error::Unreachable { .. }) if self.begun => {
                    if !self.complained {
                        eprintln!("{error:#}; asking again");
                    }
                    self.complained = true;
                    self.clock.sleep(AGAIN).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn step(&mut self) -> Result<Option<News>, client::Error> {
        let Some(since) = self.since.clone() else {
            let list = list(&self.client, &self.of).await?;
            (self.begun, self.complained) = (true, false);
            self.since = Some(list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned());
            return Ok(Some(News::List(list)));
        };
        let Some(lines) = &mut self.lines else {
            let Collection { path, query, accept } = &self.of;
            let watch = format!("{path}?watch=true&allowWatchBookmarks=true&resourceVersion={since}&{query}");
            self.lines = Some(self.client.lines(&watch, accept).await?);
            self.complained = false;
            return Ok(None);
        };
        let Some(event) = lines.next().await else {
            // The server ended it, as it does after a while, or went away.
            self.lines = None;
            self.clock.sleep(AGAIN).await;
            return Ok(None);
        };
        let event = event?;
        if event["type"] == "ERROR" {
            // The history was compacted: begin anew with a list.
            (self.lines, self.since) = (None, None);
            return Ok(None);
        }
        let object = &event["object"];
        let revision =
            object["metadata"]["resourceVersion"].as_str().or(object["rows"][0]["object"]["metadata"]["resourceVersion"].as_str());
        self.since = revision.map(str::to_owned).or(self.since.take());
        Ok(Some(event).filter(|event| event["type"] != "BOOKMARK").map(News::Event))
    }
}

async fn list(client: &Client, of: &Collection) -> Result<Value, client::Error> {
    let path = format!("{}?{}", of.path, of.query);
    if of.accept == client::TABLE { client.get_table(&path).await } else { client.get(&path).await }
}
