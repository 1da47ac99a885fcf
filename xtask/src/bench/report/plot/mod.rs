//! The figures of the report, as SVG. Each is drawn for a column of [`WIDTH`] units and scales with it; colours
//! are classes of `style.css`. What was not measured leaves a gap, and a figure without anything says so.

mod axis;
mod cost;
mod distribution;
mod drawing;
mod growth;
mod label;
mod neighbour;

use super::cast;
use super::markup::escape;
use crate::bench::results::Results;

/// Of every figure, in units: 13 of them are a line of text, which stays readable at 400 pixels.
const WIDTH: f64 = 440.0;

pub struct Figure {
    pub id: &'static str,
    pub title: &'static str,
    /// HTML: how to read it.
    pub caption: String,
    /// Nothing when nobody measured it.
    pub svg: Option<String>,
}

pub fn figures(results: &Results) -> Vec<Figure> {
    vec![
        distribution::figure(results, distribution::ONE_CONNECTION),
        distribution::figure(results, distribution::FIXED_RATE),
        cost::figure(results, cost::REQUESTS),
        cost::figure(results, cost::BULK),
        growth::pods(results),
        growth::connections(results),
        neighbour::figure(results),
    ]
}

/// A contestant's name in its colour, for captions.
fn named(results: &Results, contestant: &str) -> String {
    let class = cast::class(results, contestant);
    format!("<b class=\"name {class}\">{}</b>", escape(cast::title(contestant)))
}
