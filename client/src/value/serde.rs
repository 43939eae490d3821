//! Formats with a serde crate.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecError, Encoded, expect_flags, flag};

/// JSON. Python's clients read it as a string. Values with a NaN or an infinity are refused: JSON cannot express them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T) -> Result<Encoded, CodecError> {
        let encoded = serde_json::to_vec(value)?;
        // serde_json writes NaN and infinity as null, which is read as another value or not at all.
        if encoded.windows(4).any(|word| word == b"null") && has_special_number(&rmpv::ext::to_value(value)?) {
            return Err("JSON has no NaN and no infinity".into());
        }
        Ok(Encoded { value: Bytes::from(encoded), flags: flag::TEXT })
    }

    fn decode(&self, encoded: Encoded) -> Result<T, CodecError> {
        expect_flags(encoded.flags, flag::TEXT)?;
        Ok(serde_json::from_slice(&encoded.value)?)
    }
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

/// MessagePack, with the names of fields: smaller than JSON, and readable after a field was added. Flag bit 10 marks
/// it.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessagePack;

impl<T: Serialize + DeserializeOwned> Codec<T> for MessagePack {
    fn encode(&self, value: &T) -> Result<Encoded, CodecError> {
        Ok(Encoded { value: Bytes::from(rmp_serde::to_vec_named(value)?), flags: flag::MESSAGE_PACK })
    }

    fn decode(&self, encoded: Encoded) -> Result<T, CodecError> {
        expect_flags(encoded.flags, flag::MESSAGE_PACK)?;
        // Without the flag it is text or a counter of another client.
        if encoded.flags == 0 {
            return Err("the value was not written as MessagePack".into());
        }
        let mut rest = &encoded.value[..];
        let value = rmp_serde::from_read(&mut rest)?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the value", rest.len()).into());
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_bring_back_what_they_were_given_and_refuse_what_they_did_not_write() {
        let value = ("Ada".to_owned(), vec![1u32, 2, 3], Some(0.5f64));
        let json: Encoded = Json.encode(&value).unwrap();
        let packed: Encoded = MessagePack.encode(&value).unwrap();
        assert_eq!((json.flags, packed.flags), (16, 1024));
        assert!(packed.value.len() < json.value.len());
        let wrong: Result<(String, Vec<u32>, Option<f64>), _> = MessagePack.decode(json.clone());
        assert!(wrong.is_err());
        assert_eq!(Codec::<(String, Vec<u32>, Option<f64>)>::decode(&Json, json).unwrap(), value);
        assert_eq!(Codec::<(String, Vec<u32>, Option<f64>)>::decode(&MessagePack, packed).unwrap(), value);
    }
}
