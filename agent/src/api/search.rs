//! Which workload a text names. Pure.

use std::sync::Arc;

use crate::daemon::{OrderError, WorkloadView};
use crate::model::escape;

/// Most keys that are told where a name has several.
const TOLD: usize = 5;

/// One that looks at workload after workload.
pub(super) struct Search<'t> {
    text: &'t str,
    by_key: Option<Arc<WorkloadView>>,
    by_name: Vec<Arc<WorkloadView>>,
    /// By key or name as they are shown.
    by_what_is_shown: Vec<Arc<WorkloadView>>,
}

impl<'t> Search<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            by_key: None,
            by_name: Vec::new(),
            by_what_is_shown: Vec::new(),
        }
    }

    pub(super) fn look(&mut self, workload: &Arc<WorkloadView>) {
        let [key, name] = [&workload.key, &workload.called.name];
        let is_shown = |text: &str| escape(text.as_bytes()) == self.text;
        if key == self.text {
            self.by_key = Some(workload.clone());
        } else if workload.called.is(self.text) {
            self.by_name.push(workload.clone());
        } else if is_shown(key) || is_shown(name) {
            self.by_what_is_shown.push(workload.clone());
        }
    }

    /// What has it for its key.
    pub(super) fn by_key(&self) -> Option<Arc<WorkloadView>> {
        self.by_key.clone()
    }

    /// What is called so, if anything: by its key, else by name, else as it is shown.
    ///
    /// # Errors
    /// Several are.
    pub(super) fn found(self) -> Option<Result<Arc<WorkloadView>, OrderError>> {
        if let Some(workload) = self.by_key {
            return Some(Ok(workload));
        }
        let lists = [self.by_name, self.by_what_is_shown];
        let called = lists.into_iter().find(|found| !found.is_empty())?;
        if let [workload] = &called[..] {
            return Some(Ok(workload.clone()));
        }
        let keys: Vec<&str> = called.iter().map(|w| w.key.as_str()).take(TOLD).collect();
        Some(Err(OrderError::Ambiguous {
            name: self.text.to_owned(),
            keys: keys.join(", "),
        }))
    }
}
