//! `headstart profile`: list, show, move, merge and compare profiles.

mod diff;
mod show;
mod transfer;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{anyhow, bail};
use serde_json::json;

use crate::model::{Profile, escape};
use crate::profile::{Access, Entry, Store, check_name, merge};

use super::args::{Global, ProfileArgs, ProfileCommand};
use super::context::open_store;
use super::format::{Align, Table, ago, bytes, count, emit, emit_json};

pub(super) fn run(global: &Global, args: &ProfileArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        ProfileCommand::Ls => ls(global),
        ProfileCommand::Show { name } => show::run(global, name),
        ProfileCommand::Export { name, file } => transfer::export(global, name, file),
        ProfileCommand::Import { file, rename } => {
            transfer::import(global, file, rename.as_deref())
        }
        ProfileCommand::Merge { name, from } => merge_into(global, name, from),
        ProfileCommand::Rm { name } => rm(global, name),
        ProfileCommand::Diff { left, right } => diff::run(global, left, right),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}

/// A name as it is: names were checked when they were given. Should the store
/// hold another all the same, its escaped form.
fn shown(name: &str) -> String {
    match check_name(name) {
        Ok(()) => name.to_owned(),
        Err(_) => escape(name.as_bytes()),
    }
}

fn ls(global: &Global) -> anyhow::Result<()> {
    let store = open_store(global, Access::Read)?;
    let entries = store.list()?;
    if global.json {
        let profiles: Vec<_> = entries.iter().map(entry_json).collect();
        return emit_json(&json!({ "profiles": profiles }));
    }
    if entries.is_empty() {
        let dir = store.path().parent().unwrap_or(store.path());
        return emit(format!(
            "no profiles in {}; `headstart record --profile NAME -- CMD` makes one\n",
            escape(dir.as_os_str().as_encoded_bytes())
        ));
    }
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("RUNS", Align::Right),
        ("FILES", Align::Right),
        ("DATA", Align::Right),
        ("NAMES", Align::Right),
        ("SIZE", Align::Right),
        ("UPDATED", Align::Left),
    ]);
    let now = now_ms();
    for entry in &entries {
        table.row([
            shown(&entry.name),
            entry.runs.to_string(),
            entry.files.to_string(),
            bytes(entry.data_bytes),
            entry.names.to_string(),
            bytes(entry.bytes),
            ago(entry.updated_ms, now),
        ]);
    }
    emit(table.to_string())
}

fn entry_json(entry: &Entry) -> serde_json::Value {
    json!({
        "name": shown(&entry.name),
        "bytes": entry.bytes,
        "runs": entry.runs,
        "files": entry.files,
        "extents": entry.extents,
        "names": entry.names,
        "data_bytes": entry.data_bytes,
        "updated_ms": entry.updated_ms,
    })
}

fn merge_into(global: &Global, name: &str, from: &[String]) -> anyhow::Result<()> {
    check_name(name)?;
    let store = open_store(global, Access::Write)?;
    let mut all = Profile::default();
    for source in from {
        all = merge(&all, &load(&store, source)?);
    }
    let merged = store.merge_into(name, &all)?;
    if global.json {
        return emit_json(&json!({ "name": name, "runs": merged.runs.len(), "from": from }));
    }
    emit(format!(
        "profile `{name}` now has {} and {}\n",
        count(merged.runs.len() as u64, "run"),
        count(merged.files.len() as u64, "file"),
    ))
}

fn rm(global: &Global, name: &str) -> anyhow::Result<()> {
    check_name(name)?;
    // To look first creates no store where there is none.
    let reader = open_store(global, Access::Read)?;
    if reader.get_bytes(name)?.is_none() {
        bail!(missing(&reader, name)?);
    }
    drop(reader);
    let store = open_store(global, Access::Write)?;
    if !store.remove(name)? {
        bail!(missing(&store, name)?);
    }
    if global.json {
        return emit_json(&json!({ "removed": name }));
    }
    emit(format!("removed profile `{name}`\n"))
}

/// A profile that must exist.
fn load(store: &Store, name: &str) -> anyhow::Result<Profile> {
    match store.get(name)? {
        Some(profile) => Ok(profile),
        None => Err(anyhow!(missing(store, name)?)),
    }
}

/// What to say where a profile is not: what is there, and how to make it.
pub(super) fn missing(store: &Store, name: &str) -> anyhow::Result<String> {
    let mut names: Vec<String> = store.list()?.into_iter().map(|e| e.name).collect();
    let dir = store.path().parent().unwrap_or(store.path());
    let mut text = format!(
        "no profile `{}` in {}",
        escape(name.as_bytes()),
        escape(dir.as_os_str().as_encoded_bytes())
    );
    const MOST: usize = 5;
    let total = names.len();
    names.sort_by_cached_key(|known| distance(known, name));
    let near: Vec<String> = names
        .iter()
        .take(MOST)
        .map(|n| format!("`{}`", shown(n)))
        .collect();
    if total == 0 {
        text.push_str(", and no other");
    } else if total > MOST {
        text.push_str(&format!("; nearest of {total}: {}", near.join(", ")));
    } else {
        text.push_str(&format!("; there are: {}", near.join(", ")));
    }
    text.push_str("; `headstart record --profile NAME -- CMD` makes one");
    Ok(text)
}

/// Edit distance, in characters, of two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Opens the store to read and loads one profile.
fn open_profile(global: &Global, name: &str) -> anyhow::Result<Profile> {
    check_name(name)?;
    load(&open_store(global, Access::Read)?, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, expect) in [
            ("", "", 0),
            ("web", "web", 0),
            ("web", "wbe", 2),
            ("größe", "grösse", 2),
            ("", "abc", 3),
        ] {
            assert_eq!(distance(a, b), expect, "{a} {b}");
            assert_eq!(distance(b, a), expect, "{b} {a}");
        }
    }
}
