//! The limit of locked memory, out of the way for as long as it takes.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// While it lives nothing limits the memory that this process locks; then the limit
/// is what it was. A command started meanwhile inherits what is then, so it is kept
/// short.
pub(super) struct Memlock(Rlimit);

impl Memlock {
    /// Where that is not allowed the limit stays, and loading says what it came to.
    pub(super) fn raise() -> Self {
        let before = getrlimit(Resource::Memlock);
        let none = Rlimit {
            current: None,
            maximum: None,
        };
        if let Err(error) = setrlimit(Resource::Memlock, none) {
            tracing::debug!(%error, "the limit of locked memory stays");
        }
        Self(before)
    }
}

impl Drop for Memlock {
    fn drop(&mut self) {
        let before = Rlimit {
            current: self.0.current,
            maximum: self.0.maximum,
        };
        // It was allowed before, or nothing was changed.
        let _ = setrlimit(Resource::Memlock, before);
    }
}
