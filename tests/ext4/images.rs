//! Against debugfs.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::Instant;

use headstart::attribute::ext4::{DeviceSource, Ext4, HashVersion, InodeNeed, Need, dir_hash};
use headstart::model::PAGE_SIZE;

use super::support::*;

type Fs<'s> = Ext4<'s, DeviceSource>;

fn pages(fs: &Fs<'_>, ino: u64, need: Need<'_>) -> BTreeSet<u64> {
    let found = fs.metadata_pages(
        0,
        &[InodeNeed {
            ino,
            need,
            first_use_ns: 0,
        }],
    );
    assert!(!found.truncated);
    pages_found(&found)
}

#[test]
fn every_layout_is_read_as_debugfs_reads_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let tree = make_tree(dir.path());
    let layouts: [(&[&str], &str, (&str, bool)); 7] = [
        (&["-b", "4096"], "200M", ("half_md4", false)),
        (&["-b", "1024"], "200M", ("half_md4", true)),
        (
            &["-b", "1024", "-O", "^64bit,^flex_bg"],
            "100M",
            ("tea", false),
        ),
        (
            &["-b", "2048", "-O", "^extent,^64bit,^flex_bg", "-I", "128"],
            "100M",
            ("tea", true),
        ),
        (
            &["-b", "1024", "-O", "^extent,^64bit,^metadata_csum"],
            "100M",
            ("legacy", false),
        ),
        (
            &["-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode"],
            "100M",
            ("half_md4", false),
        ),
        (&["-b", "65536"], "1G", ("half_md4", false)),
    ];
    for (options, size, hash) in layouts {
        let image = make_image(&tree, options, size, hash);
        let source = DeviceSource::open(&image).expect("image");
        let fs = Ext4::open(&source).expect("open");
        let block_size = u64::from(fs.block_size());
        assert_eq!(options[1], block_size.to_string());
        eprintln!("{options:?} {hash:?}");
        inodes(&fs, &image, block_size);
        names(&fs, &image, block_size);
        maps(&fs, &image, block_size);
        small_things(&fs, &image, block_size);
        cost(&fs, &image);
    }
}

/// Inode table blocks, across all groups.
fn inodes(fs: &Fs<'_>, image: &Path, block_size: u64) {
    // That one has a second block.
    let attributes = ino(image, "/attributes");
    let numbers: Vec<u64> = (12..NAMES as u64)
        .step_by(23)
        .filter(|&number| number != attributes)
        .collect();
    let commands: String = numbers
        .iter()
        .map(|ino| format!("imap <{ino}>\n"))
        .collect();
    let answers = debugfs(image, false, commands.as_bytes());
    let blocks: Vec<u64> = answers
        .lines()
        .filter_map(|line| number_after(line, "located at block "))
        .collect();
    assert_eq!(blocks.len(), numbers.len());
    for (ino, block) in numbers.into_iter().zip(blocks) {
        let found = pages(fs, ino, Need::Inode);
        assert_eq!(found, pages_of([block], block_size), "inode {ino}");
    }
}

/// What a dump of a hash tree says.
#[derive(Default)]
struct Dump {
    levels: u64,
    /// Hash and block of the directory, in the root.
    root: Vec<(u32, u64)>,
    /// Block of the filesystem and hash, by name.
    leaves: HashMap<String, (u64, u32)>,
}

fn dump(image: &Path) -> Dump {
    let text = debugfs(image, false, b"htree_dump /d\n");
    let mut dump = Dump {
        levels: number_after(&text, "Indirect levels: ").expect("levels"),
        ..Dump::default()
    };
    let mut leaf = 0;
    let mut root_done = false;
    for line in text.lines() {
        if let Some(entry) = line.strip_prefix("Entry #") {
            let hash = entry
                .split("Hash 0x")
                .nth(1)
                .and_then(|rest| rest.get(..8))
                .expect("hash");
            let hash = u32::from_str_radix(hash, 16).expect("hash");
            let block = number_after(entry, "block ").expect("block");
            if !root_done {
                dump.root.push((hash, block));
            }
        } else if let Some(block) = number_after(line, ", phys ") {
            leaf = block;
        } else if !dump.root.is_empty() {
            root_done = true;
            // "<inode> 0x<hash>-<minor> (<length>) <name>   <inode> 0x…"
            for part in line.split("   ") {
                let words: Vec<&str> = part.split(' ').filter(|word| !word.is_empty()).collect();
                if let [_, hash, _, name] = words[..]
                    && let Some(hash) = hash.strip_prefix("0x").and_then(|hash| hash.get(..8))
                {
                    let hash = u32::from_str_radix(hash, 16).expect("hash");
                    dump.leaves.insert(name.to_owned(), (leaf, hash));
                }
            }
        }
    }
    dump
}

/// Look-ups in the large directory.
fn names(fs: &Fs<'_>, image: &Path, block_size: u64) {
    let dump = dump(image);
    assert!(
        dump.leaves.len() > NAMES * 9 / 10,
        "dump understood: {}",
        dump.leaves.len()
    );
    let d = ino(image, "/d");
    let map = debugfs(image, false, b"ex /d\nbmap /d 0\n");
    let table = pages(fs, d, Need::Inode);
    let first = map
        .lines()
        .last()
        .and_then(|line| line.trim().parse().ok())
        .expect("block 0");
    let whole = pages(fs, d, Need::List);
    let commands: String = dump
        .root
        .iter()
        .map(|(_, block)| format!("bmap /d {block}\n"))
        .collect();
    let answers = debugfs(image, false, commands.as_bytes());
    let index_blocks: Vec<u64> = answers
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect();
    assert_eq!(index_blocks.len(), dump.root.len());
    let mut checked = 0;
    for i in (0..NAMES).step_by(29) {
        let name = name(i);
        let Some(&(leaf, hash)) = dump.leaves.get(std::str::from_utf8(&name).expect("text")) else {
            continue;
        };
        let found = pages(fs, d, Need::Search(&name));
        let mut blocks = vec![first, leaf];
        if dump.levels == 1 {
            let entry = dump.root.iter().rposition(|(start, _)| *start <= hash);
            blocks.push(index_blocks[entry.expect("entry")]);
        }
        let mut expected = pages_of(blocks, block_size);
        expected.extend(&table);
        assert!(expected.is_subset(&found), "{i}: {expected:?} in {found:?}");
        assert!(found.is_subset(&whole), "{i}: {found:?} in the directory");
        // Besides, only blocks that map the directory, and rarely a leaf that
        // continues a hash.
        assert!(
            found.len() <= expected.len() + 4,
            "{i}: {expected:?} but {found:?}"
        );
        checked += 1;
    }
    assert!(checked > 180, "only {checked} names checked");
    // A name that isn't there takes as many reads.
    let missing = pages(fs, d, Need::Search(b"no such name"));
    assert!(missing.len() > 1 && missing.is_subset(&whole));
}

/// The blocks that map `/frag`, whole and in part.
fn maps(fs: &Fs<'_>, image: &Path, block_size: u64) {
    let frag = ino(image, "/frag");
    let table = pages(fs, frag, Need::Inode);
    let stat = debugfs(image, false, b"stat /frag\n");
    let nodes: Vec<u64> = stat
        .split(',')
        .filter(|part| part.contains("(ETB") || part.contains("IND)"))
        .filter_map(|part| number_after(part, "):"))
        .collect();
    // The holes are smaller than the largest blocks.
    assert!(!nodes.is_empty() || block_size > 3 * PAGE_SIZE);
    let mut expected = pages_of(nodes.iter().copied(), block_size);
    expected.extend(&table);
    let all = pages(fs, frag, Need::ReadAll);
    assert_eq!(all, expected);

    let mut union = table.clone();
    let tree = debugfs(image, false, b"ex /frag\n");
    for page in (0..FRAGMENTS * 3).step_by(37).chain([FRAGMENTS * 3 - 3]) {
        let found = pages(
            fs,
            frag,
            Need::Read {
                start_page: page,
                pages: 1,
            },
        );
        assert!(found.is_subset(&all));
        if tree.contains("Level") {
            let blocks = page * PAGE_SIZE / block_size..=((page + 1) * PAGE_SIZE - 1) / block_size;
            let mut expected = pages_of(path_to(&tree, blocks), block_size);
            expected.extend(&table);
            assert_eq!(found, expected, "page {page}");
        }
        union.extend(found);
    }
    assert_eq!(union, all);
}

/// Nodes of a printed extent tree that cover blocks of the file. The rows of
/// inner levels are those without flags: `level / depth, entry / entries,
/// first - last, block, length`.
fn path_to(tree: &str, blocks: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    let rows = tree.lines().filter_map(|line| {
        let numbers: Vec<u64> = line
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect();
        match numbers[..] {
            [level, depth, _, _, first, last, block, _] if level < depth => {
                Some((first, last, block))
            }
            _ => None,
        }
    });
    rows.filter(|(first, last, _)| first <= blocks.end() && last >= blocks.start())
        .map(|row| row.2)
        .collect()
}

/// Links, attributes, small directories.
fn small_things(fs: &Fs<'_>, image: &Path, block_size: u64) {
    let block_of = |path: &str| {
        let out = debugfs(image, false, format!("bmap {path} 0\n").as_bytes());
        out.lines()
            .last()
            .and_then(|line| line.trim().parse::<u64>().ok())
            .expect("block")
    };
    for (path, need) in [
        ("/slow", Need::ReadLink),
        ("/a/b/c", Need::Search(b"f3")),
        ("/a/b", Need::List),
    ] {
        let ino = ino(image, path);
        let mut expected = pages_of([block_of(path)], block_size);
        expected.extend(pages(fs, ino, Need::Inode));
        assert_eq!(pages(fs, ino, need), expected, "{path}");
    }
    let fast = ino(image, "/fast");
    assert_eq!(
        pages(fs, fast, Need::ReadLink),
        pages(fs, fast, Need::Inode)
    );

    let attributes = debugfs(image, false, b"stat /attributes\n");
    let block = number_after(&attributes, "File ACL: ").expect("block of attributes");
    assert_ne!(block, 0);
    let found = pages(fs, ino(image, "/attributes"), Need::Inode);
    assert!(found.is_superset(&pages_of([block], block_size)));
}

/// 1,000 names of the large directory and their inodes.
fn cost(fs: &Fs<'_>, image: &Path) {
    let d = ino(image, "/d");
    let names: Vec<Vec<u8>> = (0..1000).map(|i| name(i * 5)).collect();
    let mut needs = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let first_use_ns = i as u64;
        needs.push(InodeNeed {
            ino: d,
            need: Need::Search(name),
            first_use_ns,
        });
        needs.push(InodeNeed {
            ino: 100 + 5 * i as u64,
            need: Need::Inode,
            first_use_ns,
        });
    }
    let started = Instant::now();
    let found = fs.metadata_pages(0, &needs);
    eprintln!(
        "  1,000 names: {} pages in {:?}",
        found.pages(),
        started.elapsed()
    );
    assert!(found.failed.is_empty());
}

/// The hashes themselves, on names of every length. (Unsigned ones are met in
/// the images.)
#[test]
fn hashes_are_those_of_debugfs() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let image = dir.path().join("image");
    run(
        "mkfs.ext4",
        &[
            "-q".as_ref(),
            "-F".as_ref(),
            image.as_os_str(),
            "1M".as_ref(),
        ],
    );
    let seed_text = "00112233-4455-6677-8899-aabbccddeeff";
    let seed = [0x3322_1100, 0x7766_5544, 0xbbaa_9988, 0xffee_ddcc];
    let kinds = [
        ("legacy", HashVersion::Legacy),
        ("half_md4", HashVersion::HalfMd4),
        ("tea", HashVersion::Tea),
    ];
    let mut commands = String::new();
    let mut expected = Vec::new();
    for length in 1..100_usize {
        let odd = if length.is_multiple_of(2) {
            "é日ÿ"
        } else {
            ""
        };
        let name: String = (0..length)
            .map(|i| char::from(b'a' + (i * i % 23) as u8))
            .collect();
        let name = format!("{odd}{name}");
        for (text, version) in kinds {
            commands += &format!("dx_hash -h {text} -s {seed_text} {name}\n");
            expected.push((
                format!("{text} {name}"),
                dir_hash(version, false, seed, name.as_bytes()),
            ));
        }
    }
    let answers = debugfs(&image, false, commands.as_bytes());
    let hashes: Vec<u32> = answers
        .lines()
        .filter(|line| line.starts_with("Hash of "))
        .map(|line| {
            let hash = line
                .split(" is 0x")
                .nth(1)
                .and_then(|rest| rest.split(' ').next())
                .expect("hash");
            u32::from_str_radix(hash, 16).expect("hash")
        })
        .collect();
    assert_eq!(hashes.len(), expected.len());
    for (hash, (what, expected)) in hashes.into_iter().zip(expected) {
        assert_eq!(hash, expected, "{what}");
    }
}
