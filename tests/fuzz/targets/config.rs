//! The configuration file.

#![no_main]

use headstart::cli::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Config::parse(text) {
        Ok(config) => assert!(config.ring_bytes.is_power_of_two()),
        // It goes to a terminal.
        Err(problem) => assert!(!problem.contains(|c: char| c.is_control() && c != '\n')),
    }
});
