//! Bars in a terminal and in an SVG file.

use std::fmt::Write;

/// One bar: a label, the median, the spread, all in seconds.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) label: &'static str,
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// What stands behind the figure.
    pub(super) note: String,
}

/// Columns of a label, with the blank after it.
const LABEL: usize = 11;
/// Columns of a median, with the blanks around it.
const FIGURE: usize = 10;
/// Columns of the least and the greatest.
const SPREAD: usize = 17;
/// Columns below which a bar gives its spread away.
const NARROW: usize = 16;

/// Bars of block characters, `width` columns at most.
pub(super) fn text(bars: &[Bar], width: usize) -> String {
    let longest = bars.iter().map(|bar| bar.median).fold(0.0, f64::max);
    let note = bars.iter().map(|bar| bar.note.chars().count()).max();
    let left = width.saturating_sub(LABEL + FIGURE + note.unwrap_or(0));
    // In a narrow terminal without the spread.
    let spread = left.saturating_sub(SPREAD) >= NARROW;
    let room = left - if spread { SPREAD } else { 0 };
    let room = room.clamp(4, 60);
    let mut out = String::new();
    for bar in bars {
        let eighths = if longest > 0.0 {
            bar.median / longest * room as f64 * 8.0
        } else {
            0.0
        };
        let eighths = eighths.round() as usize;
        let mut drawn = "█".repeat(eighths / 8);
        if let Some(part) = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"].get(eighths % 8) {
            drawn.push_str(part);
        }
        let pad = " ".repeat(room.saturating_sub(drawn.chars().count()));
        let _ = write!(
            out,
            "{:<10} {drawn}{pad} {:>8}",
            bar.label,
            seconds(bar.median)
        );
        if spread {
            let _ = write!(out, "  {:>7}–{:<7}", seconds(bar.min), seconds(bar.max));
        }
        let _ = writeln!(out, " {}", bar.note);
    }
    out
}

/// The same as a picture of its own, readable on light and dark pages.
pub(super) fn svg(title: &str, bars: &[Bar]) -> String {
    let longest = bars.iter().map(|bar| bar.max).fold(0.0, f64::max).max(1e-9);
    let (left, room, row) = (96.0, 420.0, 34.0);
    let height = 64.0 + row * bars.len() as f64;
    let colours = ["#7a8699", "#d9822b", "#2b95d9", "#2f9e5b"];
    let mut out = String::new();
    let _ = writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height:.0}" font-family="system-ui, sans-serif" font-size="14">
<rect width="760" height="{height:.0}" rx="8" fill="#ffffff"/>
<text x="20" y="30" font-size="16" font-weight="600" fill="#1c2733">{}</text>"##,
        xml(title)
    );
    for (i, bar) in bars.iter().enumerate() {
        let y = 48.0 + row * i as f64;
        let scale = |value: f64| left + value / longest * room;
        let middle = y + 11.0;
        let _ = writeln!(
            out,
            r##"<text x="20" y="{:.1}" fill="#1c2733">{}</text>
<rect x="{left}" y="{y:.1}" width="{:.1}" height="22" rx="3" fill="{}"/>
<path d="M{:.1} {middle:.1}H{:.1}" stroke="#1c2733" stroke-width="1.5"/>
<text x="{:.1}" y="{:.1}" fill="#1c2733">{}  {}</text>"##,
            y + 16.0,
            xml(bar.label),
            (scale(bar.median) - left).max(1.0),
            colours[i % colours.len()],
            scale(bar.min),
            scale(bar.max),
            scale(bar.max) + 10.0,
            y + 16.0,
            seconds(bar.median),
            xml(&bar.note),
        );
    }
    out.push_str("</svg>\n");
    out
}

/// `61 ms`, `4.07 s`.
pub(super) fn seconds(value: f64) -> String {
    if value < 0.0995 {
        format!("{:.1} ms", value * 1e3)
    } else if value < 0.9995 {
        format!("{:.0} ms", value * 1e3)
    } else {
        format!("{value:.2} s")
    }
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars() -> Vec<Bar> {
        let bar = |label, median: f64| Bar {
            label,
            median,
            min: median * 0.9,
            max: median * 1.1,
            note: "<b>".into(),
        };
        vec![bar("cold", 1.0), bar("hot", 0.25)]
    }

    #[test]
    fn the_longest_bar_fills_the_room_and_the_others_keep_their_share() {
        let text = text(&bars(), 81);
        let lengths: Vec<usize> = text.lines().map(|l| l.matches('█').count()).collect();
        assert_eq!(lengths, vec![40, 10]);
    }

    #[test]
    fn lines_fit_the_terminal() {
        for width in 30..120 {
            let text = text(&bars(), width);
            let longest = text
                .lines()
                .map(|line| line.trim_end().chars().count())
                .max();
            assert!(longest <= Some(width), "{width}:\n{text}");
        }
    }

    #[test]
    fn a_picture_escapes_what_it_is_given() {
        let svg = svg("a & b", &bars());
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;b&gt;") && !svg.contains("<b>"));
    }

    #[test]
    fn times_have_three_digits_or_so() {
        assert_eq!(seconds(0.0612), "61.2 ms");
        assert_eq!(seconds(0.4), "400 ms");
        assert_eq!(seconds(4.071), "4.07 s");
    }
}
