//! Shell completions and man pages.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::format;

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    // Into memory, where writing does not fail: a failure there would be a panic.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "headstart", &mut script);
    format::emit(script)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("creating {}", args.dir.display()))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, &args.dir)
        .with_context(|| format!("writing man pages to {}", args.dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// A page for the command, and one for each below it.
fn write_pages(command: &clap::Command, dir: &Path) -> io::Result<()> {
    for below in command.get_subcommands() {
        write_pages(below, dir)?;
    }
    let man = Man::new(command.clone()).source(concat!("headstart ", env!("CARGO_PKG_VERSION")));
    let mut file = std::fs::File::create(dir.join(man.get_filename()))?;
    file.write_all(&page(command, &man)?)
}

/// As clap's own, but for a synopsis that can be typed and for what stands below
/// the options in `--help`, which has headings.
fn page(command: &clap::Command, man: &Man) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    Roff::default()
        .control("SH", ["SYNOPSIS"])
        .text([roman(usage)])
        .to_writer(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    let notes = command.get_after_help().map(ToString::to_string);
    for block in notes.iter().flat_map(|notes| notes.split("\n\n")) {
        let (heading, lines) = block.split_once(":\n").unwrap_or(("Notes", block));
        let mut section = Roff::default();
        section.control("SH", [heading.to_uppercase().as_str()]);
        section.control("nf", []);
        for line in lines.lines() {
            section.text([roman(line.trim_start())]);
        }
        section.control("fi", []);
        section.to_writer(&mut out)?;
    }
    man.render_version_section(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_a_synopsis_to_type_and_the_exit_status() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        write_pages(&command, dir.path()).expect("written");
        let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("a page");
        let record = page("headstart-record.1").replace("\\-", "-");
        assert!(
            record.contains("headstart record [OPTIONS] --profile <NAME> -- <CMD>..."),
            "{record}"
        );
        assert!(
            record.contains(".SH \"EXIT STATUS\"") && record.contains("127"),
            "{record}"
        );
        assert!(page("headstart.1").contains(".SH FILES"));
        assert!(page("headstart-profile-show.1").contains(".SH SYNOPSIS"));
        assert!(!page("headstart.1").contains("helper"), "it is nobody's");
    }
}
