//! What does not fit is counted, and nothing is lost that is not.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use headstart_abi::{Note, Outcome, Stage};

use crate::pages::{Pages, Seen};
use crate::reader::{How, Op};
use crate::support::Scratch;

/// More chunks than the probes have slots to remember.
const CHUNKS: u64 = 200_000;

/// A file without blocks: reading a hole fills pages like reading data.
fn holes(scratch: &Scratch) -> std::path::PathBuf {
    let path = scratch.path("holes");
    let file = std::fs::File::create(&path).expect("file");
    file.set_len(CHUNKS * 64 * 4096).expect("length");
    path
}

fn pages() -> Pages {
    (0..CHUNKS).map(|chunk| chunk * 64).collect()
}

#[test]
fn a_full_ring_is_counted_record_by_record() {
    let Some(mut scratch) = Scratch::with_ring(4096) else {
        return;
    };
    let path = holes(&scratch);
    let recording = scratch.record(&[Op::new(&path, How::EveryChunk(CHUNKS, 1))]);
    let seen = Seen::of(&recording.trace, &path);
    let lost = recording.counters.get(Stage::Ring, Outcome::Lost);
    assert!(lost > 0);
    assert_eq!(recording.trace.lost, lost);
    // What was sent has arrived.
    assert_eq!(
        recording.records,
        recording.counters.get(Stage::Ring, Outcome::Out)
    );
    assert!(seen.certain.is_subset(&pages()) && seen.maybe.is_empty());
    // Every chunk was sent or lost, once: the rest of both is about other files.
    let got = seen.certain.len() as u64;
    assert!(
        got <= recording.records && CHUNKS - got <= lost,
        "{got} {lost}"
    );
    let others = recording.records - got + lost - (CHUNKS - got);
    assert!(others < CHUNKS / 10, "{others} events of other files");
}

#[test]
fn chunks_that_take_each_others_slot_are_sent_again_not_lost() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let path = holes(&scratch);
    let recording = scratch.record(&[Op::new(&path, How::EveryChunk(CHUNKS, 2))]);
    assert_eq!(recording.trace.lost, 0);
    assert_eq!(
        recording.records,
        recording.counters.get(Stage::Ring, Outcome::Out)
    );
    let seen = Seen::of(&recording.trace, &path);
    assert!(seen.certain == pages() && seen.maybe.is_empty());
    // Each chunk has one slot; 32,768 slots hold the last of them.
    let evicted = recording.counters.note(Note::EvictedPages);
    assert!(evicted >= CHUNKS - 32_768, "{evicted}");
    assert!(recording.records >= CHUNKS + (CHUNKS - 32_768));
}

/// Whose file is gone, and whose memory is taken back: an inode leaves its address to
/// another, whose pages have the same places as its own.
#[test]
fn pages_of_an_inode_where_another_was_before_are_sent() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let made = |name: &str, count| -> Vec<PathBuf> {
        let paths = (0..count).map(|i| scratch.path(&format!("{name}-{i}")));
        paths
            .inspect(|path| crate::support::write(path, 4096))
            .collect()
    };
    let (gone, stays, many) = (made("gone", 400), made("stays", 400), made("many", 3000));
    let read = |path: &PathBuf| Op::new(path, How::Read(vec![(0, 1)]));
    let mut ops = Vec::new();
    let mut new = Vec::new();
    for (gone, stays) in gone.iter().zip(&stays) {
        ops.extend([read(gone), Op::new(gone, How::Remove), read(stays)]);
        // It may have the removed one's number, with another generation.
        let path = gone.with_extension("new");
        let target = path.as_os_str().as_bytes().to_vec();
        ops.extend([Op::new(stays, How::CopyTo(target, 0, 4096)), read(&path)]);
        new.push(path);
    }
    for many in many.chunks(500) {
        ops.extend(many.iter().map(read));
        ops.push(Op::new("/", How::DropCaches));
    }
    crate::support::drop_caches();
    let recording = scratch.record(&ops);
    assert_eq!(recording.trace.lost, 0);
    for (what, paths) in [("stays", stays), ("new", new), ("many", many)] {
        let count = paths.len();
        let missing = paths
            .iter()
            .filter(|path| !Seen::of(&recording.trace, path).certain.contains(&0))
            .count();
        assert_eq!(missing, 0, "of {count} {what}: {:?}", recording.gaps);
    }
}

#[test]
fn what_fits_is_sent_once() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let path = scratch.path("data");
    crate::support::write(&path, 64 * 4096);
    let reads = vec![(0, 4096); 5000];
    let once = scratch.record(&[Op::new(&path, How::Read(vec![(0, 4096)]))]);
    let often = scratch.record(&[Op::new(&path, How::Read(reads))]);
    // The reader's own start-up differs by a few pages of a longer script.
    assert!(
        often.records < once.records + 500,
        "{} {}",
        often.records,
        once.records
    );
}
