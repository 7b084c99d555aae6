//! Ctrl-C and SIGTERM end long work in an orderly way.

use crate::warm::Cancel;

/// Cancels `cancel` at the first SIGINT or SIGTERM. Call before any thread is
/// started, so that all of them leave the signals to the one that waits.
pub(super) fn cancel_on_signal(cancel: &Cancel) {
    let cancel = cancel.clone();
    on_signal(move || cancel.cancel());
}

/// Calls `then` once, at the first SIGINT or SIGTERM, and `again` at every SIGHUP. Call
/// before any thread is started.
pub(super) fn on_signal_and_hangup(
    then: impl FnOnce() + Send + 'static,
    mut again: impl FnMut() + Send + 'static,
) {
    // Before either thread: one that left the other's signals open would be ended by them.
    let (end, hangup) = (blocked(&END), blocked(&[libc::SIGHUP]));
    std::thread::spawn(move || {
        loop {
            if next(&hangup).is_some() {
                again();
            }
        }
    });
    std::thread::spawn(move || call_once(&end, then));
}

/// Calls `then` once, at the first SIGINT or SIGTERM.
pub(super) fn on_signal(then: impl FnOnce() + Send + 'static) {
    let end = blocked(&END);
    std::thread::spawn(move || call_once(&end, then));
}

/// Signals to end that come within this time are one.
const SAME_WISH: std::time::Duration = std::time::Duration::from_millis(500);

const END: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

fn call_once(end: &libc::sigset_t, then: impl FnOnce()) {
    let signal = next(end).unwrap_or_default();
    then();
    // What comes with the first is the same wish: timeout(1) sends its signal to the process
    // and to its group.
    std::thread::sleep(SAME_WISH);
    let none = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: an initialised set and time; nothing is written where nobody asks for it.
    while unsafe { libc::sigtimedwait(end, std::ptr::null_mut(), &raw const none) } > 0 {}
    // A second one ends the process at once.
    // SAFETY: an initialised set; this thread's own mask.
    unsafe {
        libc::pthread_sigmask(libc::SIG_UNBLOCK, end, std::ptr::null_mut());
        libc::signal(signal, libc::SIG_DFL);
    }
    loop {
        std::thread::park();
    }
}

/// Has this thread, and those that it starts from now on, leave signals to who waits.
fn blocked(signals: &[i32]) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is valid for writes and initialised by sigemptyset.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        set.assume_init()
    }
}

/// Waits for one of them.
fn next(set: &libc::sigset_t) -> Option<i32> {
    let mut signal = 0;
    // SAFETY: an initialised set and a place for the signal's number.
    let error = unsafe { libc::sigwait(set, &raw mut signal) };
    (error == 0).then_some(signal)
}
