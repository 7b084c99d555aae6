//! Numbers of few, noisy rounds, and tables of them.
//!
//! Medians and ranges, not means and deviations: a round that something else
//! disturbed must not move the result, and must be seen.

use std::fmt;

/// Median, least and greatest of some rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one; between the middle two of an even number.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of no rounds.
    pub const NONE: Self = Self {
        median: f64::NAN,
        min: f64::NAN,
        max: f64::NAN,
    };

    /// `None` without a number, or with one that is none (NaN).
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.iter().any(|value| value.is_nan()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Some(Self { median, min, max })
    }

    /// How many times as large `one` is as `other`, round by round. Rounds are
    /// paired because what drifts (other load, the disk's mood) changes both of
    /// a pair alike. `None` when the rounds differ in number or one is zero.
    pub fn of_ratios(one: &[f64], other: &[f64]) -> Option<Self> {
        if one.len() != other.len() || other.contains(&0.0) {
            return None;
        }
        let ratios: Vec<f64> = one
            .iter()
            .zip(other)
            .map(|(one, other)| one / other)
            .collect();
        Self::of(&ratios)
    }
}

/// `median (min to max)`, with the precision asked for: `{:.1}`.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(
            f,
            "{:.digits$} ({:.digits$} to {:.digits$})",
            self.median, self.min, self.max
        )
    }
}

/// A table in Markdown, padded so that it reads well as text too. The first
/// column is aligned to the left, the others, which hold numbers, to the right.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(head: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            head: head.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; what it lacks is empty, what it has too much is dropped.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) -> &mut Self {
        let mut cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        cells.resize(self.head.len(), String::new());
        self.rows.push(cells);
        self
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .map(|row| &row[column])
                .chain([&self.head[column]]);
            // Three dashes make a rule.
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
                .max(3)
        };
        (0..self.head.len()).map(width).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let mut line = |cells: &[String]| {
            for (column, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
                // Bars are the only thing that a cell can't hold.
                let cell = cell.replace('|', "/");
                match column {
                    0 => write!(f, "| {cell:<width$} ")?,
                    _ => write!(f, "| {cell:>width$} ")?,
                }
            }
            writeln!(f, "|")
        };
        line(&self.head)?;
        let rules: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(column, width)| match column {
                0 => "-".repeat(*width),
                _ => format!("{}:", "-".repeat(width - 1)),
            })
            .collect();
        line(&rules)?;
        self.rows.iter().try_for_each(|row| line(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]).expect("numbers");
        assert_eq!(
            spread,
            Spread {
                median: 2.0,
                min: 1.0,
                max: 3.0
            }
        );
        assert_eq!(
            Spread::of(&[4.0, 1.0, 2.0, 3.0]).expect("numbers").median,
            2.5
        );
        assert_eq!(Spread::of(&[7.0]).expect("a number").median, 7.0);
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn one_disturbed_round_does_not_move_the_median_but_shows() {
        let spread = Spread::of(&[10.0, 11.0, 10.0, 90.0, 10.0]).expect("numbers");
        assert_eq!((spread.median, spread.max), (10.0, 90.0));
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // Both double in the second round: the ratio stays.
        let spread = Spread::of_ratios(&[8.0, 16.0, 9.0], &[2.0, 4.0, 3.0]).expect("pairs");
        assert_eq!(
            spread,
            Spread {
                median: 4.0,
                min: 3.0,
                max: 4.0
            }
        );
        assert_eq!(Spread::of_ratios(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(Spread::of_ratios(&[1.0], &[0.0]), None);
    }

    #[test]
    fn spreads_are_written_with_their_range() {
        let spread = Spread {
            median: 2.0,
            min: 1.25,
            max: 3.5,
        };
        assert_eq!(format!("{spread:.1}"), "2.0 (1.2 to 3.5)");
        assert_eq!(spread.to_string(), "2.00 (1.25 to 3.50)");
    }

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(["start", "s"]);
        table
            .row(["cold", "12.50"])
            .row(["warm|ed", "2.25"])
            .row(["hot"]);
        let expected = "\
| start   |     s |
| ------- | ----: |
| cold    | 12.50 |
| warm/ed |  2.25 |
| hot     |       |
";
        assert_eq!(table.to_string(), expected);
    }
}
