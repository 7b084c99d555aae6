//! What is learned on one node, sent to another; keys, as the store takes them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use headstart::model::{
    Certainty, FileTouches, FileVersion, NameKind, PageTouch, RelPath, RunInfo, Trace, Volume,
    VolumeId,
};
use headstart::profile::{check_name, decode, encode, from_trace};
use headstart::workload::{
    Directory, Facts, Seen, Volumes, container_keys, localize, translate_with, unit,
};

fn file(path: &str) -> FileTouches {
    FileTouches {
        volume: 0,
        path: RelPath::new(path.as_bytes()).expect("valid"),
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

/// Directories of layers, none of them in another.
fn node(dirs: &[String]) -> Option<Volumes> {
    let contains = |a: &String, b: &String| format!("{b}/").starts_with(&format!("{a}/"));
    let are_apart = dirs.iter().enumerate().all(|(i, a)| {
        dirs.iter()
            .enumerate()
            .all(|(j, b)| i == j || !contains(a, b))
    });
    let directories = dirs.iter().enumerate().map(|(i, dir)| Directory {
        path: dir.clone().into_bytes(),
        id: Some(format!("layer:sha256:{i}")),
    });
    are_apart.then(|| Volumes {
        directories: directories.collect(),
        root: None,
    })
}

const DIRECTORY: &str = "/[a-z]{1,8}(/[a-z0-9]{1,8}){1,3}";

proptest! {
    #[test]
    fn the_same_files_wherever_the_layers_lie(
        first in proptest::collection::vec(DIRECTORY, 1..6),
        second in proptest::collection::vec(DIRECTORY, 6),
        paths in proptest::collection::vec((0usize..6, "[a-z]{1,6}(/[a-z]{1,6}){0,3}"), 1..20),
    ) {
        let (here, there) = (node(&first), node(&second));
        prop_assume!(here.is_some() && there.is_some());
        let (here, there) = (here.unwrap_or_default(), there.unwrap_or_default());
        let wanted: BTreeSet<(usize, String)> =
            paths.into_iter().map(|(layer, path)| (layer % first.len(), path)).collect();
        let files = wanted.iter().map(|(layer, path)| file(&format!("{}/{path}", &first[*layer][1..])));
        let trace = Trace {
            volumes: vec![Volume {
                id: VolumeId("uuid:here".into()),
                fs_type: "ext4".into(),
                mount_point: b"/".to_vec(),
            }],
            files: files.collect(),
            ..Trace::default()
        };
        let run = RunInfo { started_ms: 1, id: 2, duration_ns: 3, exact: true, blind_ns: 0 };
        let mut nothing = |_: &[u8]| Seen::Is(NameKind::Missing);
        let learned = from_trace(&translate_with(&here, trace, &mut nothing).trace, run);
        let (_, mut sent) = decode(&encode("x", &learned)).expect("what was encoded");
        localize(&there, &mut sent);
        let named: BTreeSet<Vec<u8>> = sent.files.iter()
            .map(|file| sent.volumes[file.volume as usize].absolute(&file.path))
            .collect();
        let wanted: BTreeSet<Vec<u8>> = wanted.iter()
            .map(|(layer, path)| format!("{}/{path}", second[*layer]).into_bytes())
            .collect();
        prop_assert_eq!(named, wanted);
    }

    #[test]
    fn every_key_names_a_profile(
        name in ".{0,300}",
        user in proptest::option::of(any::<u32>()),
        namespace in ".{0,100}",
        image in ".{0,250}",
    ) {
        let of_unit = unit::keys(&name, user);
        let of_container = container_keys(&Facts {
            namespace: &namespace,
            name: &name,
            image: &image,
            ..Facts::default()
        });
        for key in of_unit.0.iter().chain(&of_container.0) {
            prop_assert_eq!(check_name(key), Ok(()));
        }
    }
}
