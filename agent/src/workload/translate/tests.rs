//! Traces of a node that is made up, put into volumes.

use std::collections::BTreeMap;

use super::*;
use crate::attribute::mountinfo;
use crate::model::{Certainty, FileVersion, NameKind, PageTouch};

fn rel(path: &str) -> RelPath {
    RelPath::new(path.as_bytes().to_vec()).expect("valid")
}

fn volume(id: &str, fs_type: &str, point: &str) -> Volume {
    Volume {
        id: VolumeId(id.into()),
        fs_type: fs_type.into(),
        mount_point: point.into(),
    }
}

fn file(volume: u32, path: &str) -> FileTouches {
    FileTouches {
        volume,
        path: rel(path),
        version: FileVersion {
            size: 8192,
            mtime_ns: 1,
        },
        touches: vec![PageTouch {
            start_page: 0,
            pages: 1,
            certainty: Certainty::Certain,
            first_use_ns: 1000,
        }],
    }
}

fn name(volume: u32, path: &str, first_use_ns: u64) -> NameTouch {
    NameTouch {
        volume,
        path: rel(path),
        kind: NameKind::File,
        listed: false,
        first_use_ns,
    }
}

fn directory(path: &str, id: Option<&str>) -> Directory {
    Directory {
        path: path.into(),
        id: id.map(str::to_owned),
    }
}

/// Nothing is there.
fn nothing(_: &[u8]) -> Seen {
    Seen::Is(NameKind::Missing)
}

/// Volume id and path of each.
fn places<'t>(
    trace: &'t Trace,
    each: impl Iterator<Item = (u32, &'t RelPath)>,
) -> Vec<(String, String)> {
    each.map(|(volume, path)| {
        let id = trace.volumes[volume as usize].id.0.clone();
        (id, path.to_string())
    })
    .collect()
}

fn files_of(trace: &Trace) -> Vec<(String, String)> {
    places(trace, trace.files.iter().map(|f| (f.volume, &f.path)))
}

fn names_of(trace: &Trace) -> Vec<(String, String)> {
    places(trace, trace.names.iter().map(|n| (n.volume, &n.path)))
}

fn pair(volume: &str, path: &str) -> (String, String) {
    (volume.to_owned(), path.to_owned())
}

#[test]
fn what_lies_in_a_directory_goes_to_its_volume() {
    let volumes = Volumes {
        directories: vec![
            directory("/store/a/diff", Some("layer:a")),
            directory("/store/upper", None),
            directory("/pods/u", None),
            directory("/pods/u/v/mount", Some("claim:x")),
        ],
        root: None,
    };
    let trace = Trace {
        volumes: vec![
            volume("uuid:root", "ext4", "/"),
            volume("path:/pods/u/v/mount", "nfs4", "/pods/u/v/mount"),
            volume("uuid:other", "xfs", "/srv"),
        ],
        files: vec![
            file(0, "store/a/diff/bin/sh"),
            file(0, "store/a/diffuse/x"),
            file(0, "store/upper/tmp/x"),
            file(0, "pods/u/etc-hosts"),
            file(0, "etc/passwd"),
            file(1, "weights"),
            file(2, "data"),
        ],
        names: vec![name(0, "store/a/diff", 1), name(0, "pods/u/etc-hosts", 2)],
        duration_ns: 7,
        ..Trace::default()
    };
    let out = translate_with(&volumes, trace, &mut nothing);
    assert_eq!(
        files_of(&out.trace),
        [
            pair("layer:a", "bin/sh"),
            pair("uuid:root", "store/a/diffuse/x"),
            pair("uuid:root", "etc/passwd"),
            pair("claim:x", "weights"),
            pair("uuid:other", "data"),
        ]
    );
    assert_eq!(names_of(&out.trace), [pair("layer:a", "")]);
    assert_eq!((out.files_private, out.names_private), (2, 1));
    assert_eq!(out.trace.duration_ns, 7);
    let layer = &out.trace.volumes[out.trace.files[0].volume as usize];
    assert_eq!(
        (layer.fs_type.as_str(), &*layer.mount_point),
        ("ext4", &b"/store/a/diff"[..])
    );
    let claim = &out.trace.volumes[out.trace.files[3].volume as usize];
    assert_eq!(claim.fs_type, "nfs4");
}

#[test]
fn nothing_known_changes_nothing() {
    let trace = Trace {
        volumes: vec![volume("uuid:root", "ext4", "/")],
        files: vec![file(0, "a"), file(9, "b")],
        ..Trace::default()
    };
    let out = translate(&Volumes::default(), trace.clone());
    assert_eq!(out, trace);
    let volumes = Volumes {
        directories: vec![directory("/elsewhere", Some("x"))],
        root: None,
    };
    assert_eq!(
        translate_with(&volumes, trace.clone(), &mut nothing).trace,
        trace
    );
}

#[test]
fn what_a_container_does_not_see_is_its_runtimes() {
    let (volumes, _) = container();
    let trace = Trace {
        volumes: vec![volume("uuid:root", "ext4", "/")],
        files: vec![
            file(0, "usr/sbin/runc"),
            file(0, "data/model"),
            file(0, "s/b/bin"),
            file(0, "s/a/bin"),
            file(0, "database"),
        ],
        names: vec![name(0, "s", 1), name(0, "run/root", 1), name(0, "data", 1)],
        ..Trace::default()
    };
    let out = translate_with(&volumes, trace, &mut nothing);
    let wanted = [
        pair("uuid:root", "data/model"),
        pair("layer:b", "bin"),
        pair("uuid:root", "s/a/bin"),
    ];
    assert_eq!(files_of(&out.trace), wanted);
    assert_eq!(names_of(&out.trace), [pair("uuid:root", "data")]);
    assert_eq!((out.files_private, out.names_private), (2, 2));
}

/// A container of three layers, the lowest without an identity.
fn container() -> (Volumes, BTreeMap<&'static str, Seen>) {
    let volumes = Volumes {
        directories: vec![
            directory("/s/init", None),
            directory("/s/b", Some("layer:b")),
        ],
        root: Some(Root {
            mount: mountinfo::parse(b"7 1 0:50 / /node/merged rw - overlay overlay rw\n")
                .expect("valid")
                .remove(0),
            path: b"/run/root".to_vec(),
            lower: vec![b"/s/init".to_vec(), b"/s/b".to_vec(), b"/s/a".to_vec()],
            shown: vec![b"/data".to_vec()],
            binds: Vec::new(),
        }),
    };
    let there = BTreeMap::from([
        ("/s/b/usr", Seen::Is(NameKind::Directory)),
        ("/s/a/usr", Seen::Is(NameKind::Directory)),
        ("/s/a/usr/lib", Seen::Is(NameKind::Directory)),
        ("/s/b/usr/new", Seen::Is(NameKind::File)),
        ("/s/a/usr/new", Seen::Is(NameKind::File)),
        ("/s/b/usr/gone", Seen::Whiteout),
        ("/s/a/usr/gone", Seen::Is(NameKind::File)),
        ("/s/a/usr/lib/x", Seen::Is(NameKind::Symlink)),
    ]);
    (volumes, there)
}

fn of_container(names: Vec<NameTouch>) -> Translated {
    let (volumes, there) = container();
    let trace = Trace {
        volumes: vec![
            volume("path:/run/root", "overlay", "/run/root"),
            volume("uuid:store", "ext4", "/s"),
        ],
        names,
        ..Trace::default()
    };
    translate_with(&volumes, trace, &mut |path| {
        let path = std::str::from_utf8(path).expect("text");
        there
            .get(path)
            .copied()
            .unwrap_or(Seen::Is(NameKind::Missing))
    })
}

fn kinds(out: &Translated) -> Vec<(String, String, NameKind)> {
    let names = names_of(&out.trace).into_iter().zip(&out.trace.names);
    names
        .map(|((volume, path), name)| (volume, path, name.kind))
        .collect()
}

#[test]
fn a_name_is_looked_up_in_each_layer_until_it_is_found() {
    let of = |path: &str| kinds(&of_container(vec![name(0, path, 1)]));
    let b = |path: &str, kind| ("layer:b".to_owned(), path.to_owned(), kind);
    let a = |path: &str, kind| ("uuid:store".to_owned(), format!("a/{path}"), kind);
    use NameKind::*;
    assert_eq!(of("usr"), [b("usr", Directory), a("usr", Directory)]);
    assert_eq!(of("usr/new"), [b("usr/new", File)]);
    assert_eq!(of("usr/gone"), [b("usr/gone", File)]);
    assert_eq!(
        of("usr/none"),
        [b("usr/none", Missing), a("usr/none", Missing)]
    );
    // Not looked up where there is no such directory.
    assert_eq!(of("usr/lib/x"), [a("usr/lib/x", Symlink)]);
    assert_eq!(of("none/x"), []);
    assert_eq!(of("usr/new/x"), []);
    assert_eq!(of_container(vec![name(0, "none/x", 1)]).names_unplaced, 1);
}

#[test]
fn names_that_become_one_keep_their_first_use() {
    let mut listed = name(0, "usr", 5);
    listed.listed = true;
    let out = of_container(vec![name(1, "b/usr", 9), listed, name(0, "usr", 7)]);
    let seen: Vec<_> = out
        .trace
        .names
        .iter()
        .map(|name| (name.path.to_string(), name.first_use_ns, name.listed))
        .collect();
    assert_eq!(seen, [("usr".into(), 5, true), ("a/usr".into(), 5, true)]);
}

#[test]
fn a_hundred_thousand_names_take_few_looks() {
    let names = (0..100_000).map(|n| name(0, &format!("usr/d{}/f{n}", n / 100), n));
    let names: Vec<_> = names.collect();
    let (volumes, _) = container();
    let mut looks = 0u64;
    let trace = Trace {
        volumes: vec![
            volume("path:/run/root", "overlay", "/run/root"),
            volume("uuid:store", "ext4", "/s"),
        ],
        names,
        ..Trace::default()
    };
    // Only the lowest layer has anything.
    let out = translate_with(&volumes, trace, &mut |path| {
        looks += 1;
        match path.starts_with(b"/s/a") {
            true if path.iter().filter(|b| **b == b'/').count() < 5 => {
                Seen::Is(NameKind::Directory)
            }
            true => Seen::Is(NameKind::File),
            false => Seen::Is(NameKind::Missing),
        }
    });
    assert_eq!(out.trace.names.len(), 100_000);
    assert!(looks < 110_000, "{looks}");
}

#[test]
fn what_stands_at_a_path() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = |name: &str| {
        use std::os::unix::ffi::OsStrExt;
        dir.path().join(name).as_os_str().as_bytes().to_vec()
    };
    std::fs::write(dir.path().join("file"), b"").expect("file");
    std::os::unix::fs::symlink("nowhere", dir.path().join("link")).expect("link");
    assert_eq!(lstat(&path("file")), Seen::Is(NameKind::File));
    assert_eq!(lstat(&path("link")), Seen::Is(NameKind::Symlink));
    assert_eq!(lstat(&path("none")), Seen::Is(NameKind::Missing));
    assert_eq!(lstat(&path("file/x")), Seen::Unknown);
    assert_eq!(lstat(&path("")), Seen::Is(NameKind::Directory));
    assert_eq!(lstat(b"/dev/null"), Seen::Is(NameKind::File));
}
