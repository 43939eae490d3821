//! Encodes arbitrary requests in all protocols: what is encoded is decoded as the same request, and nothing is left.
#![no_main]

#[path = "../../tests/drafts/mod.rs"]
mod drafts;

use drafts::Draft;
use larder_protocol::{Command, Decoded, Limits, Protocol, Request, Scratch, StoreMode};
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fn draft(input: &mut Unstructured<'_>) -> Result<Draft> {
    let modes = [StoreMode::Set, StoreMode::Add, StoreMode::Replace, StoreMode::Append, StoreMode::Prepend];
    let key: &[u8] = input.arbitrary()?;
    Ok(Draft {
        kind: input.int_in_range(0..=11)?,
        // In base64 a key of the greatest length would be longer than one.
        key: if key.is_empty() { b"k".to_vec() } else { key[..key.len().min(180)].to_vec() },
        mode: *input.choose(&modes)?,
        numbers: Arbitrary::arbitrary(input)?,
        flags: input.arbitrary()?,
        exptimes: Arbitrary::arbitrary(input)?,
        cas: Arbitrary::arbitrary(input)?,
        switches: Arbitrary::arbitrary(input)?,
        opaque: "1".to_owned(),
        value: input.arbitrary()?,
    })
}

fn assert_decodes(protocol: Protocol, request: &Request<'_>) {
    let mut bytes = Vec::new();
    request.encode(&mut bytes).unwrap_or_else(|error| panic!("{request:?}: {error}"));
    let mut scratch = Scratch::new();
    match protocol.decode(&bytes, &Limits::default(), &mut scratch) {
        Decoded::Request { request: again, consumed } => {
            assert_eq!(consumed, bytes.len());
            match (&again.command, &request.command) {
                // A list of one key and one key are the same line.
                (Command::Get(again), Command::Get(get)) => {
                    assert!(again.keys.iter().eq(get.keys.iter()) && again.touch == get.touch);
                }
                (again, command) => assert_eq!(again, command),
            }
        }
        other => panic!("{request:?} became {other:?}"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(draft) = draft(&mut Unstructured::new(bytes)) else { return };
    let key = draft.text_key();
    assert_decodes(Protocol::Text, &draft.text_request(&key));
    assert_decodes(Protocol::Binary, &draft.binary_request());
    assert_decodes(Protocol::Text, &draft.meta_request(format!("O{} k s", draft.opaque).as_bytes()));
});
