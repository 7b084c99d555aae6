//! What reads cost on a device, found by reading a little.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, OFlags};

use crate::model::DeviceCost;

const SMALL: usize = 4096;
const LARGE: usize = 1 << 20;

/// Most reads of each part: below 64 MiB in all.
const ALONE_READS: u64 = 32;
const DEEP_READS: u64 = 4096;
const WIDE_READS: u64 = 36;
const STEADY_READS: u64 = 10;

/// Time for each of the three parts to begin reads in.
const ALONE: Duration = Duration::from_millis(20);
const DEEP: Duration = Duration::from_millis(30);
const WIDE: Duration = Duration::from_millis(40);

/// Time after which the device is taken to be dead.
const GIVE_UP: Duration = Duration::from_secs(2);

/// Reads in flight of the second and third part.
const DEEP_THREADS: usize = 32;
const WIDE_THREADS: usize = 4;

/// Why a device could not be measured; assume [`DeviceCost::UNMEASURED`].
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// It can't be opened for reading past the page cache.
    #[error("can't be opened for direct reads: {0}")]
    Open(#[source] io::Error),
    /// A read failed.
    #[error("a direct read failed: {0}")]
    Read(#[source] io::Error),
    /// Neither a block device nor a regular file.
    #[error("neither a block device nor a regular file")]
    NotReadable,
    /// Too little of it to measure anything.
    #[error("only {0} bytes long; 16 MiB are needed")]
    TooSmall(u64),
    /// It did not answer within two seconds.
    #[error("no answer within {} seconds", GIVE_UP.as_secs())]
    NoAnswer,
}

/// Measures a block device, or the device below a regular file without holes,
/// by direct reads, which leave the page cache alone.
///
/// Takes about 100 ms and reads at most 64 MiB. A throttled device takes
/// longer, some 300 ms at 100 MB/s and more than a second at 10 MB/s: throttles
/// let a burst pass, so that only the reads that are held up tell the rate.
///
/// # Errors
/// See [`MeasureError`]. A thread may be left behind in a read that does not
/// return.
pub fn measure(path: &Path) -> Result<DeviceCost, MeasureError> {
    let open = |e: rustix::io::Errno| MeasureError::Open(e.into());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(open)?;
    let kind =
        rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&handle).map_err(open)?.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
        return Err(MeasureError::NotReadable);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(open)?;
    let size = rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0)).map_err(open)?;
    if size < 16 << 20 {
        return Err(MeasureError::TooSmall(size));
    }
    let (sender, receiver) = mpsc::channel();
    let spawned = std::thread::Builder::new()
        .name("headstart-measure".to_owned())
        .spawn(move || {
            let _ = sender.send(parts(&Arc::new(fd), size));
        });
    spawned.map_err(MeasureError::Open)?;
    receiver
        .recv_timeout(GIVE_UP)
        .map_err(|_| MeasureError::NoAnswer)?
        .map_err(MeasureError::Read)
}

fn parts(fd: &Arc<OwnedFd>, size: u64) -> io::Result<DeviceCost> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seed = now.as_nanos() as u64;
    let alone = burst(fd, size, seed, SMALL, 1, ALONE, ALONE_READS)?;
    let deep = burst(fd, size, seed ^ 1, SMALL, DEEP_THREADS, DEEP, DEEP_READS)?;
    let mut wide = burst(fd, size, seed ^ 2, LARGE, WIDE_THREADS, WIDE, WIDE_READS)?;
    if wide.elapsed > WIDE * 2 {
        // Held up: some of it was a burst that a throttle let pass. That credit
        // is spent now, and what follows shows the steady rate.
        wide = burst(fd, size, seed ^ 3, LARGE, WIDE_THREADS, WIDE, STEADY_READS)?;
    }
    Ok(DeviceCost {
        read_ns: deep.elapsed.as_nanos() as f64 / deep.reads as f64,
        latency_ns: alone.elapsed.as_nanos() as f64 / alone.reads as f64,
        bytes_per_s: (wide.reads * LARGE as u64) as f64 / wide.elapsed.as_secs_f64(),
        measured_ms: (now.as_millis() as u64).max(1),
    })
}

struct Burst {
    reads: u64,
    /// From the first read's beginning to the last one's end.
    elapsed: Duration,
}

/// Reads at random offsets until the time or the number is up, and counts until
/// the last one begun has ended.
fn burst(
    fd: &Arc<OwnedFd>,
    size: u64,
    seed: u64,
    length: usize,
    threads: usize,
    time: Duration,
    most: u64,
) -> io::Result<Burst> {
    let begun = Arc::new(AtomicU64::new(0));
    let failed = Arc::new(AtomicBool::new(false));
    let slots = size / length as u64;
    let start = Instant::now();
    let read = {
        let (fd, begun, failed) = (fd.clone(), begun.clone(), failed.clone());
        move || -> io::Result<u64> {
            let mut buffer = vec![0u8; length + SMALL];
            // Direct reads want aligned memory.
            let skip = buffer.as_ptr().align_offset(SMALL);
            let buffer = buffer
                .get_mut(skip..skip.saturating_add(length))
                .ok_or_else(|| io::Error::other("can't align the buffer"))?;
            let mut done = 0;
            while start.elapsed() < time && !failed.load(Ordering::Relaxed) {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                if number >= most {
                    break;
                }
                let offset = scatter(seed.wrapping_add(number)) % slots * length as u64;
                if let Err(errno) = rustix::io::pread(&*fd, &mut *buffer, offset) {
                    failed.store(true, Ordering::Relaxed);
                    return Err(errno.into());
                }
                done += 1;
            }
            Ok(done)
        }
    };
    let mut others = Vec::new();
    for _ in 1..threads {
        others.push(std::thread::Builder::new().spawn(read.clone())?);
    }
    let mut reads = read()?;
    for other in others {
        reads += other
            .join()
            .map_err(|_| io::Error::other("a measuring thread panicked"))??;
    }
    if reads == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(Burst {
        reads,
        elapsed: start.elapsed(),
    })
}

/// A fixed scattering of consecutive numbers (SplitMix64's finaliser).
fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_device_is_refused_with_a_reason() {
        assert!(matches!(
            measure(Path::new("/dev/null")),
            Err(MeasureError::NotReadable)
        ));
        assert!(matches!(
            measure(Path::new("/no/such/file")),
            Err(MeasureError::Open(_))
        ));
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("dir");
        let small = dir.path().join("small");
        std::fs::write(&small, [1; 4096]).expect("write");
        assert!(matches!(measure(&small), Err(MeasureError::TooSmall(4096))));
    }

    #[test]
    fn a_file_is_measured() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("dir");
        let path = dir.path().join("big");
        std::fs::write(&path, vec![7; 32 << 20]).expect("write");
        std::fs::File::open(&path)
            .and_then(|f| f.sync_all())
            .expect("sync");
        match measure(&path) {
            Ok(cost) => {
                assert!(cost.read_ns > 0.0 && cost.read_ns.is_finite(), "{cost:?}");
                assert!(cost.latency_ns > 0.0 && cost.bytes_per_s > 0.0, "{cost:?}");
                assert!(cost.measured_ms > 0);
            }
            Err(error) => eprintln!("SKIPPED: no direct reads here ({error})"),
        }
    }
}
