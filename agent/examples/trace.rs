//! Runs a command and prints its trace: for looking at attribution by hand.
//! `cargo run --example trace -- CMD…`
fn main() -> anyhow::Result<()> {
    use headstart::model::Certainty;
    use headstart::run::{Output, RING_BYTES, Recorder};
    let t = std::time::Instant::now();
    let mut recorder = Recorder::new(RING_BYTES)?;
    println!("ready after {:?}", t.elapsed());
    let command: Vec<_> = std::env::args_os().skip(1).collect();
    let t = std::time::Instant::now();
    let (recording, _child) = recorder.record(&command, Output::Null, None)?;
    println!("recorded in {:?}", t.elapsed());
    let (mut certain, mut maybe) = (0u64, 0u64);
    for file in &recording.trace.files {
        let (mut c, mut m) = (
            std::collections::BTreeSet::new(),
            std::collections::BTreeSet::new(),
        );
        for t in &file.touches {
            let pages = t.start_page..t.start_page + u64::from(t.pages);
            match t.certainty {
                Certainty::Certain => c.extend(pages),
                Certainty::Maybe => m.extend(pages),
            }
        }
        let maybe_only = m.difference(&c).count() as u64;
        println!("{:8} {:8} {}", c.len(), maybe_only, file.path);
        certain += c.len() as u64;
        maybe += maybe_only;
    }
    println!(
        "{} files, certain {} KiB, maybe {} KiB, {} names, {} blocks, {} s, stall {:?}, {} records, {:?} {:?}",
        recording.trace.files.len(),
        certain * 4,
        maybe * 4,
        recording.trace.names.len(),
        recording.trace.blocks.len(),
        recording.seconds,
        recording.stall_seconds,
        recording.records,
        recording.gaps,
        recording.counters
    );
    for name in recording.trace.names.iter().take(20) {
        println!("{:?} {} {}", name.kind, name.path, name.first_use_ns / 1000);
    }
    Ok(())
}
