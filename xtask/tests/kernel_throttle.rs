//! Throttled storage is slow, and its cgroup goes away. Needs root, a disk, and
//! the blkio or io controller.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use xtask::bench::throttle::{Limits, Throttle};
use xtask::workspace::is_root;

const MIB: u64 = 1 << 20;

#[test]
fn reads_in_a_throttle_are_slow() {
    if !is_root() {
        eprintln!("SKIPPED: not root");
        return;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let limits = Limits {
        bytes: Some(2 * MIB),
        requests: None,
    };
    let throttle = match Throttle::new(dir, limits) {
        Ok(throttle) => throttle,
        Err(error) => {
            eprintln!("SKIPPED: {error:#}");
            return;
        }
    };
    let file = dir.join(format!("throttled-{}", std::process::id()));
    fs::write(&file, vec![7u8; 4 * MIB as usize]).expect("a file of 4 MiB");
    fs::File::open(&file)
        .and_then(|f| f.sync_all())
        .expect("it is on the disk");

    let start = Instant::now();
    // Past the page cache: other tests keep theirs.
    let status = throttle
        .command("dd")
        .arg(format!("if={}", file.display()))
        .args(["of=/dev/null", "bs=256K", "iflag=direct", "status=none"])
        .status()
        .expect("dd starts");
    let took = start.elapsed();
    fs::remove_file(&file).expect("it was made above");

    assert!(status.success());
    // Two seconds by the book; a throttle lets the first slice through early.
    assert!(took > Duration::from_millis(1200), "{took:?}");
    let debug = format!("{throttle:?}");
    drop(throttle);
    let cgroup = debug.split('"').nth(1).expect("its path");
    assert!(!Path::new(cgroup).exists(), "{cgroup} is still there");
}
