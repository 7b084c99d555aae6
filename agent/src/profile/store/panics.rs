//! Panics that are caught, and told in our own words.

use std::cell::Cell;
use std::marker::PhantomData;
use std::panic;

thread_local! {
    /// Whoever catches them on this thread.
    static EXPECTED: Cell<u32> = const { Cell::new(0) };
}

/// As long as this lives, panics of its thread are somebody's to tell.
pub(super) struct Expected(PhantomData<*const ()>);

pub(super) fn expect() -> Expected {
    EXPECTED.set(EXPECTED.get() + 1);
    Expected(PhantomData)
}

impl Drop for Expected {
    fn drop(&mut self) {
        EXPECTED.set(EXPECTED.get() - 1);
    }
}

/// For the start of a process: panics that the store catches are told by its errors and
/// notices (in `-vv` output too), and not by a trace of the stack.
pub fn quiet() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if EXPECTED.get() > 0 {
            tracing::debug!("caught: {info}");
        } else {
            tell(info);
        }
    }));
}
