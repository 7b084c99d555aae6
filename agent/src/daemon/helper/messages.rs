//! The protobuf messages of [`super::wire`]. Actions are columns: many, and small numbers.

use super::wire::{Answer, WireError};
use crate::model::{self, FileVersion, NameKind, PlanFile, PlanName, RelPath, VolumeId};
use crate::warm::{self, ByteCounts, FailureKind, MAX_FAILURES, WarmReport};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Carry {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) plan: Option<Plan>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) within_ms: Option<u64>,
    #[prost(uint32, tag = "4")]
    pub(super) io_class: u32,
    #[prost(uint32, tag = "5")]
    pub(super) io_level: u32,
    #[prost(bool, tag = "6")]
    pub(super) metadata: bool,
    #[prost(bool, tag = "7")]
    pub(super) is_ahead: bool,
    #[prost(uint64, tag = "8")]
    pub(super) threads: u64,
    #[prost(bool, tag = "9")]
    pub(super) verify: bool,
    #[prost(double, tag = "10")]
    pub(super) read_ns: f64,
    #[prost(double, tag = "11")]
    pub(super) latency_ns: f64,
    #[prost(double, tag = "12")]
    pub(super) bytes_per_s: f64,
    #[prost(uint64, tag = "13")]
    pub(super) readahead_bytes: u64,
    #[prost(uint64, tag = "14")]
    pub(super) measured_ms: u64,
    #[prost(uint32, repeated, tag = "15")]
    pub(super) bound_slots: Vec<u32>,
    #[prost(uint64, repeated, tag = "16")]
    pub(super) bounds: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Cancel {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Plan {
    #[prost(message, repeated, tag = "1")]
    pub(super) volumes: Vec<Volume>,
    #[prost(message, repeated, tag = "2")]
    pub(super) files: Vec<File>,
    #[prost(message, repeated, tag = "3")]
    pub(super) names: Vec<Name>,
    #[prost(uint64, tag = "4")]
    pub(super) over_budget_bytes: u64,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) kinds: Vec<u8>,
    #[prost(uint32, repeated, tag = "6")]
    pub(super) indices: Vec<u32>,
    #[prost(uint64, repeated, tag = "7")]
    pub(super) starts: Vec<u64>,
    #[prost(uint32, repeated, tag = "8")]
    pub(super) pages: Vec<u32>,
    #[prost(uint32, repeated, tag = "9")]
    pub(super) gaps: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Volume {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    fs_type: String,
    #[prost(bytes = "vec", tag = "3")]
    mount_point: Vec<u8>,
}

impl Volume {
    pub(super) fn of(volume: &model::Volume) -> Self {
        Self {
            id: volume.id.0.clone(),
            fs_type: volume.fs_type.clone(),
            mount_point: volume.mount_point.clone(),
        }
    }

    pub(super) fn take(self) -> model::Volume {
        model::Volume {
            id: VolumeId(self.id),
            fs_type: self.fs_type,
            mount_point: self.mount_point,
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct File {
    #[prost(uint32, tag = "1")]
    volume: u32,
    #[prost(bytes = "vec", tag = "2")]
    path: Vec<u8>,
    #[prost(uint64, tag = "3")]
    size: u64,
    #[prost(sint64, tag = "4")]
    mtime_ns: i64,
}

impl File {
    pub(super) fn of(file: &PlanFile) -> Self {
        Self {
            volume: file.volume,
            path: file.path.as_bytes().to_vec(),
            size: file.version.size,
            mtime_ns: file.version.mtime_ns,
        }
    }

    pub(super) fn take(self, volumes: &[model::Volume]) -> Result<PlanFile, WireError> {
        Ok(PlanFile {
            volume: one_of(self.volume, volumes)?,
            path: path(self.path)?,
            version: FileVersion {
                size: self.size,
                mtime_ns: self.mtime_ns,
            },
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Name {
    #[prost(uint32, tag = "1")]
    volume: u32,
    #[prost(bytes = "vec", tag = "2")]
    path: Vec<u8>,
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(bool, tag = "4")]
    listed: bool,
}

const NAME_KINDS: [NameKind; 4] = [
    NameKind::File,
    NameKind::Directory,
    NameKind::Symlink,
    NameKind::Missing,
];

impl Name {
    pub(super) fn of(name: &PlanName) -> Self {
        let kind = NAME_KINDS.iter().position(|kind| *kind == name.kind);
        Self {
            volume: name.volume,
            path: name.path.as_bytes().to_vec(),
            kind: kind.unwrap_or(0) as u32,
            listed: name.listed,
        }
    }

    pub(super) fn take(self, volumes: &[model::Volume]) -> Result<PlanName, WireError> {
        let kind = NAME_KINDS.get(self.kind as usize);
        Ok(PlanName {
            volume: one_of(self.volume, volumes)?,
            path: path(self.path)?,
            kind: *kind.ok_or(WireError::Range("the kind of a name"))?,
            listed: self.listed,
        })
    }
}

fn one_of(volume: u32, volumes: &[model::Volume]) -> Result<u32, WireError> {
    match (volume as usize) < volumes.len() {
        true => Ok(volume),
        false => Err(WireError::Range("a volume")),
    }
}

fn path(bytes: Vec<u8>) -> Result<RelPath, WireError> {
    RelPath::new(bytes).map_err(|error| WireError::Malformed(error.to_string()))
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Counts {
    #[prost(uint64, tag = "1")]
    planned: u64,
    #[prost(uint64, tag = "2")]
    resident_before: u64,
    #[prost(uint64, tag = "3")]
    read: u64,
    #[prost(uint64, tag = "4")]
    failed: u64,
    #[prost(uint64, tag = "5")]
    gone: u64,
    #[prost(uint64, tag = "6")]
    evicted: u64,
    #[prost(uint64, tag = "7")]
    skipped: u64,
    #[prost(uint64, tag = "8")]
    left: u64,
}

impl Counts {
    fn of(counts: &ByteCounts) -> Option<Self> {
        Some(Self {
            planned: counts.planned,
            resident_before: counts.resident_before,
            read: counts.read,
            failed: counts.failed,
            gone: counts.gone,
            evicted: counts.evicted,
            skipped: counts.skipped,
            left: counts.left,
        })
    }

    fn take(counts: Option<Self>) -> ByteCounts {
        let counts = counts.unwrap_or_default();
        ByteCounts {
            planned: counts.planned,
            resident_before: counts.resident_before,
            read: counts.read,
            failed: counts.failed,
            gone: counts.gone,
            evicted: counts.evicted,
            skipped: counts.skipped,
            left: counts.left,
        }
    }
}

const FAILURE_KINDS: [FailureKind; 8] = [
    FailureKind::Volume,
    FailureKind::Stuck,
    FailureKind::Escapes,
    FailureKind::NotRegular,
    FailureKind::Denied,
    FailureKind::Read,
    FailureKind::NoDevice,
    FailureKind::Other,
];

#[derive(Clone, PartialEq, prost::Message)]
struct Failure {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "2")]
    path: String,
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(string, tag = "4")]
    error: String,
    #[prost(uint64, tag = "5")]
    start_page: u64,
    #[prost(uint64, tag = "6")]
    bytes: u64,
}

impl Failure {
    fn of(failure: &warm::Failure) -> Self {
        let kind = FAILURE_KINDS.iter().position(|kind| *kind == failure.kind);
        Self {
            volume: failure.volume.clone(),
            path: failure.path.clone(),
            kind: kind.unwrap_or(FAILURE_KINDS.len() - 1) as u32,
            error: failure.error.clone(),
            start_page: failure.start_page,
            bytes: failure.bytes,
        }
    }

    fn take(self) -> Result<warm::Failure, WireError> {
        let kind = FAILURE_KINDS.get(self.kind as usize);
        Ok(warm::Failure {
            volume: self.volume,
            path: self.path,
            kind: *kind.ok_or(WireError::Range("the kind of a failure"))?,
            error: self.error,
            start_page: self.start_page,
            bytes: self.bytes,
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Report {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "2")]
    data: Option<Counts>,
    #[prost(message, optional, tag = "3")]
    blocks: Option<Counts>,
    #[prost(uint64, tag = "4")]
    over_budget_bytes: u64,
    /// Planned, warmed, gone, failed, left.
    #[prost(uint64, repeated, tag = "5")]
    names: Vec<u64>,
    /// Planned, changed, missing, failed.
    #[prost(uint64, repeated, tag = "6")]
    files: Vec<u64>,
    #[prost(bool, tag = "7")]
    verified: bool,
    #[prost(uint64, tag = "8")]
    unverified_bytes: u64,
    #[prost(bool, tag = "9")]
    cancelled: bool,
    #[prost(bool, tag = "10")]
    deadline_reached: bool,
    #[prost(uint64, tag = "11")]
    stuck_threads: u64,
    #[prost(string, repeated, tag = "12")]
    stuck_volumes: Vec<String>,
    #[prost(double, tag = "13")]
    warm_seconds: f64,
    #[prost(double, tag = "14")]
    verify_seconds: f64,
    #[prost(double, tag = "15")]
    seconds: f64,
    #[prost(message, repeated, tag = "16")]
    without_device: Vec<Failure>,
    #[prost(message, repeated, tag = "17")]
    failures: Vec<Failure>,
    #[prost(uint64, tag = "18")]
    failures_unnamed: u64,
    /// Of what arrived: file, pages, when it was asked for, when it was there, 1 if it was
    /// read.
    #[prost(uint32, repeated, tag = "19")]
    arrivals: Vec<u32>,
    /// First pages of these.
    #[prost(uint64, repeated, tag = "20")]
    arrival_starts: Vec<u64>,
    #[prost(uint64, tag = "21")]
    in_turns: u64,
}

impl Report {
    pub(super) fn of(id: u64, report: &WarmReport) -> Self {
        let failures = |failures: &[warm::Failure]| {
            let named = failures.iter().take(MAX_FAILURES);
            named.map(Failure::of).collect()
        };
        let arrival = |arrival: &warm::Arrival| {
            [
                arrival.file,
                arrival.pages,
                arrival.asked_us,
                arrival.there_us,
                u32::from(arrival.read),
            ]
        };
        Self {
            id,
            data: Counts::of(&report.data),
            blocks: Counts::of(&report.blocks),
            over_budget_bytes: report.over_budget_bytes,
            names: vec![
                report.names_planned,
                report.names_warmed,
                report.names_gone,
                report.names_failed,
                report.names_left,
            ],
            files: vec![
                report.files_planned,
                report.files_changed,
                report.files_missing,
                report.files_failed,
            ],
            verified: report.verified,
            unverified_bytes: report.unverified_bytes,
            cancelled: report.cancelled,
            deadline_reached: report.deadline_reached,
            stuck_threads: report.stuck_threads as u64,
            stuck_volumes: report.stuck_volumes.clone(),
            warm_seconds: report.warm_seconds,
            verify_seconds: report.verify_seconds,
            seconds: report.seconds,
            in_turns: report.in_turns,
            without_device: failures(&report.without_device),
            failures: failures(&report.failures),
            failures_unnamed: report.failures_unnamed,
            arrivals: report.arrivals.iter().flat_map(arrival).collect(),
            arrival_starts: report.arrivals.iter().map(|a| a.start_page).collect(),
        }
    }

    pub(super) fn take(self) -> Result<Answer, WireError> {
        let failures = |failures: Vec<Failure>| match failures.len() <= MAX_FAILURES {
            true => failures.into_iter().map(Failure::take).collect(),
            false => Err(WireError::Range("the number of failures")),
        };
        let [planned, warmed, gone, failed, left] = self.names[..] else {
            return Err(WireError::Range("the counts of names"));
        };
        let [files, changed, missing, refused] = self.files[..] else {
            return Err(WireError::Range("the counts of files"));
        };
        let arrivals = arrivals(&self.arrivals, &self.arrival_starts)?;
        let report = WarmReport {
            data: Counts::take(self.data),
            blocks: Counts::take(self.blocks),
            over_budget_bytes: self.over_budget_bytes,
            names_planned: planned,
            names_warmed: warmed,
            names_gone: gone,
            names_failed: failed,
            names_left: left,
            files_planned: files,
            files_changed: changed,
            files_missing: missing,
            files_failed: refused,
            verified: self.verified,
            unverified_bytes: self.unverified_bytes,
            cancelled: self.cancelled,
            deadline_reached: self.deadline_reached,
            stuck_threads: usize::try_from(self.stuck_threads)
                .map_err(|_| WireError::Range("the number of threads"))?,
            stuck_volumes: self.stuck_volumes,
            warm_seconds: self.warm_seconds,
            verify_seconds: self.verify_seconds,
            seconds: self.seconds,
            in_turns: self.in_turns,
            without_device: failures(self.without_device)?,
            failures: failures(self.failures)?,
            failures_unnamed: self.failures_unnamed,
            began: None,
            arrivals,
        };
        Ok(Answer {
            id: self.id,
            report,
        })
    }
}

fn arrivals(columns: &[u32], starts: &[u64]) -> Result<Vec<warm::Arrival>, WireError> {
    let odd = WireError::Range("the number of arrivals");
    let (arrivals, []) = columns.as_chunks::<5>() else {
        return Err(odd);
    };
    if arrivals.len() != starts.len() {
        return Err(odd);
    }
    let arrival = |(&[file, pages, asked_us, there_us, read], &start_page): (&[u32; 5], &u64)| {
        // What is told of it is added up with it.
        let end = start_page.checked_add(pages.into());
        end.ok_or(WireError::Range("the pages of an arrival"))?;
        Ok(warm::Arrival {
            file,
            start_page,
            pages,
            read: read != 0,
            asked_us,
            there_us,
        })
    };
    arrivals.iter().zip(starts).map(arrival).collect()
}
