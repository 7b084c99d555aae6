//! `headstart profile show`: what a profile holds.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::model::{Extent, PAGE_SIZE, Profile, ProfileFile, escape};
use crate::profile::{ExactRuns, Totals};

use super::super::args::Global;
use super::super::format::{Align, Table, ago, bytes, count, emit, emit_json, seconds};
use super::{now_ms, open_profile};

const TOP_DIRECTORIES: usize = 10;
const TOP_FILES: usize = 20;

pub(super) fn run(global: &Global, name: &str) -> anyhow::Result<()> {
    let profile = open_profile(global, name)?;
    let view = View::new(&profile);
    if global.json {
        return emit_json(&view.json(name, global.verbose > 0));
    }
    emit(view.text(name, global.verbose > 0, now_ms()))
}

/// One file, added up.
struct FileSum<'a> {
    file: &'a ProfileFile,
    certain: u64,
    maybe: u64,
    first_use_ns: u64,
    extents: Vec<Extent>,
}

impl FileSum<'_> {
    fn bytes(&self) -> u64 {
        self.certain.saturating_add(self.maybe)
    }
}

struct View<'a> {
    profile: &'a Profile,
    totals: Totals,
    /// By bytes, the most first.
    files: Vec<FileSum<'a>>,
    /// Path and bytes, the most first.
    directories: Vec<(String, u64)>,
    volume_bytes: Vec<u64>,
}

/// Absolute, as when recorded, escaped.
pub(super) fn place(profile: &Profile, volume: u32, path: &crate::model::RelPath) -> String {
    match profile.volumes.get(volume as usize) {
        Some(volume) => escape(&volume.absolute(path)),
        None => path.to_string(),
    }
}

fn sum<'a>(exact: &ExactRuns, file: &'a ProfileFile) -> FileSum<'a> {
    let mut extents: Vec<Extent> = exact.standing(file).collect();
    extents.sort_by_key(|e| (e.first_use_ns, e.start_page));
    let total = |certain: bool| {
        let of_kind = extents.iter().filter(|e| (e.certain != 0) == certain);
        let lengths = of_kind.map(|e| u64::from(e.pages) * PAGE_SIZE);
        lengths.fold(0, u64::saturating_add)
    };
    FileSum {
        file,
        certain: total(true),
        maybe: total(false),
        first_use_ns: extents.first().map_or(0, |e| e.first_use_ns),
        extents,
    }
}

impl<'a> View<'a> {
    fn new(profile: &'a Profile) -> Self {
        let exact = ExactRuns::of(profile);
        let mut files: Vec<FileSum<'_>> = profile.files.iter().map(|f| sum(&exact, f)).collect();
        let mut directories: HashMap<(u32, Vec<u8>), u64> = HashMap::new();
        let mut volume_bytes = vec![0; profile.volumes.len()];
        for file in &files {
            let parent = file.file.path.parent().unwrap_or_default();
            let key = (file.file.volume, parent.as_bytes().to_vec());
            let sum = directories.entry(key).or_default();
            *sum = file.bytes().saturating_add(*sum);
            if let Some(sum) = volume_bytes.get_mut(file.file.volume as usize) {
                *sum = file.bytes().saturating_add(*sum);
            }
        }
        let named = |((volume, path), bytes): ((u32, Vec<u8>), u64)| {
            let path = crate::model::RelPath::new(path).unwrap_or_default();
            (place(profile, volume, &path), bytes)
        };
        let mut directories: Vec<(String, u64)> = directories.into_iter().map(named).collect();
        directories.sort_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
        files.sort_by_key(|f| Reverse(f.bytes()));
        View {
            profile,
            totals: Totals::of(profile),
            files,
            directories,
            volume_bytes,
        }
    }

    fn text(&self, name: &str, all: bool, now: u64) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = self.write_text(&mut out, name, all, now);
        out
    }

    fn write_text(&self, out: &mut String, name: &str, all: bool, now: u64) -> std::fmt::Result {
        let (profile, totals) = (self.profile, &self.totals);
        writeln!(out, "profile {name}")?;
        let newest = profile.runs.last();
        let when = newest.map_or(String::new(), |run| {
            let window = seconds(run.duration_ns as f64 / 1e9);
            format!(
                ", the newest {}, {window} recorded",
                ago(run.started_ms, now)
            )
        });
        let exact = match profile.runs.iter().filter(|run| run.exact).count() {
            0 => String::new(),
            exact => format!(", {exact} of them page by page"),
        };
        let blind = match profile.runs.iter().filter(|run| run.blind_ns > 0).count() {
            0 => String::new(),
            blind => format!(", {blind} joined late"),
        };
        writeln!(
            out,
            "  runs      {}{exact}{blind}{when}",
            profile.runs.len()
        )?;
        let data = bytes(totals.data_bytes());
        let (certain, maybe) = (bytes(totals.certain_bytes), bytes(totals.maybe_bytes));
        writeln!(out, "  data      {data}: {certain} certain, {maybe} maybe")?;
        writeln!(
            out,
            "  files     {}, in {}",
            totals.files,
            count(totals.extents, "extent")
        )?;
        writeln!(
            out,
            "  names     {}: {} files, {} directories ({} listed), {} links, {} missing",
            totals.names,
            totals.name_files,
            totals.name_directories,
            totals.name_listed,
            totals.name_symlinks,
            totals.name_missing,
        )?;
        let blocks = count(profile.blocks.len() as u64, "extent");
        writeln!(out, "  metadata  {} in {blocks}", bytes(totals.block_bytes))?;

        let mut volumes = Table::new(&[
            ("VOLUME", Align::Left),
            ("TYPE", Align::Left),
            ("MOUNTED AT", Align::Left),
            ("DATA", Align::Right),
        ]);
        for (volume, sum) in profile.volumes.iter().zip(&self.volume_bytes) {
            volumes.row([
                escape(volume.id.0.as_bytes()),
                escape(volume.fs_type.as_bytes()),
                escape(&volume.mount_point),
                bytes(*sum),
            ]);
        }
        let mut directories = Table::new(&[("DATA", Align::Right), ("DIRECTORY", Align::Left)]);
        for (path, sum) in self.directories.iter().take(TOP_DIRECTORIES) {
            directories.row([bytes(*sum), path.clone()]);
        }
        for table in [volumes, directories] {
            if !table.is_empty() {
                write!(out, "\n{table}")?;
            }
        }
        self.write_files(out, all)
    }

    fn write_files(&self, out: &mut String, all: bool) -> std::fmt::Result {
        let shown = if all { self.files.len() } else { TOP_FILES };
        let mut table = Table::new(&[
            ("CERTAIN", Align::Right),
            ("MAYBE", Align::Right),
            ("EXTENTS", Align::Right),
            ("FIRST USE", Align::Right),
            ("FILE", Align::Left),
        ]);
        for sum in self.files.iter().take(shown) {
            table.row([
                bytes(sum.certain),
                bytes(sum.maybe),
                sum.extents.len().to_string(),
                seconds(sum.first_use_ns as f64 / 1e9),
                place(self.profile, sum.file.volume, &sum.file.path),
            ]);
        }
        if table.is_empty() {
            return Ok(());
        }
        write!(out, "\n{table}")?;
        let hidden = self.files.len().saturating_sub(shown);
        if hidden > 0 {
            writeln!(
                out,
                "and {}; -v shows all, and their extents",
                count(hidden as u64, "more file")
            )?;
        }
        if !all {
            return Ok(());
        }
        for sum in &self.files {
            let path = place(self.profile, sum.file.volume, &sum.file.path);
            writeln!(out, "\n{path}")?;
            let mut table = Table::new(&[
                ("FIRST USE", Align::Right),
                ("OFFSET", Align::Right),
                ("LENGTH", Align::Right),
                ("CERTAIN", Align::Right),
                ("SEEN", Align::Right),
            ])
            .indent(2);
            for e in &sum.extents {
                table.row([
                    seconds(e.first_use_ns as f64 / 1e9),
                    (e.start_page * PAGE_SIZE).to_string(),
                    bytes(u64::from(e.pages) * PAGE_SIZE),
                    format!("{} of {}", e.certain.count_ones(), self.profile.runs.len()),
                    format!("{} of {}", e.seen.count_ones(), self.profile.runs.len()),
                ]);
            }
            write!(out, "{table}")?;
        }
        Ok(())
    }

    fn json(&self, name: &str, extents: bool) -> Value {
        let (profile, totals) = (self.profile, &self.totals);
        let runs: Vec<Value> = profile
            .runs
            .iter()
            .map(|run| {
                json!({
                    // As text: JSON readers keep 53 bits of a number.
                    "id": format!("{:016x}", run.id),
                    "started_ms": run.started_ms,
                    "duration_ns": run.duration_ns,
                    "exact": run.exact,
                    "blind_ns": run.blind_ns,
                })
            })
            .collect();
        let volumes: Vec<Value> = profile
            .volumes
            .iter()
            .zip(&self.volume_bytes)
            .map(|(volume, sum)| {
                json!({
                    "id": escape(volume.id.0.as_bytes()),
                    "fs_type": escape(volume.fs_type.as_bytes()),
                    "mount_point": escape(&volume.mount_point),
                    "data_bytes": sum,
                })
            })
            .collect();
        let directories: Vec<Value> = self
            .directories
            .iter()
            .map(|(path, sum)| json!({ "path": path, "data_bytes": sum }))
            .collect();
        let files: Vec<Value> = self
            .files
            .iter()
            .map(|sum| self.file_json(sum, extents))
            .collect();
        json!({
            "name": name,
            "runs": runs,
            "totals": {
                "files": totals.files,
                "extents": totals.extents,
                "data_bytes": totals.data_bytes(),
                "certain_bytes": totals.certain_bytes,
                "maybe_bytes": totals.maybe_bytes,
                "names": totals.names,
                "name_files": totals.name_files,
                "name_directories": totals.name_directories,
                "name_listed": totals.name_listed,
                "name_symlinks": totals.name_symlinks,
                "name_missing": totals.name_missing,
                "block_bytes": totals.block_bytes,
            },
            "volumes": volumes,
            "directories": directories,
            "files": files,
        })
    }

    fn file_json(&self, sum: &FileSum<'_>, extents: bool) -> Value {
        let volume = self.profile.volumes.get(sum.file.volume as usize);
        let mut file = json!({
            "volume": volume.map(|v| escape(v.id.0.as_bytes())),
            "path": sum.file.path.to_string(),
            "size_bytes": sum.file.version.size,
            "mtime_ns": sum.file.version.mtime_ns,
            "certain_bytes": sum.certain,
            "maybe_bytes": sum.maybe,
            "first_use_ns": sum.first_use_ns,
            "extent_count": sum.extents.len(),
        });
        if extents {
            let extents = sum.extents.iter().map(|e| {
                json!({
                    "offset_bytes": e.start_page * PAGE_SIZE,
                    "length_bytes": u64::from(e.pages) * PAGE_SIZE,
                    "first_use_ns": e.first_use_ns,
                    "certain_runs": e.certain.count_ones(),
                    "seen_runs": e.seen.count_ones(),
                })
            });
            file["extents"] = extents.collect();
        }
        file
    }
}
