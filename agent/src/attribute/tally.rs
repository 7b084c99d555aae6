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

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::collect::{Collector, Origin};
    use super::super::mountinfo::Mount;
    use super::super::resolve::{Attributed, attribute_in};
    use super::*;
    use crate::probe::{Fault, Inode, InodeKey, Name, Record, Touch, What};

    const OURS: u32 = 1;
    const ORIGIN: Origin = Origin {
        time_ns: 100,
        tgid: OURS,
    };
    const DISK: u32 = 7 << 20;
    const MEMORY: u32 = 8 << 20;
    const NOWHERE: u32 = 9 << 20;

    /// Device, inode record's path if there is one, whether the number is right.
    const FILES: [(u32, Option<&[u8]>, bool); 6] = [
        (DISK, Some(b"file"), true),
        (DISK, Some(b"file"), false),
        (DISK, Some(b"gone"), true),
        (DISK, None, true),
        (MEMORY, Some(b"file"), true),
        (NOWHERE, Some(b"file"), true),
    ];

    fn mount(dir: &Path, device: u32, fs_type: &str) -> Mount {
        Mount {
            id: u64::from(device),
            parent: 0,
            device: (device >> 20, 0),
            root: b"/".to_vec(),
            mount_point: dir.as_os_str().as_bytes().to_vec(),
            options: Vec::new(),
            fs_type: fs_type.to_owned(),
            source: Vec::new(),
            super_options: Vec::new(),
        }
    }

    /// Attributes records (what, file, time, ours) of files in `dir`, where there
    /// is `file`, of two pages.
    fn attributed(dir: &Path, records: &[(u8, usize, u64, bool)]) -> Attributed {
        let file = dir.join("file");
        std::fs::write(&file, [1; 5000]).expect("written");
        let ino = std::fs::metadata(&file).expect("there").ino();
        let key = |file: usize| InodeKey {
            address: file as u64,
            ino: ino + u64::from(!FILES[file].2),
            generation: 0,
            dev: FILES[file].0,
        };
        let mut collector = Collector::default();
        for &(what, file, time_ns, ours) in records {
            let inode = key(file);
            let touch = |base_page, pages| Touch {
                inode,
                base_page,
                pages,
            };
            let fault = |start, last| Fault {
                inode,
                start,
                last,
                vpn: None,
            };
            let name = |base: bool, path: &[u8]| Name {
                base: base.then_some(inode),
                path: path.to_vec(),
                result: 0,
            };
            let what = match what {
                0 => What::Touch(touch(0, 0b10)),
                1 => What::Touch(touch(64, 1)),
                2 => What::Fault(fault(1, 16)),
                3 => What::Fault(fault(2, 2)),
                4 => What::Block(touch(0, 1)),
                5 => What::Name(name(true, b"file/x")),
                6 => What::Exec(name(false, b"/proc/self/exe")),
                7 => What::List(name(true, b"")),
                8 => What::List(name(false, b"")),
                _ => match FILES[file].1 {
                    None => continue,
                    Some(path) => What::Inode(Inode {
                        inode,
                        mode: 0,
                        path: path.to_vec(),
                        truncated: false,
                    }),
                },
            };
            collector.sort_in(Record {
                time_ns,
                tgid: OURS + u32::from(!ours),
                cgroup: 0,
                what,
            });
        }
        let mounts = [mount(dir, DISK, "ext4"), mount(dir, MEMORY, "tmpfs")];
        attribute_in(&mounts, &collector, ORIGIN, 16)
    }

    fn stage<'a>(attributed: &'a Attributed, name: &str) -> &'a StageCounts {
        let found = attributed.stages.iter().find(|stage| stage.name == name);
        found.unwrap_or_else(|| panic!("no stage {name}"))
    }

    /// All but the first stage: these records did not come as bytes.
    fn assert_balanced(attributed: &Attributed) {
        let stages = &attributed.stages;
        assert_eq!((stages[0].name, stages[0].seen), ("collect", 0));
        for stage in &stages[1..] {
            assert!(stage.is_balanced(), "{stage:?}");
        }
        let seen = stages[1..].iter().map(|stage| stage.seen);
        assert_eq!(stages[0].out, seen.sum::<u64>());
    }

    #[test]
    fn each_reason_is_counted_record_by_record() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut records: Vec<_> = (0..FILES.len()).map(|file| (9, file, 0, false)).collect();
        records.push((9, 0, 0, false));
        for file in 0..FILES.len() {
            // One before the command, two that hold pages, two past the end.
            records.push((0, file, 99, true));
            records.extend((0..4).map(|what| (what, file, 100, true)));
        }
        records.push((4, 0, 99, true));
        records.push((4, 0, 99, false));
        records.extend([(4, 5, 100, true), (8, 0, 100, true), (6, 0, 100, true)]);
        let attributed = attributed(dir.path(), &records);
        let pages = stage(&attributed, "pages");
        assert_eq!((pages.seen, pages.out, pages.lost), (30, 2, 0));
        let filtered = |name, reason| stage(&attributed, name).filtered[reason];
        assert_eq!(filtered("pages", "before"), 6);
        assert_eq!(filtered("pages", "past_end"), 2);
        assert_eq!(filtered("pages", "vanished"), 8);
        for reason in ["no_path", "not_on_disk", "no_mount"] {
            assert_eq!(filtered("pages", reason), 4, "{reason}");
        }
        assert_eq!(filtered("paths", "known"), 1);
        let blocks = stage(&attributed, "blocks");
        assert_eq!((blocks.seen, blocks.out), (3, 1));
        assert_eq!(filtered("blocks", "no_mount"), 1);
        assert_eq!(filtered("names", "unresolved"), 1);
        assert_eq!(filtered("names", "not_looked_up"), 1);
        let gaps = attributed.gaps;
        assert_eq!((gaps.no_path, gaps.vanished, gaps.no_mount), (1, 2, 2));
        assert_balanced(&attributed);
    }

    proptest! {
        #[test]
        fn any_records_add_up(
            records in proptest::collection::vec((0u8..11, 0usize..FILES.len(), 98u64..102, any::<bool>()), 0..60)
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            assert_balanced(&attributed(dir.path(), &records));
        }
    }
}
