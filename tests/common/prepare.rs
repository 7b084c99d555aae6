//! What a test needs to be there first.

use std::process::Command;

/// Runs a program; what it printed, or `None` and why.
pub(crate) fn prepare(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output();
    match output {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8(output.stdout).expect("text");
            Some(said.trim().to_owned())
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            eprintln!("SKIPPED: {program} {args:?}: {}", said.trim());
            None
        }
        Err(error) => {
            eprintln!("SKIPPED: {program}: {error}");
            None
        }
    }
}
