//! Round trips, foreign and damaged bytes.

#[cfg(not(headstart_instrumented))]
mod schema;

use proptest::prelude::*;
use prost::Message;

use super::super::strategies::profile;
use super::super::{merge, wire};
use super::*;
use crate::model::{
    Extent, FileVersion, NameKind, NameRecord, ProfileFile, RelPath, RunInfo, Volume, VolumeId,
};

fn sample() -> Profile {
    use crate::model::BlockExtent;
    let extent = |start_page, pages, certain| Extent {
        start_page,
        pages,
        first_use_ns: 7_000 * (9 - start_page),
        certain,
        seen: 3,
    };
    Profile {
        runs: (1..3)
            .map(|i| RunInfo {
                started_ms: i,
                id: u64::MAX / i,
                duration_ns: 5_000 * i,
                exact: i % 2 == 1,
                blind_ns: 0,
            })
            .collect(),
        volumes: (0..2)
            .map(|i| Volume {
                id: VolumeId(format!("uuid:{i}")),
                fs_type: "xfs".into(),
                mount_point: vec![b'/', 0xff, b'0' + i],
            })
            .collect(),
        files: vec![ProfileFile {
            volume: 1,
            path: RelPath::new("bin/a\n").expect("valid"),
            version: FileVersion {
                size: 40_000,
                mtime_ns: -3,
            },
            changed: 0,
            extents: vec![extent(1, 3, 1), extent(6, 2, 2)],
        }],
        names: vec![NameRecord {
            volume: 1,
            path: RelPath::root(),
            kind: NameKind::Directory,
            listed: true,
            first_use_ns: 3_000,
            seen: 2,
        }],
        blocks: vec![BlockExtent {
            volume: 1,
            start_page: 77,
            pages: 4,
            first_use_ns: 1_000,
            seen: 1,
        }],
    }
}

/// A file around any payload.
fn wrap(message: &[u8]) -> Vec<u8> {
    let payload = lz4_flex::block::compress(message);
    let mut out = MAGIC.to_vec();
    out.extend(FORMAT_VERSION.to_le_bytes());
    out.extend(crc32fast::hash(&payload).to_le_bytes());
    out.extend((message.len() as u64).to_le_bytes());
    out.extend(payload);
    out
}

fn message_of(file: &[u8]) -> Vec<u8> {
    let (length, payload) = open(file).expect("valid");
    lz4_flex::block::decompress(payload, length).expect("valid")
}

fn error(file: &[u8]) -> String {
    decode(file).expect_err("refused").to_string()
}

#[test]
fn the_sample_survives_and_the_bytes_stay_what_they_are() {
    let bytes = encode("web", &sample());
    assert_eq!(decode(&bytes).expect("valid"), ("web".to_owned(), sample()));
    // A profile of this version written by an older build must stay readable:
    // if this changes, either something broke or it is a new format version.
    assert_eq!(crc32fast::hash(&message_of(&bytes)), GOLDEN_CRC);
}

const GOLDEN_CRC: u32 = 2_473_415_346;

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    let good = encode("web", &sample());
    assert_eq!(
        error(&good[..5]),
        "cut short: 5 bytes, where the header alone has 24; copy or export it again"
    );
    assert!(matches!(decode(&good[..30]), Err(CodecError::Checksum)));
    assert!(error(b"#!/bin/sh\n").starts_with("not a headstart profile"));
    assert!(matches!(
        decode(b""),
        Err(CodecError::Truncated { have: 0 })
    ));
    let mut unix = good.clone();
    unix.remove(6);
    assert!(error(&unix).contains("text mode"));
    let mut newer = good.clone();
    newer[8] = 2;
    assert_eq!(
        error(&newer),
        "has format version 2, and this build reads up to 1: upgrade headstart"
    );
    let mut bomb = good.clone();
    bomb[16..24].copy_from_slice(&(1_u64 << 30).to_le_bytes());
    assert!(
        error(&bomb).contains("more than its payload can expand to"),
        "{}",
        error(&bomb)
    );
    bomb[23] = 1;
    assert!(error(&bomb).contains("1 GiB"));
    let mut short = good.clone();
    short[16] -= 1;
    assert!(matches!(decode(&short), Err(CodecError::Decompress(_))));
}

/// Decodes the sample after a change to its message.
fn changed(change: impl FnOnce(&mut wire::Profile)) -> String {
    let bytes = message_of(&encode("web", &sample()));
    let mut message = wire::Profile::decode(&bytes[..]).expect("valid");
    change(&mut message);
    error(&wrap(&message.encode_to_vec()))
}

#[test]
fn every_rule_is_checked_and_named() {
    fn files(m: &mut wire::Profile) -> &mut wire::Files {
        m.files.as_mut().expect("files")
    }
    fn extent(m: &mut wire::Profile) -> &mut wire::ExtentColumns {
        files(m).extent.as_mut().expect("extents")
    }
    fn names(m: &mut wire::Profile) -> &mut wire::Names {
        m.names.as_mut().expect("names")
    }
    fn histories(m: &mut wire::Profile) -> &mut wire::Histories {
        m.histories.as_mut().expect("histories")
    }
    let huge = || {
        let mut column = column::Writer::default();
        column.push(u64::MAX);
        column.push(1_u64);
        column.finish()
    };
    type Change = Box<dyn FnOnce(&mut wire::Profile)>;
    let cases: Vec<(&str, Change)> = vec![
        (
            "field path of file #0: `../a`: path has a `.`",
            Box::new(|m| files(m).path = b"../a\0"[..].into()),
        ),
        (
            "field path of file #0: is missing",
            Box::new(|m| files(m).path = b"a"[..].into()),
        ),
        (
            "field path of file #1: there are only 1 files",
            Box::new(|m| files(m).path = b"a\0b\0"[..].into()),
        ),
        (
            "field path of file #1: `a` is not after",
            Box::new(|m| {
                files(m).volume = vec![1, 1].into();
                files(m).size = vec![1, 1].into();
                files(m).mtime_delta_ns = vec![1, 1].into();
                files(m).extents = vec![1, 1].into();
                files(m).path = b"a\0a\0"[..].into();
            }),
        ),
        (
            "field volume of file #0: 2 of only 2 volumes",
            Box::new(|m| files(m).volume = vec![2].into()),
        ),
        (
            "field extents of file #0: a file without extents",
            Box::new(|m| files(m).extents = vec![0].into()),
        ),
        (
            "field size of file #0: has no value",
            Box::new(|m| files(m).size = vec![].into()),
        ),
        (
            "field size of file #0: number cut short",
            Box::new(|m| files(m).size = vec![0x80].into()),
        ),
        (
            "field size of file #0: number of more than 64 bits",
            Box::new(|m| files(m).size = vec![0xff; 11].into()),
        ),
        (
            "field size of file #1: there are only 1 files",
            Box::new(|m| files(m).size = vec![1, 1].into()),
        ),
        (
            "field changed of file #0: run 3 of only 2",
            Box::new(|m| files(m).changed = vec![3].into()),
        ),
        (
            "field pages of extent #1: an extent without pages",
            Box::new(|m| extent(m).pages = vec![1, 0].into()),
        ),
        (
            "field pages of extent #0: 18446744073709551615 does not fit",
            Box::new(move |m| extent(m).pages = huge()),
        ),
        (
            "field gap of extent #0: starts past",
            Box::new(move |m| extent(m).gap = huge()),
        ),
        (
            "field first_use_delta of extent #0: later than",
            Box::new(|m| m.time_step_ns = u64::MAX),
        ),
        (
            "field history of extent #0: 9 of only 4 histories",
            Box::new(|m| extent(m).history = vec![9, 0].into()),
        ),
        (
            "field kind of name #0: 4 is no kind",
            Box::new(|m| names(m).kind = vec![4].into()),
        ),
        (
            "field listed of name #0: 2 is neither",
            Box::new(|m| names(m).listed = vec![2].into()),
        ),
        (
            "field history of name #0: has certain runs",
            Box::new(|m| names(m).history = vec![0].into()),
        ),
        (
            "field seen of history #0: seen by no run",
            Box::new(|m| histories(m).seen = vec![0, 3, 3, 3].into()),
        ),
        (
            "field seen of history #0: 0x7 has a run",
            Box::new(|m| histories(m).seen = vec![7, 3, 3, 3].into()),
        ),
        (
            "field certain of history #0: certain in a run",
            Box::new(|m| histories(m).seen = vec![2, 3, 3, 3].into()),
        ),
        (
            "field started_ms of run #1: not after",
            Box::new(|m| m.runs[1] = m.runs[0].clone()),
        ),
        (
            "has more than 32 runs",
            Box::new(|m| m.runs = vec![m.runs[0].clone(); 33]),
        ),
        (
            "has more than 65536 volumes",
            Box::new(|m| m.volumes = vec![wire::Volume::default(); 65_537]),
        ),
        (
            "field id of volume #1: `uuid:0` is not after",
            Box::new(|m| m.volumes[1] = m.volumes[0].clone()),
        ),
        (
            "field mount_point of volume #0: `mnt` is no absolute",
            Box::new(|m| m.volumes[0].mount_point = b"mnt".to_vec()),
        ),
        (
            "import it under another name with --as",
            Box::new(|m| m.name = "\x1b[31m".to_owned()),
        ),
        (
            "field volume of block #0: 5 of only 2",
            Box::new(|m| m.blocks.as_mut().expect("blocks").volume = vec![5].into()),
        ),
    ];
    for (expect, change) in cases {
        let message = changed(change);
        assert!(
            message.contains(expect),
            "`{message}` does not say `{expect}`"
        );
        assert!(!message.contains('\x1b'));
    }
    assert!(error(&wrap(b"\xff\xff\xff")).contains("not a valid message"));
}

#[test]
fn unknown_fields_are_skipped() {
    let mut bytes = message_of(&encode("web", &sample()));
    bytes.extend([0x7a, 2, 1, 2]); // field 15, two bytes
    assert_eq!(decode(&wrap(&bytes)).expect("valid").1, sample());
}

proptest! {
    #[test]
    fn what_is_written_is_read(profile in profile(8), name in "[a-z][a-z/ä]{0,20}") {
        let (read_name, read) = decode(&encode(&name, &profile)).expect("valid");
        prop_assert_eq!((read_name, read), (name, profile));
    }

    #[test]
    fn times_of_any_step_are_kept(ns in any::<u64>(), mtime_ns in any::<i64>(), size in any::<u64>()) {
        let mut profile = sample();
        profile.files[0].extents[1].first_use_ns = ns;
        profile.files[0].version = FileVersion { size, mtime_ns };
        prop_assert_eq!(decode(&encode("x", &profile)).expect("valid").1, profile);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err());
        let mut headed = MAGIC.to_vec();
        headed.extend(&bytes);
        prop_assert!(decode(&headed).is_err());
        // With a right checksum the decompressor sees them, and as a message the parser.
        let _ = decode(&wrap(&bytes));
        let mut checked = MAGIC.to_vec();
        checked.extend(FORMAT_VERSION.to_le_bytes());
        checked.extend(crc32fast::hash(&bytes).to_le_bytes());
        checked.extend((bytes.len() as u64 * 3).to_le_bytes());
        checked.extend(&bytes);
        let _ = decode(&checked);
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_noticed(profile in profile(5), at in any::<usize>(), bit in 0..8_u8) {
        let mut bytes = encode("x", &profile);
        prop_assert!(decode(&bytes[..at % bytes.len()]).is_err());
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn a_changed_message_is_refused_or_canonical(
        profile in profile(5),
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = message_of(&encode("x", &profile));
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Ok((name, changed)) = decode(&wrap(&bytes)) {
            // Whatever got through can be merged and written without harm.
            let merged = merge(&changed, &profile);
            prop_assert_eq!(decode(&encode(&name, &merged)).expect("valid").1, merged);
        }
    }
}
