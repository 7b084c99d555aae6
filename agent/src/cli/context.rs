//! What every command needs: where things are, and how to say what happens.

use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use crate::model::escape;
use crate::profile::{Access, Store};

use super::args::Global;
use super::config::Config;
use super::format;

/// Logs to stderr: warnings, of a service what it does too, with `-v` debug and with `-vv`
/// trace messages. `HEADSTART_LOG`, in the syntax of `RUST_LOG`, goes before all.
pub(super) fn init_tracing(verbose: u8, is_service: bool) {
    let level = match verbose {
        0 if is_service => "warn,headstart=info",
        0 => "warn",
        1 => "warn,headstart=debug",
        _ => "info,headstart=trace",
    };
    let asked = std::env::var("HEADSTART_LOG").ok();
    let asked = asked.map(|text| EnvFilter::try_new(&text).map_err(|error| (text, error)));
    let (filter, refused) = match asked {
        Some(Ok(filter)) => (filter, None),
        Some(Err(refused)) => (EnvFilter::new(level), Some(refused)),
        None => (EnvFilter::new(level), None),
    };
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(format::is_coloured(&std::io::stderr()))
        // It would tell of them on standard error, where it just failed, and panic.
        .log_internal_errors(false)
        .with_target(verbose > 0);
    // An error means that one is installed already (in tests).
    let _ = match verbose {
        0 => format.without_time().try_init(),
        _ => format.try_init(),
    };
    if let Some((text, error)) = refused {
        let text = escape(text.as_bytes());
        tracing::warn!("HEADSTART_LOG={text} is not understood, and not heeded: {error}");
    }
}

/// The configuration: `--config`, the default file, or defaults.
pub(super) fn config(global: &Global) -> anyhow::Result<Config> {
    Config::load(global.config.as_deref())
}

/// Where profiles are kept: `--state-dir`, else as configured.
///
/// # Errors
/// The configuration file can't be read; not even when `--state-dir` makes it
/// unnecessary is an unreadable file passed over.
pub(super) fn state_dir(global: &Global) -> anyhow::Result<PathBuf> {
    let config = config(global)?;
    Ok(global.state_dir.clone().unwrap_or(config.state_dir))
}

/// Size of the probes' ring buffer.
pub(super) fn ring_bytes(global: &Global) -> anyhow::Result<u32> {
    Ok(config(global)?.ring_bytes)
}

/// Opens the profile store. What it set aside is logged as a warning.
pub(super) fn open_store(global: &Global, access: Access) -> anyhow::Result<Store> {
    Ok(Store::open(&state_dir(global)?, access)?)
}
