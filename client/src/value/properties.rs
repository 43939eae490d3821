//! Properties of all codecs: what they write can be read, and nothing else is read as something it is not.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Codec, Compressed, Compression, Encoded, Json, MessagePack, Plain};

/// A value within a value, and so on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Levels {
    text: String,
    below: Option<Box<Levels>>,
}

type Document = (String, Vec<Option<f64>>, BTreeMap<String, i64>, bool);

fn document() -> impl Strategy<Value = Document> {
    let number = prop_oneof![any::<f64>(), Just(f64::NAN), Just(f64::INFINITY), Just(-0.0)];
    let text = prop_oneof![".{0,40}", "[ab]{100,400}"];
    (
        text,
        prop::collection::vec(prop::option::of(number), 0..4),
        prop::collection::btree_map(".{0,5}", any::<i64>(), 0..4),
        any::<bool>(),
    )
}

/// What is written is read again; or it is refused at once.
fn comes_back<T: PartialEq + Debug>(codec: &impl Codec<T>, value: &T) -> Option<Encoded> {
    let encoded = codec.encode(value).ok()?;
    assert_eq!(&codec.decode(encoded.clone()).expect("what a codec writes it can read"), value);
    Some(encoded)
}

/// A document is not read from more bytes than were written.
fn refuses_a_tail<T: Debug>(codec: &impl Codec<T>, Encoded { value, flags }: Encoded, tail: &[u8]) {
    let longer = Encoded { value: Bytes::from([&value[..], tail].concat()), flags };
    assert!(codec.decode(longer).is_err(), "bytes behind a value are read over");
}

fn methods<C: Copy>(codec: C) -> [Compressed<C>; 2] {
    [Compression::Zstd, Compression::Zlib].map(|method| Compressed::new(codec).method(method).above(50).at_most(300))
}

/// Documents without a NaN, which equals nothing.
fn has_nan(document: &Document) -> bool {
    document.1.iter().flatten().any(|number| number.is_nan())
}

proptest! {
    #[test]
    fn what_a_codec_writes_comes_back_and_nothing_follows_it(document in document(), tail in prop::collection::vec(33u8.., 1..20)) {
        let special = document.1.iter().flatten().any(|number| !number.is_finite());
        prop_assert_eq!(Codec::<Document>::encode(&Json, &document).is_err(), special);
        if !has_nan(&document) {
            if let Some(encoded) = comes_back(&Json, &document) {
                refuses_a_tail::<Document>(&Json, encoded, &tail);
            }
            let packed = comes_back(&MessagePack, &document).expect("MessagePack has all numbers");
            refuses_a_tail::<Document>(&MessagePack, packed, &tail);
            for codec in methods(Json) {
                if let Some(encoded) = comes_back(&codec, &document) {
                    refuses_a_tail::<Document>(&codec, encoded, &tail);
                }
            }
            for codec in methods(MessagePack) {
                if let Some(encoded) = comes_back(&codec, &document) {
                    refuses_a_tail::<Document>(&codec, encoded, &tail);
                }
            }
        }
    }

    #[test]
    fn plain_values_come_back(text in ".{0,400}", number in any::<u64>(), signed in any::<i64>(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let bytes = Bytes::from(bytes);
        comes_back(&Plain, &text);
        comes_back(&Plain, &number);
        comes_back(&Plain, &signed);
        comes_back(&Plain, &bytes);
        for codec in methods(Plain) {
            comes_back(&codec, &text);
            comes_back(&codec, &number);
            if let Some(encoded) = comes_back(&codec, &bytes).filter(|encoded| encoded.flags != 0) {
                refuses_a_tail::<Bytes>(&codec, encoded, b"tail");
            }
        }
    }

    #[test]
    fn text_of_other_clients_is_no_message_pack(text in ".{0,40}") {
        let raw = Encoded { value: Bytes::from(text), flags: 0 };
        prop_assert!(Codec::<u32>::decode(&MessagePack, raw.clone()).is_err());
        prop_assert!(Codec::<String>::decode(&Compressed::new(MessagePack), raw).is_err());
    }

    #[test]
    fn anything_may_be_in_the_cache(value in prop::collection::vec(any::<u8>(), 0..60), flags in prop_oneof![0u32..2048, any::<u32>()]) {
        let item = || Encoded { value: Bytes::from(value.clone()), flags };
        let _ = Codec::<Document>::decode(&Json, item());
        let _ = Codec::<Document>::decode(&MessagePack, item());
        let _ = Codec::<i64>::decode(&Plain, item());
        let _ = Codec::<Document>::decode(&Compressed::new(MessagePack), item());
        // What is read as bytes is written as the same bytes.
        if let Ok(read) = Codec::<Bytes>::decode(&Compressed::new(Plain), item()) {
            comes_back(&Compressed::new(Plain), &read);
        }
    }
}

#[test]
fn the_values_of_the_field_are_read_as_what_they_are() {
    // Text, a counter, and a list with something appended, read as MessagePack's numbers.
    for text in ["42", "hello", "11", "5"] {
        let item = Encoded { value: Bytes::from(text), flags: 0 };
        assert!(Codec::<u32>::decode(&MessagePack, item).is_err(), "{text}");
    }
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(Json.encode(&number).is_err());
        assert!(Json.encode(&vec![1.0, number]).is_err());
        assert!(Json.encode(&Some(number)).is_err());
    }
    assert!(Json.encode(&(None::<f64>, "null".to_owned())).is_ok());
}

#[test]
fn values_of_many_levels_come_back_or_are_refused() {
    let check = || {
        for levels in [1, 2, 126, 127, 128, 300, 1022, 1023, 1024, 1100] {
            // Brackets and quotes in a text are no levels.
            let text = "[{\"\\".repeat(50);
            let innermost = Levels { text, below: None };
            let value =
                (1..levels).fold(innermost, |below, _| Levels { text: String::new(), below: Some(Box::new(below)) });
            assert_eq!(comes_back(&Json, &value).is_some(), levels <= 127, "{levels}");
            assert_eq!(comes_back(&MessagePack, &value).is_some(), levels <= 1023, "{levels}");
        }
    };
    // A build for tests takes some KiB of the stack for each level.
    std::thread::Builder::new().stack_size(256 << 20).spawn(check).unwrap().join().unwrap();
}
