//! Build, test and benchmark commands of the workspace: `cargo xtask --help`.
fn main() {}
