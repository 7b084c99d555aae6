//! What it costs that a plan is carried out by another process: the same plan, of files
//! that are in memory, by threads of this process and by a helper, in turn.
//!
//! Arguments: a directory for the files, how many files (1000), how many rounds (50).

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use headstart::daemon::helper::{COMMAND, serve, wire};
use headstart::model::{
    Action, DeviceCost, FileVersion, NameKind, Plan, PlanFile, PlanName, RelPath, Volume, VolumeId,
};
use headstart::run::Servant;
use headstart::warm::{
    Cancel, Dues, IoClass, Lead, Progress, VolumeRoots, WarmOptions, WarmReport, execute,
};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let first = args.next().context("which directory?")?;
    if Some(first.as_str()) == COMMAND.to_str().ok() {
        let connection = std::io::stdin().as_fd().try_clone_to_owned()?;
        let dues = std::io::stdout().as_fd().try_clone_to_owned()?;
        return Ok(serve(connection, dues)?);
    }
    let number = |text: Option<String>, or| text.map_or(Ok(or), |text| text.parse());
    let (files, rounds) = (number(args.next(), 1000)?, number(args.next(), 50)?);
    let directory = tempfile::tempdir_in(first)?;
    let plan = plan(directory.path(), files)?;
    let dues = Dues::new()?;
    let (mut ours, theirs) = UnixStream::pair()?;
    let began = Instant::now();
    let _helper = Servant::start(&[COMMAND], None, theirs.as_fd(), dues.as_fd(), &mut |_| {
        Ok(())
    })?;
    println!("starting a helper: {:.2} ms", ms(began.elapsed()));
    let (mut direct, mut handed) = (Vec::new(), Vec::new());
    for round in 0..=u64::from(rounds) {
        let began = Instant::now();
        let report = here(&plan)?;
        let here = began.elapsed();
        ensure!(
            report.data.read == 0 && report.data.failed == 0,
            "{report:?}"
        );
        let began = Instant::now();
        let report = there(&mut ours, round, &plan)?;
        let there = began.elapsed();
        ensure!(
            report.data.read == 0 && report.data.failed == 0,
            "{report:?}"
        );
        // The first makes everything ready.
        if round > 0 {
            direct.push(here);
            handed.push(there);
        }
    }
    let frame = wire::carry(0, &plan, &terms())?;
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        ms(times[times.len() / 2])
    };
    let (direct, handed) = (median(&mut direct), median(&mut handed));
    println!(
        "{files} files, {} actions, {} KiB: here {direct:.2} ms, by a helper {handed:.2} ms, \
         {:+.2} ms",
        plan.actions.len(),
        frame.len() / 1024,
        handed - direct,
    );
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Each file's name, and two reads of it.
fn plan(directory: &Path, files: u32) -> anyhow::Result<Plan> {
    let mut plan = Plan {
        volumes: vec![Volume {
            id: VolumeId("path:".to_owned() + &directory.to_string_lossy()),
            fs_type: String::new(),
            mount_point: directory.as_os_str().as_encoded_bytes().to_vec(),
        }],
        ..Plan::default()
    };
    for file in 0..files {
        let name = format!("usr_lib_python3_site-packages_module_{file}.so");
        std::fs::write(directory.join(&name), [1; 65536])?;
        let path = RelPath::new(name)?;
        plan.files.push(PlanFile {
            volume: 0,
            path: path.clone(),
            version: FileVersion::default(),
        });
        plan.names.push(PlanName {
            volume: 0,
            path,
            kind: NameKind::File,
            listed: false,
        });
        let read = |start_page| Action::Read {
            file,
            start_page,
            pages: 4,
            gap_pages: 0,
            certain: true,
        };
        plan.actions
            .extend([Action::Name { name: file }, read(0), read(8)]);
    }
    Ok(plan)
}

fn terms() -> wire::Terms {
    wire::Terms {
        within_ms: None,
        io_class: IoClass::Idle,
        metadata: true,
        lead: Lead::Beside,
        threads: 0,
        verify: false,
        cost: DeviceCost::UNMEASURED,
        bounds: Vec::new(),
    }
}

fn here(plan: &Plan) -> anyhow::Result<WarmReport> {
    let options = WarmOptions {
        io_class: IoClass::Idle,
        lead: Lead::Beside,
        verify: false,
        ..WarmOptions::default()
    };
    let roots = Arc::new(VolumeRoots::read()?);
    let progress = Arc::new(Progress::default());
    // As a worker does, which keeps the plan.
    let plan = Arc::new(plan.clone());
    Ok(execute(&plan, &roots, &options, &progress, &Cancel::new()))
}

fn there(socket: &mut UnixStream, id: u64, plan: &Plan) -> anyhow::Result<WarmReport> {
    socket.write_all(&wire::carry(id, plan, &terms())?)?;
    let mut head = [0; wire::HEAD];
    socket.read_exact(&mut head)?;
    let (kind, length) = wire::head(head)?;
    let mut message = vec![0; length];
    socket.read_exact(&mut message)?;
    Ok(wire::decode_answer(kind, &message)?.report)
}
