//! The daemon: it watches every workload of this machine and warms the next start.
//!
//! Invariant: no start waits for anything here, and what fails here costs only speed.

mod handle;
mod view;

pub use handle::{Handle, Listener, Notified, Order, OrderError, Touched};
pub use view::{Feature, FileView, Histogram, LEAD_BOUNDS, StartView, Totals, View, WorkloadView};
