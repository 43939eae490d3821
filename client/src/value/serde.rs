//! Formats that serde knows.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecError, Encoded, expect_flags, flag};

/// JSON. Python's clients read it as a string.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T) -> Result<Encoded, CodecError> {
        Ok(Encoded { value: Bytes::from(serde_json::to_vec(value)?), flags: flag::TEXT })
    }

    fn decode(&self, encoded: Encoded) -> Result<T, CodecError> {
        expect_flags(encoded.flags, flag::TEXT)?;
        Ok(serde_json::from_slice(&encoded.value)?)
    }
}

/// MessagePack, with the names of fields: smaller than JSON, and readable after a field was added.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessagePack;

impl<T: Serialize + DeserializeOwned> Codec<T> for MessagePack {
    fn encode(&self, value: &T) -> Result<Encoded, CodecError> {
        Ok(Encoded { value: Bytes::from(rmp_serde::to_vec_named(value)?), flags: 0 })
    }

    fn decode(&self, encoded: Encoded) -> Result<T, CodecError> {
        expect_flags(encoded.flags, 0)?;
        Ok(rmp_serde::from_slice(&encoded.value)?)
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
        assert_eq!((json.flags, packed.flags), (16, 0));
        assert!(packed.value.len() < json.value.len());
        let wrong: Result<(String, Vec<u32>, Option<f64>), _> = MessagePack.decode(json.clone());
        assert!(wrong.is_err());
        assert_eq!(Codec::<(String, Vec<u32>, Option<f64>)>::decode(&Json, json).unwrap(), value);
        assert_eq!(Codec::<(String, Vec<u32>, Option<f64>)>::decode(&MessagePack, packed).unwrap(), value);
    }
}
