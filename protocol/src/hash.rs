//! The hashes that clients of other languages spread keys by.
//!
//! Where the originals read a byte as C's signed `char`, so do these: it matters for keys beyond ASCII.

use md5::{Digest, Md5};

/// The four little-endian words of an MD5 digest.
pub(crate) fn md5_words(text: &[u8]) -> [u32; 4] {
    let digest = Md5::digest(text);
    std::array::from_fn(|word| {
        u32::from_le_bytes([digest[4 * word], digest[4 * word + 1], digest[4 * word + 2], digest[4 * word + 3]])
    })
}

fn sign_extended(byte: u8) -> u32 {
    i32::from(byte as i8) as u32
}

/// Bob Jenkins' one-at-a-time hash as libmemcached and twemproxy compute it.
pub(crate) fn one_at_a_time(text: &[u8]) -> u32 {
    let mut hash = 0u32;
    for &byte in text {
        hash = hash.wrapping_add(sign_extended(byte));
        hash = hash.wrapping_add(hash << 10);
        hash ^= hash >> 6;
    }
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

/// twemproxy's `fnv1a_64`: FNV-1a with the low halves of the 64-bit basis and prime.
pub(crate) fn fnv1a_64_low(text: &[u8]) -> u32 {
    text.iter().fold(0x8422_2325, |hash, &byte| (hash ^ sign_extended(byte)).wrapping_mul(0x1b3))
}

/// MurmurHash2 (Austin Appleby) as twemproxy seeds it.
pub(crate) fn murmur2(text: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = text.len() as u32;
    let mut hash = 0xdead_beef_u32.wrapping_mul(length) ^ length;
    let (blocks, tail) = text.as_chunks::<4>();
    for block in blocks {
        let mut block = u32::from_le_bytes(*block).wrapping_mul(M);
        block ^= block >> 24;
        hash = hash.wrapping_mul(M) ^ block.wrapping_mul(M);
    }
    if !tail.is_empty() {
        let rest = tail.iter().rev().fold(0, |rest, &byte| rest << 8 | u32::from(byte));
        hash = (hash ^ rest).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

/// MurmurHash3's 32-bit variant with seed 0 (Austin Appleby).
pub(crate) fn murmur3(text: impl Iterator<Item = u8>) -> u32 {
    let mix = |block: u32| block.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let (mut hash, mut block, mut length) = (0u32, 0u32, 0u32);
    for byte in text {
        block |= u32::from(byte) << (8 * (length % 4));
        length += 1;
        if length.is_multiple_of(4) {
            hash = (hash ^ mix(block)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
            block = 0;
        }
    }
    if !length.is_multiple_of(4) {
        hash ^= mix(block);
    }
    hash ^= length;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// The CRC-32 of zip and Ethernet; libmemcached and twemproxy call it `crc32a`.
pub(crate) fn crc32(text: &[u8]) -> u32 {
    crc32fast::hash(text)
}
