//! What becomes of the records of a run, counted.

use crate::model::StageCounts;

/// A file whose pages can't be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    NoPath,
    PathTooLong,
    NoMount,
    NotOnDisk,
    Vanished,
}

/// How far the walk along a name came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walked {
    /// Something of it could be looked up.
    Found,
    /// Nothing of it may be looked at, or can be.
    NotLookedUp,
    /// To where its path became longer than a system call takes.
    TooLong,
}

/// What a run touched that its trace does not hold, and why. Counts of inodes,
/// except where said; how many records that is, the stages tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Gaps {
    /// Their path did not come through: the kernel has no name of them in memory, or
    /// its record was lost.
    pub no_path: u64,
    /// Their path did not come through whole: below their filesystem's root it has
    /// more than 63 components or more than 3,840 bytes. Or it did, and is longer
    /// than a system call takes with the mount point before it.
    pub path_too_long: u64,
    /// No mount of this namespace shows them.
    pub no_mount: u64,
    /// In memory anyway (tmpfs) or views of the kernel (procfs): not to be warmed.
    pub not_on_disk: u64,
    /// Gone, or another file by now.
    pub vanished: u64,
    /// Names whose base directory is not known, has too long a path itself, or lies
    /// in another root, and names whose absolute path is longer than a system call
    /// takes (4,095 bytes).
    pub names_unresolved: u64,
    /// Names on ext2, ext3 or ext4 whose metadata blocks are not known: the block device
    /// can't be opened or read, or it does not hold what it should. Looking them up warms them.
    pub names_without_blocks: u64,
}

impl Gaps {
    fn count(&mut self, gap: Gap) {
        let count = match gap {
            Gap::NoPath => &mut self.no_path,
            Gap::PathTooLong => &mut self.path_too_long,
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
        Gap::PathTooLong => "path_too_long",
        Gap::NoMount => "no_mount",
        Gap::NotOnDisk => "not_on_disk",
        Gap::Vanished => "vanished",
    }
}

/// Done by our own process, before the command was there.
const BEFORE: &str = "before";
const PAST_END: &str = "past_end";
const UNRESOLVED: &str = "unresolved";
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
        let no_mount = reason(Gap::NoMount);
        let of_pages = [
            BEFORE,
            PAST_END,
            reason(Gap::NoPath),
            reason(Gap::PathTooLong),
            no_mount,
            reason(Gap::NotOnDisk),
            reason(Gap::Vanished),
        ];
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

    /// A name whose base is not known, or whose path is too long.
    pub(super) fn name_unresolved(&mut self) {
        self.gaps.names_unresolved += 1;
        self.names.filter(UNRESOLVED, 1);
    }

    /// A name that was looked up, as far as that went.
    pub(super) fn name_walked(&mut self, walked: Walked) {
        match walked {
            Walked::Found => self.names.out += 1,
            Walked::NotLookedUp => self.names.filter(NOT_LOOKED_UP, 1),
            Walked::TooLong => self.name_unresolved(),
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
    use super::super::surroundings::Surroundings;
    use super::*;
    use crate::probe::{Fault, Inode, InodeKey, Name, Record, Touch, What};

    const ORIGIN: Origin = Origin {
        time_ns: 100,
        ours_before: true,
    };
    const DISK: u32 = 7 << 20;
    const MEMORY: u32 = 8 << 20;
    const NOWHERE: u32 = 9 << 20;

    /// Device, inode record's path if there is one, whether the number is right.
    const FILES: [(u32, Option<&[u8]>, bool); 7] = [
        (DISK, Some(b"file"), true),
        (DISK, Some(b"file"), false),
        (DISK, Some(b"gone"), true),
        (DISK, None, true),
        (MEMORY, Some(b"file"), true),
        (NOWHERE, Some(b"file"), true),
        (DISK, Some(TOO_DEEP), true),
    ];
    /// A path that did not come through whole.
    const TOO_DEEP: &[u8] = b"cut";

    /// What a record is of: its inode's path.
    const PATH: u8 = 10;

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

    /// Attributes records (what, file, time) of files in `dir`, where there
    /// is `file`, of two pages.
    fn attributed(dir: &Path, records: &[(u8, usize, u64)]) -> Attributed {
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
        for &(what, file, time_ns) in records {
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
                9 => What::Name(name(true, &[b'd'; 4096])),
                _ => match FILES[file].1 {
                    None => continue,
                    Some(path) => What::Inode(Inode {
                        inode,
                        mode: 0,
                        path: path.to_vec(),
                        truncated: path == TOO_DEEP,
                    }),
                },
            };
            collector.sort_in(Record {
                time_ns,
                tgid: 1,
                cgroup: 0,
                what,
            });
        }
        let memory = dir.join("memory");
        let mounts = [mount(dir, DISK, "ext4"), mount(&memory, MEMORY, "tmpfs")];
        attribute_in(Surroundings::here(&mounts), &collector, ORIGIN, 16)
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
        let mut records: Vec<_> = (0..FILES.len()).map(|file| (PATH, file, 0)).collect();
        records.push((PATH, 0, 0));
        for file in 0..FILES.len() {
            // One before the command, two that hold pages, two past the end.
            records.push((0, file, 99));
            records.extend((0..4).map(|what| (what, file, 100)));
        }
        records.push((4, 0, 99));
        records.push((4, 0, 100));
        records.extend([(4, 5, 100), (8, 0, 100), (6, 0, 100)]);
        records.extend([(9, 0, 100), (5, 6, 100)]);
        let attributed = attributed(dir.path(), &records);
        let pages = stage(&attributed, "pages");
        assert_eq!((pages.seen, pages.out, pages.lost), (35, 2, 0));
        let filtered = |name, reason| stage(&attributed, name).filtered[reason];
        assert_eq!(filtered("pages", "before"), 7);
        assert_eq!(filtered("pages", "past_end"), 2);
        assert_eq!(filtered("pages", "vanished"), 8);
        for reason in ["no_path", "path_too_long", "not_on_disk", "no_mount"] {
            assert_eq!(filtered("pages", reason), 4, "{reason}");
        }
        assert_eq!(filtered("paths", "known"), 1);
        let blocks = stage(&attributed, "blocks");
        assert_eq!((blocks.seen, blocks.out), (3, 1));
        assert_eq!(filtered("blocks", "no_mount"), 1);
        assert_eq!(filtered("names", "unresolved"), 3);
        assert_eq!(filtered("names", "not_looked_up"), 1);
        let gaps = attributed.gaps;
        assert_eq!((gaps.no_path, gaps.vanished, gaps.no_mount), (1, 2, 2));
        assert_eq!((gaps.path_too_long, gaps.names_unresolved), (1, 3));
        assert_balanced(&attributed);
    }

    proptest! {
        #[test]
        fn any_records_add_up(
            records in proptest::collection::vec((0u8..=PATH, 0usize..FILES.len(), 98u64..102), 0..60)
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            assert_balanced(&attributed(dir.path(), &records));
        }
    }
}
