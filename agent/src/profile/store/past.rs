//! What is known of a profile's workload without decoding the profile: how large it is, and
//! what became of what was warmed from it.

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Outcome, keep, outcomes_from_bytes, outcomes_to_bytes};
use super::{ENTRIES, Store, StoreError};
use crate::model::Profile;
use crate::profile::record::record;

const OUTCOMES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("outcomes");

const CALLED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("called");

/// Names of single starts that are kept beside what all are called.
const ALSO: usize = 8;

/// What people call a profile's workload, whose name in the store says less.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Called {
    /// The unit's or container's name; where its starts had several, one for all.
    pub name: String,
    /// Kubernetes namespace, where it is known; else empty.
    pub namespace: String,
    /// Image reference, where it is known; else empty.
    pub image: String,
    /// What single starts were called besides, the newest first; bounded.
    #[serde(default)]
    pub also: Vec<String>,
}

impl Called {
    /// Takes up what one more start is called. A name that is another each time, as runtimes
    /// make them up, names no workload: where a second comes, it is called by its image, or
    /// if that is not known by `common`. What has several names keeps the last of them.
    pub fn and(&mut self, name: &str, common: &str) {
        if self.name.is_empty() {
            name.clone_into(&mut self.name);
        }
        if self.name == name {
            return;
        }
        let common = match self.image.as_str() {
            "" => common,
            image => image,
        };
        let before = std::mem::replace(&mut self.name, common.to_owned());
        for name in [&before[..], name] {
            self.also.retain(|known| known != name);
            if name != self.name {
                self.also.insert(0, name.to_owned());
            }
        }
        self.also.truncate(ALSO);
    }

    /// Whether a person means it: by its name, alone or after its namespace, or by that of
    /// one of its starts.
    pub fn is(&self, text: &str) -> bool {
        let is_full = || {
            let (namespace, name) = text.split_once('/').unwrap_or_default();
            !namespace.is_empty() && namespace == self.namespace && name == self.name
        };
        self.name == text || is_full() || self.also.iter().any(|name| name == text)
    }
}

/// A profile's past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// The profile.
    pub entry: Entry,
    /// What its last starts made of what was warmed for them, the oldest first.
    pub outcomes: Vec<Outcome>,
    /// How it was called the last time; `None` where no agent learned it here.
    pub called: Option<Called>,
}

impl Store {
    /// As [`record_into`](Self::record_into), and keeps what the run made of what was warmed
    /// for it, and how it is called, in the same transaction.
    ///
    /// # Errors
    /// As [`record_into`](Self::record_into).
    pub fn learn_into(
        &self,
        name: &str,
        run: &Profile,
        outcome: &Outcome,
        called: &Called,
    ) -> Result<Profile, StoreError> {
        self.merge_and(name, run, record, Some((outcome, called)))
    }

    /// A profile's past; `None` where there is no such profile.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn past(&self, name: &str) -> Result<Option<Past>, StoreError> {
        let mut found = self.pasts(name, 1)?;
        found.retain(|past| past.entry.name == name);
        Ok(found.pop())
    }

    /// The pasts of at most so many profiles, by name, `from` that on.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn pasts(&self, from: &str, most: usize) -> Result<Vec<Past>, StoreError> {
        let found = self.read("listing profiles of", |txn| {
            let mut pasts = Vec::new();
            for row in txn.open_table(ENTRIES)?.range(from..)?.take(most) {
                let (name, entry) = row?;
                let name = name.value();
                let entry = Entry::from_bytes(name, entry.value());
                pasts.push(Past {
                    entry: entry.unwrap_or_else(|| Entry::unknown(name)),
                    outcomes: outcomes(txn, name)?,
                    called: called(txn, name)?,
                });
            }
            Ok(pasts)
        })?;
        Ok(found.unwrap_or_default())
    }
}

/// None too where they can't be understood: a start or two tells them anew.
fn outcomes(txn: &ReadTransaction, name: &str) -> Result<Vec<Outcome>, redb::Error> {
    let table = match txn.open_table(OUTCOMES) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table?,
    };
    let value = table.get(name)?;
    let known = value.and_then(|bytes| outcomes_from_bytes(bytes.value()));
    Ok(known.unwrap_or_default())
}

/// None too where it can't be understood.
fn called(txn: &ReadTransaction, name: &str) -> Result<Option<Called>, redb::Error> {
    let table = match txn.open_table(CALLED) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        table => table?,
    };
    let value = table.get(name)?;
    Ok(value.and_then(|bytes| serde_json::from_slice(bytes.value()).ok()))
}

/// Adds one more, and how it is called now.
pub(super) fn add(
    txn: &WriteTransaction,
    name: &str,
    (outcome, called): (&Outcome, &Called),
) -> Result<(), redb::Error> {
    // Strings always can be written as JSON.
    let bytes = serde_json::to_vec(called).unwrap_or_default();
    txn.open_table(CALLED)?.insert(name, &bytes[..])?;
    let mut table = txn.open_table(OUTCOMES)?;
    let known = table
        .get(name)?
        .and_then(|bytes| outcomes_from_bytes(bytes.value()));
    let mut outcomes = known.unwrap_or_default();
    keep(&mut outcomes, *outcome);
    table.insert(name, &outcomes_to_bytes(&outcomes)[..])?;
    Ok(())
}

/// Forgets them: of another profile they say nothing.
pub(super) fn forget(txn: &WriteTransaction, name: &str) -> Result<(), redb::Error> {
    txn.open_table(OUTCOMES)?.remove(name)?;
    txn.open_table(CALLED)?.remove(name)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::entry::KEPT;
    use super::*;
    use crate::profile::Access;

    fn outcome(began_ms: u64, read: u64) -> Outcome {
        Outcome {
            began_ms,
            read,
            ..Outcome::default()
        }
    }

    #[test]
    fn what_is_called_otherwise_each_time_is_called_by_its_image() {
        let mut called = Called {
            namespace: "shop".to_owned(),
            image: "app:1".to_owned(),
            ..Called::default()
        };
        called.and("web", "0123");
        called.and("web", "0123");
        assert_eq!((called.name.as_str(), called.also.len()), ("web", 0));
        assert!(called.is("web") && called.is("shop/web"));
        for n in 0..20 {
            called.and(&format!("quiet_{n}"), "0123");
            assert_eq!(called.name, "app:1");
        }
        assert!(called.is("app:1") && called.is("shop/app:1") && called.is("quiet_19"));
        assert!(!called.is("quiet_1") && !called.is("/app:1") && !called.is(""));
        assert_eq!(called.also.len(), ALSO);
        assert_eq!(
            (&called.also[0][..], &called.also[1][..]),
            ("quiet_19", "quiet_18")
        );
        let mut of_no_image = Called::default();
        for n in 0..3 {
            of_no_image.and(&format!("ssh@{n}.service"), "ssh@.service");
        }
        assert_eq!(of_no_image.name, "ssh@.service");
        assert_eq!(
            of_no_image.also,
            ["ssh@2.service", "ssh@1.service", "ssh@0.service"]
        );
    }

    #[test]
    fn the_last_that_were_warmed_for_are_kept_and_the_last_of_all() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = Store::open(dir.path(), Access::Write).expect("a store");
        let past = |name| store.past(name).expect("readable");
        assert_eq!(past("a"), None);
        let learn = |outcome: Outcome| {
            let run = Profile::default();
            let called = Called {
                name: format!("web\n{}", outcome.began_ms),
                ..Called::default()
            };
            let learned = store.learn_into("a", &run, &outcome, &called);
            learned.expect("kept");
        };
        for n in 0..8 {
            learn(outcome(n, 100));
        }
        let began = |name| {
            let past = past(name).expect("known");
            let outcomes = past.outcomes.iter();
            outcomes
                .map(|o| (o.began_ms, o.observed))
                .collect::<Vec<_>>()
        };
        assert_eq!(began("a"), [(3, 0), (4, 0), (5, 0), (6, 0), (7, 0)]);
        for n in 8..11 {
            learn(outcome(n, 0));
        }
        assert_eq!(began("a").len(), KEPT + 1);
        let called = past("a").and_then(|past| past.called);
        assert_eq!(called.map(|called| called.name).as_deref(), Some("web\n10"));
        assert_eq!(began("a").last(), Some(&(10, 3)));
        learn(outcome(11, 100));
        assert_eq!(began("a"), [(4, 0), (5, 0), (6, 0), (7, 0), (11, 0)]);
        // Another profile of that name has no past, and so has one that was removed.
        store.put("a", &Profile::default()).expect("written");
        assert_eq!(began("a"), []);
        learn(outcome(12, 100));
        store.remove("a").expect("removed");
        assert_eq!(past("a"), None);
        learn(outcome(13, 100));
        assert_eq!(began("a"), [(13, 0)]);
    }

    #[test]
    fn profiles_come_in_pages() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = Store::open(dir.path(), Access::Write).expect("a store");
        for name in ["a", "b", "c"] {
            store.put(name, &Profile::default()).expect("written");
        }
        let names = |from, most| {
            let pasts = store.pasts(from, most).expect("readable");
            pasts.into_iter().map(|p| p.entry.name).collect::<Vec<_>>()
        };
        assert_eq!(names("", 2), ["a", "b"]);
        assert_eq!(names("b\0", 2), ["c"]);
        assert_eq!(names("d", 2), [""; 0]);
    }

    #[test]
    fn outcomes_are_read_as_they_were_written() {
        let all = Outcome {
            lead_us: Some(7),
            ..outcome(1, 2)
        };
        let bytes = outcomes_to_bytes(&[all, outcome(3, 4)]);
        let read = outcomes_from_bytes(&bytes);
        assert_eq!(read, Some(vec![all, outcome(3, 4)]));
        assert_eq!(outcomes_from_bytes(&bytes[..bytes.len() - 1]), None);
        assert_eq!(outcomes_from_bytes(&outcomes_to_bytes(&[all; 7])), None);
        assert_eq!(outcomes_from_bytes(&[]), None);
    }
}
