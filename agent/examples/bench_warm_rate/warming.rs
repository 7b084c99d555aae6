//! Plans on one file, and how fast they are carried out.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use headstart::model::{
    Action, DeviceCost, FileVersion, Plan, PlanFile, RelPath, Volume, VolumeId,
};
use headstart::plan::{PlanOptions, Timing, build};
use headstart::predict::{Expected, ExpectedFile, Prediction, Sureness};
use headstart::warm::{Cancel, Lead, Progress, VolumeRoots, WarmOptions, execute, measure};

/// A plan that is carried out again and again.
pub(crate) type Shared = Arc<Plan>;

/// One file.
pub(crate) struct Warming {
    directory: PathBuf,
    name: RelPath,
    cost: DeviceCost,
}

impl Warming {
    /// Measures what reads of the file cost.
    pub(crate) fn on(file: &Path) -> anyhow::Result<Self> {
        let name = file.file_name().context("a file has a name")?;
        let directory = file.parent().context("a file is in a directory")?;
        Ok(Self {
            directory: directory.to_owned(),
            name: RelPath::new(name.as_bytes())?,
            cost: measure(file)?,
        })
    }

    /// What was measured.
    pub(crate) fn cost(&self) -> DeviceCost {
        self.cost
    }

    /// As `headstart warm` reads these runs of pages, first used in this order.
    pub(crate) fn plan(&self, extents: &[(u64, u64)]) -> Shared {
        let mut expected: Vec<Expected> = extents
            .iter()
            .zip(0..)
            .map(|(&(start_page, pages), at)| Expected {
                start_page,
                pages: pages as u32,
                first_use_ns: at,
                sureness: Sureness::Certain,
            })
            .collect();
        expected.sort_by_key(|e| e.start_page);
        let as_is = self.as_is(&[]);
        let prediction = Prediction {
            volumes: as_is.volumes.clone(),
            files: as_is
                .files
                .iter()
                .map(|file| ExpectedFile {
                    volume: file.volume,
                    path: file.path.clone(),
                    version: file.version,
                    extents: expected.clone(),
                })
                .collect(),
            exact_runs: 1,
            ..Prediction::default()
        };
        let options = PlanOptions {
            budget: u64::MAX,
            timing: Timing::Ahead,
            lead: true,
            maybe: true,
            cost: self.cost,
        };
        Arc::new(build(&prediction, &options))
    }

    /// Reads just these runs of pages, in this order.
    pub(crate) fn as_is(&self, extents: &[(u64, u64)]) -> Shared {
        let read = |(start_page, pages)| Action::Read {
            file: 0,
            start_page,
            pages: pages as u32,
            gap_pages: 0,
            certain: true,
        };
        Arc::new(Plan {
            volumes: vec![Volume {
                id: VolumeId("path:bench".to_owned()),
                fs_type: String::new(),
                mount_point: self.directory.as_os_str().as_bytes().to_vec(),
            }],
            files: vec![PlanFile {
                volume: 0,
                path: self.name.clone(),
                version: FileVersion::default(),
            }],
            actions: extents.iter().copied().map(read).collect(),
            ..Plan::default()
        })
    }

    /// Seconds, everything from the mount table to the last check in them.
    pub(crate) fn seconds(&self, plan: &Shared, lead: Lead, verify: bool) -> anyhow::Result<f64> {
        let options = WarmOptions {
            lead,
            verify,
            cost: self.cost,
            ..WarmOptions::default()
        };
        let began = Instant::now();
        let roots = Arc::new(VolumeRoots::read()?);
        let progress = Arc::new(Progress::default());
        let mut report = execute(plan, &roots, &options, &progress, &Cancel::new());
        let seconds = began.elapsed().as_secs_f64();
        // Of what nobody has used yet the kernel may take some back: memory is short, or
        // something looks for pages that are idle (DAMON).
        if report.data.evicted < report.data.planned / 50 {
            report.data.read += std::mem::take(&mut report.data.evicted);
        }
        // What came when would be a line for each read.
        report.arrivals.clear();
        ensure!(report.is_complete(), "not complete: {report:#?}");
        Ok(seconds)
    }
}
