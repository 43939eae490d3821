//! JSON.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecError, Encoded, expect_flags, flag};

/// JSON. Python's clients read it as a string. Values with a NaN or an infinity are refused, because JSON cannot
/// express them, and so are values of more than 127 levels, because serde_json reads no more.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T) -> Result<Encoded, CodecError> {
        let encoded = serde_json::to_vec(value)?;
        // serde_json writes NaN and infinity as null, which is read as another value or not at all.
        if encoded.windows(4).any(|word| word == b"null") && has_special_number(&rmpv::ext::to_value(value)?) {
            return Err("JSON has no NaN and no infinity".into());
        }
        if levels(&encoded) > LEVELS_MAX {
            return Err(format!("the value has more than {LEVELS_MAX} levels").into());
        }
        Ok(Encoded { value: Bytes::from(encoded), flags: flag::TEXT })
    }

    fn decode(&self, encoded: Encoded) -> Result<T, CodecError> {
        expect_flags(encoded.flags, flag::TEXT)?;
        Ok(serde_json::from_slice(&encoded.value)?)
    }
}

/// The most levels of lists and objects that serde_json reads.
const LEVELS_MAX: usize = 127;

/// Returns how many lists and objects of a JSON text are within one another.
fn levels(json: &[u8]) -> usize {
    let (mut level, mut most, mut bytes) = (0, 0, json.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                while let Some(byte) = bytes.next().filter(|&&byte| byte != b'"') {
                    if *byte == b'\\' {
                        bytes.next();
                    }
                }
            }
            b'[' | b'{' => {
                level += 1;
                most = most.max(level);
            }
            b']' | b'}' => level -= 1,
            _ => {}
        }
    }
    most
}

/// Returns whether a NaN or an infinity is in the value.
fn has_special_number(value: &rmpv::Value) -> bool {
    match value {
        rmpv::Value::F32(number) => !number.is_finite(),
        rmpv::Value::F64(number) => !number.is_finite(),
        rmpv::Value::Array(values) => values.iter().any(has_special_number),
        rmpv::Value::Map(pairs) => {
            pairs.iter().any(|(key, value)| has_special_number(key) || has_special_number(value))
        }
        _ => false,
    }
}
