//! What reads cost on a device: `cargo run --release --example device_cost -- FILE`.

use std::path::Path;
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let started = Instant::now();
    let cost = headstart::warm::measure(Path::new(&path))?;
    println!(
        "{:.1} µs alone, {:.0} reads/s deep, {:.0} MB/s; measured in {:.0} ms",
        cost.latency_ns / 1e3,
        1e9 / cost.read_ns,
        cost.bytes_per_s / 1e6,
        started.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}
