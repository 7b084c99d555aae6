//! Other names by which a profile is found: what is likely the same workload.

use redb::TableDefinition;

use super::{Store, StoreError, check_name};
use crate::model::Profile;

const ALIASES: TableDefinition<'_, &str, &str> = TableDefinition::new("aliases");

impl Store {
    /// Has `names` lead to the profile called `name`, instead of where they led.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn alias(&self, names: &[String], name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        let known = |alias: &String| self.aliased(alias).ok().flatten().as_deref() == Some(name);
        // A look costs less than a write.
        let new: Vec<&String> = names.iter().filter(|alias| !known(alias)).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.write("naming a profile in", |txn| {
            let mut aliases = txn.open_table(ALIASES)?;
            for alias in &new {
                aliases.insert(alias.as_str(), name)?;
            }
            Ok(())
        })
    }

    fn aliased(&self, alias: &str) -> Result<Option<String>, StoreError> {
        let found = self.read("reading a profile's names from", |txn| {
            let value = txn.open_table(ALIASES)?.get(alias)?;
            Ok(value.map(|name| name.value().to_owned()))
        })?;
        Ok(found.flatten())
    }

    /// The first of `names` that is a profile's name, or leads to one: what it is called,
    /// and the profile.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn find(&self, names: &[String]) -> Result<Option<(String, Profile)>, StoreError> {
        for name in names {
            if let Some(profile) = self.get(name)? {
                return Ok(Some((name.clone(), profile)));
            }
            if let Some(other) = self.aliased(name)?
                && let Some(profile) = self.get(&other)?
            {
                return Ok(Some((other, profile)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Access;

    #[test]
    fn a_profile_is_found_by_its_surest_name_first() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = Store::open(dir.path(), Access::Write).expect("a store");
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let found = |asked: &[&str]| {
            let found = store.find(&names(asked)).expect("readable");
            found.map(|(name, _)| name)
        };
        assert_eq!(found(&["a", "image"]), None);
        store.put("a", &Profile::default()).expect("written");
        store
            .alias(&names(&["image", "repository"]), "a")
            .expect("written");
        assert_eq!(found(&["a", "image"]).as_deref(), Some("a"));
        assert_eq!(found(&["b", "image"]).as_deref(), Some("a"));
        store.put("b", &Profile::default()).expect("written");
        assert_eq!(found(&["b", "image"]).as_deref(), Some("b"));
        store.alias(&names(&["image"]), "b").expect("written");
        assert_eq!(found(&["c", "image"]).as_deref(), Some("b"));
        assert!(store.remove("b").expect("removed"));
        assert_eq!(found(&["c", "image"]), None);
    }
}
