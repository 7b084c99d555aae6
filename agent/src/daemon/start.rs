//! One start, from its first signal to what was learned of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::Touched;
use super::phase::{Over, Phase};
use super::view::{FileView, StartView};
use crate::attribute::Collector;
use crate::model::{Plan, Trace};
use crate::probe::{Record, What};
use crate::run::{Feedback, FileFeedback, feedback_by_file};
use crate::warm::WarmReport;
use crate::workload::{Place, Workload};

/// Files of a plan that a view names.
const FILES_SHOWN: usize = 32;

/// How a start's warming stands.
#[derive(Debug, Default)]
pub(super) enum Warming {
    /// It is not known yet whether there is anything to warm.
    #[default]
    Unknown,
    /// It waits for its turn, or is under way.
    Running,
    /// Nothing, or nothing any more.
    Over(Option<Box<Carried>>),
}

/// A plan that was carried out, for one start or for several.
#[derive(Clone, Debug)]
pub(super) struct Warmed {
    pub(super) plan: Arc<Plan>,
    pub(super) report: Arc<WarmReport>,
}

/// The same, as one of the starts sees it.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) plan: Arc<Plan>,
    pub(super) report: Arc<WarmReport>,
    /// It was made for another start, and this one joined it.
    pub(super) joined: bool,
}

impl Warmed {
    /// As a start sees it.
    pub(super) fn carried(&self, joined: bool) -> Carried {
        Carried {
            plan: self.plan.clone(),
            report: self.report.clone(),
            joined,
        }
    }

    /// Whether nothing was left that should be tried again.
    pub(super) fn is_whole(&self) -> bool {
        let data = &self.report.data;
        !self.report.cancelled && data.left + data.failed + data.evicted == 0
    }

    /// What became of the plan's bytes, by the report's names.
    pub(super) fn results(&self) -> BTreeMap<&'static str, u64> {
        results(&self.report)
    }
}

fn results(report: &WarmReport) -> BTreeMap<&'static str, u64> {
    let data = &report.data;
    BTreeMap::from([
        ("read", data.read),
        ("resident", data.resident_before),
        ("failed", data.failed),
        ("gone", data.gone),
        ("evicted", data.evicted),
        ("left", data.left),
    ])
}

/// What is known of what starts.
#[derive(Debug, Default)]
pub(super) enum Identity {
    /// Being looked for.
    #[default]
    Pending,
    /// Nobody can tell.
    Unknown,
    /// Found.
    Known(Box<Workload>),
}

/// A start that is being learned.
pub(super) struct Start {
    pub(super) cgroup: u64,
    pub(super) place: Place,
    pub(super) began: Instant,
    /// `CLOCK_MONOTONIC`, ns.
    pub(super) began_ns: u64,
    /// Since the epoch.
    pub(super) began_ms: u64,
    pub(super) signal: &'static str,
    /// From an earlier signal than the cgroup to the cgroup.
    pub(super) notice: Duration,
    pub(super) identity: Identity,
    pub(super) warming: Warming,
    /// By which it is known to those who warm: its cgroup, or what it was expected by.
    pub(super) wanted_as: u64,
    /// Its touches are sent.
    pub(super) watched: bool,
    /// Why it is not learned; empty where it is.
    pub(super) not_learned: &'static str,
    /// Its workload was learned lately: it need not be again at any price.
    pub(super) known_lately: bool,
    /// Touches before this, since the start, were not seen.
    pub(super) blind_ns: u64,
    /// Pages that the kernel maps around a fault at most.
    pub(super) fault_around_pages: u64,
    /// Nobody was in its cgroup before its touches were seen.
    pub(super) seen_whole: bool,
    /// The fault-around window was one page from its first touch to its end.
    pub(super) narrow: bool,
    pub(super) collector: Collector,
    pub(super) phase: Phase,
    pub(super) over: Option<(Over, Duration)>,
    /// Records of it for which there was no room, and once it is over those that the kernel
    /// lost meanwhile, of whatever start.
    pub(super) lost: u64,
    /// What the kernel had lost when its touches were seen first, if it told.
    pub(super) lost_before: Option<u64>,
}

impl Start {
    /// Whether nothing more will come: it can be learned from.
    pub(super) fn is_ripe(&self) -> bool {
        self.over.is_some()
            && !matches!(self.identity, Identity::Pending)
            && matches!(self.warming, Warming::Over(_))
    }

    /// Whether it is being learned.
    pub(super) fn is_learned(&self) -> bool {
        self.over.is_none() && self.not_learned.is_empty()
    }

    pub(super) fn workload(&self) -> Option<&Workload> {
        match &self.identity {
            Identity::Known(workload) => Some(workload),
            _ => None,
        }
    }

    /// The workload's key, once it is known.
    pub(super) fn key(&self) -> Option<&String> {
        self.workload()?.keys.0.first()
    }

    /// What is told of a record of it to those who listen, if anything.
    pub(super) fn touched(&self, record: &Record, since_start_ns: u64) -> Option<Touched> {
        let (inode, page, pages, maybe) = match &record.what {
            What::Touch(touch) if touch.pages != 0 => (
                touch.inode,
                touch.base_page + u64::from(touch.pages.trailing_zeros()),
                touch.pages.count_ones(),
                false,
            ),
            What::Fault(fault) => (
                fault.inode,
                fault.start,
                (fault.last - fault.start + 1) as u32,
                true,
            ),
            _ => return None,
        };
        let path = self.collector.path(&inode);
        Some(Touched {
            workload: self.key().cloned().unwrap_or_default(),
            since_start_ns,
            path: path.map(<[u8]>::to_vec).unwrap_or_default(),
            page,
            pages,
            maybe,
        })
    }

    /// From the first signal to the first touch.
    pub(super) fn lead(&self) -> Option<Duration> {
        self.phase.first().map(|first| first + self.notice)
    }

    /// What can be told of it now.
    pub(super) fn view(&self) -> StartView {
        let mut view = StartView {
            began_ms: self.began_ms,
            signal: self.signal,
            over: false,
            seconds: match self.over {
                Some((_, after)) => after.as_secs_f64(),
                None => self.began.elapsed().as_secs_f64(),
            },
            lead_seconds: self.lead().map(|lead| lead.as_secs_f64()),
            ..StartView::default()
        };
        if let Warming::Over(Some(carried)) = &self.warming {
            let after_start = carried.report.began_since(self.began) as f64 / 1e9;
            view.warm_delay_seconds = Some(after_start + self.notice.as_secs_f64());
            carried.tell(&mut view);
        }
        view
    }
}

impl Carried {
    fn tell(&self, view: &mut StartView) {
        let report = &self.report;
        view.warm_seconds = report.warm_seconds;
        view.planned = report.data.planned;
        if self.joined {
            view.joined = report.data.planned;
        } else {
            view.resident_before = report.data.resident_before;
            view.read = report.data.read;
            view.names_warmed = report.names_warmed;
        }
        view.unknown = report.data.planned;
    }

    /// What a start that began then made of it.
    pub(super) fn judge(&self, start: Instant, trace: &Trace) -> (Feedback, Vec<FileFeedback>) {
        let report = &self.report;
        feedback_by_file(
            &self.plan,
            &report.arrivals,
            report.began_since(start),
            trace,
        )
    }

    /// What became of the plan's bytes: of one that was joined it is told elsewhere.
    pub(super) fn results(&self) -> BTreeMap<&'static str, u64> {
        match self.joined {
            true => BTreeMap::from([("joined", self.report.data.planned)]),
            false => results(&self.report),
        }
    }
}

/// Adds to a view what the start made of what was warmed.
pub(super) fn judged(view: &mut StartView, feedback: &Feedback, files: Vec<FileFeedback>) {
    view.used = feedback.used_bytes;
    view.late = feedback.late_bytes;
    view.on_the_way = feedback.on_the_way_bytes;
    view.gained = feedback.gained_bytes;
    view.wasted = feedback.wasted_bytes;
    view.unknown = feedback.undecided_bytes();
    view.missed = feedback.missed_bytes;
    let mut files = files;
    files.sort_by_key(|file| std::cmp::Reverse(file.bytes.planned_bytes));
    files.truncate(FILES_SHOWN);
    let shown = files.into_iter().map(|file| FileView {
        volume: file.volume,
        path: file.path,
        planned: file.bytes.planned_bytes,
        used: file.bytes.used_bytes,
        late: file.bytes.late_bytes,
        wasted: file.bytes.wasted_bytes,
        unknown: file.bytes.undecided_bytes(),
    });
    view.files = shown.collect();
}

/// What a start is of; for the log.
impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start")
            .field("cgroup", &self.cgroup)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
