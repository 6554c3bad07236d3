//! Times of the same thing, measured again and again.

use std::time::Duration;

/// Sorted.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn of(times: &[Duration]) -> Self {
        let mut all: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    /// The time, in milliseconds, that `percent` of the samples do not exceed (nearest rank); 0 without samples.
    pub(super) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    pub(super) fn p50(&self) -> f64 {
        self.percentile(50)
    }

    /// From the 10th to the 90th percentile, milliseconds: what is smaller than this cannot be told from noise.
    pub(super) fn spread(&self) -> f64 {
        self.percentile(90) - self.percentile(10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "whole milliseconds are exact")]
    fn percentiles_are_the_nearest_rank() {
        let samples = Samples::of(&[4, 1, 3, 2, 5].map(Duration::from_millis));
        assert_eq!([0, 20, 50, 99, 100].map(|percent| samples.percentile(percent)), [1.0, 1.0, 3.0, 5.0, 5.0]);
        assert_eq!(samples.spread(), 4.0);
        assert_eq!(Samples::of(&[]).p50(), 0.0);
    }
}
