//! The rings that the probes write to.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use aya::maps::{Map, MapData, MapError, RingBuf};

/// What stands in a ring before each record (kernel/bpf/ringbuf.c, `BPF_RINGBUF_HDR_SZ`).
const HEADER_BYTES: usize = 8;

/// Reads records as the probes send them.
pub struct Reader {
    ring: RingBuf<MapData>,
    /// Its size.
    bytes: usize,
}

impl Reader {
    pub(super) fn of(map: Map) -> Result<Self, MapError> {
        let bytes = match &map {
            Map::RingBuf(data) => data.info()?.max_entries() as usize,
            _ => 0,
        };
        let ring = RingBuf::try_from(map)?;
        Ok(Self { ring, bytes })
    }

    /// Hands every record that is there to `each`; the number of records. What comes
    /// meanwhile may be left for the next time: whoever is quicker than its reader does not
    /// hold it here.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) -> u64 {
        let (mut records, mut bytes) = (0, 0);
        while bytes < self.bytes
            && let Some(item) = self.ring.next()
        {
            bytes += item.len() + HEADER_BYTES;
            each(&item);
            records += 1;
        }
        records
    }

    /// Waits until the ring is more than half full, `wake` can be read, or
    /// `timeout` has passed: the probes wake nobody for single records. Whether
    /// `wake` can be read.
    pub fn wait(&self, timeout: Duration, wake: Option<BorrowedFd<'_>>) -> bool {
        let wakes: Vec<BorrowedFd<'_>> = wake.into_iter().collect();
        wait(Some(self), timeout, &wakes).contains(&true)
    }
}

/// Waits until the ring is more than half full (or was written to, where it is that of
/// signals), one of `wakes` can be read, or `timeout` has passed. Which of `wakes` can be
/// read.
pub fn wait(ring: Option<&Reader>, timeout: Duration, wakes: &[BorrowedFd<'_>]) -> Vec<bool> {
    use rustix::event::{PollFd, PollFlags, poll};
    let ring = ring.map(|reader| PollFd::new(&reader.ring, PollFlags::IN));
    let rings = usize::from(ring.is_some());
    let mut fds: Vec<PollFd<'_>> = ring.into_iter().collect();
    fds.extend(wakes.iter().map(|wake| PollFd::new(wake, PollFlags::IN)));
    let timeout = rustix::time::Timespec {
        tv_sec: timeout.as_secs() as i64,
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // An interrupted wait is as good as one that timed out: the caller drains either way.
    let _ = poll(&mut fds, Some(&timeout));
    fds[rings..]
        .iter()
        .map(|fd| !fd.revents().is_empty())
        .collect()
}
