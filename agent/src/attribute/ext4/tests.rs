//! Properties of the layout reader on images made by mkfs.

use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::model::PAGE_SIZE;

/// Every kind of need on the inodes of `inos`.
fn all_needs(inos: std::ops::Range<u64>) -> Vec<InodeNeed<'static>> {
    let kinds = [
        Need::Inode,
        Need::Search(b"name7"),
        Need::Search(b"no such name, and one of more than thirty-two bytes"),
        Need::ReadLink,
        Need::Read {
            start_page: 3,
            pages: 40,
        },
        Need::Read {
            start_page: u64::MAX - 1,
            pages: u64::MAX,
        },
        Need::ReadAll,
        Need::List,
    ];
    inos.flat_map(|ino| {
        kinds.map(|need| InodeNeed {
            ino,
            need,
            first_use_ns: ino,
        })
    })
    .collect()
}

/// An image of 4 MiB with a tree directory, a long link and a sparse file.
fn small_image(options: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("temporary directory");
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("d")).expect("mkdir");
    for i in 0..1500 {
        let name = format!("d/name{i}-with-a-tail-that-fills-blocks-of-names");
        std::fs::write(tree.join(name), b"").expect("file");
    }
    std::os::unix::fs::symlink("x".repeat(90), tree.join("link")).expect("symlink");
    let file = File::create(tree.join("sparse")).expect("file");
    for i in 0..12_u64 {
        file.write_all_at(b"data", i * 3 * PAGE_SIZE)
            .expect("write");
    }
    let image = dir.path().join("image");
    let status = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-N", "1700", "-d"])
        .arg(&tree)
        .args(options)
        .arg(&image)
        .arg("4M")
        .status()
        .expect("mkfs.ext4 runs");
    assert!(status.success());
    // Populating makes linear directories only; fsck makes trees of them.
    // It exits with 1 when it changed something.
    let fsck = Command::new("e2fsck")
        .args(["-fyD"])
        .arg(&image)
        .output()
        .expect("e2fsck runs");
    assert!(
        fsck.status.code() == Some(0) || fsck.status.code() == Some(1),
        "{fsck:?}"
    );
    std::fs::read(&image).expect("image")
}

const EXT4_1K: &[&str] = &["-b", "1024", "-O", "^has_journal"];
const EXT2_1K: &[&str] = &["-b", "1024", "-O", "^has_journal,^extent,^64bit,^flex_bg"];

#[test]
fn other_bytes_are_no_ext4() {
    let xfs = [b"XFSB".as_slice(), &[0; 8192]].concat();
    assert!(matches!(
        Ext4::open(xfs.as_slice()),
        Err(Ext4Error::NotExt4)
    ));
    assert!(matches!(Ext4::open([].as_slice()), Err(Ext4Error::NotExt4)));
}

#[test]
fn unknown_features_are_refused() {
    let mut image = small_image(EXT4_1K);
    image[1024 + 0x60 + 3] |= 0x10;
    match Ext4::open(image.as_slice()).expect_err("unknown feature") {
        Ext4Error::Unsupported { features } => assert_eq!(features, 0x1000_0000),
        other => panic!("{other}"),
    }
}

#[test]
fn inodes_that_are_not_there_are_reported_once() {
    let image = small_image(EXT4_1K);
    let fs = Ext4::open(image.as_slice()).expect("open");
    let mut needs = all_needs(1600..1601);
    needs.extend(all_needs(0..1));
    needs.extend(all_needs(u64::MAX - 1..u64::MAX));
    let found = fs.metadata_pages(0, &needs);
    let failed: Vec<_> = found
        .failed
        .iter()
        .map(|(ino, error)| (*ino, error.to_string()))
        .collect();
    assert_eq!(
        failed,
        [
            (1600, "inode 1600 is not in use".to_owned()),
            (0, "inode 0: no such inode number".to_owned()),
            (
                u64::MAX - 1,
                format!("inode {}: no such inode number", u64::MAX - 1)
            ),
        ]
    );
    assert!(found.touches.is_empty());
}

#[test]
fn pages_are_disjoint_and_in_order_of_use() {
    for options in [EXT4_1K, EXT2_1K] {
        let image = small_image(options);
        let fs = Ext4::open(image.as_slice()).expect("open");
        let found = fs.metadata_pages(7, &all_needs(2..40));
        assert!(found.touches.iter().all(|touch| touch.volume == 7));
        assert!(found.touches.is_sorted_by_key(|touch| touch.first_use_ns));
        let mut pages: Vec<u64> = found
            .touches
            .iter()
            .flat_map(|touch| touch.start_page..touch.start_page + u64::from(touch.pages))
            .collect();
        assert_eq!(pages.len() as u64, found.pages());
        pages.sort_unstable();
        assert!(pages.is_sorted_by(|a, b| a < b), "a page twice");
        assert!(pages.last().expect("some") * PAGE_SIZE < image.len() as u64);
    }
}

/// Whatever the bytes, the answer stays within its bounds.
fn survives(image: &[u8]) {
    if let Ok(fs) = Ext4::open(image) {
        let found = fs.metadata_pages(0, &all_needs(1..40));
        assert!(found.pages() <= Metadata::MAX_PAGES as u64);
    }
}

#[test]
fn flipped_bytes_never_panic() {
    for options in [EXT4_1K, EXT2_1K] {
        let image = small_image(options);
        let fs = Ext4::open(image.as_slice()).expect("open");
        // Half of the changes go where the structures are.
        let mut hot: Vec<usize> = (1024..3072).collect();
        for touch in fs.metadata_pages(0, &all_needs(1..40)).touches {
            let start = (touch.start_page * PAGE_SIZE) as usize;
            hot.extend(start..start + touch.pages as usize * PAGE_SIZE as usize);
        }
        let places = prop_oneof![
            0..image.len(),
            proptest::sample::select(hot),
            1024..1400_usize
        ];
        let changes = proptest::collection::vec((places, any::<u8>()), 1..60);
        TestRunner::new(Config::with_cases(150))
            .run(&changes, |changes| {
                let mut image = image.clone();
                for (at, byte) in changes {
                    image[at] = byte;
                }
                survives(&image);
                Ok(())
            })
            .expect("survives");
    }
}

proptest! {
    #![proptest_config(Config::with_cases(200))]
    #[test]
    fn random_bytes_never_panic(
        mut image in proptest::collection::vec(any::<u8>(), 2048..20_000),
        log_block_size in 0..3_u8,
        inodes_per_group in 1..9000_u16,
    ) {
        image[1024 + 0x38..1024 + 0x3A].copy_from_slice(&[0x53, 0xEF]);
        // Without these nearly all would be refused at the superblock.
        image[1024 + 0x18..1024 + 0x1C].copy_from_slice(&[log_block_size, 0, 0, 0]);
        image[1024 + 0x28..1024 + 0x2A].copy_from_slice(&inodes_per_group.to_le_bytes());
        image[1024 + 0x2A..1024 + 0x2C].copy_from_slice(&[0, 0]);
        image[1024 + 0x58..1024 + 0x5A].copy_from_slice(&[0, 1]);
        image[1024 + 0x60..1024 + 0x64].copy_from_slice(&[0x42, 0, 0, 0]);
        survives(&image);
    }

    #[test]
    fn hashes_take_any_name(name in proptest::collection::vec(any::<u8>(), 0..300), unsigned: bool) {
        for version in [HashVersion::Legacy, HashVersion::HalfMd4, HashVersion::Tea] {
            prop_assert_eq!(dir_hash(version, unsigned, [1, 2, 3, 4], &name) & 1, 0);
        }
    }
}
