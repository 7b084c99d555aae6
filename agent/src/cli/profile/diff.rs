//! `headstart profile diff`: what two profiles do not share.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::model::{Extent, NameKind, PAGE_SIZE, Profile, ProfileFile, escape};
use crate::profile::ExactRuns;

use super::super::args::Global;
use super::super::format::{Align, Table, bytes, emit, emit_json};
use super::open_profile;
use super::show::place;

const MOST: usize = 20;

pub(super) fn run(global: &Global, left: &str, right: &str) -> anyhow::Result<()> {
    let (a, b) = (open_profile(global, left)?, open_profile(global, right)?);
    let diff = Diff::new(&a, &b);
    if global.json {
        return emit_json(&diff.json(left, right));
    }
    let most = if global.verbose > 0 { usize::MAX } else { MOST };
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = diff.write_text(&mut out, left, right, most);
    emit(out)
}

/// Bytes of one file that one, the other or both profiles have.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Bytes {
    left: u64,
    right: u64,
    both: u64,
}

impl Bytes {
    // Saturating: a profile from elsewhere may claim more than there can be.
    fn plus(self, other: Bytes) -> Bytes {
        Bytes {
            left: self.left.saturating_add(other.left),
            right: self.right.saturating_add(other.right),
            both: self.both.saturating_add(other.both),
        }
    }

    fn differing(self) -> u64 {
        self.left.saturating_add(self.right)
    }
}

struct FileDiff {
    path: String,
    in_left: bool,
    in_right: bool,
    version_differs: bool,
    bytes: Bytes,
}

struct NameDiff {
    path: String,
    left: Option<NameKind>,
    right: Option<NameKind>,
}

struct Diff {
    /// Those that differ, by how much.
    files: Vec<FileDiff>,
    names: Vec<NameDiff>,
    total: Bytes,
    same_files: u64,
    same_names: u64,
}

/// What identifies a file or name in both: volume's id and path.
type Key = (String, Vec<u8>);

fn key(profile: &Profile, volume: u32, path: &crate::model::RelPath) -> Key {
    let id = profile.volumes.get(volume as usize).map(|v| v.id.0.clone());
    (id.unwrap_or_default(), path.as_bytes().to_vec())
}

/// By key, what each side has, and the path as it is shown.
fn pair<'a, T>(
    left: impl Iterator<Item = (Key, String, &'a T)>,
    right: impl Iterator<Item = (Key, String, &'a T)>,
) -> Vec<(String, Option<&'a T>, Option<&'a T>)> {
    let mut all: BTreeMap<Key, (String, Option<&T>, Option<&T>)> = BTreeMap::new();
    for (key, path, item) in left {
        all.insert(key, (path, Some(item), None));
    }
    for (key, path, item) in right {
        all.entry(key).or_insert((path, None, None)).2 = Some(item);
    }
    all.into_values().collect()
}

fn files(p: &Profile) -> impl Iterator<Item = (Key, String, &ProfileFile)> {
    p.files
        .iter()
        .map(|f| (key(p, f.volume, &f.path), place(p, f.volume, &f.path), f))
}

fn names(p: &Profile) -> impl Iterator<Item = (Key, String, &crate::model::NameRecord)> {
    p.names
        .iter()
        .map(|n| (key(p, n.volume, &n.path), place(p, n.volume, &n.path), n))
}

impl Diff {
    fn new(a: &Profile, b: &Profile) -> Diff {
        let mut diff = Diff {
            files: Vec::new(),
            names: Vec::new(),
            total: Bytes::default(),
            same_files: 0,
            same_names: 0,
        };
        let (exact_a, exact_b) = (ExactRuns::of(a), ExactRuns::of(b));
        for (path, left, right) in pair(files(a), files(b)) {
            let extents = |exact: &ExactRuns, file: Option<&ProfileFile>| -> Vec<Extent> {
                file.map(|f| exact.standing(f).collect())
                    .unwrap_or_default()
            };
            let bytes = compare(&extents(&exact_a, left), &extents(&exact_b, right));
            diff.total = diff.total.plus(bytes);
            let version = |file: Option<&ProfileFile>| file.map(|f| f.version);
            let version_differs =
                left.is_some() && right.is_some() && version(left) != version(right);
            let (in_left, in_right) = (left.is_some(), right.is_some());
            if in_left && in_right && !version_differs && bytes.differing() == 0 {
                diff.same_files += 1;
                continue;
            }
            diff.files.push(FileDiff {
                path,
                in_left,
                in_right,
                version_differs,
                bytes,
            });
        }
        diff.files.sort_by_key(|f| Reverse(f.bytes.differing()));
        for (path, left, right) in pair(names(a), names(b)) {
            let (left, right) = (left.map(|n| n.kind), right.map(|n| n.kind));
            if left == right {
                diff.same_names += 1;
            } else {
                diff.names.push(NameDiff { path, left, right });
            }
        }
        diff
    }

    fn write_text(
        &self,
        out: &mut String,
        left: &str,
        right: &str,
        most: usize,
    ) -> std::fmt::Result {
        let only = |left: bool, right: bool| {
            let side = |f: &&FileDiff| f.in_left == left && f.in_right == right;
            self.files.iter().filter(side).count()
        };
        let names = |left: bool, right: bool| {
            let side = |n: &&NameDiff| n.left.is_some() == left && n.right.is_some() == right;
            self.names.iter().filter(side).count()
        };
        let mut table = Table::new(&[
            ("", Align::Left),
            ("DATA", Align::Right),
            ("FILES", Align::Right),
            ("NAMES", Align::Right),
        ]);
        let mut row = |what: String, data: u64, files: usize, names: usize| {
            table.row([what, bytes(data), files.to_string(), names.to_string()]);
        };
        row(
            format!("only in {left}"),
            self.total.left,
            only(true, false),
            names(true, false),
        );
        row(
            format!("only in {right}"),
            self.total.right,
            only(false, true),
            names(false, true),
        );
        let (files, names) = (only(true, true), names(true, true));
        row(
            "in both".to_owned(),
            self.total.both,
            self.same_files as usize + files,
            self.same_names as usize + names,
        );
        table.row([
            "  but different".to_owned(),
            String::new(),
            files.to_string(),
            names.to_string(),
        ]);
        write!(out, "{table}")?;

        let mut files = Table::new(&[
            ("-", Align::Right),
            ("+", Align::Right),
            ("BOTH", Align::Right),
            ("", Align::Left),
            ("FILE", Align::Left),
        ]);
        for file in self.files.iter().take(most) {
            files.row([
                bytes(file.bytes.left),
                bytes(file.bytes.right),
                bytes(file.bytes.both),
                match (file.in_left, file.in_right) {
                    (true, false) => "-",
                    (false, true) => "+",
                    _ if file.version_differs => "changed",
                    _ => "",
                }
                .to_owned(),
                file.path.clone(),
            ]);
        }
        if !files.is_empty() {
            write!(out, "\n{files}")?;
        }
        let mut table = Table::new(&[
            ("-", Align::Left),
            ("+", Align::Left),
            ("NAME", Align::Left),
        ]);
        let kind = |kind: Option<NameKind>| kind.map_or("", kind_text).to_owned();
        for name in self.names.iter().take(most) {
            table.row([kind(name.left), kind(name.right), name.path.clone()]);
        }
        if !table.is_empty() {
            write!(out, "\n{table}")?;
        }
        let hidden = self.files.len().saturating_sub(most) + self.names.len().saturating_sub(most);
        if hidden > 0 {
            writeln!(out, "and {hidden} more; -v shows all")?;
        }
        Ok(())
    }

    fn json(&self, left: &str, right: &str) -> Value {
        let files: Vec<Value> = self
            .files
            .iter()
            .map(|f| {
                json!({
                    "path": f.path,
                    "in_left": f.in_left,
                    "in_right": f.in_right,
                    "version_differs": f.version_differs,
                    "left_bytes": f.bytes.left,
                    "right_bytes": f.bytes.right,
                    "common_bytes": f.bytes.both,
                })
            })
            .collect();
        let names: Vec<Value> = self
            .names
            .iter()
            .map(|n| {
                json!({ "path": n.path, "left": n.left.map(kind_text), "right": n.right.map(kind_text) })
            })
            .collect();
        json!({
            "left": escape(left.as_bytes()),
            "right": escape(right.as_bytes()),
            "left_bytes": self.total.left,
            "right_bytes": self.total.right,
            "common_bytes": self.total.both,
            "equal_files": self.same_files,
            "equal_names": self.same_names,
            "files": files,
            "names": names,
        })
    }
}

fn kind_text(kind: NameKind) -> &'static str {
    match kind {
        NameKind::File => "file",
        NameKind::Directory => "directory",
        NameKind::Symlink => "symlink",
        NameKind::Missing => "missing",
    }
}

/// Compares two sorted, disjoint lists of extents page by page.
fn compare(left: &[Extent], right: &[Extent]) -> Bytes {
    let pages = |extents: &[Extent]| extents.iter().map(|e| u64::from(e.pages)).sum::<u64>();
    let end = |e: &Extent| e.start_page + u64::from(e.pages);
    let (mut i, mut j, mut both) = (0, 0, 0);
    while let (Some(a), Some(b)) = (left.get(i), right.get(j)) {
        let overlap = end(a)
            .min(end(b))
            .saturating_sub(a.start_page.max(b.start_page));
        both += overlap;
        if end(a) <= end(b) {
            i += 1;
        } else {
            j += 1;
        }
    }
    Bytes {
        left: (pages(left) - both).saturating_mul(PAGE_SIZE),
        right: (pages(right) - both).saturating_mul(PAGE_SIZE),
        both: both.saturating_mul(PAGE_SIZE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_compared_by_page() {
        let extent = |start_page, pages| Extent {
            start_page,
            pages,
            first_use_ns: 0,
            certain: 0,
            seen: 1,
        };
        let left = [extent(0, 4), extent(10, 2), extent(20, 5)];
        let right = [extent(2, 9), extent(21, 1)];
        let expect = Bytes {
            left: 7 * PAGE_SIZE,
            right: 6 * PAGE_SIZE,
            both: 4 * PAGE_SIZE,
        };
        assert_eq!(compare(&left, &right), expect);
        assert_eq!(
            compare(&left, &left),
            Bytes {
                left: 0,
                right: 0,
                both: 11 * PAGE_SIZE
            }
        );
    }
}
