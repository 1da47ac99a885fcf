//! `report.html`: one file, nothing from elsewhere, no script.

use super::cast;
use super::facts::{self, Section};
use super::headline::{self, Headline};
use super::markup::escape;
use super::number::{interval, number, times, times_interval};
use super::plot::{self, Figure};
use super::table::{Cell, Table, tables};
use crate::bench::metric::Metric;
use crate::bench::results::Results;

const STYLE: &str = include_str!("style.css");

pub fn page(results: &Results) -> String {
    let headlines: String = headline::headlines(results).iter().map(|h| strip(results, h)).collect();
    let figures: String =
        plot::figures(results).iter().enumerate().map(|(i, shown)| figure(i + 1, shown)).collect();
    let tables: String = tables(results).iter().map(|shown| table(results, shown)).collect();
    let reading: String =
        facts::HOW_TO_READ.iter().map(|line| format!("<li>{}</li>\n", escape(line))).collect();
    let sections: String = facts::sections(results).iter().map(section).collect();
    let (day, summary) = (escape(facts::day(results)), escape(&facts::summary(results)));
    format!(
        "<!DOCTYPE html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<meta name=\"color-scheme\" content=\"light dark\">
<title>What a mesh costs, {day}</title>
<style>
{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>What a mesh costs</h1>
<p class=\"summary\">{day}. {summary}</p>
</header>
<section class=\"strip\" aria-label=\"The answer in one look\">
{headlines}</section>
<section class=\"figures\" aria-label=\"Figures\">
{figures}</section>
<section>
<h2>How to read it</h2>
<ul>
{reading}</ul>
</section>
<section>
<h2>All results</h2>
{tables}</section>
<section>
<h2>What the metrics are</h2>
{}</section>
{sections}</main>
</body>
</html>
",
        metrics(results)
    )
}

fn strip(results: &Results, headline: &Headline) -> String {
    let answers: String = headline
        .answers
        .iter()
        .map(|answer| {
            let (class, title) = (cast::class(results, &answer.contestant), cast::title(&answer.contestant));
            let detail = if answer.detail.is_empty() { "— not measured" } else { &answer.detail };
            let value = answer
                .value
                .as_deref()
                .map_or(String::new(), |value| format!("<span class=\"big\">{}</span> ", escape(value)));
            format!(
                "<div class=\"{class}\"><dt class=\"name\">{}</dt>\
                 <dd>{value}<span class=\"detail\">{}</span></dd></div>\n",
                escape(title),
                escape(detail)
            )
        })
        .collect();
    format!(
        "<div class=\"headline\">\n<h2>{}</h2>\n<dl>\n{answers}</dl>\n<p>{}</p>\n</div>\n",
        escape(headline.question),
        escape(&headline.note)
    )
}

fn figure(place: usize, figure: &Figure) -> String {
    let (id, title, caption) = (figure.id, escape(figure.title), &figure.caption);
    match &figure.svg {
        Some(svg) => format!(
            "<figure id=\"{id}\">\n{svg}\n<figcaption><b>Figure {place}. {title}.</b> {caption}</figcaption>\n\
             </figure>\n"
        ),
        None => format!(
            "<figure id=\"{id}\" class=\"absent\">\n<p>— not measured in this run</p>\n\
             <figcaption><b>Figure {place}. {title}.</b></figcaption>\n</figure>\n"
        ),
    }
}

fn table(results: &Results, table: &Table<'_>) -> String {
    let title = escape(&table.family.title);
    let head: String = table
        .contestants
        .iter()
        .map(|name| {
            let class = cast::class(results, name);
            format!("<th scope=\"col\" class=\"name {class}\">{}</th>", escape(cast::title(name)))
        })
        .collect();
    let rows: String = table
        .rows
        .iter()
        .map(|row| {
            let cells: String = row.cells.iter().map(|c| cell(c.as_ref())).collect();
            let (case, metric, unit) = (escape(row.case), escape(row.metric), escape(row.unit));
            format!(
                "<tr><th scope=\"row\"><span class=\"case\">{case}</span> {metric} <small>{unit}</small></th>\
                 {cells}</tr>\n"
            )
        })
        .collect();
    let missing: String = table
        .missing
        .iter()
        .map(|(contestant, case, reason)| {
            format!(
                "<p class=\"missing\">— {}: {}</p>\n",
                escape(&format!("{contestant} has no {case}")),
                escape(reason)
            )
        })
        .collect();
    format!(
        "<h3>{title}</h3>\n<p>{}</p>\n<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-label=\"{title}\">\n\
         <table>\n<thead><tr><th scope=\"col\">median, 95 % interval</th>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n\
         </table>\n</div>\n{missing}",
        escape(table.family.about)
    )
}

fn cell(cell: Option<&Cell>) -> String {
    let Some(cell) = cell else { return "<td>—</td>".to_owned() };
    let spread = match cell.ci95[0] == cell.ci95[1] {
        true => String::new(),
        false => format!(" <small>{}</small>", interval(cell.median, cell.ci95)),
    };
    let ratio = cell.ratio.map_or(String::new(), |r| {
        format!("<br><b>{}</b> <small>{}</small>", times(r.value), times_interval(r))
    });
    format!("<td>{}{spread}{ratio}</td>", number(cell.median))
}

fn metrics(results: &Results) -> String {
    let used = Metric::ALL.into_iter().filter(|m| results.results.iter().any(|s| s.metric == m.name()));
    let lines: Vec<(String, String)> =
        used.map(|m| (format!("{}, {}", m.name(), m.unit()), m.meaning().to_owned())).collect();
    definitions(&lines)
}

fn section(section: &Section) -> String {
    format!("<section>\n<h2>{}</h2>\n{}</section>\n", section.title, definitions(&section.lines))
}

fn definitions(lines: &[(String, String)]) -> String {
    let lines: String = lines
        .iter()
        .map(|(name, text)| match name.is_empty() {
            true => format!("<div><dd>{}</dd></div>\n", escape(text)),
            false => format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(text)),
        })
        .collect();
    format!("<dl class=\"facts\">\n{lines}</dl>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WCAG 2 asks for 4.5 of text (success criterion 1.4.3): of every colour that text may have, on the page's.
    #[test]
    fn text_stands_out_in_light_and_dark() {
        let schemes: Vec<&str> = STYLE.split("@media (prefers-color-scheme: dark)").collect();
        assert_eq!(schemes.len(), 2);
        for scheme in schemes {
            let colours: Vec<(&str, [f64; 3])> = scheme.lines().filter_map(colour).collect();
            let of = |name| colours.iter().find(|(found, _)| *found == name).unwrap().1;
            for (name, colour) in
                colours.iter().filter(|(name, _)| !["paper", "rule", "app", "kernel"].contains(name))
            {
                let found = contrast(*colour, of("paper"));
                assert!(found >= 4.5, "--{name} has a contrast of {found:.2}");
            }
        }
    }

    /// `--name: #rrggbb;`
    fn colour(line: &str) -> Option<(&str, [f64; 3])> {
        let (name, value) = line.trim().strip_prefix("--")?.split_once(": #")?;
        let part = |at: usize| Some(f64::from(u8::from_str_radix(value.get(at..at + 2)?, 16).ok()?) / 255.0);
        Some((name, [part(0)?, part(2)?, part(4)?]))
    }

    fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    fn luminance(colour: [f64; 3]) -> f64 {
        let [red, green, blue] = colour.map(|part| match part {
            ..=0.040_45 => part / 12.92,
            _ => ((part + 0.055) / 1.055).powf(2.4),
        });
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }

    #[test]
    fn what_others_wrote_stays_text() {
        let page = page(&super::super::example::results());
        assert!(page.contains("slow &lt;mesh&gt; &amp; co") && !page.contains("<mesh>"));
    }
}
