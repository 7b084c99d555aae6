//! The hashes that order a directory's names.
//!
//! Format: `Documentation/filesystems/ext4/directory.rst` ("Hash Tree
//! Directories") names them; their details are in `fs/ext4/hash.c`.

/// Seed of a filesystem's directory hashes (`s_hash_seed`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HashSeed([u32; 4]);

impl HashSeed {
    /// All zeroes stand for MD4's own initial state.
    pub(super) fn new(words: [u32; 4]) -> Self {
        match words {
            [0, 0, 0, 0] => Self([0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476]),
            words => Self(words),
        }
    }

    pub(super) fn words(self) -> [u32; 4] {
        self.0
    }
}

/// Which hash a directory uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashVersion {
    /// The first one, from the patch that introduced hash trees.
    Legacy,
    /// MD4 with half of its rounds.
    HalfMd4,
    /// The Tiny Encryption Algorithm as a compression function.
    Tea,
}

impl HashVersion {
    /// The version that a directory's root names (`dx_root_info.hash_version`).
    /// `None` for hashes that need more than the name (SipHash of encrypted
    /// directories) and for nonsense.
    pub(super) fn from_disk(version: u8) -> Option<Self> {
        match version {
            0 => Some(Self::Legacy),
            1 => Some(Self::HalfMd4),
            2 => Some(Self::Tea),
            _ => None,
        }
    }
}

/// The hash of `name` as directories are ordered by it: the lowest bit is 0.
///
/// `seed` is the filesystem's (unused by [`HashVersion::Legacy`]), `unsigned`
/// whether bytes count as 0..=255 rather than -128..=127.
pub fn dir_hash(version: HashVersion, unsigned: bool, seed: [u32; 4], name: &[u8]) -> u32 {
    let hash = match version {
        HashVersion::Legacy => legacy(name, unsigned),
        HashVersion::HalfMd4 => {
            let mut state = seed;
            for rest in chunks::<32>(name) {
                half_md4(&mut state, &words::<8>(rest, unsigned));
            }
            state[1]
        }
        HashVersion::Tea => {
            let mut state = seed;
            for rest in chunks::<16>(name) {
                tea(&mut state, &words::<4>(rest, unsigned));
            }
            state[0]
        }
    };
    match hash & !1 {
        // Marks the end of a directory when listing it, so no name has it.
        0xffff_fffe => 0xffff_fffc,
        hash => hash,
    }
}

/// What is left of `name` at each multiple of `N` bytes: the padding of a
/// block depends on all that is left, not only on the block's own bytes.
fn chunks<const N: usize>(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..name.len()).step_by(N).filter_map(|at| name.get(at..))
}

/// A byte as the kernel's C code widens it.
fn widen(byte: u8, unsigned: bool) -> u32 {
    if unsigned {
        u32::from(byte)
    } else {
        i32::from(byte as i8) as u32
    }
}

/// The first `4 * N` bytes of `rest` as big-endian words, padded with the
/// length. Bytes are added, not or-ed: a negative one borrows from the ones
/// before it.
fn words<const N: usize>(rest: &[u8], unsigned: bool) -> [u32; N] {
    let length = rest.len() as u32;
    let pad = length | length << 8;
    let pad = pad | pad << 16;
    let mut out = [pad; N];
    for (word, bytes) in out.iter_mut().zip(rest.chunks(4)) {
        for &byte in bytes {
            *word = (*word << 8).wrapping_add(widen(byte, unsigned));
        }
    }
    out
}

fn half_md4(state: &mut [u32; 4], input: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    const ROUNDS: [(Mix, u32, [u32; 4], [usize; 8]); 3] = [
        (
            |x, y, z| z ^ (x & (y ^ z)),
            0,
            [3, 7, 11, 19],
            [0, 1, 2, 3, 4, 5, 6, 7],
        ),
        (
            |x, y, z| (x & y).wrapping_add((x ^ y) & z),
            0x5A82_7999,
            [3, 5, 9, 13],
            [1, 3, 5, 7, 0, 2, 4, 6],
        ),
        (
            |x, y, z| x ^ y ^ z,
            0x6ED9_EBA1,
            [3, 9, 11, 15],
            [3, 7, 2, 6, 1, 5, 0, 4],
        ),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, shifts, order) in ROUNDS {
        for (index, shift) in order.into_iter().zip(shifts.into_iter().cycle()) {
            let sum = a.wrapping_add(mix(b, c, d)).wrapping_add(input[index]);
            // The four words take turns: what was computed is next read as b.
            (a, b, c, d) = (d, sum.wrapping_add(constant).rotate_left(shift), b, c);
        }
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}

fn tea(state: &mut [u32; 4], key: &[u32; 4]) {
    let [mut left, mut right, ..] = *state;
    let mix = |other: u32, sum: u32, low: u32, high: u32| {
        (other << 4).wrapping_add(low) ^ other.wrapping_add(sum) ^ (other >> 5).wrapping_add(high)
    };
    let mut sum = 0_u32;
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9E37_79B9);
        left = left.wrapping_add(mix(right, sum, key[0], key[1]));
        right = right.wrapping_add(mix(left, sum, key[2], key[3]));
    }
    state[0] = state[0].wrapping_add(left);
    state[1] = state[1].wrapping_add(right);
}

fn legacy(name: &[u8], unsigned: bool) -> u32 {
    let (mut last, mut before) = (0x12a3_fe2d_u32, 0x37ab_e8f9_u32);
    for &byte in name {
        let product = widen(byte, unsigned).wrapping_mul(7_152_373);
        let mut hash = before.wrapping_add(last ^ product);
        if hash & 0x8000_0000 != 0 {
            hash = hash.wrapping_sub(0x7fff_ffff);
        }
        (before, last) = (last, hash);
    }
    last << 1
}
