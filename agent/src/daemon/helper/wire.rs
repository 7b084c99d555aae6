//! What the agent and its helpers say to each other: plans one way, reports the other.
//!
//! A frame is four bytes of length (little endian, of what follows the head), a byte of
//! [`VERSION`], a byte of kind, two zeroes, and a protobuf message. Both ends are the same
//! program, so nothing here outlives a process: what is not understood ends the connection.

use prost::Message;

use crate::model::{Action, DeviceCost, Plan, PlanTotals};
use crate::warm::{IoClass, Lead, WarmReport};

use super::messages as msg;

/// Goes up with any change of the messages.
pub const VERSION: u8 = 1;

/// Bytes of a frame's head.
pub const HEAD: usize = 8;

/// Longest message, bytes: a plan of some hundred thousand files.
pub const MAX_BYTES: usize = 32 << 20;

const CARRY: u8 = 1;
const CANCEL: u8 = 2;
const REPORT: u8 = 3;

/// How a plan is to be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// Give up what is left after so long, ms.
    pub within_ms: Option<u64>,
    /// Priority of the I/O.
    pub io_class: IoClass,
    /// Whether to look names up and read metadata blocks.
    pub metadata: bool,
    /// When the workload starts.
    pub lead: Lead,
    /// Number of threads; 0 for as many as the device repays.
    pub threads: usize,
    /// Whether to check at the end that the pages are there.
    pub verify: bool,
    /// What reads cost.
    pub cost: DeviceCost,
    /// Bounds: the slot among the shared dues, and bytes a second.
    pub bounds: Vec<(u32, u64)>,
}

/// What a helper is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Carry a plan out.
    Carry {
        /// What it is called in other messages.
        id: u64,
        /// The plan.
        plan: Box<Plan>,
        /// How.
        terms: Terms,
    },
    /// Stop carrying that plan out.
    Cancel(u64),
}

/// What a helper says: what came of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Which.
    pub id: u64,
    /// What came of it.
    pub report: WarmReport,
}

/// Why bytes are no frame, or no message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than [`MAX_BYTES`].
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// Of another version of the program.
    #[error("version {0} of the messages is not known")]
    Version(u8),
    /// Not one of the kinds that this side takes.
    #[error("messages of kind {0} are not taken")]
    Kind(u8),
    /// Not the message that it should be.
    #[error("a message is not understood: {0}")]
    Malformed(String),
    /// A number in it means nothing.
    #[error("{0} of a message is out of range")]
    Range(&'static str),
}

impl From<prost::DecodeError> for WireError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// The kind and the length of the message that a frame's head announces.
///
/// # Errors
/// It announces none that is taken.
pub fn head(bytes: [u8; HEAD]) -> Result<(u8, usize), WireError> {
    let [a, b, c, d, version, kind, ..] = bytes;
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    match length <= MAX_BYTES {
        true => Ok((kind, length)),
        false => Err(WireError::TooLong(length)),
    }
}

fn frame(kind: u8, message: &impl Message) -> Result<Vec<u8>, WireError> {
    let length = message.encoded_len();
    if length > MAX_BYTES {
        return Err(WireError::TooLong(length));
    }
    let mut bytes = Vec::with_capacity(HEAD + length);
    bytes.extend((length as u32).to_le_bytes());
    bytes.extend([VERSION, kind, 0, 0]);
    // It grows as it must, and never fails.
    message.encode_raw(&mut bytes);
    Ok(bytes)
}

/// The frame of a plan that is to be carried out.
///
/// # Errors
/// It is too long.
pub fn carry(id: u64, plan: &Plan, terms: &Terms) -> Result<Vec<u8>, WireError> {
    let (io_class, io_level) = match terms.io_class {
        IoClass::Default => (0, 0),
        IoClass::BestEffort(level) => (1, u32::from(level)),
        IoClass::Idle => (2, 0),
    };
    let cost = &terms.cost;
    let message = msg::Carry {
        id,
        plan: Some(plan_message(plan)),
        within_ms: terms.within_ms,
        io_class,
        io_level,
        metadata: terms.metadata,
        is_ahead: terms.lead == Lead::Ahead,
        threads: terms.threads as u64,
        verify: terms.verify,
        read_ns: cost.read_ns,
        latency_ns: cost.latency_ns,
        bytes_per_s: cost.bytes_per_s,
        readahead_bytes: cost.readahead_bytes,
        measured_ms: cost.measured_ms,
        bound_slots: terms.bounds.iter().map(|bound| bound.0).collect(),
        bounds: terms.bounds.iter().map(|bound| bound.1).collect(),
    };
    frame(CARRY, &message)
}

/// The frame that cancels a plan.
///
/// # Errors
/// None: it is short.
pub fn cancel(id: u64) -> Result<Vec<u8>, WireError> {
    frame(CANCEL, &msg::Cancel { id })
}

/// The frame of what came of a plan.
///
/// # Errors
/// It is too long.
pub fn answer(id: u64, report: &WarmReport) -> Result<Vec<u8>, WireError> {
    frame(REPORT, &msg::Report::of(id, report))
}

/// What a helper is told, from a frame's kind and message.
///
/// # Errors
/// It is not understood.
pub fn decode_request(kind: u8, bytes: &[u8]) -> Result<Request, WireError> {
    match kind {
        CARRY => decode_carry(msg::Carry::decode(bytes)?),
        CANCEL => Ok(Request::Cancel(msg::Cancel::decode(bytes)?.id)),
        other => Err(WireError::Kind(other)),
    }
}

/// What a helper says, from a frame's kind and message.
///
/// # Errors
/// It is not understood.
pub fn decode_answer(kind: u8, bytes: &[u8]) -> Result<Answer, WireError> {
    match kind {
        REPORT => msg::Report::decode(bytes)?.take(),
        other => Err(WireError::Kind(other)),
    }
}

fn decode_carry(message: msg::Carry) -> Result<Request, WireError> {
    let level = u8::try_from(message.io_level).ok().filter(|l| *l < 8);
    let io_class = match (message.io_class, level) {
        (0, _) => IoClass::Default,
        (1, Some(level)) => IoClass::BestEffort(level),
        (2, _) => IoClass::Idle,
        _ => return Err(WireError::Range("the I/O class")),
    };
    if message.bound_slots.len() != message.bounds.len() {
        return Err(WireError::Range("the number of bounds"));
    }
    let plan = take_plan(message.plan.unwrap_or_default())?;
    Ok(Request::Carry {
        id: message.id,
        plan: Box::new(plan),
        terms: Terms {
            within_ms: message.within_ms,
            io_class,
            metadata: message.metadata,
            lead: match message.is_ahead {
                true => Lead::Ahead,
                false => Lead::Beside,
            },
            threads: usize::try_from(message.threads)
                .ok()
                .filter(|threads| *threads <= 1024)
                .ok_or(WireError::Range("the number of threads"))?,
            verify: message.verify,
            cost: DeviceCost {
                read_ns: message.read_ns,
                latency_ns: message.latency_ns,
                bytes_per_s: message.bytes_per_s,
                readahead_bytes: message.readahead_bytes,
                measured_ms: message.measured_ms,
            },
            bounds: message
                .bound_slots
                .into_iter()
                .zip(message.bounds)
                .collect(),
        },
    })
}

const BLOCKS: u8 = 0;
const NAME: u8 = 1;
const READ: u8 = 2;
const READ_CERTAIN: u8 = 3;

fn plan_message(plan: &Plan) -> msg::Plan {
    let mut message = msg::Plan {
        volumes: plan.volumes.iter().map(msg::Volume::of).collect(),
        files: plan.files.iter().map(msg::File::of).collect(),
        names: plan.names.iter().map(msg::Name::of).collect(),
        over_budget_bytes: plan.totals.over_budget_bytes,
        ..msg::Plan::default()
    };
    for action in &plan.actions {
        let (kind, index, start, pages, gap) = match *action {
            Action::Blocks {
                volume,
                start_page,
                pages,
            } => (BLOCKS, volume, start_page, pages, 0),
            Action::Name { name } => (NAME, name, 0, 0, 0),
            Action::Read {
                file,
                start_page,
                pages,
                gap_pages,
                certain,
            } => {
                let kind = if certain { READ_CERTAIN } else { READ };
                (kind, file, start_page, pages, gap_pages)
            }
        };
        message.kinds.push(kind);
        message.indices.push(index);
        message.starts.push(start);
        message.pages.push(pages);
        message.gaps.push(gap);
    }
    message
}

fn take_plan(message: msg::Plan) -> Result<Plan, WireError> {
    let actions = message.kinds.len();
    let columns = [
        message.indices.len(),
        message.starts.len(),
        message.pages.len(),
        message.gaps.len(),
    ];
    if columns.iter().any(|&length| length != actions) {
        return Err(WireError::Range("the number of actions"));
    }
    let volumes = message.volumes.into_iter().map(msg::Volume::take);
    let volumes: Vec<_> = volumes.collect();
    let files = message.files.into_iter().map(|file| file.take(&volumes));
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let names = message.names.into_iter().map(|name| name.take(&volumes));
    let names = names.collect::<Result<Vec<_>, _>>()?;
    let below = |index: u32, length: usize, what| match (index as usize) < length {
        true => Ok(index),
        false => Err(WireError::Range(what)),
    };
    let action = |at: usize| {
        let (index, start_page, pages) =
            (message.indices[at], message.starts[at], message.pages[at]);
        Ok(match message.kinds[at] {
            BLOCKS => Action::Blocks {
                volume: below(index, volumes.len(), "a volume")?,
                start_page,
                pages,
            },
            NAME => Action::Name {
                name: below(index, names.len(), "a name")?,
            },
            kind @ (READ | READ_CERTAIN) => Action::Read {
                file: below(index, files.len(), "a file")?,
                start_page,
                pages,
                gap_pages: message.gaps[at],
                certain: kind == READ_CERTAIN,
            },
            _ => return Err(WireError::Range("the kind of an action")),
        })
    };
    let actions = (0..actions).map(action).collect::<Result<Vec<_>, _>>()?;
    Ok(Plan {
        volumes,
        files,
        names,
        actions,
        // The rest is the planner's own.
        totals: PlanTotals {
            over_budget_bytes: message.over_budget_bytes,
            ..PlanTotals::default()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FileVersion, NameKind, PlanFile, PlanName, RelPath, Volume, VolumeId};
    use crate::warm::{Arrival, ByteCounts, Failure, FailureKind};
    use proptest::prelude::*;

    fn plan() -> Plan {
        let path = |text: &[u8]| RelPath::new(text).expect("a path");
        Plan {
            volumes: vec![Volume {
                id: VolumeId("layer:sha256:1".into()),
                fs_type: "ext4".into(),
                mount_point: b"/a\xffb".to_vec(),
            }],
            files: vec![PlanFile {
                volume: 0,
                path: path(b"usr/lib/\x80.so"),
                version: FileVersion {
                    size: u64::MAX,
                    mtime_ns: -1,
                },
            }],
            names: vec![PlanName {
                volume: 0,
                path: path(b""),
                kind: NameKind::Symlink,
                listed: true,
            }],
            actions: vec![
                Action::Blocks {
                    volume: 0,
                    start_page: 1 << 40,
                    pages: 3,
                },
                Action::Name { name: 0 },
                Action::Read {
                    file: 0,
                    start_page: 7,
                    pages: 9,
                    gap_pages: 2,
                    certain: true,
                },
                Action::Read {
                    file: 0,
                    start_page: 0,
                    pages: 1,
                    gap_pages: 0,
                    certain: false,
                },
            ],
            totals: PlanTotals {
                over_budget_bytes: 11,
                ..PlanTotals::default()
            },
        }
    }

    fn terms() -> Terms {
        Terms {
            within_ms: Some(5),
            io_class: IoClass::BestEffort(7),
            metadata: true,
            lead: Lead::Beside,
            threads: 2,
            verify: false,
            cost: DeviceCost::UNMEASURED,
            bounds: vec![(0, 1 << 30), (17, 5)],
        }
    }

    fn message(frame: &[u8]) -> (u8, &[u8]) {
        let (head_bytes, rest) = frame.split_first_chunk().expect("a head");
        let (kind, length) = head(*head_bytes).expect("a good one");
        assert_eq!(rest.len(), length);
        (kind, rest)
    }

    #[test]
    fn a_plan_arrives_as_it_was() {
        let bytes = carry(9, &plan(), &terms()).expect("short");
        let (kind, body) = message(&bytes);
        let wanted = Request::Carry {
            id: 9,
            plan: Box::new(plan()),
            terms: terms(),
        };
        assert_eq!(decode_request(kind, body), Ok(wanted));
        assert_eq!(decode_answer(kind, body), Err(WireError::Kind(CARRY)));
        let bytes = cancel(9).expect("short");
        let (kind, body) = message(&bytes);
        assert_eq!(decode_request(kind, body), Ok(Request::Cancel(9)));
    }

    #[test]
    fn a_report_arrives_as_it_was() {
        let failure = Failure {
            volume: "uuid:1".into(),
            path: "a".into(),
            kind: FailureKind::Denied,
            error: "no".into(),
            start_page: 1,
            bytes: 4096,
        };
        let report = WarmReport {
            data: ByteCounts {
                planned: 9,
                resident_before: 1,
                read: 2,
                failed: 3,
                gone: 0,
                evicted: 1,
                skipped: 1,
                left: 1,
            },
            names_warmed: 4,
            files_planned: 5,
            verified: true,
            stuck_threads: 1,
            stuck_volumes: vec!["uuid:2".into()],
            seconds: 0.25,
            failures: vec![failure.clone()],
            without_device: vec![failure],
            failures_unnamed: 8,
            arrivals: vec![Arrival {
                file: 3,
                start_page: 1 << 40,
                pages: 7,
                read: true,
                asked_us: 5,
                there_us: u32::MAX,
            }],
            ..WarmReport::default()
        };
        let bytes = answer(3, &report).expect("short");
        let (kind, body) = message(&bytes);
        assert_eq!(decode_answer(kind, body), Ok(Answer { id: 3, report }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let head_of = |length: u32, version| {
            let [a, b, c, d] = length.to_le_bytes();
            head([a, b, c, d, version, CARRY, 0, 0])
        };
        assert_eq!(head_of(5, VERSION), Ok((CARRY, 5)));
        assert_eq!(head_of(5, 77), Err(WireError::Version(77)));
        let long = MAX_BYTES as u32 + 1;
        assert_eq!(
            head_of(long, VERSION),
            Err(WireError::TooLong(MAX_BYTES + 1))
        );
        let mut plan = plan();
        plan.actions = vec![Action::Name { name: 1 }];
        let bytes = carry(1, &plan, &terms()).expect("short");
        let (kind, body) = message(&bytes);
        assert_eq!(decode_request(kind, body), Err(WireError::Range("a name")));
        assert_eq!(decode_request(77, &[]), Err(WireError::Kind(77)));
        let malformed = decode_request(CARRY, &[0xff]);
        assert!(matches!(malformed, Err(WireError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(
            kind in 0u8..5,
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = decode_request(kind, &bytes);
            let _ = decode_answer(kind, &bytes);
        }
    }
}
