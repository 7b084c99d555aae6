//! What becomes of the records of a run, counted.

use crate::model::StageCounts;

/// A file whose pages can't be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    NoPath,
    NoMount,
    NotOnDisk,
    Vanished,
}

/// What a run touched that its trace does not hold, and why. Counts of inodes,
/// except where said; how many records that is, the stages tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Gaps {
    /// Their path did not come through.
    pub no_path: u64,
    /// No mount of this namespace shows them.
    pub no_mount: u64,
    /// In memory anyway (tmpfs) or views of the kernel (procfs): not to be warmed.
    pub not_on_disk: u64,
    /// Gone, or another file by now.
    pub vanished: u64,
    /// Names whose base directory is not known, or lies in another root.
    pub names_unresolved: u64,
}

impl Gaps {
    fn count(&mut self, gap: Gap) {
        let count = match gap {
            Gap::NoPath => &mut self.no_path,
            Gap::NoMount => &mut self.no_mount,
            Gap::NotOnDisk => &mut self.not_on_disk,
            Gap::Vanished => &mut self.vanished,
        };
        *count += 1;
    }
}

fn reason(gap: Gap) -> &'static str {
    match gap {
        Gap::NoPath => "no_path",
        Gap::NoMount => "no_mount",
        Gap::NotOnDisk => "not_on_disk",
        Gap::Vanished => "vanished",
    }
}

/// Done by our own process, before the command was there.
const BEFORE: &str = "before";
const PAST_END: &str = "past_end";
const UNRESOLVED: &str = "unresolved";
/// Nothing of the path may be looked at, or can be.
const NOT_LOOKED_UP: &str = "not_looked_up";

/// What went into attribution, by kind of record.
pub(super) struct Tally {
    pub(super) gaps: Gaps,
    pages: StageCounts,
    names: StageCounts,
    blocks: StageCounts,
}

impl Tally {
    /// Of so many records of pages, names and blocks.
    pub(super) fn of(pages: u64, names: u64, blocks: u64) -> Self {
        let stage = |name, seen, reasons: &[&'static str]| {
            let mut stage = StageCounts::new(name, "records");
            stage.seen = seen;
            for reason in reasons {
                stage.filter(reason, 0);
            }
            stage
        };
        let [no_path, no_mount, not_on_disk, vanished] =
            [Gap::NoPath, Gap::NoMount, Gap::NotOnDisk, Gap::Vanished].map(reason);
        let of_pages = [BEFORE, PAST_END, no_path, no_mount, not_on_disk, vanished];
        Self {
            gaps: Gaps::default(),
            pages: stage("pages", pages, &of_pages),
            names: stage("names", names, &[BEFORE, UNRESOLVED, NOT_LOOKED_UP]),
            blocks: stage("blocks", blocks, &[BEFORE, no_mount]),
        }
    }

    /// Of one file's `records`, the command made `during`; of those this many
    /// hold pages of the file, or none can be told of.
    pub(super) fn file(&mut self, records: u64, during: u64, held: Result<u64, Gap>) {
        self.pages.filter(BEFORE, records - during);
        match held {
            Ok(held) => {
                self.pages.out += held;
                self.pages.filter(PAST_END, during - held);
            }
            Err(gap) => {
                self.gaps.count(gap);
                self.pages.filter(reason(gap), during);
            }
        }
    }

    /// As [`Tally::file`], of the blocks of one device.
    pub(super) fn device(&mut self, records: u64, during: u64, is_mounted: bool) {
        self.blocks.filter(BEFORE, records - during);
        if is_mounted {
            self.blocks.out += during;
        } else {
            self.gaps.count(Gap::NoMount);
            self.blocks.filter(reason(Gap::NoMount), during);
        }
    }

    /// A name from before the command.
    pub(super) fn name_before(&mut self) {
        self.names.filter(BEFORE, 1);
    }

    /// A name whose base is not known.
    pub(super) fn name_unresolved(&mut self) {
        self.gaps.names_unresolved += 1;
        self.names.filter(UNRESOLVED, 1);
    }

    /// A name of which something could be looked up, or nothing.
    pub(super) fn name_walked(&mut self, is_found: bool) {
        if is_found {
            self.names.out += 1;
        } else {
            self.names.filter(NOT_LOOKED_UP, 1);
        }
    }

    /// The stages.
    pub(super) fn into_stages(self) -> [StageCounts; 3] {
        [self.pages, self.names, self.blocks]
    }
}
