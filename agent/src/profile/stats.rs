//! Sums over a profile.

use super::ExactRuns;
use crate::model::{Extent, NameKind, PAGE_SIZE, Profile, ProfileFile};

/// The extents of a file that lie within its newest version. Merging keeps
/// those past its end (see [`merge`](mod@super::merge)); nothing can be read there.
pub fn within_version(file: &ProfileFile) -> impl Iterator<Item = Extent> + '_ {
    let end = file.version.size.div_ceil(PAGE_SIZE);
    file.extents.iter().filter_map(move |extent| {
        let pages = end.saturating_sub(extent.start_page);
        let pages = u32::try_from(pages).unwrap_or(u32::MAX).min(extent.pages);
        (pages > 0).then_some(Extent { pages, ..*extent })
    })
}

/// What a profile adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files.
    pub files: u64,
    /// Extents of files, those left out that lie past the end of the newest version
    /// or that an exact run rules out.
    pub extents: u64,
    /// Bytes of pages that some run certainly used.
    pub certain_bytes: u64,
    /// Bytes of pages that runs only maybe used, and no exact run rules out.
    pub maybe_bytes: u64,
    /// Names.
    pub names: u64,
    /// Of `names`: regular files and the like.
    pub name_files: u64,
    /// Of `names`: directories.
    pub name_directories: u64,
    /// Of `name_directories`: those listed.
    pub name_listed: u64,
    /// Of `names`: symbolic links.
    pub name_symlinks: u64,
    /// Of `names`: failed look-ups.
    pub name_missing: u64,
    /// Bytes of metadata blocks.
    pub block_bytes: u64,
}

impl Totals {
    /// Adds up `profile`.
    pub fn of(profile: &Profile) -> Totals {
        let mut totals = Totals {
            files: profile.files.len() as u64,
            names: profile.names.len() as u64,
            ..Totals::default()
        };
        let exact = ExactRuns::of(profile);
        for extent in profile.files.iter().flat_map(|f| exact.standing(f)) {
            totals.extents += 1;
            let bytes = u64::from(extent.pages) * PAGE_SIZE;
            let sum = match extent.certain {
                0 => &mut totals.maybe_bytes,
                _ => &mut totals.certain_bytes,
            };
            *sum = sum.saturating_add(bytes);
        }
        for name in &profile.names {
            match name.kind {
                NameKind::File => totals.name_files += 1,
                NameKind::Directory => totals.name_directories += 1,
                NameKind::Symlink => totals.name_symlinks += 1,
                NameKind::Missing => totals.name_missing += 1,
            }
            totals.name_listed += u64::from(name.listed);
        }
        for block in &profile.blocks {
            let bytes = u64::from(block.pages) * PAGE_SIZE;
            totals.block_bytes = totals.block_bytes.saturating_add(bytes);
        }
        totals
    }

    /// Bytes of file data, certain and maybe.
    pub fn data_bytes(&self) -> u64 {
        self.certain_bytes.saturating_add(self.maybe_bytes)
    }
}
