//! `headstart profile` as people use it: the binary, files, exit codes.

mod commands;
mod support;
mod trouble;
