//! How the rest of the process asks the daemon: a view that it replaces, orders that it
//! takes, and touches for whoever listens.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lock;
use super::view::View;
use crate::profile::Past;
use crate::warm::WarmReport;

/// Orders that wait to be taken; more are refused.
const ORDERS: usize = 256;

/// Touches that wait for one listener; more are counted as lost to it.
const TOUCHES: usize = 4096;

/// Listeners at a time.
const LISTENERS: usize = 8;

/// Longest that the store may take to tell something.
const STORE_ANSWERS: Duration = Duration::from_secs(10);

/// Longest that a notification waits for its plan, of those that are made one after another.
const PLAN_IS_MADE: Duration = Duration::from_secs(10);

/// Something the daemon is asked to do.
#[derive(Debug)]
pub enum Order {
    /// A workload will start soon: warm for it.
    Notify {
        /// Its key or name.
        workload: String,
        /// Told what came of it.
        reply: SyncSender<Result<Notified, OrderError>>,
        /// Told when that is carried out.
        finished: Option<FinishedSender>,
    },
    /// What the store has of workloads, by key.
    Stored {
        /// From this key on.
        from: String,
        /// Of so many at most.
        most: usize,
        /// Told what it has.
        reply: SyncSender<Result<Vec<Past>, OrderError>>,
    },
    /// From the daemon to itself: a notification is being carried out, for this key.
    Notified(String),
}

/// Who tells what came of warming.
pub(super) type FinishedSender = SyncSender<Result<Arc<WarmReport>, OrderError>>;

/// Where it is told what is planned.
pub type Replied = Receiver<Result<Notified, OrderError>>;

/// Where it is told what came of warming.
pub type Finished = Receiver<Result<Arc<WarmReport>, OrderError>>;

/// What came of a notification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notified {
    /// The key of the profile that is warmed.
    pub key: String,
    /// Bytes that the plan asks for.
    pub planned: u64,
    /// Other plans go first: it waits, and what it will ask for is not known yet.
    pub queued: bool,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Nobody has that key or name.
    #[error("no workload or profile is called `{0}`; `headstart workloads` lists them")]
    Unknown(String),
    /// Several workloads have that name.
    #[error("several workloads are called `{name}`: name one by its key ({keys})")]
    Ambiguous {
        /// The name.
        name: String,
        /// Keys, the first few.
        keys: String,
    },
    /// It is not to be warmed.
    #[error("`{workload}` is not warmed: {reason}")]
    NotWarmed {
        /// Its key.
        workload: String,
        /// Why.
        reason: &'static str,
    },
    /// Too much at once, or the daemon is about to end.
    #[error("the agent takes no orders now: {0}; try again")]
    Busy(&'static str),
    /// The store did not give the profile.
    #[error("{0}")]
    Store(String),
}

/// A first touch, for whoever looks on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Key of the workload.
    pub workload: String,
    /// Since the start was noticed, ns.
    pub since_start_ns: u64,
    /// Path within its filesystem, as bytes; empty where it is not known yet.
    pub path: Vec<u8>,
    /// First page.
    pub page: u64,
    /// Pages.
    pub pages: u32,
    /// A fault's window: not all of its pages were used.
    pub maybe: bool,
}

/// A listener's end.
#[derive(Debug)]
pub struct Listener {
    /// Touches as they come.
    pub touches: Receiver<Touched>,
    /// Those that this listener was too slow for.
    pub lost: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Listening {
    touches: SyncSender<Touched>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Inner {
    view: Mutex<Arc<View>>,
    orders: SyncSender<Order>,
    listeners: Mutex<Vec<Listening>>,
}

/// The daemon, as seen from its API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Inner>);

impl Handle {
    /// A handle, and the end at which the daemon takes orders.
    pub fn new() -> (Self, Receiver<Order>) {
        let (orders, taken) = sync_channel(ORDERS);
        let inner = Inner {
            view: Mutex::default(),
            orders,
            listeners: Mutex::default(),
        };
        (Self(Arc::new(inner)), taken)
    }

    /// As of a moment ago.
    pub fn view(&self) -> Arc<View> {
        lock(&self.0.view).clone()
    }

    /// Replaces what [`Handle::view`] gives.
    pub fn publish(&self, view: View) {
        *lock(&self.0.view) = Arc::new(view);
    }

    /// Says that a workload will start soon. Waits until its plan is made, not until it
    /// is carried out, and not for long: where other plans go first it is queued.
    ///
    /// # Errors
    /// Nobody knows it, or it is not to be warmed.
    pub fn notify(&self, workload: &str) -> Result<Notified, OrderError> {
        let replied = self.told(workload, None)?;
        let reply = replied.recv_timeout(PLAN_IS_MADE);
        reply.unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => Ok(Notified {
                key: workload.to_owned(),
                planned: 0,
                queued: true,
            }),
            RecvTimeoutError::Disconnected => Err(OrderError::Busy("it is about to end")),
        })
    }

    /// As [`Handle::notify`], and waits for nothing: the plan can be received when it is made,
    /// and what came of it when it is carried out.
    ///
    /// # Errors
    /// The daemon is busy; others are received.
    pub fn warm(&self, workload: &str) -> Result<(Replied, Finished), OrderError> {
        let (finished, received) = sync_channel(1);
        let replied = self.told(workload, Some(finished))?;
        Ok((replied, received))
    }

    fn told(
        &self,
        workload: &str,
        finished: Option<FinishedSender>,
    ) -> Result<Replied, OrderError> {
        let (reply, replied) = sync_channel(1);
        let order = Order::Notify {
            workload: workload.to_owned(),
            reply,
            finished,
        };
        self.order(order)?;
        Ok(replied)
    }

    /// What the store has of workloads: of at most so many, by key, `from` that on.
    ///
    /// # Errors
    /// The daemon is busy, or the store can't be read.
    pub fn stored(&self, from: &str, most: usize) -> Result<Vec<Past>, OrderError> {
        let (reply, replied) = sync_channel(1);
        let order = Order::Stored {
            from: from.to_owned(),
            most,
            reply,
        };
        self.order(order)?;
        replied
            .recv_timeout(STORE_ANSWERS)
            .unwrap_or(Err(OrderError::Busy("the store is in use")))
    }

    fn order(&self, order: Order) -> Result<(), OrderError> {
        self.0.orders.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => OrderError::Busy("too many are waiting"),
            TrySendError::Disconnected(_) => OrderError::Busy("it is about to end"),
        })
    }

    /// Listens to touches; `None` while there are too many listeners.
    pub fn listen(&self) -> Option<Listener> {
        let mut listeners = lock(&self.0.listeners);
        if listeners.len() >= LISTENERS {
            return None;
        }
        let (touches, received) = sync_channel(TOUCHES);
        let lost = Arc::new(AtomicU64::new(0));
        listeners.push(Listening {
            touches,
            lost: lost.clone(),
        });
        Some(Listener {
            touches: received,
            lost,
        })
    }

    /// Whether anybody listens.
    pub fn has_listeners(&self) -> bool {
        !lock(&self.0.listeners).is_empty()
    }

    /// Tells listeners of a touch; those that are gone are forgotten.
    pub fn tell(&self, touched: &Touched) {
        lock(&self.0.listeners).retain(|listener| {
            match listener.touches.try_send(touched.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    listener.lost.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_listener_loses_and_the_daemon_does_not_wait() {
        let (handle, _orders) = Handle::new();
        let listener = handle.listen().expect("room");
        let touched = Touched {
            workload: "unit:a.service".into(),
            since_start_ns: 1,
            path: Vec::new(),
            page: 0,
            pages: 1,
            maybe: false,
        };
        for _ in 0..TOUCHES + 3 {
            handle.tell(&touched);
        }
        assert_eq!(listener.lost.load(Ordering::Relaxed), 3);
        drop(listener);
        handle.tell(&touched);
        assert!(!handle.has_listeners());
    }

    #[test]
    fn nobody_waits_for_a_daemon_that_is_gone() {
        let (handle, orders) = Handle::new();
        drop(orders);
        let refused = handle.notify("unit:a.service");
        assert!(matches!(refused, Err(OrderError::Busy(_))), "{refused:?}");
    }
}
