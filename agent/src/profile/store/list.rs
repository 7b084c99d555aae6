//! What is known of profiles without decoding them.

use redb::ReadableTable;

use super::{ENTRIES, Entry, Store, StoreError, check_name};

impl Store {
    /// All profiles by name, without decoding them.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn list(&self) -> Result<Vec<Entry>, StoreError> {
        let rows = self.read("listing profiles of", |txn| {
            let table = txn.open_table(ENTRIES)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (name, entry) = row?;
                rows.push((name.value().to_owned(), entry.value().to_vec()));
            }
            Ok(rows)
        })?;
        // One that can't be read is listed with what is known: its name.
        let entry = |(name, bytes): (String, Vec<u8>)| {
            Entry::from_bytes(&name, &bytes).unwrap_or_else(|| Entry::unknown(&name))
        };
        Ok(rows.unwrap_or_default().into_iter().map(entry).collect())
    }

    /// What is known of a profile without decoding it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        check_name(name)?;
        let value = self.read("looking a profile up in", |txn| {
            let value = txn.open_table(ENTRIES)?.get(name)?;
            Ok(value.map(|bytes| bytes.value().to_vec()))
        })?;
        let entry = |bytes: Vec<u8>| {
            Entry::from_bytes(name, &bytes).unwrap_or_else(|| Entry::unknown(name))
        };
        Ok(value.flatten().map(entry))
    }
}
