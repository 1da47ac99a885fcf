//! Numbers as people read them.

use crate::bench::stats::Ratio;

/// Three digits that count; whole numbers from 100 on, with a comma between thousands.
pub fn number(value: f64) -> String {
    with_digits(value, digits(value))
}

/// Without a fraction.
pub fn whole(value: f64) -> String {
    with_digits(value, 0)
}

/// A median and its interval with the median's digits: `105 (103–107)`, or the median alone where it is all there is.
pub fn with_interval(median: f64, [low, high]: [f64; 2]) -> String {
    match low == high {
        true => number(median),
        false => format!("{} ({})", number(median), interval(median, [low, high])),
    }
}

/// The interval alone, with the digits of its median.
pub fn interval(median: f64, [low, high]: [f64; 2]) -> String {
    let digits = digits(median);
    format!("{}–{}", with_digits(low, digits), with_digits(high, digits))
}

/// `1.59 ×`
pub fn times(ratio: f64) -> String {
    format!("{} ×", with_digits(ratio, digits_of_ratio(ratio)))
}

/// `1.55–1.62`, beside [`times`].
pub fn times_interval(ratio: Ratio) -> String {
    let (digits, [low, high]) = (digits_of_ratio(ratio.value), ratio.ci95);
    format!("{}–{}", with_digits(low, digits), with_digits(high, digits))
}

/// With its unit; KiB become MiB, GiB where that is shorter.
pub fn amount(value: f64, unit: &str) -> String {
    let (value, unit) = match unit {
        "KiB" if value >= 1024.0 * 1024.0 => (value / 1024.0 / 1024.0, "GiB"),
        "KiB" if value >= 1024.0 => (value / 1024.0, "MiB"),
        "µs" if value >= 1e6 => (value / 1e6, "s"),
        "µs" if value >= 1e4 => (value / 1e3, "ms"),
        _ => (value, unit),
    };
    format!("{} {unit}", number(value))
}

/// A third digit of a ratio below 1 would be finer than any machine is quiet.
fn digits_of_ratio(ratio: f64) -> usize {
    digits(ratio).min(2)
}

/// Digits after the point.
fn digits(value: f64) -> usize {
    match value.abs() {
        0.0 | 100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    }
}

fn with_digits(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |rest| ("-", rest));
    let (whole, fraction) = text.find('.').map_or((text, ""), |point| text.split_at(point));
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_count() {
        let shown = [0.0, 0.6123, 1.594, 45.26, 105.4, 14_965.2, 1_234_567.0].map(number);
        assert_eq!(shown, ["0", "0.612", "1.59", "45.3", "105", "14,965", "1,234,567"]);
    }

    #[test]
    fn an_interval_has_its_medians_digits() {
        assert_eq!(with_interval(9.96, [9.5, 10.21]), "9.96 (9.50–10.21)");
        assert_eq!(with_interval(7.0, [7.0, 7.0]), "7.00");
    }

    #[test]
    fn large_amounts_get_larger_units() {
        assert_eq!(amount(111.0, "KiB"), "111 KiB");
        assert_eq!(amount(52_428.8, "KiB"), "51.2 MiB");
        assert_eq!(amount(105.0, "µs"), "105 µs");
        assert_eq!(amount(23_400.0, "µs"), "23.4 ms");
    }
}
