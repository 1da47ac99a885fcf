//! Metrics whose names are constants: making them cannot fail.

use prometheus::Registry;
use prometheus::core::Collector;

/// Registers a metric, used once in its registry.
pub fn register<T: Collector + Clone + 'static>(registry: &Registry, metric: T) -> T {
    registry.register(Box::new(metric.clone())).expect("a name that is not taken");
    metric
}
