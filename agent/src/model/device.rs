//! What a read costs on a device.

/// Cost model of a device under many reads in flight: a batch of `n` reads of
/// `b` bytes in all takes about `max(n * read_ns, b / bytes_per_s)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceCost {
    /// ns from one small read's completion to the next, at the measured depth
    /// (1e9 / IOPS).
    pub read_ns: f64,
    /// ns that one small read takes alone.
    pub latency_ns: f64,
    /// Bytes a second of large reads.
    pub bytes_per_s: f64,
    /// Bytes that the kernel reads around a page fault that finds nothing cached:
    /// the device's readahead window.
    pub readahead_bytes: u64,
    /// When it was measured, ms since the epoch; 0 for a default.
    pub measured_ms: u64,
}

impl DeviceCost {
    /// Whether one reader with the kernel's own readahead gets all that the device
    /// gives: a window holds twice what it delivers in the time that one read takes.
    pub fn readahead_keeps_up(&self) -> bool {
        let delivered = self.bytes_per_s * self.latency_ns / 1e9;
        self.readahead_bytes as f64 >= 2.0 * delivered
    }

    /// What is assumed of a device that was never measured: a modest SSD.
    pub const UNMEASURED: DeviceCost = DeviceCost {
        read_ns: 50_000.0,
        latency_ns: 150_000.0,
        bytes_per_s: 500e6,
        readahead_bytes: 128 << 10,
        measured_ms: 0,
    };
}
