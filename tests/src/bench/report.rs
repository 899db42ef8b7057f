//! The measured values, their medians, and how they compare: as a table and as JSON.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde::Serialize;

use crate::figure::{Compare, FIGURES, Figure};

/// With or without the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Pods not enrolled.
    Plain,
    /// Pods enrolled.
    Mesh,
}

/// Every value measured, by figure and mode, in order.
#[derive(Debug, Default)]
pub(crate) struct Samples(BTreeMap<(&'static str, Mode), Vec<f64>>);

impl Samples {
    /// Adds a value.
    pub(crate) fn add(&mut self, id: &'static str, mode: Mode, value: f64) {
        self.0.entry((id, mode)).or_default().push(value);
    }

    fn of(&self, id: &'static str, mode: Mode) -> &[f64] {
        self.0.get(&(id, mode)).map_or(&[], Vec::as_slice)
    }

    fn median(&self, id: &'static str, mode: Mode) -> Option<f64> {
        median(self.of(id, mode))
    }

    /// What is known about every figure that was measured.
    pub(crate) fn report(&self) -> Vec<Line> {
        FIGURES
            .iter()
            .filter_map(|figure| self.line(figure))
            .collect()
    }

    fn line(&self, figure: &'static Figure) -> Option<Line> {
        let plain = self.median(figure.id, Mode::Plain);
        let mesh = self.median(figure.id, Mode::Mesh);
        if plain.is_none() && mesh.is_none() {
            return None;
        }
        let compared = match figure.compare {
            Compare::Ratio => mesh.zip(plain).map(|(mesh, plain)| mesh / plain),
            Compare::Added => mesh.zip(plain).map(|(mesh, plain)| mesh - plain),
            Compare::Value => mesh,
            Compare::RatioTo(other) => {
                let other = self.median(other, Mode::Mesh);
                mesh.zip(other).map(|(mesh, other)| mesh / other)
            }
        };
        let holds = |bar: Option<f64>| {
            compared
                .zip(bar)
                .map(|(value, bar)| figure.compare.holds(value, bar))
        };
        Some(Line {
            id: figure.id,
            title: figure.title,
            unit: figure.unit,
            plain,
            mesh,
            compared,
            first: figure.first,
            budget: figure.budget,
            first_holds: holds(figure.first),
            budget_holds: holds(figure.budget),
            plain_samples: self.of(figure.id, Mode::Plain).to_vec(),
            mesh_samples: self.of(figure.id, Mode::Mesh).to_vec(),
            figure,
        })
    }
}

/// One figure with its medians.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    id: &'static str,
    title: &'static str,
    unit: &'static str,
    plain: Option<f64>,
    mesh: Option<f64>,
    compared: Option<f64>,
    first: Option<f64>,
    budget: Option<f64>,
    first_holds: Option<bool>,
    budget_holds: Option<bool>,
    plain_samples: Vec<f64>,
    mesh_samples: Vec<f64>,
    #[serde(skip)]
    figure: &'static Figure,
}

impl Line {
    /// Whether the figure misses the bar that it has.
    pub(crate) fn is_below(&self) -> bool {
        self.first_holds == Some(false)
    }

    fn verdict(&self) -> &'static str {
        match (self.first_holds, self.budget_holds) {
            (Some(false), _) => "below",
            (_, Some(true)) => "ok, in budget",
            (Some(true), _) => "ok",
            (None, Some(false)) => "over budget",
            (None, None) => "",
        }
    }

    fn bar(&self, bar: Option<f64>) -> String {
        let bar = bar.map(|bar| match self.figure.compare {
            Compare::Ratio => format!("≥ {bar:.2}"),
            Compare::Added => format!("≤ +{bar}"),
            Compare::Value => format!("≤ {bar}"),
            Compare::RatioTo(_) => format!("≤ {bar:.2}"),
        });
        bar.unwrap_or_else(|| "–".into())
    }

    fn comparison(&self) -> String {
        let value = self.compared.map(|value| match self.figure.compare {
            Compare::Ratio => format!("{value:.2}"),
            Compare::Added => format!("{value:+.2}"),
            Compare::Value => String::new(),
            Compare::RatioTo(_) => format!("{value:.2} of idle"),
        });
        value.unwrap_or_default()
    }
}

/// The table for people.
pub(crate) fn table(lines: &[Line]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "", "unit", "plain", "mesh", "compared", "first", "budget", "",
    ]);
    for line in lines {
        table.add_row([
            line.title.to_owned(),
            line.unit.to_owned(),
            line.plain.map(short).unwrap_or_default(),
            line.mesh.map(short).unwrap_or_default(),
            line.comparison(),
            line.bar(line.first),
            line.bar(line.budget),
            line.verdict().to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(2).take(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// The middle value; of an even number, the mean of the two in the middle.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(sorted.len() / 2 - 1)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        for (values, expected) in [
            (vec![], None),
            (vec![3.0], Some(3.0)),
            (vec![9.0, 1.0], Some(5.0)),
            (vec![9.0, 1.0, 2.0], Some(2.0)),
        ] {
            assert_eq!(median(&values), expected, "{values:?}");
        }
    }

    #[test]
    fn figures_are_compared_each_in_its_way() {
        let mut samples = Samples::default();
        for (id, plain, mesh) in [
            ("bulk_1_up", Some(10.0), 4.5),
            ("requests_64", Some(100.0), 20.0),
            ("latency_p50", Some(0.1), 0.4),
            ("cpu_request", None, 30.0),
            ("rss_idle", None, 8.0),
            ("rss_burst", None, 10.0),
        ] {
            if let Some(plain) = plain {
                samples.add(id, Mode::Plain, plain);
            }
            samples.add(id, Mode::Mesh, mesh);
        }
        let lines = samples.report();
        let verdicts: Vec<_> = lines.iter().map(|line| (line.id, line.verdict())).collect();
        let expected = [
            ("bulk_1_up", "ok"),
            ("requests_64", "below"),
            ("latency_p50", "ok, in budget"),
            ("cpu_request", "below"),
            ("rss_idle", "ok, in budget"),
            ("rss_burst", "over budget"),
        ];
        assert_eq!(verdicts, expected);
        assert_eq!(lines[0].comparison(), "0.45");
        assert_eq!(lines[2].comparison(), "+0.30");
        assert_eq!(lines[5].comparison(), "1.25 of idle");
        assert!(table(&lines).to_string().contains("≥ 0.55"));
    }

    #[test]
    fn what_was_not_measured_is_not_reported() {
        let mut samples = Samples::default();
        samples.add("connections", Mode::Plain, 5.0);
        let lines = samples.report();
        assert_eq!(lines.len(), 1);
        assert_eq!((lines[0].compared, lines[0].is_below()), (None, false));
    }
}
