//! `headstart explain`: what was predicted for a workload's last start, and what became
//! of it.

use std::fmt::Write;
use std::process::ExitCode;

use super::args::{ExplainArgs, Global};
use super::ask::{self, shown, title, why_not};
use super::format::{self, Align, Table, ago, bytes, count, seconds};
use crate::api::v1;
use crate::run::now_ms;

const TOP_FILES: usize = 20;

pub(super) fn run(global: &Global, args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let workload = ask::agent(global)?.explain(&args.workload)?;
    if global.json {
        format::emit_json(&workload)?;
    } else {
        format::emit(text(&workload, global.verbose > 0, now_ms()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(workload: &v1::Workload, all: bool, now: u64) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = write_text(&mut out, workload, all, now);
    out
}

fn write_text(out: &mut String, workload: &v1::Workload, all: bool, now: u64) -> std::fmt::Result {
    writeln!(out, "{}, a {}", title(workload), shown(&workload.kind))?;
    writeln!(out, "  key         {}", shown(&workload.key))?;
    if !workload.image.is_empty() {
        writeln!(out, "  image       {}", shown(&workload.image))?;
    }
    if !workload.also.is_empty() {
        let also: Vec<String> = workload.also.iter().map(|name| shown(name)).collect();
        writeln!(out, "  ran as      {}", also.join(", "))?;
    }
    let data = bytes(workload.profile_bytes);
    writeln!(
        out,
        "  profile     {}, {data} of file data",
        count(workload.runs, "run")
    )?;
    match why_not(workload) {
        None => writeln!(out, "  is warmed   before or beside its next start")?,
        Some(reason) => writeln!(out, "  not warmed  {reason}")?,
    }
    let live = count(workload.live, "cgroup");
    match workload.seen {
        true => writeln!(out, "  starts      {}, {live} now", workload.starts)?,
        false => writeln!(out, "  starts      none was seen since the agent started")?,
    }
    match &workload.last {
        None => writeln!(out, "\nNo start was seen yet."),
        Some(start) => {
            write_start(out, start, now)?;
            write_files(out, &start.files, all)
        }
    }
}

fn write_start(out: &mut String, start: &v1::Start, now: u64) -> std::fmt::Result {
    let state = match start.not_learned.as_str() {
        _ if !start.over => "not over: what follows is not final".to_owned(),
        "" => format!("learned for {}", seconds(start.seconds)),
        why => format!("not learned: {}", shown(why).replace('_', " ")),
    };
    let known_by = match start.signal.as_str() {
        "" => String::new(),
        signal => format!("known by {}, ", shown(signal)),
    };
    let when = ago(start.began_ms, now);
    writeln!(out, "\nLast start, {when}, {known_by}{state}")?;
    let lead = start.lead_seconds.map_or_else(
        || "no file on disk was touched yet".to_owned(),
        |lead| format!("{} from the signal to the first touch", seconds(lead)),
    );
    writeln!(out, "  lead        {lead}")?;
    if let Some(delay) = start.warm_delay_seconds {
        // What several starts share may have begun before this one.
        let side = if delay < 0.0 { "before" } else { "after" };
        writeln!(
            out,
            "  warming     began {} {side} the signal and took {}; {} looked up",
            seconds(delay.abs()),
            seconds(start.warm_seconds),
            count(start.names_warmed, "name"),
        )?;
    }
    let planned = start.planned;
    writeln!(out, "  predicted   {:>10}", bytes(planned))?;
    let there = start.resident_before;
    writeln!(
        out,
        "  was there   {:>10}{}",
        bytes(there),
        share(there, planned)
    )?;
    writeln!(
        out,
        "  warmed      {:>10}{}",
        bytes(start.read),
        share(start.read, planned)
    )?;
    if start.joined > 0 {
        writeln!(
            out,
            "  shared      {:>10}{:7}  one plan for several starts; told of the first",
            bytes(start.joined),
            share(start.joined, planned)
        )?;
    }
    let mut late = "used, but not there before".to_owned();
    if start.on_the_way > 0 {
        late += &format!("; {} of it on the way", bytes(start.on_the_way));
    }
    let outcomes = [
        ("used", start.used, "there before the start first used it"),
        ("late", start.late, &late),
        ("wasted", start.wasted, "not used"),
        (
            "unknown",
            start.unknown,
            "not read, or the start was not seen",
        ),
    ];
    for (name, n, meaning) in outcomes {
        let share = share(n, planned);
        writeln!(out, "  {name:<10}  {:>10}{share:7}  {meaning}", bytes(n))?;
    }
    writeln!(
        out,
        "  missed      {:>10}         used, and not planned (what readahead is left to do, too)",
        bytes(start.missed)
    )
}

/// `  42 %`; nothing of nothing.
fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    format!("  {:>3.0} %", 100.0 * part as f64 / whole as f64)
}

fn write_files(out: &mut String, files: &[v1::File], all: bool) -> std::fmt::Result {
    let mut table = Table::new(&[
        ("PREDICTED", Align::Right),
        ("USED", Align::Right),
        ("LATE", Align::Right),
        ("WASTED", Align::Right),
        ("UNKNOWN", Align::Right),
        ("FILE", Align::Left),
        ("VOLUME", Align::Left),
    ]);
    let limit = if all { files.len() } else { TOP_FILES };
    for file in files.iter().take(limit) {
        table.row([
            bytes(file.planned),
            bytes(file.used),
            bytes(file.late),
            bytes(file.wasted),
            bytes(file.unknown),
            // Escaped where it was made: once more would double its backslashes.
            safe(&file.path),
            shown(&file.volume),
        ]);
    }
    if table.is_empty() {
        return Ok(());
    }
    write!(out, "\n{table}")?;
    let hidden = files.len().saturating_sub(limit);
    if hidden > 0 {
        writeln!(
            out,
            "and {}; -v shows all",
            count(hidden as u64, "more file")
        )?;
    }
    Ok(())
}

/// Text that was escaped; if it was not after all, it is now.
fn safe(escaped: &str) -> String {
    let raw = shown(escaped);
    if raw.replace("\\\\", "\\") == escaped {
        escaped.to_owned()
    } else {
        raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> v1::Workload {
        v1::Workload {
            key: "unit:web.service".to_owned(),
            kind: "unit".to_owned(),
            name: "web.service".to_owned(),
            runs: 3,
            profile_bytes: 1 << 20,
            starts: 2,
            ..v1::Workload::default()
        }
    }

    #[test]
    fn before_the_first_start_it_says_so() {
        let mut workload = workload();
        workload.not_warmed = "no_gain".to_owned();
        let text = text(&workload, false, 0);
        assert!(
            text.contains("not warmed  its last starts gained nothing"),
            "{text}"
        );
        assert!(text.ends_with("No start was seen yet.\n"), "{text}");
    }

    #[test]
    fn a_start_of_which_nothing_was_learned_says_why() {
        let mut workload = workload();
        workload.also = vec!["quiet\nhill".to_owned()];
        workload.last = Some(v1::Start {
            over: true,
            seconds: 3.0,
            not_learned: "touched_nothing".to_owned(),
            ..v1::Start::default()
        });
        let text = text(&workload, false, 0);
        assert!(text.contains("not learned: touched nothing\n"), "{text}");
        assert!(!text.contains("learned for"), "{text}");
        assert!(text.contains("ran as      quiet\\x0ahill\n"), "{text}");
    }

    #[test]
    fn outcomes_have_their_share_and_files_follow() {
        let mut workload = workload();
        let file = |n: usize| v1::File {
            path: format!("lib/{n}\\x0a"),
            planned: 4096,
            used: 4096,
            ..v1::File::default()
        };
        workload.last = Some(v1::Start {
            over: true,
            signal: "cgroup".to_owned(),
            lead_seconds: Some(0.5),
            warm_delay_seconds: Some(0.001),
            planned: 8192,
            read: 4096,
            used: 6144,
            wasted: 2048,
            files: (0..30).map(file).collect(),
            ..v1::Start::default()
        });
        let short = text(&workload, false, 0);
        for present in [
            "is warmed   before or beside its next start",
            "500 ms from the signal to the first touch",
            "predicted      8.0 KiB\n",
            "used           6.0 KiB   75 %  there before",
            "wasted         2.0 KiB   25 %  not used",
            "lib/19\\x0a",
            "and 10 more files; -v shows all",
        ] {
            assert!(short.contains(present), "{present} is not in {short}");
        }
        assert!(!short.contains("lib/20"), "{short}");
        assert!(text(&workload, true, 0).contains("lib/29"));
    }

    #[test]
    fn a_plan_that_was_shared_says_so() {
        let mut workload = workload();
        workload.last = Some(v1::Start {
            warm_delay_seconds: Some(-0.25),
            planned: 8192,
            joined: 8192,
            used: 8192,
            ..v1::Start::default()
        });
        let text = text(&workload, false, 0);
        for present in [
            "began 250 ms before the signal",
            "shared         8.0 KiB  100 %  one plan for several starts",
            "used           8.0 KiB  100 %  there before",
        ] {
            assert!(text.contains(present), "{present} is not in {text}");
        }
    }

    #[test]
    fn what_should_have_been_escaped_is() {
        assert_eq!(safe("a\\x0a/b\\\\c"), "a\\x0a/b\\\\c");
        assert_eq!(safe("a\x1b"), "a\\x1b");
    }
}
