//! The store: crashes, damage, concurrency, limits.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Instant;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::super::strategies::profile;
use super::super::{Totals, encode, merge};
use super::*;
use crate::model::{
    Extent, FileVersion, NameKind, NameRecord, ProfileFile, RelPath, RunInfo, Volume, VolumeId,
};

fn some_profile() -> Profile {
    let mut runner = TestRunner::deterministic();
    let tree = profile(9).new_tree(&mut runner).expect("a profile");
    tree.current()
}

/// A profile of one run that knows one name.
fn run_of(id: u64) -> Profile {
    Profile {
        runs: vec![RunInfo {
            started_ms: id,
            id,
            duration_ns: 1,
            exact: false,
            blind_ns: 0,
        }],
        volumes: vec![Volume {
            id: VolumeId("uuid:1".to_owned()),
            fs_type: "ext4".to_owned(),
            mount_point: b"/".to_vec(),
        }],
        names: vec![NameRecord {
            volume: 0,
            path: RelPath::new(format!("n{id}")).expect("valid"),
            kind: NameKind::File,
            listed: false,
            first_use_ns: 0,
            seen: 1,
        }],
        ..Profile::default()
    }
}

/// A profile of one run that used the first page of a file for certain, and maybe
/// some more.
fn run_with_pages(id: u64, exact: bool, pages: u32) -> Profile {
    let extent = |start_page, pages, certain| Extent {
        start_page,
        pages,
        first_use_ns: 0,
        certain,
        seen: 1,
    };
    let mut run = run_of(id);
    run.runs[0].exact = exact;
    run.files = vec![ProfileFile {
        volume: 0,
        path: RelPath::new("f").expect("valid"),
        version: FileVersion {
            size: 1 << 20,
            mtime_ns: 1,
        },
        changed: 0,
        extents: vec![extent(0, 1, 1), extent(1, pages, 0)],
    }];
    run
}

#[test]
fn what_an_exact_run_rules_out_is_dropped_in_recording_and_never_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path(), Access::Write);
    let runs = [(1, false, 15), (2, true, 3), (3, false, 9)]
        .map(|(id, exact, pages)| run_with_pages(id, exact, pages));
    for run in &runs {
        store.record_into("recorded", run).expect("recorded");
        store.merge_into("merged", run).expect("merged");
    }
    let get = |name| store.get(name).expect("readable").expect("there");
    let (recorded, merged) = (get("recorded"), get("merged"));
    let last_page = |profile: &Profile| {
        let last = profile.files[0].extents.last().expect("one");
        last.start_page + u64::from(last.pages)
    };
    assert_eq!((last_page(&recorded), last_page(&merged)), (4, 16));
    assert_eq!(Totals::of(&recorded), Totals::of(&merged));
    assert_eq!(Totals::of(&merged).maybe_bytes, 3 * 4096);
    assert_eq!(
        merged,
        runs.iter()
            .fold(Profile::default(), |all, run| merge(&all, run))
    );
}

fn open(dir: &Path, access: Access) -> Store {
    Store::open(dir, access).expect("opens")
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|e| {
            e.expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_put_is_there_for_the_next() {
    let dir = tempfile::tempdir().expect("tempdir");
    let state = dir.path().join("a/state");
    let profile = some_profile();
    {
        let store = open(&state, Access::Write);
        store.put("web", &profile).expect("put");
        assert_eq!(store.get("web").expect("get"), Some(profile.clone()));
        assert_eq!(store.notices().count, 0);
    }
    let mode = std::fs::metadata(&state)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let mode = std::fs::metadata(state.join(FILE_NAME))
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let store = open(&state, Access::Read);
    assert_eq!(store.get("web").expect("get"), Some(profile.clone()));
    assert_eq!(store.get("other").expect("get"), None);
    let entries = store.list().expect("list");
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].name, "web");
    assert_eq!(entries[0].bytes, encode("web", &profile).len() as u64);
    assert_eq!(entries[0].files, profile.files.len() as u64);
    assert_eq!(store.entry("web").expect("entry").as_ref(), entries.first());
    assert_eq!(store.entry("other").expect("entry"), None);
    assert!(entries[0].updated_ms > 1_500_000_000_000);
    assert!(matches!(
        store.put("web", &profile),
        Err(StoreError::ReadOnly(_))
    ));
    assert!(matches!(store.get("a\x1b"), Err(StoreError::Name(_))));

    let store = open(&state, Access::Write);
    assert!(store.remove("web").expect("remove"));
    assert!(!store.remove("web").expect("remove"));
    assert!(store.list().expect("list").is_empty());
    assert_eq!(files(&state), [FILE_NAME]);
}

#[test]
fn reading_nothing_creates_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let missing = dir.path().join("none");
    let store = open(&missing, Access::Read);
    assert_eq!(store.get("web").expect("get"), None);
    assert!(store.list().expect("list").is_empty());
    assert_eq!(store.device_cost("8:0").expect("get"), None);
    assert!(!missing.exists());
    // What another creates later is seen.
    open(&missing, Access::Write)
        .put("web", &run_of(1))
        .expect("put");
    assert!(store.get("web").expect("get").is_some());
}

#[test]
fn device_costs_are_kept_and_nonsense_is_forgotten() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = open(dir.path(), Access::Write);
    let cost = DeviceCost {
        measured_ms: 7,
        ..DeviceCost::UNMEASURED
    };
    store.set_device_cost("8:0", &cost).expect("set");
    assert_eq!(store.device_cost("8:0").expect("get"), Some(cost));
    let nonsense = DeviceCost {
        read_ns: f64::NAN,
        ..cost
    };
    store.set_device_cost("8:0", &nonsense).expect("set");
    assert_eq!(store.device_cost("8:0").expect("get"), None);
}

#[test]
fn merging_from_many_at_once_loses_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let dir = dir.path();
            scope.spawn(move || {
                for i in 0..8 {
                    let store = open(dir, Access::Write);
                    store
                        .merge_into("web", &run_of(thread * 8 + i))
                        .expect("merge");
                    let seen = open(dir, Access::Read).get("web").expect("get");
                    assert!(
                        seen.expect("there")
                            .runs
                            .iter()
                            .any(|r| r.id == thread * 8 + i)
                    );
                }
            });
        }
    });
    let expect = (0..32).fold(Profile::default(), |all, id| merge(&all, &run_of(id)));
    assert_eq!(
        open(dir.path(), Access::Read).get("web").expect("get"),
        Some(expect)
    );
    assert_eq!(files(dir.path()), [FILE_NAME]);
}

#[test]
fn readers_do_not_wait_and_writers_say_for_whom() {
    let dir = tempfile::tempdir().expect("tempdir");
    let holder = open(dir.path(), Access::Write);
    holder.put("web", &run_of(1)).expect("put");
    let guard = holder.db();
    let Some(Open::Write(db)) = guard.as_ref() else {
        panic!("open for writing");
    };
    let txn = db.begin_write().expect("begins");

    let reader = open(dir.path(), Access::Read);
    assert!(reader.get("web").expect("get").is_some());
    let wait = Duration::from_millis(50);
    let start = Instant::now();
    let other = Store::open_within(dir.path(), Access::Write, wait);
    let error = other.expect_err("busy");
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    assert!(
        error.to_string().contains("profiles.redb: another process"),
        "{error}"
    );
    assert!((wait..wait * 40).contains(&start.elapsed()));
    txn.abort().expect("aborts");
    let other = Store::open_within(dir.path(), Access::Write, wait).expect("free now");
    other.put("web", &run_of(2)).expect("free now");
}

#[test]
fn a_fault_of_our_own_moves_nobodys_file() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = open(dir.path(), Access::Write);
    store.put("web", &run_of(1)).expect("put");
    let error = store
        .attempt::<()>("merging into", |_| panic!("two and two are five"))
        .expect_err("panics");
    assert!(matches!(error, StoreError::Fault { .. }), "{error}");
    assert!(error.to_string().contains("two and two are five"));
    assert_eq!(files(dir.path()), [FILE_NAME]);
    assert_eq!(store.notices().count, 0);
    assert!(store.get("web").expect("still there").is_some());
}

#[test]
fn who_could_only_read_writes_once_it_may() {
    let dir = tempfile::tempdir().expect("tempdir");
    let reader = open(dir.path(), Access::Read);
    let path = dir.path().join(FILE_NAME);
    std::fs::create_dir(&path).expect("in its place");
    reader.begin_writing(Duration::ZERO).expect_err("no file");
    assert!(!reader.is_written());
    reader.put("web", &run_of(1)).expect_err("to read only");
    std::fs::remove_dir(&path).expect("removed");
    reader.begin_writing(Duration::ZERO).expect("free now");
    assert!(reader.is_written());
    reader.put("web", &run_of(1)).expect("put");
    assert!(
        open(dir.path(), Access::Read)
            .get("web")
            .expect("get")
            .is_some()
    );
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().expect("tempdir");
    open(dir.path(), Access::Write)
        .put("web", &run_of(1))
        .expect("put");
    let path = dir.path().join(FILE_NAME);
    let mut bytes = std::fs::read(&path).expect("read");
    // The version in both commit slots of redb's header.
    (bytes[64], bytes[192]) = (4, 4);
    std::fs::write(&path, &bytes).expect("written");
    for access in [Access::Read, Access::Write] {
        let error = Store::open(dir.path(), access).expect_err("newer");
        assert!(matches!(error, StoreError::Newer(_)), "{error}");
        assert_eq!(std::fs::read(&path).expect("read"), bytes);
    }
    assert_eq!(files(dir.path()), [FILE_NAME]);
}

#[test]
fn a_file_of_something_else_is_set_aside() {
    for access in [Access::Read, Access::Write] {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, b"something else entirely").expect("write");
        let store = open(dir.path(), access);
        assert!(store.list().expect("list").is_empty());
        let notices = store.notices();
        assert_eq!(notices.count, 1);
        assert!(notices.last[0].contains("is damaged"), "{notices:?}");
        let aside = files(dir.path());
        let aside = aside
            .iter()
            .find(|f| f.starts_with("profiles.redb.corrupt-"))
            .expect("aside");
        let kept = std::fs::read(dir.path().join(aside)).expect("read");
        assert_eq!(kept, b"something else entirely");
        open(dir.path(), Access::Write)
            .put("web", &run_of(1))
            .expect("put");
    }
}

#[test]
fn an_empty_file_is_a_store_without_profiles() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join(FILE_NAME), b"").expect("write");
    assert!(
        open(dir.path(), Access::Read)
            .list()
            .expect("list")
            .is_empty()
    );
    open(dir.path(), Access::Write)
        .put("web", &run_of(1))
        .expect("put");
    assert_eq!(files(dir.path()), [FILE_NAME]);
}

/// Overwrites or cuts the file in many places: whatever happens, the store can
/// be used afterwards and nothing is deleted.
#[test]
fn damage_anywhere_never_ends_in_a_panic_or_a_dead_store() {
    let dir = tempfile::tempdir().expect("tempdir");
    {
        let store = open(dir.path(), Access::Write);
        for i in 0..20 {
            store.put(&format!("p{i}"), &some_profile()).expect("put");
        }
    }
    let good = std::fs::read(dir.path().join(FILE_NAME)).expect("read");
    let mut places: Vec<usize> = (0..good.len()).step_by(good.len() / 24).collect();
    places.extend([0, 9, 12, 64, 70, 100, 200, 300, 4096]);
    for at in places {
        for cut in [true, false] {
            let dir = tempfile::tempdir().expect("tempdir");
            let path = dir.path().join(FILE_NAME);
            std::fs::write(&path, &good).expect("write");
            let file = std::fs::File::options()
                .write(true)
                .open(&path)
                .expect("open");
            if cut {
                file.set_len(at as u64).expect("cut");
            } else {
                file.write_all_at(&[0xa5; 700], at as u64).expect("write");
            }
            for access in [Access::Read, Access::Write] {
                let store = open(dir.path(), access);
                for i in 0..20 {
                    // One value may be damaged; the others are as they were.
                    let _ = store.get(&format!("p{i}"));
                }
                store.list().expect("lists");
            }
            let store = open(dir.path(), Access::Write);
            store.merge_into("web", &run_of(1)).expect("merge");
            store.merge_into("p3", &run_of(1)).expect("merge");
            assert_eq!(
                store.get("web").expect("get"),
                Some(run_of(1)),
                "at {at}, cut {cut}"
            );
        }
    }
}

#[test]
fn a_damaged_profile_does_not_take_others_with_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = open(dir.path(), Access::Write);
    store.put("good", &run_of(1)).expect("put");
    store.put("bad", &run_of(2)).expect("put");
    store.put("future", &run_of(3)).expect("put");
    let mut bad = encode("bad", &run_of(2));
    *bad.last_mut().expect("not empty") ^= 1;
    let mut future = encode("future", &run_of(3));
    future[8] = 9;
    store
        .write("test", |txn| {
            let mut table = txn.open_table(PROFILES)?;
            table.insert("bad", &bad[..])?;
            table.insert("future", &future[..])?;
            Ok(())
        })
        .expect("written");

    let error = store.get("bad").expect_err("damaged").to_string();
    assert!(
        error.contains("profile `bad`") && error.contains("checksum mismatch"),
        "{error}"
    );
    assert_eq!(store.get("good").expect("get"), Some(run_of(1)));
    assert_eq!(store.list().expect("list").len(), 3);

    let merged = store.merge_into("bad", &run_of(4)).expect("starts anew");
    assert_eq!(merged, run_of(4));
    assert!(
        store.notices().last[0].contains("could not be read"),
        "{:?}",
        store.notices()
    );
    let aside = files(dir.path());
    let aside = aside
        .iter()
        .find(|f| f.starts_with("damaged-profile-"))
        .expect("kept");
    assert_eq!(std::fs::read(dir.path().join(aside)).expect("read"), bad);

    let error = store
        .merge_into("future", &run_of(4))
        .expect_err("newer")
        .to_string();
    assert!(error.contains("upgrade"), "{error}");
    assert_eq!(store.get_bytes("future").expect("get"), Some(future));
}

#[test]
fn a_directory_that_is_none_is_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("file");
    std::fs::write(&file, b"").expect("write");
    for access in [Access::Read, Access::Write] {
        let error = Store::open(&file.join("state"), access)
            .expect_err("no directory")
            .to_string();
        assert!(
            error.contains("file/state") && error.contains("--state-dir"),
            "{error}"
        );
    }
}

#[test]
fn a_store_that_is_no_file_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join(FILE_NAME);
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).expect("fifo");
    for access in [Access::Read, Access::Write] {
        let error = Store::open(dir.path(), access).expect_err("no store");
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
}
