//! What reads cost on a device, found by reading a little.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::disks;
use super::others::disk_use_now;
use super::roots::readahead_bytes;
use crate::model::DeviceCost;

const SMALL: usize = 4096;
const LARGE: usize = 1 << 20;

/// Least length of what can be measured: four large reads lie apart.
const LEAST: u64 = 1 << 20;

/// Most reads of each part, and so many times as many of those that look closer: 220 MiB in
/// all.
const ALONE_READS: u64 = 32;
const DEEP_READS: u64 = 4096;
const WIDE_READS: u64 = 36;
const CLOSER: u64 = 3;

/// Time for each of the three parts to begin reads in.
const ALONE: Duration = Duration::from_millis(20);
const DEEP: Duration = Duration::from_millis(30);
const WIDE: Duration = Duration::from_millis(40);

/// The same for a part that was not through in time. Linux' block throttle lets
/// a burst of 100 ms' worth pass before it holds reads up, and then lets as much pass every
/// 100 ms: this is several after the burst.
const STEADY: Duration = Duration::from_millis(500);
const BURST: Duration = Duration::from_millis(90);

/// A disk is idle that nobody has used for so long.
const IDLE: Duration = Duration::from_millis(100);

/// include/uapi/linux/magic.h: BTRFS_SUPER_MAGIC.
const BTRFS_MAGIC: rustix::fs::FsWord = 0x9123_683e;

/// Time after which the device is taken to be dead.
const GIVE_UP: Duration = Duration::from_secs(3);

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
    #[error("only {0} bytes long; 1 MiB is needed")]
    TooSmall(u64),
    /// It did not answer within three seconds.
    #[error("no answer within {} seconds", GIVE_UP.as_secs())]
    NoAnswer,
}

/// Measures a block device, or the device below a regular file without holes,
/// by direct reads, which leave the page cache alone.
///
/// Takes about 100 ms and reads at most 220 MiB. Below 900 MB/s or 130,000 reads
/// a second it takes longer, some 1.2 s: a throttle lets a burst pass, so that
/// only a closer look tells whether there is one.
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
    if size < LEAST {
        return Err(MeasureError::TooSmall(size));
    }
    let readahead_bytes = rustix::fs::fstat(&fd)
        .ok()
        .and_then(|stat| readahead_bytes(device_of(&stat)))
        .unwrap_or(DeviceCost::UNMEASURED.readahead_bytes);
    let (sender, receiver) = mpsc::channel();
    let spawned = std::thread::Builder::new()
        .name("headstart-measure".to_owned())
        .spawn(move || {
            let _ = sender.send(parts(&Arc::new(fd), size, readahead_bytes));
        });
    spawned.map_err(MeasureError::Open)?;
    receiver
        .recv_timeout(GIVE_UP)
        .map_err(|_| MeasureError::NoAnswer)?
        .map_err(MeasureError::Read)
}

/// Waits until nobody has used the disks below a file for 100 ms; `false` where somebody does
/// for as long as `patience`. `None` where there is no disk whose use is counted: the file is
/// on another machine, say, or in an image.
pub fn is_idle(path: &Path, patience: Duration) -> Option<bool> {
    let device = device_of(&rustix::fs::stat(path).ok()?);
    let disks = disks::below(Path::new("/sys"), device);
    // Btrfs says by no number which disks it is on: it may be any.
    let is_btrfs = || rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == BTRFS_MAGIC);
    if disks.is_none() && !is_btrfs() {
        return None;
    }
    let now = || disk_use_now(disks.as_ref());
    let began = Instant::now();
    while began.elapsed() < patience {
        let before = now()?;
        std::thread::sleep(IDLE);
        if before.under_way == 0 && now() == Some(before) {
            return Some(true);
        }
    }
    Some(false)
}

/// The block device itself, or the one below a file.
fn device_of(stat: &rustix::fs::Stat) -> (u32, u32) {
    let block = FileType::from_raw_mode(stat.st_mode).is_block_device();
    let device = if block { stat.st_rdev } else { stat.st_dev };
    (rustix::fs::major(device), rustix::fs::minor(device))
}

fn parts(fd: &Arc<OwnedFd>, size: u64, readahead_bytes: u64) -> io::Result<DeviceCost> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let large = LARGE.min(size as usize / 4) / SMALL * SMALL;
    let part = |length, threads, time, most| Part {
        fd: fd.clone(),
        size,
        seed: now.as_nanos() as u64 ^ threads as u64,
        length,
        threads,
        time,
        most,
    };
    let alone = part(SMALL, 1, ALONE, ALONE_READS).interval_ns()?;
    let deep = part(SMALL, DEEP_THREADS, DEEP, DEEP_READS).interval_ns()?;
    let wide = part(large, WIDE_THREADS, WIDE, WIDE_READS).interval_ns()?;
    Ok(DeviceCost {
        read_ns: deep,
        latency_ns: alone,
        bytes_per_s: large as f64 / wide * 1e9,
        readahead_bytes,
        measured_ms: (now.as_millis() as u64).max(1),
    })
}

/// Reads of one kind.
#[derive(Clone)]
struct Part {
    fd: Arc<OwnedFd>,
    /// Of the device or file, bytes.
    size: u64,
    seed: u64,
    /// Of a read, bytes.
    length: usize,
    threads: usize,
    time: Duration,
    most: u64,
}

impl Part {
    /// ns from one read's end to the next one's.
    fn interval_ns(self) -> io::Result<f64> {
        let ends = self.run()?;
        let last = ends.last().copied().unwrap_or_default();
        let mean = last.as_nanos() as f64 / ends.len() as f64;
        // Alone, nothing queues behind anything.
        if self.threads == 1 || (ends.len() as u64 == self.most && last < self.time * 2) {
            return Ok(mean);
        }
        // Slow, or held up: some of it may be a burst that a throttle let pass.
        let steady = Part {
            time: STEADY,
            most: self.most * CLOSER,
            seed: self.seed ^ 1 << 32,
            ..self
        };
        let ends = steady.run()?;
        Ok(steady_ns(&ends).unwrap_or(mean))
    }

    /// Reads at random offsets until the time or the number is up. When reads
    /// ended since the beginning, in order; at least one.
    fn run(&self) -> io::Result<Vec<Duration>> {
        let begun = Arc::new(AtomicU64::new(0));
        let failed = Arc::new(AtomicBool::new(false));
        let start = Instant::now();
        let mut others = Vec::new();
        for _ in 1..self.threads {
            let (part, begun, failed) = (self.clone(), begun.clone(), failed.clone());
            others.push(
                std::thread::Builder::new().spawn(move || part.thread(start, &begun, &failed))?,
            );
        }
        let mut ends = self.thread(start, &begun, &failed)?;
        for other in others {
            ends.extend(
                other
                    .join()
                    .map_err(|_| io::Error::other("a measuring thread panicked"))??,
            );
        }
        if ends.is_empty() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        ends.sort_unstable();
        Ok(ends)
    }

    fn thread(
        &self,
        start: Instant,
        begun: &AtomicU64,
        failed: &AtomicBool,
    ) -> io::Result<Vec<Duration>> {
        let slots = self.size / self.length as u64;
        let mut buffer = vec![0u8; self.length + SMALL];
        // Direct reads want aligned memory.
        let skip = buffer.as_ptr().align_offset(SMALL);
        let buffer = buffer
            .get_mut(skip..skip.saturating_add(self.length))
            .ok_or_else(|| io::Error::other("can't align the buffer"))?;
        let mut ends = Vec::new();
        while start.elapsed() < self.time && !failed.load(Ordering::Relaxed) {
            let number = begun.fetch_add(1, Ordering::Relaxed);
            if number >= self.most {
                break;
            }
            let offset = scatter(self.seed.wrapping_add(number)) % slots * self.length as u64;
            if let Err(errno) = rustix::io::pread(&*self.fd, &mut *buffer, offset) {
                failed.store(true, Ordering::Relaxed);
                return Err(errno.into());
            }
            ends.push(start.elapsed());
        }
        Ok(ends)
    }
}

/// ns from one end to the next once a burst is over, if one was. `None` for too few.
fn steady_ns(ends: &[Duration]) -> Option<f64> {
    let later = &ends[ends.partition_point(|end| *end < BURST)..];
    match later.len() * 4 > ends.len() {
        true => slope_ns(later),
        false => slope_ns(ends),
    }
}

/// ns from one end to the next, by least squares: steps in between weigh little. `None` for
/// too few.
fn slope_ns(ends: &[Duration]) -> Option<f64> {
    if ends.len() < 4 {
        return None;
    }
    let count = ends.len() as f64;
    let time = |end: &Duration| end.as_nanos() as f64;
    let mean_time = ends.iter().map(time).sum::<f64>() / count;
    let mean_index = (count - 1.0) / 2.0;
    let (mut product, mut square) = (0.0, 0.0);
    for (index, end) in ends.iter().enumerate() {
        let from_mean = index as f64 - mean_index;
        product += from_mean * (time(end) - mean_time);
        square += from_mean * from_mean;
    }
    Some(product / square).filter(|slope| *slope > 0.0)
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
    fn what_is_on_no_disk_is_neither_idle_nor_busy() {
        assert_eq!(is_idle(Path::new("/proc/self/status"), GIVE_UP), None);
        assert_eq!(is_idle(Path::new("/no/such/file"), GIVE_UP), None);
    }

    #[test]
    fn a_burst_at_the_beginning_does_not_hide_a_throttles_rate() {
        let ms = Duration::from_millis;
        // 20 at once, then ten each 100 ms.
        let throttled: Vec<Duration> = std::iter::repeat_n(ms(1), 20)
            .chain((10..60).map(|i| ms(i / 10 * 100)))
            .collect();
        let steady = steady_ns(&throttled).expect("enough");
        assert!((9.5e6..=10.5e6).contains(&steady), "{steady}");
        // All was over by then.
        let quick: Vec<Duration> = (1..40).map(ms).collect();
        assert!((steady_ns(&quick).expect("enough") - 1e6).abs() < 1.0);
        let even: Vec<Duration> = (1..30).map(|i| ms(i * 10)).collect();
        assert!((slope_ns(&even).expect("enough") - 10e6).abs() < 1.0);
        assert_eq!(slope_ns(&even[..3]), None);
        assert_eq!(slope_ns(&[ms(1); 8]), None);
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
