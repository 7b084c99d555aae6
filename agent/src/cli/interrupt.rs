//! Ctrl-C and SIGTERM end long work in an orderly way.

use crate::warm::Cancel;

/// Cancels `cancel` at the first SIGINT or SIGTERM. Call before any thread is
/// started, so that all of them leave the signals to the one that waits.
pub(super) fn cancel_on_signal(cancel: &Cancel) {
    let cancel = cancel.clone();
    on_signal(move || cancel.cancel());
}

/// Calls `each` at every SIGHUP. Call before any thread is started.
pub(super) fn on_hangup(each: impl Fn() + Send + 'static) {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is valid for writes and initialised by sigemptyset.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGHUP);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        set.assume_init()
    };
    std::thread::spawn(move || {
        loop {
            let mut signal = 0;
            // SAFETY: an initialised set and a place for the signal's number.
            if unsafe { libc::sigwait(&raw const set, &raw mut signal) } == 0 {
                each();
            }
        }
    });
}

/// Calls `then` once, at the first SIGINT or SIGTERM.
pub(super) fn on_signal(then: impl FnOnce() + Send + 'static) {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is valid for writes and initialised by sigemptyset.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        set.assume_init()
    };
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: an initialised set and a place for the signal's number.
        unsafe { libc::sigwait(&raw const set, &raw mut signal) };
        then();
        // A second one ends the process at once.
        // SAFETY: as above; this thread's own mask.
        unsafe {
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
            libc::signal(signal, libc::SIG_DFL);
        }
        loop {
            std::thread::park();
        }
    });
}
