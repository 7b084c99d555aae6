//! Runs a command and prints every record the probes send: for looking at the
//! probes by hand. `cargo run --example raw_records -- CMD…`
//!
//! With `RAW_RECORDS=FILE` their bytes go to that file instead, each after its
//! length (two bytes): a seed of the fuzz target `records`.
fn main() -> anyhow::Result<()> {
    use headstart::probe::{Group, Probes, decode};
    use headstart::run::{Cgroup, Child, Output};
    let t = std::time::Instant::now();
    let mut probes = Probes::load(8 << 20)?;
    eprintln!("load {:?}", t.elapsed());
    let cgroup = Cgroup::create(0)?;
    probes.watch(cgroup.id())?;
    let mut reader = probes.reader()?;
    let t = std::time::Instant::now();
    for state in probes.attach(&[Group::Use, Group::Miss, Group::Names, Group::Lifecycle]) {
        eprintln!(
            "{:18} {} {} {}",
            state.program, state.live, state.place, state.reason
        );
    }
    eprintln!("attach {:?}", t.elapsed());
    let command: Vec<_> = std::env::args_os().skip(1).collect();
    let mut child = Child::spawn(&command, Some(cgroup.as_fd()), Output::Inherit)?;
    let mut n = 0;
    let file = std::env::var_os("RAW_RECORDS");
    let mut raw = Vec::new();
    let mut take = |b: &[u8]| match decode(b) {
        _ if file.is_some() => {
            raw.extend((b.len() as u16).to_le_bytes());
            raw.extend(b);
        }
        Ok(r) => println!("{r:?}"),
        Err(e) => println!("{e}"),
    };
    loop {
        let ended = child.wait(Some(
            std::time::Instant::now() + std::time::Duration::from_millis(20),
        ))?;
        n += reader.drain(&mut take);
        if ended.is_some() {
            break;
        }
    }
    eprintln!(
        "ran {:?}, {n} records, stall {:?} us, {:?}",
        child.started.elapsed(),
        cgroup.io_stall_us(),
        probes.counters()?
    );
    if let Some(file) = file {
        std::fs::write(file, raw)?;
    }
    let t = std::time::Instant::now();
    drop(probes);
    eprintln!("unload {:?}", t.elapsed());
    Ok(())
}
