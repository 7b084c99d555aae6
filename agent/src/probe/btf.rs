//! Just enough of BTF to find where structure fields are.
//!
//! Source of the format: the kernel's Documentation/bpf/btf.rst.

use std::collections::{HashMap, HashSet};

/// Why BTF could not be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BtfError {
    /// It contradicts the format.
    #[error("not BTF: {0}")]
    Malformed(&'static str),
    /// A structure or field that is not there.
    #[error("the kernel's BTF has no `{0}`")]
    Missing(String),
}

const KIND_PTR: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
pub(crate) const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
pub(crate) const KIND_FUNC: u32 = 12;
const KIND_TYPE_TAG: u32 = 18;
/// Bytes of the header.
const HEADER: u32 = 24;
/// Anonymous members nest a few levels; more is a malformed file.
const MAX_DEPTH: u32 = 16;

/// A parsed BTF blob: where each type begins, and the structures by name.
pub(crate) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Offset of type `id` in `types`; id 0 is void.
    offsets: Vec<u32>,
    structs: HashMap<&'a [u8], Vec<u32>>,
    functions: HashSet<&'a [u8]>,
}

impl<'a> Btf<'a> {
    /// Takes `/sys/kernel/btf/vmlinux`'s bytes apart, for structures that are
    /// `wanted` and functions that are asked for, by name.
    pub(crate) fn parse(
        data: &'a [u8],
        wanted: &[&'static str],
        functions: &[&'static str],
    ) -> Result<Self, BtfError> {
        let word = |at: usize| read_u32(data, at).ok_or(BtfError::Malformed("header is cut short"));
        if data.get(..2) != Some(&0xeb9f_u16.to_le_bytes()) {
            return Err(BtfError::Malformed("wrong magic"));
        }
        let header = word(4)? as usize;
        let (type_off, type_len) = (word(8)? as usize, word(12)? as usize);
        let (str_off, str_len) = (word(16)? as usize, word(20)? as usize);
        let section = |off: usize, len: usize| {
            header
                .checked_add(off)
                .and_then(|from| Some((from, from.checked_add(len)?)))
                .and_then(|(from, to)| data.get(from..to))
                .ok_or(BtfError::Malformed("a section lies outside of the data"))
        };
        let types = section(type_off, type_len)?;
        let strings = section(str_off, str_len)?;
        let mut btf = Self {
            types,
            strings,
            offsets: vec![0],
            structs: HashMap::new(),
            functions: HashSet::new(),
        };
        let mut at = 0;
        while at < types.len() {
            let id = btf.offsets.len() as u32;
            let info = read_u32(types, at + 4).ok_or(BtfError::Malformed("a type is cut short"))?;
            btf.offsets.push(at as u32);
            let kind = info >> 24 & 0x1f;
            if (kind == KIND_STRUCT || kind == KIND_UNION) && info & 0xffff != 0 {
                let name = btf.string(read_u32(types, at).unwrap_or(0));
                if wanted.iter().any(|w| w.as_bytes() == name) {
                    btf.structs.entry(name).or_default().push(id);
                }
            }
            if kind == KIND_FUNC {
                let name = btf.string(read_u32(types, at).unwrap_or(0));
                if functions.iter().any(|w| w.as_bytes() == name) {
                    btf.functions.insert(name);
                }
            }
            let size = 12
                + trailing(kind, info & 0xffff)
                    .ok_or(BtfError::Malformed("a type of unknown kind"))?;
            at += size;
        }
        Ok(btf)
    }

    /// Whether there is a function of this name, one of those wanted.
    pub(crate) fn has_function(&self, name: &str) -> bool {
        self.functions.contains(name.as_bytes())
    }

    /// Byte offset of a field: `("fs_struct", "pwd.dentry")`. Anonymous
    /// structures and unions on the way are looked through.
    pub(crate) fn offset(&self, structure: &'static str, path: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::Missing(format!("{structure}.{path}"));
        let ids = self
            .structs
            .get(structure.as_bytes())
            .ok_or_else(|| BtfError::Missing(structure.to_string()))?;
        ids.iter()
            .find_map(|&id| self.walk(id, path, 0))
            .ok_or_else(missing)
    }

    /// BTF in which the types of these kinds and names have the ids that they have
    /// here, and of which all others say nothing. Kinds of which nothing follows the
    /// first twelve bytes (typedefs, functions). It is for who looks up ids by names,
    /// and takes apart all that there is for it: the kernel has 120,000 types.
    pub(crate) fn extract(&self, wanted: &[(u32, String)]) -> Vec<u8> {
        let mut strings = vec![0];
        let mut found = Vec::new();
        for (id, &at) in self.offsets.iter().enumerate().skip(1) {
            let at = at as usize;
            let kind = read_u32(self.types, at + 4).unwrap_or(0) >> 24 & 0x1f;
            if !wanted.iter().any(|(of, _)| *of == kind) {
                continue;
            }
            let name = self.string(read_u32(self.types, at).unwrap_or(0));
            if wanted
                .iter()
                .any(|(of, n)| *of == kind && n.as_bytes() == name)
            {
                found.push((id, [strings.len() as u32, kind << 24, 0]));
                strings.extend_from_slice(name);
                strings.push(0);
            }
        }
        let mut types = vec![[0, KIND_PTR << 24, 0]; found.last().map_or(0, |last| last.0)];
        for (id, entry) in found {
            types[id - 1] = entry;
        }
        let length = size_of_val(types.as_slice()) as u32;
        let header = [HEADER, 0, length, length, strings.len() as u32];
        let mut data = vec![0x9f, 0xeb, 1, 0];
        for word in header.into_iter().chain(types.into_iter().flatten()) {
            data.extend_from_slice(&word.to_ne_bytes());
        }
        data.extend(strings);
        data
    }

    fn walk(&self, id: u32, path: &str, depth: u32) -> Option<u32> {
        let (first, rest) = match path.split_once('.') {
            Some((first, rest)) => (first, Some(rest)),
            None => (path, None),
        };
        let (bits, type_id) = self.member(id, first.as_bytes(), depth)?;
        match rest {
            None => Some(bits / 8),
            Some(rest) => (bits / 8).checked_add(self.walk(type_id, rest, depth + 1)?),
        }
    }

    /// Bit offset and type of member `name` of type `id`.
    fn member(&self, id: u32, name: &[u8], depth: u32) -> Option<(u32, u32)> {
        if depth > MAX_DEPTH {
            return None;
        }
        let at = self.resolve(id)?;
        let info = read_u32(self.types, at + 4)?;
        let kind = info >> 24 & 0x1f;
        if kind != KIND_STRUCT && kind != KIND_UNION {
            return None;
        }
        let bitfields = info >> 31 == 1;
        for i in 0..(info & 0xffff) as usize {
            let member = at + 12 + i * 12;
            let member_name = self.string(read_u32(self.types, member)?);
            let type_id = read_u32(self.types, member + 4)?;
            let raw = read_u32(self.types, member + 8)?;
            let bits = if bitfields { raw & 0x00ff_ffff } else { raw };
            if member_name == name {
                return Some((bits, type_id));
            }
            if member_name.is_empty()
                && let Some((inner, type_id)) = self.member(type_id, name, depth + 1)
            {
                return Some((bits.checked_add(inner)?, type_id));
            }
        }
        None
    }

    /// Follows typedefs and qualifiers to where the type itself stands.
    fn resolve(&self, mut id: u32) -> Option<usize> {
        for _ in 0..MAX_DEPTH {
            let at = *self.offsets.get(id as usize)? as usize;
            if id == 0 {
                return None;
            }
            let kind = read_u32(self.types, at + 4)? >> 24 & 0x1f;
            match kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = read_u32(self.types, at + 8)?;
                }
                KIND_PTR => return None,
                _ => return Some(at),
            }
        }
        None
    }

    fn string(&self, offset: u32) -> &'a [u8] {
        let tail = self.strings.get(offset as usize..).unwrap_or(&[]);
        let end = tail.iter().position(|&b| b == 0).unwrap_or(tail.len());
        &tail[..end]
    }
}

/// Bytes that follow the twelve of a type of this kind.
fn trailing(kind: u32, members: u32) -> Option<usize> {
    let members = members as usize;
    Some(match kind {
        1 | 14 | 17 => 4,
        3 => 12,
        4 | 5 | 15 | 19 => members * 12,
        6 | 13 => members * 8,
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

fn read_u32(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `struct inner { int; int b; }`, `struct s { union { long a; struct inner in; }; struct inner named; }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0s\0a\0in\0named\0b\0inner\0int\0x\0";
        let name = |wanted: &str| {
            let needle = [b"\0", wanted.as_bytes(), b"\0"].concat();
            strings
                .windows(needle.len())
                .position(|w| w == needle)
                .expect("in strings") as u32
                + 1
        };
        let mut types: Vec<u32> = Vec::new();
        types.extend([name("int"), 1 << 24, 4, 32]); // 1: int
        types.extend([
            name("inner"),
            4 << 24 | 2,
            8,
            name("x"),
            1,
            0,
            name("b"),
            1,
            32,
        ]); // 2
        types.extend([0, 5 << 24 | 2, 8, name("a"), 1, 0, name("in"), 2, 0]); // 3: anonymous union
        types.extend([name("s"), 4 << 24 | 2, 16, 0, 3, 0, name("named"), 2, 64]); // 4
        let types: Vec<u8> = types.iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut data = vec![0x9f, 0xeb, 1, 0];
        for word in [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ] {
            data.extend(word.to_le_bytes());
        }
        data.extend(types);
        data.extend(strings);
        data
    }

    #[test]
    fn fields_are_found_through_anonymous_members() {
        let data = sample();
        let btf = Btf::parse(&data, &["s"], &[]).expect("valid");
        assert_eq!(btf.offset("s", "a"), Ok(0));
        assert_eq!(btf.offset("s", "in.b"), Ok(4));
        assert_eq!(btf.offset("s", "named.b"), Ok(12));
        assert_eq!(
            btf.offset("s", "nope"),
            Err(BtfError::Missing("s.nope".into()))
        );
        assert_eq!(btf.offset("t", "a"), Err(BtfError::Missing("t".into())));
    }

    #[test]
    fn an_extract_keeps_ids_and_names() {
        let data = sample();
        let btf = Btf::parse(&data, &[], &[]).expect("valid");
        let wanted = [
            (KIND_STRUCT, "s".to_owned()),
            (KIND_TYPEDEF, "inner".to_owned()),
        ];
        let data = btf.extract(&wanted);
        assert!(aya::Btf::parse(&data, aya::Endianness::default()).is_ok());
        let extract = Btf::parse(&data, &[], &[]).expect("valid");
        let name = |id: usize| {
            let at = extract.offsets[id] as usize;
            extract.string(read_u32(extract.types, at).expect("within"))
        };
        assert_eq!(extract.offsets.len(), 5, "types 1 to 4");
        assert_eq!(name(4), b"s");
        assert_eq!(name(2), b"", "`inner` is no typedef");
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0usize..200, value in any::<u8>(), cut in 0usize..200) {
            let mut data = sample();
            let len = data.len();
            data[at % len] = value;
            data.truncate(len - cut % len);
            if let Ok(btf) = Btf::parse(&data, &["s", "inner"], &["x"]) {
                let _ = btf.offset("s", "in.b");
                let _ = btf.offset("inner", "b");
            }
        }
    }
}
