//! The one source of time and timers: real, or simulated for tests. Nothing else reads the clock or sleeps.

mod tenure;

pub use tenure::{Lapsed, Tenure};

use jiff::{SignedDuration, Timestamp};
use std::{sync::Arc, time::Duration};

/// Wall time and timers, passed to whoever needs them.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Starts at the instant and follows tokio's clock, which a test may pause and advance.
    Tokio(Arc<(Timestamp, tokio::time::Instant)>),
}

impl Clock {
    /// The machine's own clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that starts at `start` and follows tokio's time, so that a test under `start_paused` controls both.
    pub fn simulated(start: Timestamp) -> Self {
        Self(Source::Tokio(Arc::new((start, tokio::time::Instant::now()))))
    }

    /// The present instant.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            #[expect(clippy::disallowed_methods, reason = "this is the one source of time")]
            Source::System => Timestamp::now(),
            Source::Tokio(start) => start.0 + SignedDuration::try_from(start.1.elapsed()).unwrap_or(SignedDuration::MAX),
        }
    }

    /// The present instant in the API's form, cut to whole seconds.
    pub fn api_now(&self) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
        let now = self.now();
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
    }

    /// Returns after `duration`.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// When to try something again that failed; said once, by the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// At the next turn; the caller's backoff is enough.
    Soon,
    /// Not before this time has passed.
    After(Duration),
    /// Only when its cause was changed: the spec, or a setting.
    Never,
}
