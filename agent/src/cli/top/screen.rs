//! What `top` shows.

use std::cmp::Reverse;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table, TableState};

use super::super::ask::title;
use super::super::format::{ago, bytes, count, seconds};
use super::super::workloads::warmed;
use crate::api::v1;

/// What the agent said.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) status: v1::StatusResponse,
    pub(super) workloads: Vec<v1::Workload>,
    /// When, ms since the epoch.
    pub(super) now_ms: u64,
}

/// By what rows are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    LastStart,
    Starts,
    Used,
    Wasted,
    Name,
}

const ORDERS: [(Order, &str); 5] = [
    (Order::LastStart, "last start"),
    (Order::Starts, "starts"),
    (Order::Used, "used"),
    (Order::Wasted, "wasted"),
    (Order::Name, "name"),
];

/// Columns: title, width (0: what is left), and which goes first where there is no room for
/// all: the greatest.
const COLUMNS: [(&str, u16, u8); 10] = [
    ("WORKLOAD", 0, 0),
    ("LIVE", 4, 6),
    ("STARTS", 6, 2),
    ("LAST START", 12, 1),
    ("LEAD", 9, 5),
    ("PROFILE", 10, 7),
    ("USED", 10, 3),
    ("LATE", 10, 8),
    ("WASTED", 10, 4),
    ("WARMED", 15, 9),
];

/// Least columns of the terminal for the name of a workload.
const NAME: u16 = 24;

/// The columns that there is room for, by their place in [`COLUMNS`].
fn columns(width: u16) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..COLUMNS.len()).collect();
    let taken = |shown: &[usize]| -> u16 { shown.iter().map(|&at| COLUMNS[at].1 + 1).sum() };
    while taken(&shown) + NAME > width && shown.len() > 1 {
        let least = shown.iter().copied().max_by_key(|&at| COLUMNS[at].2);
        shown.retain(|&at| Some(at) != least);
    }
    shown
}

/// What is shown, and how.
pub(super) struct Screen {
    pub(super) seen: Seen,
    pub(super) table: TableState,
    order: usize,
}

impl Screen {
    pub(super) fn new(seen: Seen) -> Self {
        Self {
            seen,
            table: TableState::default(),
            order: 0,
        }
    }

    pub(super) fn sort_by_next(&mut self) {
        self.order = (self.order + 1) % ORDERS.len();
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let areas = Layout::vertical([
            Constraint::Length(3),
            Constraint::Min(1),
            Constraint::Length(1),
        ]);
        let [head, body, foot] = areas.areas(frame.area());
        frame.render_widget(ratatui::text::Text::from(self.head()), head);
        let columns = columns(body.width);
        let rows = self.rows(&columns);
        let widths = columns.iter().map(|&at| match COLUMNS[at].1 {
            0 => Constraint::Fill(3),
            width => Constraint::Length(width),
        });
        let names = columns.iter().map(|&at| COLUMNS[at].0);
        let table = Table::new(rows, widths)
            .header(Row::new(names).style(Style::new().bold().reversed()))
            .row_highlight_style(Style::new().reversed());
        frame.render_stateful_widget(table, body, &mut self.table);
        let order = ORDERS[self.order].1;
        let keys = format!("q quit   s sort (by {order})   up, down move");
        frame.render_widget(Line::from(keys).dim(), foot);
    }

    fn head(&self) -> Vec<Line<'static>> {
        let status = &self.seen.status;
        let totals = status.totals.clone().unwrap_or_default();
        let starts: u64 = totals.starts.values().sum();
        let outcome = |what: &str| bytes(totals.outcome_bytes.get(what).copied().unwrap_or(0));
        let ready = if status.ready {
            "ready".green()
        } else {
            "not ready".yellow()
        };
        vec![
            Line::from(vec![
                Span::from("headstart ").bold(),
                ready,
                Span::from(format!(
                    "   up {}   {}, {}   {} learning, {} warming",
                    seconds(totals.uptime_seconds),
                    count(status.workloads, "workload"),
                    count(status.cgroups, "cgroup"),
                    status.learning,
                    status.warming,
                )),
            ]),
            Line::from(format!(
                "{}, {} learned   used {}, late {}, wasted {}, missed {}   {} lost",
                count(starts, "start"),
                totals.runs_learned,
                outcome("used"),
                outcome("late"),
                outcome("wasted"),
                bytes(totals.missed_bytes),
                count(totals.records_lost + totals.signals_lost, "record"),
            )),
            Line::default(),
        ]
    }

    fn rows(&self, columns: &[usize]) -> Vec<Row<'static>> {
        let mut workloads: Vec<&v1::Workload> = self.seen.workloads.iter().collect();
        let last = |w: &v1::Workload| w.last.clone().unwrap_or_default();
        match ORDERS[self.order].0 {
            Order::LastStart => workloads.sort_by_key(|w| Reverse(last(w).began_ms)),
            Order::Starts => workloads.sort_by_key(|w| Reverse(w.starts)),
            Order::Used => workloads.sort_by_key(|w| Reverse(last(w).used)),
            Order::Wasted => workloads.sort_by_key(|w| Reverse(last(w).wasted)),
            Order::Name => workloads.sort_by_key(|w| title(w)),
        }
        workloads
            .into_iter()
            .map(|w| self.row(w, columns))
            .collect()
    }

    fn row(&self, workload: &v1::Workload, columns: &[usize]) -> Row<'static> {
        let last = workload.last.as_ref();
        let of_last =
            |value: &dyn Fn(&v1::Start) -> String| last.map_or_else(|| "-".to_owned(), value);
        let lead = |start: &v1::Start| start.lead_seconds.map_or_else(|| "-".to_owned(), seconds);
        let goes_on = last.is_some_and(|start| !start.over);
        let cells: [String; COLUMNS.len()] = [
            title(workload),
            workload.live.to_string(),
            workload.starts.to_string(),
            of_last(&|start| ago(start.began_ms, self.seen.now_ms)),
            of_last(&lead),
            bytes(workload.profile_bytes),
            of_last(&|start| bytes(start.used)),
            of_last(&|start| bytes(start.late)),
            of_last(&|start| bytes(start.wasted)),
            warmed(workload),
        ];
        let style = if goes_on {
            Style::new().green()
        } else {
            Style::new()
        };
        let cells = columns.iter().map(|&at| Cell::from(cells[at].clone()));
        Row::new(cells).style(style)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(screen: &mut Screen, width: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 8)).expect("a terminal");
        terminal.draw(|frame| screen.draw(frame)).expect("drawn");
        terminal.backend().to_string()
    }

    fn workload(name: &str, began_ms: u64, wasted: u64) -> v1::Workload {
        v1::Workload {
            name: name.to_owned(),
            last: Some(v1::Start {
                began_ms,
                wasted,
                ..v1::Start::default()
            }),
            ..v1::Workload::default()
        }
    }

    fn seen() -> Seen {
        Seen {
            workloads: vec![
                workload("old.service", 100_000, 1 << 20),
                workload("new\x1b.service", 199_000, 0),
            ],
            now_ms: 200_000,
            ..Seen::default()
        }
    }

    fn line_of(text: &str, what: &str) -> usize {
        let found = text.lines().position(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("{what} is not in\n{text}"))
    }

    #[test]
    fn the_newest_start_is_first_until_something_else_is_asked() {
        let mut screen = Screen::new(seen());
        let text = drawn(&mut screen, 120);
        assert!(
            line_of(&text, "new\\x1b.service") < line_of(&text, "old.service"),
            "{text}"
        );
        assert!(
            text.contains("1 s ago") && text.contains("1.0 MiB"),
            "{text}"
        );
        while ORDERS[screen.order].0 != Order::Wasted {
            screen.sort_by_next();
        }
        let text = drawn(&mut screen, 120);
        assert!(
            line_of(&text, "old.service") < line_of(&text, "new\\x1b.service"),
            "{text}"
        );
    }

    #[test]
    fn names_have_room_before_all_else() {
        for width in [30, 60, 80, 100, 140] {
            let text = drawn(&mut Screen::new(seen()), width);
            assert!(text.contains("new\\x1b.service"), "{width}: {text}");
            assert_eq!(text.contains("LAST START"), width >= 60, "{text}");
            assert_eq!(text.contains("WARMED"), width >= 140, "{text}");
        }
    }

    #[test]
    fn a_small_terminal_and_nothing_to_show_are_no_trouble() {
        for width in [1, 20, 80] {
            drawn(&mut Screen::new(Seen::default()), width);
            drawn(&mut Screen::new(seen()), width);
        }
    }
}
