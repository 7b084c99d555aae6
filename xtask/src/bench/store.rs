//! `cargo xtask bench store`: an agent over a store of 10,000 workloads and a million files.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Bench;
use super::node::{Agent, COSTS, Setup, Tree};
use super::publish::Findings;
use super::stats::{Spread, Table};

/// Workloads in the store, all of which live.
const WORKLOADS: u32 = 10_000;
/// For how long the agent is looked at while nothing starts.
const LOOK: Duration = Duration::from_secs(20);

/// Measures; the result as Markdown.
pub(super) fn measure(bench: &Bench) -> Result<String> {
    let program = bench.agent()?;
    let directory = bench.directory.join("store");
    let said = bench.example_in("store", &directory.join("state"), &[])?;
    let said: Vec<(&str, &str)> = said.lines().filter_map(|l| l.split_once('\t')).collect();
    let of = |what: &str| {
        let found = said.iter().find(|(name, _)| *name == what);
        found
            .map(|(_, value)| *value)
            .context("the example said less")
    };
    let mut store = Table::new(["in a process that has the store open", "ms"]);
    let ways = [
        "found by its own key",
        "found by its third key",
        "not there, by four keys",
        "all listed",
    ];
    for what in ways {
        store.row([what, of(what)?]);
    }
    let bytes: f64 = of("bytes")?.parse()?;
    let mut memory = Table::new(COSTS);
    let mut asked = Table::new(["asked from outside", "ms"]);
    let mut ready = Vec::new();
    for _ in 0..bench.rounds {
        let began = Instant::now();
        let _agent = Agent::start(&program, &directory, Setup::default())?;
        ready.push(began.elapsed().as_secs_f64() * 1e3);
    }
    {
        let agent = Agent::start(&program, &directory, Setup::default())?;
        look(&agent, "nothing lives", &mut memory)?;
    }
    let tree = Tree::mount(&bench.directory.join("cgroups"))?;
    tree.fill(WORKLOADS)?;
    let address = free_address()?;
    let setup = Setup {
        listen: &address,
        ..Setup::default()
    };
    let began = Instant::now();
    let agent = Agent::start(&program, &directory, setup)?;
    let ready_among = began.elapsed();
    agent.wait("it knows all workloads", |status| {
        status.workloads >= u64::from(WORKLOADS)
    })?;
    let known = began.elapsed();
    look(&agent, "all workloads live and are known", &mut memory)?;
    let commands: [(&str, &[&str]); 4] = [
        ("`headstart workloads`", &["workloads"]),
        ("`headstart status`", &["status"]),
        ("`headstart explain` of one", &["explain", "bench7.service"]),
        ("`headstart profile ls`", &["profile", "ls"]),
    ];
    for (what, args) in commands {
        let mut took = Vec::new();
        for _ in 0..bench.rounds {
            let began = Instant::now();
            let mut command = agent.headstart(args);
            let status = command.stdout(Stdio::null()).status()?;
            ensure!(status.success(), "{what} failed");
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        asked.row([what.to_owned(), spread(&took)]);
    }
    let (mut took, mut series, mut size) = (Vec::new(), 0, 0);
    for _ in 0..bench.rounds {
        let began = Instant::now();
        let text = scrape(&address)?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
        series = text.lines().filter(|l| l.starts_with("headstart_")).count();
        size = text.len();
    }
    asked.row(["`/metrics`".to_owned(), spread(&took)]);
    look(&agent, "after all that was asked", &mut memory)?;
    drop(agent);
    drop(tree);
    let method = format!(
        "A store of {WORKLOADS} made-up workloads, each with 100 files of its own of five extents: \
         a million files, {:.0} MiB on disk ({:.0} bytes a file). An agent in release with the \
         default configuration over it, first on a node where none of them lives, then with a \
         cgroup for each, as systemd makes them for units. Processor time is that of its process \
         while nothing starts, for {} s, by the kernel's count in steps of 10 ms. A look-up is one \
         of 1,000 in no order, {} rounds, and decodes the profile that is found. ms: median (least \
         to greatest).",
        bytes / 1048576.0,
        bytes / f64::from(WORKLOADS) / 100.0,
        LOOK.as_secs(),
        bench.rounds,
    );
    let note = format!(
        "From its start until it is ready: {} ms where none lives, {:.0} ms among {WORKLOADS} \
         cgroups; all of these were known by name, with what their profiles hold, after {:.1} s. \
         `/metrics` has {series} series then, {:.0} KiB.",
        spread(&ready),
        ready_among.as_secs_f64() * 1e3,
        known.as_secs_f64(),
        size as f64 / 1024.0,
    );
    Ok(Findings::new(&method)
        .table("", &store)
        .table("", &memory)
        .table("", &asked)
        .note(&note)
        .into_markdown())
}

fn spread(ms: &[f64]) -> String {
    format!("{:.0}", Spread::of(ms).unwrap_or(Spread::NONE))
}

fn look(agent: &Agent, what: &str, table: &mut Table) -> Result<()> {
    table.row(agent.costs(what, || {
        std::thread::sleep(LOOK);
        Ok(())
    })?);
    Ok(())
}

/// One that nobody listens at now.
fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// What the agent serves at an address.
fn scrape(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).context("connecting to the agent's metrics")?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if !text.starts_with("HTTP/1.1 200") {
        bail!(
            "the agent serves no metrics: {}",
            text.lines().next().unwrap_or("")
        );
    }
    Ok(text)
}
