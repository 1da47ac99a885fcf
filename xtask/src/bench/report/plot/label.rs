//! Names beside curves, where they cover nothing.

use super::drawing::Anchor;

/// Of a line of text, in units; wide enough for the widest of the usual fonts.
const CHARACTER: f64 = 7.8;
pub const LINE: f64 = 14.0;

pub struct Placed {
    pub at: [f64; 2],
    pub anchor: Anchor,
    /// Where to lead a line from the name to its curve, when others are between.
    pub leader: Option<[[f64; 2]; 2]>,
}

/// How far a name may be from its curve.
const GAPS: [f64; 4] = [7.0, 18.0, 34.0, 60.0];

/// Finds places for names of curves, one after the other, within an area (left, top, right, bottom).
pub struct Labels<'a> {
    pub area: [f64; 4],
    pub curves: &'a [Vec<[f64; 2]>],
    taken: Vec<[f64; 4]>,
}

impl<'a> Labels<'a> {
    pub fn new(area: [f64; 4], curves: &'a [Vec<[f64; 2]>]) -> Self {
        Self { area, curves, taken: vec![] }
    }

    /// A place right or left of a curve, near and low if there is one; nothing when it is too crowded.
    pub fn place(&mut self, curve: usize, name: &str) -> Option<Placed> {
        let width = name.chars().count() as f64 * CHARACTER;
        let sides = |gap: f64| [(Anchor::Start, gap, gap), (Anchor::End, -gap, -gap - width)];
        for (gap, [x, y]) in GAPS.iter().flat_map(|gap| self.curves[curve].iter().map(move |at| (*gap, *at)))
        {
            for (anchor, to_name, to_left) in sides(gap) {
                let left = x + to_left;
                let bounds = [left, y - LINE / 2.0 - 2.0, left + width, y + LINE / 2.0 + 2.0];
                if self.is_free(bounds) {
                    self.taken.push(bounds);
                    let end = x + to_name;
                    let leader = (gap > GAPS[0]).then(|| [[x, y], [end - to_name.signum() * 3.0, y]]);
                    return Some(Placed { at: [end, y + 4.0], anchor, leader });
                }
            }
        }
        None
    }

    fn is_free(&self, [left, top, right, bottom]: [f64; 4]) -> bool {
        let [area_left, area_top, area_right, area_bottom] = self.area;
        let inside = left >= area_left && right <= area_right && top >= area_top && bottom <= area_bottom;
        let holds = |[x, y]: [f64; 2]| x > left - 3.0 && x < right + 3.0 && y > top - 1.0 && y < bottom + 1.0;
        let crossed =
            self.curves.iter().any(|curve| curve.windows(2).any(|w| between(w[0], w[1]).any(holds)));
        let covers = |[l, t, r, b]: &[f64; 4]| left < *r && right > *l && top < *b && bottom > *t;
        inside && !crossed && !self.taken.iter().any(covers)
    }
}

/// Points from one to the other, about 3 units apart.
fn between([x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) -> impl Iterator<Item = [f64; 2]> {
    let steps = ((x2 - x1).hypot(y2 - y1) / 3.0).ceil().max(1.0);
    (0..=steps as u32).map(move |i| {
        let part = f64::from(i) / steps;
        [x1 + part * (x2 - x1), y1 + part * (y2 - y1)]
    })
}

/// Moves heights apart until each has `room` to the next, within top and bottom; gives them in the order given.
pub fn spread(heights: &[f64], room: f64, [top, bottom]: [f64; 2]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..heights.len()).collect();
    order.sort_by(|a, b| heights[*a].total_cmp(&heights[*b]));
    let mut placed = heights.to_vec();
    let mut least = top;
    for &i in &order {
        placed[i] = placed[i].max(least);
        least = placed[i] + room;
    }
    let mut most = bottom;
    for &i in order.iter().rev() {
        placed[i] = placed[i].min(most);
        most = placed[i] - room;
    }
    placed
}

/// A name that fits into so many characters.
pub fn short(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        return name.to_owned();
    }
    name.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_move_apart_and_stay_within() {
        assert_eq!(spread(&[50.0, 52.0, 10.0], 20.0, [0.0, 100.0]), [50.0, 70.0, 10.0]);
        assert_eq!(spread(&[98.0, 97.0], 20.0, [0.0, 100.0]), [100.0, 80.0]);
    }

    #[test]
    fn a_name_covers_no_curve() {
        let curves = vec![vec![[10.0, 90.0], [10.0, 10.0]], vec![[30.0, 90.0], [30.0, 10.0]]];
        let mut labels = Labels::new([0.0, 0.0, 200.0, 100.0], &curves);
        // 20 units between the curves and 10 left of them are not enough for a name of the first.
        let placed = labels.place(0, "Pillion").unwrap();
        assert!(placed.at[0] > 30.0 && placed.leader.is_some());
        assert!(labels.place(1, "Envoy").unwrap().leader.is_none());
    }
}
