//! Metrics: a catalogue, rendered from a view.
//!
//! Invariant: what is rendered is in the catalogue, and all that is in the catalogue is
//! rendered. No identifier of a container, a pod or an image, and no path, is a label.

mod catalogue;
mod labels;
mod page;
mod render;
mod samples;
mod workloads;

pub use page::markdown;
pub use render::render;

/// What a scraper is told that it gets.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
