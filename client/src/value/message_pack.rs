//! MessagePack.

use bytes::Bytes;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{Codec, CodecError, Encoded, expect_flags, flag};

/// MessagePack, with the names of fields: smaller than JSON, and readable after a field was added. Flag bit 10 marks
/// it. Values of more than 1,023 levels are refused, because rmp_serde reads no more.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessagePack;

/// The levels of lists and maps at which rmp_serde gives up.
const LEVELS_MAX: usize = 1024;

impl<T: Serialize + DeserializeOwned> Codec<T> for MessagePack {
    fn encode(&self, value: &T) -> Result<Encoded, CodecError> {
        let encoded = rmp_serde::to_vec_named(value)?;
        // Each level has a byte like these. Mostly there are fewer, and nothing has to be read.
        let starts = encoded.iter().filter(|byte| matches!(byte, 0x80..=0x9f | 0xdc..=0xdf)).count();
        if starts >= LEVELS_MAX {
            rmp_serde::from_slice::<IgnoredAny>(&encoded)?;
        }
        Ok(Encoded { value: Bytes::from(encoded), flags: flag::MESSAGE_PACK })
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
    use super::super::Json;
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
