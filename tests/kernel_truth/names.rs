//! Names looked up, listed and not found, however odd.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use headstart::model::NameKind::{self, Directory, File, Missing, Symlink};
use headstart::model::{Trace, escape};

use crate::pages::Seen;
use crate::reader::{How, Op};
use crate::support::{Scratch, drop_caches, write};

/// Path below a directory → what it is, and whether it was listed.
type Names = BTreeMap<String, (NameKind, bool)>;

/// The names of a trace strictly below `dir`, escaped.
fn below(trace: &Trace, dir: &Path) -> Names {
    let mut prefix = dir.as_os_str().as_bytes().to_vec();
    prefix.push(b'/');
    let mut names = Names::new();
    for name in &trace.names {
        let absolute = trace.volumes[name.volume as usize].absolute(&name.path);
        if let Some(rest) = absolute.strip_prefix(prefix.as_slice()) {
            names.insert(escape(rest), (name.kind, name.listed));
        }
    }
    names
}

fn expected(names: &[(&[u8], NameKind)], listed: &[&[u8]]) -> Names {
    names
        .iter()
        .map(|&(name, kind)| (escape(name), (kind, listed.contains(&name))))
        .collect()
}

fn join(dir: &Path, name: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(name))
}

#[test]
fn every_call_and_every_component_is_recorded() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let dir = scratch.path("names");
    for sub in ["dir/sub", "listed", "here", "unused"] {
        std::fs::create_dir_all(dir.join(sub)).expect("dir");
    }
    for file in [
        "opened",
        "stated",
        "accessed",
        "old",
        "attribute",
        "attributes",
        "changed",
        "removed",
        "watched",
        "dir/sub/file",
        "dir/below",
        "dir/stated",
        "listed/entry",
        "here/relative",
        "unused/file",
        "here/up",
    ] {
        std::fs::write(dir.join(file), "x").expect("file");
    }
    symlink("dir/sub", dir.join("link")).expect("link");
    symlink("nowhere", dir.join("dangling")).expect("link");
    symlink("opened", dir.join("read")).expect("link");
    let op = |name: &str, how| Op::new(dir.join(name), how);
    drop_caches();
    let recording = scratch.record(&[
        op("opened", How::Open),
        op("stated", How::Stat),
        op("accessed", How::Access),
        op("old", How::OldCalls),
        op("attribute", How::GetAttribute),
        op("attributes", How::ListAttributes),
        op("changed", How::ChangeMode),
        op("removed", How::TryRemove),
        op("not-there", How::TryRemove),
        op("made", How::MakeDirectory),
        op("watched", How::Watch),
        op("link/file", How::Stat),
        op("dangling", How::Open),
        op("read", How::ReadLink),
        op("none", How::Open),
        op("absent/deeper", How::Stat),
        op("opened/child", How::Stat),
        op("dir", How::OpenBelow(b"below".to_vec())),
        op("dir", How::StatBelow(b"stated".to_vec())),
        op("dir", How::StatBelow(b"lacking".to_vec())),
        op("listed", How::List),
        op("here", How::ChangeDirectory),
        Op::new("relative", How::Open),
        Op::new("./../here/up", How::Stat),
        Op::new("gone", How::Access),
    ]);
    let wanted = expected(
        &[
            (b"opened", File),
            (b"stated", File),
            (b"accessed", File),
            (b"old", File),
            (b"attribute", File),
            (b"attributes", File),
            (b"changed", File),
            (b"removed", Missing),
            (b"not-there", Missing),
            (b"made", Directory),
            (b"watched", File),
            (b"link", Symlink),
            (b"dir", Directory),
            (b"dir/sub", Directory),
            (b"dir/sub/file", File),
            (b"dangling", Symlink),
            (b"nowhere", Missing),
            (b"read", Symlink),
            (b"none", Missing),
            (b"absent", Missing),
            (b"dir/below", File),
            (b"dir/stated", File),
            (b"dir/lacking", Missing),
            (b"listed", Directory),
            (b"here", Directory),
            (b"here/relative", File),
            (b"here/up", File),
            (b"here/gone", Missing),
        ],
        &[b"listed"],
    );
    assert_eq!(below(&recording.trace, &dir), wanted);
}

/// As `getpwuid` of glibc asks for nscd, in many programs' starts.
#[test]
fn paths_of_sockets_are_names() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let dir = scratch.path("sockets");
    std::fs::create_dir_all(dir.join("sub")).expect("dir");
    symlink("sub", dir.join("link")).expect("link");
    let _listens = std::os::unix::net::UnixListener::bind(dir.join("sub/here")).expect("bound");
    drop_caches();
    let recording = scratch.record(&[
        Op::new(&dir, How::ChangeDirectory),
        Op::new("link/here", How::Connect),
        Op::new("sub/not-here", How::Connect),
        Op::new("elsewhere", How::ConnectElsewhere),
    ]);
    let wanted = expected(
        &[
            (b"link", Symlink),
            (b"sub", Directory),
            (b"sub/here", File),
            (b"sub/not-here", Missing),
        ],
        &[],
    );
    assert_eq!(below(&recording.trace, &dir), wanted);
}

#[test]
fn a_script_brings_the_name_of_its_interpreter() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let dir = scratch.path("programs");
    std::fs::create_dir(&dir).expect("dir");
    let shell = Path::new("/bin/sh").canonicalize().expect("a shell");
    symlink(shell, dir.join("shell")).expect("link");
    let script = dir.join("run");
    std::fs::write(&script, format!("#!{}/shell\n", dir.display())).expect("script");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, executable).expect("mode");
    let recording = scratch.record(&[Op::new(&script, How::Execute(vec![]))]);
    let wanted = expected(&[(b"run", File), (b"shell", Symlink)], &[]);
    assert_eq!(below(&recording.trace, &dir), wanted);
}

#[test]
fn odd_names_come_through_byte_by_byte() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let dir = scratch.path("odd");
    std::fs::create_dir(&dir).expect("dir");
    let longest = [b'n'; 255];
    let names: [&[u8]; 7] = [
        b"not \xff\xfe UTF-8",
        b"new\nline",
        b" \t\\040 ",
        b"\x1b[31mred",
        "e\u{301}\u{202e}".as_bytes(),
        b"...",
        &longest,
    ];
    let mut ops = Vec::new();
    let mut wanted = Vec::new();
    let mut owned = Vec::new();
    for name in names {
        let sub = [name, b".d"].concat();
        let sub = sub[sub.len().saturating_sub(255)..].to_vec();
        std::fs::create_dir(join(&dir, &sub)).expect("dir");
        let missing = [&sub[..], b"/", &name[1..], b"?"].concat();
        for path in [name.to_vec(), [&sub[..], b"/", name].concat()] {
            write(&join(&dir, &path), 3 * 4096);
            ops.push(Op::new(join(&dir, &path), How::Read(vec![(4096, 1)])));
            owned.push((path, File));
        }
        ops.push(Op::new(join(&dir, &missing), How::Stat));
        owned.push((missing, Missing));
        ops.push(Op::new(join(&dir, &sub), How::List));
        owned.push((sub, Directory));
    }
    wanted.extend(owned.iter().map(|(name, kind)| (name.as_slice(), *kind)));
    let listed: Vec<&[u8]> = wanted
        .iter()
        .filter(|n| n.1 == Directory)
        .map(|n| n.0)
        .collect();
    drop_caches();
    let recording = scratch.record(&ops);
    assert_eq!(below(&recording.trace, &dir), expected(&wanted, &listed));
    for (name, _) in wanted.iter().filter(|name| name.1 == File) {
        let seen = Seen::of(&recording.trace, &join(&dir, name));
        assert_eq!(seen.certain, [1].into(), "{}", escape(name));
    }
}

/// A file at the end of directories with names of `width` bytes, its absolute
/// path `length` bytes long.
fn deep(scratch: &Scratch, width: usize, length: usize) -> PathBuf {
    let mut path = scratch
        .path(&format!("deep{length}"))
        .into_os_string()
        .into_encoded_bytes();
    while path.len() + width + 3 < length {
        path.push(b'/');
        path.extend(std::iter::repeat_n(b'd', width));
    }
    std::fs::create_dir_all(OsStr::from_bytes(&path)).expect("directories");
    path.push(b'/');
    path.extend(std::iter::repeat_n(b'f', length - path.len()));
    let path = PathBuf::from(OsStr::from_bytes(&path));
    write(&path, 3 * 4096);
    path
}

#[test]
fn long_paths_come_through_or_are_counted() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    // (width of a component, length of the path, whether its data has to come through)
    let shapes = [
        (99, 300, true),
        (199, 1000, true),
        (150, 3700, true),
        (3, 200, true),
        (3, 900, false),
        (150, 4000, false),
        (199, 4095, false),
    ];
    for (width, length, always) in shapes {
        let path = deep(&scratch, width, length);
        let what = format!("{width} {length}");
        drop_caches();
        let read = How::Read(vec![(4096, 1)]);
        let recording = scratch.record(&[Op::new(&path, read)]);
        let parent = path.parent().expect("parent");
        let names = below(&recording.trace, parent);
        assert_eq!(names.len(), 1, "{what}: {names:?}");
        assert!(names.values().all(|&name| name == (File, false)), "{what}");
        let seen = Seen::of(&recording.trace, &path);
        if always || !seen.certain.is_empty() {
            assert_eq!(seen.certain, [1].into(), "{what}");
        } else {
            let gaps = recording.gaps;
            assert!(gaps.path_too_long > 0, "{what}: {gaps:?}");
        }
        eprintln!("{what}: {:?} {:?}", seen.certain, recording.gaps);
        // Never under a name that was cut.
        let files = recording.trace.files.iter();
        let cut = files
            .filter(|file| file.path.as_bytes().ends_with(b"ff"))
            .count();
        assert_eq!(cut, usize::from(!seen.certain.is_empty()), "{what}");
    }
}

/// The components of a file's path below its filesystem's root, of which a name
/// tells; `None` where the trace has no such name.
fn depth(trace: &Trace, path: &Path) -> Option<usize> {
    let absolute = path.as_os_str().as_bytes();
    let mut names = trace.names.iter();
    let name =
        names.find(|name| trace.volumes[name.volume as usize].absolute(&name.path) == absolute)?;
    Some(name.path.as_bytes().split(|&b| b == b'/').count())
}

#[test]
fn files_up_to_63_components_deep_have_a_path_and_deeper_ones_are_counted() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let mut path = scratch.path("");
    let mut record = |path: &Path| {
        write(path, 4096);
        let recording = scratch.record(&[Op::new(path, How::Read(vec![(0, 1)]))]);
        let depth = depth(&recording.trace, path).expect("its name is there");
        let seen = Seen::of(&recording.trace, path);
        (
            depth,
            !seen.certain.is_empty(),
            recording.gaps.path_too_long,
        )
    };
    let (here, ..) = record(&path.join("f"));
    path.extend((here..63).map(|_| "d"));
    std::fs::create_dir_all(path.join("d")).expect("directories");
    assert_eq!(record(&path.join("f")), (63, true, 0));
    assert_eq!(record(&path.join("d/f")), (64, false, 1));
}

#[test]
fn a_name_whose_whole_path_no_system_call_takes_is_counted() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    // Made, and asked about, by a short path from a directory that is deep already.
    let file = deep(&scratch, 99, 3820);
    let deep = file.parent().expect("parent");
    let name = "x".repeat(199);
    let inner = format!("{name}/{name}");
    let directory = std::fs::File::open(deep).expect("directory");
    for name in [&name, &inner] {
        rustix::fs::mkdirat(&directory, name.as_str(), 0o700.into()).expect("directory");
    }
    let stat = Op::new(deep, How::StatBelow(inner.into_bytes()));
    let recording = scratch.record(&[stat]);
    assert!(deep.as_os_str().len() + 2 * 200 > 4095);
    let names: Vec<String> = below(&recording.trace, deep).into_keys().collect();
    assert_eq!(names, [name], "the inner one can't be looked at");
    let gaps = recording.gaps;
    assert!(gaps.names_unresolved >= 1, "{gaps:?}");
}
