//! Where a value is drawn.

/// A logarithmic axis: what costs twice as much is equally far wherever it is.
pub struct Axis {
    domain: [f64; 2],
    range: [f64; 2],
}

impl Axis {
    /// Holds all values greater than 0, from one round number to another; nothing when there are none.
    pub fn of(values: impl IntoIterator<Item = f64>, range: [f64; 2]) -> Option<Self> {
        let positive: Vec<f64> = values.into_iter().filter(|value| *value > 0.0).collect();
        let least = positive.iter().copied().reduce(f64::min)?;
        let most = positive.iter().copied().reduce(f64::max)?;
        let (low, high) = (round_down(least), round_up(most));
        // A single round number would be a domain without a length.
        let high = if low < high { high } else { low * 10.0 };
        Some(Self { domain: [low, high], range })
    }

    pub fn at(&self, value: f64) -> f64 {
        let [low, high] = self.domain;
        let [from, to] = self.range;
        let part = (value.max(low) / low).log10() / (high / low).log10();
        from + part * (to - from)
    }

    /// Powers of ten; with twos and fives between them, or every other power only, as there is room for names of
    /// that length.
    pub fn ticks(&self, room: f64) -> Vec<f64> {
        let fits = |ticks: &Vec<f64>| {
            let places: Vec<f64> = ticks.iter().map(|tick| self.at(*tick)).collect();
            places.windows(2).all(|pair| (pair[1] - pair[0]).abs() >= room)
        };
        let choices =
            [self.multiples(&[1.0, 2.0, 5.0], 1), self.multiples(&[1.0], 1), self.multiples(&[1.0], 2)];
        choices.into_iter().find(fits).unwrap_or_else(|| self.domain.to_vec())
    }

    /// Of every so manieth power of ten.
    fn multiples(&self, steps: &[f64], every: usize) -> Vec<f64> {
        let [low, high] = self.domain;
        let within = |value: &f64| *value >= low * 0.999 && *value <= high * 1.001;
        (low.log10().floor() as i32..=high.log10().ceil() as i32)
            .step_by(every)
            .flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)))
            .filter(within)
            .collect()
    }
}

/// To 1, 2 or 5 times a power of ten.
fn round_down(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let step = [5.0, 2.0].into_iter().find(|step| value >= step * power * 0.999);
    power * step.unwrap_or(1.0)
}

fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().find(|step| value <= step * power * 1.001);
    power * step.unwrap_or(10.0)
}

/// A tick's time: `50 µs`, `1 ms`.
pub fn time(microseconds: f64) -> String {
    match microseconds {
        ..1e3 => format!("{microseconds:.0} µs"),
        ..1e6 => format!("{:.0} ms", microseconds / 1e3),
        _ => format!("{:.0} s", microseconds / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_begins_and_ends_with_round_numbers() {
        let axis = Axis::of([66.0, 870.0, 0.0], [0.0, 100.0]).unwrap();
        assert_eq!(axis.domain, [50.0, 1000.0]);
        assert_eq!(axis.ticks(20.0), [50.0, 100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(axis.ticks(40.0), [100.0, 1000.0]);
        assert_eq!([axis.at(50.0), axis.at(1000.0)], [0.0, 100.0]);
    }

    #[test]
    fn one_value_has_an_axis_and_none_has_none() {
        assert_eq!(Axis::of([10.0], [0.0, 1.0]).unwrap().domain, [10.0, 100.0]);
        assert!(Axis::of([], [0.0, 1.0]).is_none());
    }
}
