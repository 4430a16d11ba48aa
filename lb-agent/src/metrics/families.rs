//! Writes families of samples: name, help and type once, then a sample per set of labels.

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;

/// Labels of a sample.
pub(super) type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// Where families are written to. Names of counters are given without their `_total`.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

// === impl Families ===

impl Families<'_> {
    pub(super) fn counter<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        self.family(name, help, samples.into_iter().map(|(l, v)| (l, ConstCounter::new(v))))
    }

    pub(super) fn counter_f64(
        &mut self,
        name: &str,
        help: &str,
        value: Option<f64>,
    ) -> fmt::Result {
        self.family(name, help, value.into_iter().map(|value| ([], ConstCounter::new(value))))
    }

    pub(super) fn gauge<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        self.family(name, help, samples.into_iter().map(|(l, v)| (l, ConstGauge::new(v))))
    }

    pub(super) fn gauge_f64<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, f64)>,
    ) -> fmt::Result {
        self.family(name, help, samples.into_iter().map(|(l, v)| (l, ConstGauge::new(v))))
    }

    /// A sample that is always 1 and tells by its labels; `_info` is appended to the name.
    pub(super) fn info<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: Labels<'_, N>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        metric.encode_info(&labels)
    }

    /// A family without samples is left out.
    fn family<'l, const N: usize, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels<'l, N>, M)>,
    ) -> fmt::Result {
        let mut samples = samples.peekable();
        let Some((_, first)) = samples.peek() else { return Ok(()) };
        let mut metric = self.0.encode_descriptor(name, help, None, first.metric_type())?;
        samples.try_for_each(|(labels, value)| value.encode(metric.encode_family(&labels)?))
    }
}
