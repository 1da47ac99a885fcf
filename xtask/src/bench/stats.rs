//! Medians, and how sure they are.
//!
//! The bootstrap's seed is fixed: the same samples always give the same interval, so a report follows from its file.

/// Resamples of a bootstrap: enough for stable 2.5 % and 97.5 % points (Efron and Tibshirani, 1993, chapter 13).
const RESAMPLES: usize = 2_000;

/// The middle of the values, or the mean of the two in the middle. NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The 95 % confidence interval of the median, by percentile bootstrap. Fewer than 3 samples tell none: then it is
/// their range.
pub fn ci95(samples: &[f64]) -> [f64; 2] {
    if samples.len() < 3 {
        return range(samples);
    }
    let mut random = Random::new();
    interval(|| median(&draw(samples, &mut random)))
}

/// The least and the greatest.
pub fn range(values: &[f64]) -> [f64; 2] {
    let sorted = sorted(values);
    [sorted.first().copied().unwrap_or(f64::NAN), sorted.last().copied().unwrap_or(f64::NAN)]
}

/// A ratio of two medians with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    pub value: f64,
    pub ci95: [f64; 2],
}

impl Ratio {
    /// `samples` over a `baseline` of the same run; nothing when the baseline may be 0, or one of the two has no samples.
    ///
    /// With as many samples on both sides they are of the same rounds, and are drawn in pairs: what slowed a whole
    /// round down cancels out. With fewer than 3 on a side the interval is the range of what could be divided.
    pub fn of(samples: &[f64], baseline: &[f64]) -> Option<Self> {
        if samples.len() != baseline.len() {
            return Self::of_independent(samples, baseline);
        }
        Self::by(samples, baseline, |random| {
            let rounds: Vec<usize> = samples.iter().map(|_| random.below(samples.len())).collect();
            let of = |all: &[f64]| median(&rounds.iter().map(|&round| all[round]).collect::<Vec<_>>());
            of(samples) / of(baseline)
        })
    }

    /// As [`Ratio::of`], of samples that have no rounds in common.
    pub fn of_independent(samples: &[f64], baseline: &[f64]) -> Option<Self> {
        Self::by(samples, baseline, |random| median(&draw(samples, random)) / median(&draw(baseline, random)))
    }

    fn by(samples: &[f64], baseline: &[f64], resample: impl Fn(&mut Random) -> f64) -> Option<Self> {
        let value = median(samples) / median(baseline);
        let ci95 = if samples.len().min(baseline.len()) < 3 {
            let ([low, high], [base_low, base_high]) = (range(samples), range(baseline));
            [low / base_high, high / base_low]
        } else {
            let mut random = Random::new();
            interval(|| resample(&mut random))
        };
        [value, ci95[0], ci95[1]].iter().all(|x| x.is_finite()).then_some(Self { value, ci95 })
    }
}

/// The 2.5 % and 97.5 % points of a bootstrap's statistic.
fn interval(statistic: impl FnMut() -> f64) -> [f64; 2] {
    let found = sorted(&std::iter::repeat_with(statistic).take(RESAMPLES).collect::<Vec<_>>());
    let tail = RESAMPLES / 40;
    [found[tail], found[RESAMPLES - 1 - tail]]
}

fn draw(samples: &[f64], random: &mut Random) -> Vec<f64> {
    samples.iter().map(|_| samples[random.below(samples.len())]).collect()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// `SplitMix64` (Steele, Lea, Flood 2014): the same numbers everywhere and for ever, which generators of a library
/// do not promise.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(0x0070_696c_6c69_6f6e)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper half times the limit: without the bias of a remainder for limits this small.
        (((mixed ^ (mixed >> 31)) >> 32) as usize * limit) >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_same_samples_give_the_same_interval() {
        let samples: Vec<f64> = (0..9).map(|i| f64::from(i * i)).collect();
        assert_eq!(ci95(&samples), ci95(&samples));
    }

    #[test]
    fn an_interval_holds_its_median_and_stays_within_the_range() {
        let mut random = Random::new();
        for n in 1..20 {
            let samples: Vec<f64> = (0..n).map(|_| random.below(1000) as f64).collect();
            let ([low, high], [least, most], middle) = (ci95(&samples), range(&samples), median(&samples));
            assert!(least <= low && low <= middle && middle <= high && high <= most, "{samples:?}");
        }
    }

    /// For 9 samples the order statistics of ranks 2 and 8 hold the median with 96.1 %: the bootstrap agrees.
    #[test]
    fn an_interval_of_nine_leaves_out_the_extremes() {
        let samples: Vec<f64> = (1..=9).map(f64::from).collect();
        assert_eq!(ci95(&samples), [2.0, 8.0]);
    }

    /// 95 of 100 intervals should hold the true median; a bootstrap of few samples holds it a little less often.
    #[test]
    fn intervals_hold_the_true_median_about_as_often_as_they_say() {
        let mut random = Random::new();
        let held = (0..500)
            .filter(|_| {
                let samples: Vec<f64> = (0..15).map(|_| random.below(10_001) as f64).collect();
                let [low, high] = ci95(&samples);
                (low..=high).contains(&5_000.0)
            })
            .count();
        assert!((440..=495).contains(&held), "{held} of 500");
    }

    #[test]
    fn two_samples_tell_their_range() {
        assert_eq!(ci95(&[2.0, 1.0]), [1.0, 2.0]);
        let ratio = Ratio::of(&[4.0, 6.0], &[1.0, 2.0]).unwrap();
        assert_eq!(ratio, Ratio { value: 5.0 / 1.5, ci95: [2.0, 6.0] });
    }

    #[test]
    fn what_slows_a_whole_round_down_cancels_out_of_the_ratio() {
        let baseline = [10.0, 20.0, 40.0, 80.0, 10.0];
        let doubled = baseline.map(|sample| sample * 2.0);
        assert_eq!(Ratio::of(&doubled, &baseline), Some(Ratio { value: 2.0, ci95: [2.0, 2.0] }));
        let unpaired = Ratio::of(&doubled[..4], &baseline).unwrap();
        assert!(unpaired.ci95[0] < 2.0 && unpaired.ci95[1] > 2.0, "{unpaired:?}");
    }

    #[test]
    fn nothing_is_a_multiple_of_zero() {
        assert_eq!(Ratio::of(&[1.0], &[0.0]), None);
        assert_eq!(Ratio::of(&[1.0], &[]), None);
        assert_eq!(Ratio::of(&[1.0, 2.0, 3.0], &[0.0, 1.0, 1.0]), None);
    }
}
